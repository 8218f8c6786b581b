import colorsys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.augment import ColourAugment, contrastive_view, crop_box, random_resized_crop, squash

STILL = {
    "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "jitter_p": 1.0, "gray_p": 0.0,
    "blur_p": 0.0,
}
GREY = torch.tensor([0.299, 0.587, 0.114])


def _colour(views, seed=0, **settings_):
    return ColourAugment(**(STILL | settings_))(views, torch.Generator().manual_seed(seed))


def _views(n=8, size=16, low=0, high=256, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, size, size), generator=g, dtype=torch.uint8)


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 999),
    low=st.floats(0.01, 1.0),
)
@settings(max_examples=150, deadline=None)
def test_a_box_lies_inside_the_image(height, width, seed, low):
    top, left, h, w = crop_box(height, width, np.random.default_rng(seed), (low, 1.0), (3 / 4, 4 / 3))
    assert h >= 1
    assert w >= 1
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w


def test_boxes_have_the_stated_share_and_aspect():
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(600, 800, rng, (0.15, 0.5), (3 / 4, 4 / 3)) for _ in range(4000)])
    share = boxes[:, 2] * boxes[:, 3] / 480_000
    assert share.min() > 0.149
    assert share.max() < 0.502
    assert share.mean() == pytest.approx(0.325, abs=0.01)
    ratio = np.log(boxes[:, 3] / boxes[:, 2])
    assert abs(ratio).max() < np.log(4 / 3) + 0.02
    assert ratio.mean() == pytest.approx(0, abs=0.01)


def test_a_narrow_image_gives_its_centre():
    top, left, h, w = crop_box(1000, 10, np.random.default_rng(0), (1.0, 1.0), (3 / 4, 4 / 3))
    assert (left, w) == (0, 10)
    assert h == round(10 / (3 / 4))
    assert top == (1000 - h) // 2


def test_a_crop_is_a_part_of_the_image():
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    image = np.ascontiguousarray(columns)
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    crop = random_resized_crop(image, rng, 32)
    _, left, _, width = crop_box(200, 200, twin, (0.08, 1.0), (3 / 4, 4 / 3))
    assert crop.shape == (32, 32, 3)
    assert crop.dtype == np.uint8
    assert abs(int(crop[0, 0, 0]) - left) <= width / 32 + 1
    assert abs(int(crop[0, -1, 0]) - (left + width - 1)) <= width / 32 + 1


def test_half_of_the_views_are_mirrored_and_the_seed_decides():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, 32:] = 255
    whole = {"area": (1.0, 1.0), "aspect": (1.0, 1.0)}
    rng = np.random.default_rng(0)
    views = [contrastive_view(image, rng, 16, **whole) for _ in range(400)]
    mirrored = np.mean([view[0, 0, 0] == 255 for view in views])
    assert 0.42 < mirrored < 0.58
    again = [contrastive_view(image, np.random.default_rng(7), 16) for _ in range(2)]
    assert np.array_equal(*again)


def test_squash_does_not_alias_and_keeps_its_frame():
    stripes = np.zeros((320, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(squash(stripes, 64).astype(int)) <= 1              # the mean of every pixel's area
    left = np.zeros((40, 80, 3), dtype=np.uint8)
    left[:, :40] = 200
    assert (squash(left, 64)[:, :31] == 200).all()
    assert (squash(left, 64)[:, 33:] == 0).all()
    assert squash(np.full((5, 7, 3), 9, np.uint8), 64).shape == (64, 64, 3)


def test_without_effects_pixels_are_only_scaled():
    views = _views()
    found = _colour(views)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, views / 255, atol=1e-5, rtol=1e-5)


def test_layout_of_the_input_does_not_matter():
    views = _views()
    same = views.to(memory_format=torch.channels_last)
    torch.testing.assert_close(ColourAugment()(views, torch.Generator().manual_seed(1)),
                               ColourAugment()(same, torch.Generator().manual_seed(1)))


def test_brightness_multiplies():
    views = _views(64, low=1, high=120)
    factor = (_colour(views, brightness=0.8) / (views / 255)).flatten(1)
    spread = factor.mean(1)
    torch.testing.assert_close(factor, spread[:, None].expand_as(factor), rtol=1e-4, atol=1e-4)
    assert spread.min() >= 0.2 - 1e-4
    assert spread.max() <= 1.8 + 1e-4
    assert spread.std() > 0.3


def test_contrast_keeps_the_mean_grey():
    views = _views(16, low=110, high=140)
    found = _colour(views, contrast=0.8)
    before = torch.einsum("nchw,c->nhw", views / 255, GREY).mean((1, 2))
    after = torch.einsum("nchw,c->nhw", found, GREY).mean((1, 2))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    ratio = found.flatten(1).std(1) / (views / 255).flatten(1).std(1)
    assert ratio.min() < 0.7
    assert ratio.max() > 1.3


@pytest.mark.parametrize("effect", ["saturation", "hue"])
def test_saturation_and_hue_keep_every_pixels_grey(effect):
    views = _views(16, low=110, high=140)
    found = _colour(views, **{effect: 0.5})
    before = torch.einsum("nchw,c->nhw", views / 255, GREY)
    torch.testing.assert_close(torch.einsum("nchw,c->nhw", found, GREY), before, atol=2e-3, rtol=2e-3)
    assert (found - views / 255).abs().max() > 0.02


def test_hue_turns_the_colour_circle():
    red = torch.zeros(300, 3, 2, 2, dtype=torch.uint8)
    red[:, 0], red[:, 1], red[:, 2] = 150, 100, 100
    found = _colour(red, hue=0.2)[:, :, 0, 0].tolist()
    turns = [(colorsys.rgb_to_hsv(*pixel)[0] + 0.5) % 1 - 0.5 for pixel in found]
    assert max(map(abs, turns)) < 0.25
    assert min(turns) < -0.12
    assert max(turns) > 0.12


def test_composition_equals_one_operation_after_another():
    """Jitter of mid-grey images, against the operations one by one in each image's own order."""
    views = _views(12, low=120, high=136)
    augment = ColourAugment(**(STILL | {"brightness": 0.2, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}))
    found = augment(views, torch.Generator().manual_seed(5))
    draws = torch.rand(12, 12, generator=torch.Generator().manual_seed(5))
    for n in range(12):
        image = views[n].double() / 255
        spread = torch.tensor([0.2, 0.5, 0.5])
        factors = (1 - spread + 2 * spread * draws[n, 4:7]).tolist()
        for operation in draws[n, :4].argsort().tolist():
            grey = torch.einsum("chw,c->hw", image, GREY.double())
            if operation == 0:
                image = image * factors[0]
            elif operation == 1:
                image = factors[1] * image + (1 - factors[1]) * grey.mean()
            elif operation == 2:
                image = factors[2] * image + (1 - factors[2]) * grey
            else:
                image = _turn(image, (2 * draws[n, 7].item() - 1) * 0.1)
        torch.testing.assert_close(found[n].double(), image, atol=1e-4, rtol=1e-4)


def _turn(image, turns):
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    to_yiq = to_yiq.double()
    y, i, q = torch.einsum("kc,chw->khw", to_yiq, image)
    chroma = torch.complex(i, q) * np.exp(2j * np.pi * turns)
    return torch.einsum("kc,chw->khw", to_yiq.inverse(), torch.stack([y, chroma.real, chroma.imag]))


def test_grey_and_jitter_come_with_their_probabilities():
    views = _views(600, size=4, low=100, high=150)
    grey = _colour(views, gray_p=0.2)
    chroma = (grey.amax(1) - grey.amin(1)).flatten(1).amax(1)
    assert (chroma < 1e-4).float().mean() == pytest.approx(0.2, abs=0.05)
    jittered = _colour(views, brightness=0.3, jitter_p=0.8)
    changed = (jittered - views / 255).abs().flatten(1).amax(1) > 1e-3
    assert changed.float().mean() == pytest.approx(0.8, abs=0.05)


def test_blur_equals_a_cut_gaussian_away_from_the_border():
    views = _views(6, size=64)
    found = _colour(views, blur_p=1.0, sigma=(1.5, 1.5))
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / 1.5) ** 2)
    kernel = torch.outer(taps, taps)[None, None].expand(3, 1, 7, 7) / taps.sum() ** 2
    expected = F.conv2d(views / 255, kernel, groups=3)
    torch.testing.assert_close(found[:, :, 3:-3, 3:-3], expected, atol=1e-5, rtol=1e-4)


def test_blur_touches_the_chosen_images_alone_and_keeps_a_flat_one_flat():
    views = _views(400, size=8)
    found = _colour(views, blur_p=0.5)
    blurred = (found - views / 255).abs().flatten(1).amax(1) > 1e-3
    assert blurred.float().mean() == pytest.approx(0.5, abs=0.08)
    torch.testing.assert_close(found[~blurred], views[~blurred] / 255, atol=1e-3, rtol=1e-3)
    flat = torch.full((4, 3, 8, 8), 77, dtype=torch.uint8)
    torch.testing.assert_close(_colour(flat, blur_p=1.0), flat / 255, atol=1e-5, rtol=1e-5)


def test_the_generator_decides_and_the_range_holds():
    views = _views(32)
    first, same, other = (ColourAugment()(views, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1
