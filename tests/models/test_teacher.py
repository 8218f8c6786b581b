import numpy as np
import pytest
import torch

from models.teacher import Teacher, TeacherConfig, label_map, spatial_softmax

SMALL = TeacherConfig(size=64, width=8)


def images(count, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def awake(config=SMALL, seed=0):
    """A teacher whose last layer is no longer zero, so that its output depends on the image."""
    teacher = Teacher(config, seed)
    torch.nn.init.normal_(teacher.decoder.out.weight, generator=torch.Generator().manual_seed(seed))
    return teacher


def test_density_is_a_density_of_the_input_size():
    density = awake().density(images(3))
    assert density.shape == (3, 64, 64)
    assert density.dtype == torch.float32
    assert (density >= 0).all()
    torch.testing.assert_close(density.sum((1, 2)), torch.ones(3))
    assert density.flatten(1).std(1).min() > 0


def test_the_first_density_is_uniform():
    torch.testing.assert_close(Teacher(SMALL).density(images(2)), torch.full((2, 64, 64), 1 / 64**2))


def test_density_leaves_training_mode_and_statistics_alone():
    teacher = awake().train()
    before = {name: value.clone() for name, value in teacher.named_buffers()}
    alone = teacher.density(images(1))
    together = teacher.density(images(4))[:1]
    torch.testing.assert_close(alone, together)
    assert teacher.training
    for name, value in teacher.named_buffers():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_bfloat16_agrees_with_float32():
    teacher = awake()
    exact, rough = teacher.density(images(2)), teacher.density(images(2), torch.bfloat16)
    assert rough.dtype == torch.float32
    for a, b in zip(exact, rough, strict=True):
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.99


def test_the_seed_decides_the_start():
    one, same, other = (Teacher(SMALL, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_full_width_has_the_decoder_of_the_narrowed_simplenet():
    teacher = Teacher(TeacherConfig(size=64, width=64))
    channels = [(step.in_channels, step.out_channels) for step in (*teacher.decoder.steps, teacher.decoder.out)]
    assert channels == [(512, 256), (512, 128), (256, 64), (128, 32), (96, 32), (32, 32), (32, 1)]


def test_every_parameter_learns():
    teacher = awake().train()
    (teacher(images(4)) * torch.rand(64, 64)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in teacher.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert sum(bool(gradient.abs().sum() == 0) for gradient in gradients.values()) == 32  # branches behind zero gain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_map_does_not_depend_on_its_company_or_layout(dtype):
    teacher = awake()
    together = teacher.density(images(37), dtype)
    for size in (1, 5, 16, 20):
        parts = [teacher.density(part, dtype) for part in images(37).split(size)]
        assert torch.equal(torch.cat(parts), together)
    assert torch.equal(teacher.density(images(37).contiguous(memory_format=torch.channels_last), dtype), together)
    assert teacher.density(images(0), dtype).shape == (0, 64, 64)


@pytest.mark.parametrize("shape", [{"size": 100}, {"size": 0}, {"width": 0}, {"width": 15}])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected a positive .* found"):
        TeacherConfig(**shape)


@pytest.mark.parametrize("wrong", [images(1, 32), images(1).float(), images(1)[0]])
def test_images_of_another_kind_are_refused(wrong):
    with pytest.raises(ValueError, match="teacher input: expected uint8"):
        Teacher(SMALL).density(wrong)


def test_label_map_is_normalised_by_its_maximum_and_rounded():
    density = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.0, 0.0], [0.0, 0.0]]])
    label = label_map(density)
    assert label.dtype == torch.uint8
    assert label.tolist() == [[[64, 128], [191, 255]], [[0, 0], [0, 0]]]


def test_spatial_softmax_survives_large_logits():
    density = spatial_softmax(torch.tensor([[[1e4, 0.0], [0.0, -1e4]]]))
    torch.testing.assert_close(density, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
