from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.gaze_augmentation import GazeAugmentation, augment

STILL = GazeAugmentation(flip=0, smallest_area=1, jitter=0, coarse=0)


def marked(width, height, seed, points=6):
    """A picture with a colour of its own in every pixel that is looked at, on a black ground."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    x, y = rng.uniform(0, width, points).astype(np.float32), rng.uniform(0, height, points).astype(np.float32)
    image[y.astype(int), x.astype(int)] = rng.integers(100, 256, (points, 3))
    return image, x, y


def colours(image, x, y):
    return sorted(map(tuple, image[np.floor(y).astype(int), np.floor(x).astype(int)].tolist()))


@settings(max_examples=60, deadline=None)
@given(width=st.integers(2, 70), height=st.integers(2, 70), seed=st.integers(0, 1000), flip=st.sampled_from([0, 1]))
def test_fixations_stay_on_what_was_looked_at(width, height, seed, flip):
    image, x, y = marked(width, height, seed)
    how = replace(STILL, smallest_area=0.3, flip=flip)
    new, new_x, new_y = augment(image, x, y, np.random.default_rng(seed), how)
    assert ((new_x >= 0) & (new_x < new.shape[1]) & (new_y >= 0) & (new_y < new.shape[0])).all()
    seen = colours(new, new_x, new_y)
    assert all(sum(colour) > 0 for colour in seen)
    assert {tuple(c) for c in new[new.any(2)].tolist()} == set(seen)


def test_nothing_switched_on_changes_nothing():
    image, x, y = marked(50, 40, 0)
    new, new_x, new_y = augment(image, x, y, np.random.default_rng(0), STILL)
    np.testing.assert_array_equal(new, image)
    np.testing.assert_array_equal(new_x, x)
    np.testing.assert_array_equal(new_y, y)


def test_crops_keep_the_area_and_the_aspect():
    image, x, y = marked(200, 100, 0)
    rng = np.random.default_rng(0)
    shapes = [augment(image, x, y, rng, replace(STILL, smallest_area=0.5))[0].shape for _ in range(50)]
    areas = np.array([height * width / 20000 for height, width, _ in shapes])
    assert areas.min() > 0.48
    assert areas.max() <= 1
    assert areas.std() > 0.05
    assert all(abs(width / height - 2) < 0.05 for height, width, _ in shapes)


def test_coarse_pictures_lose_detail_but_not_size():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    coarse, _, _ = augment(image, np.zeros(0), np.zeros(0), rng, replace(STILL, coarse=1))
    assert coarse.shape == image.shape
    assert coarse.std() < 0.8 * image.std()


def test_jitter_moves_colours_and_only_a_little():
    image = np.full((8, 8, 3), (120, 90, 60), np.uint8)
    image[:4] = (60, 90, 120)
    rng = np.random.default_rng(0)
    new = [augment(image, np.zeros(0), np.zeros(0), rng, replace(STILL, jitter=0.2))[0] for _ in range(20)]
    change = np.abs(np.stack(new).astype(int) - image)
    assert 5 < change.mean() < 30
    assert change.max() < 80


@pytest.mark.parametrize("how", [GazeAugmentation(), GazeAugmentation(coarse=1, flip=1)])
def test_the_stream_decides(how):
    image, x, y = marked(90, 70, 1, points=40)
    one, two, other = (augment(image, x, y, np.random.default_rng(seed), how) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert one[0].shape != other[0].shape or not np.array_equal(one[0], other[0])
    assert one[0].dtype == np.uint8
