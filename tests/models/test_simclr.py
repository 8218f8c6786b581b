import pytest
import torch
import torch.nn.functional as F

from models.attention import readout_maps, refit_readout
from models.batchnorm import use_statistics
from models.losses import nt_xent
from models.students.simclr import SimclrConfig, Student

TINY = SimclrConfig("resnet18", width=4, stem="small", size=32, classes=5, projection_dim=6)


def _images(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 32, 32), generator=g, dtype=torch.uint8)


def test_the_seed_alone_decides_the_weights():
    state = torch.get_rng_state()
    first, other = Student(TINY, seed=1).state_dict(), Student(TINY, seed=2).state_dict()
    torch.manual_seed(123)
    same = Student(TINY, seed=1).state_dict()
    torch.set_rng_state(state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["probe.weight"], other["probe.weight"])
    assert not torch.equal(first["projection.0.weight"], other["projection.0.weight"])


@pytest.mark.parametrize(("layers", "linears"), [(2, [(32, 32), (6, 32)]), (3, [(9, 32), (9, 9), (6, 9)])])
def test_projection_head_has_the_published_form(layers, linears):
    config = SimclrConfig("resnet18", 4, "small", 32, 5, layers, 6, hidden_dim=None if layers == 2 else 9)
    head = Student(config).projection
    weights = [m for m in head if isinstance(m, torch.nn.Linear)]
    assert [tuple(m.weight.shape) for m in weights] == linears
    assert all(m.bias is None for m in weights)
    assert isinstance(head[-1], torch.nn.BatchNorm1d)
    assert not head[-1].bias.requires_grad
    with pytest.raises(ValueError, match="expected 2 or 3, found 4"):
        SimclrConfig(projection_layers=4)


def test_view_losses_are_the_stated_ones():
    student, labels = Student(TINY), torch.tensor([0, 1, -1, 4, 2, -1])
    views = torch.stack([_images(), _images(seed=1)]) / 255
    z1, z2, features = student.contrastive_forward(views)
    losses = student.view_losses(views, labels, 0.2)
    torch.testing.assert_close(losses["contrastive"], nt_xent(z1, z2, 0.2))
    known = labels.repeat(2) >= 0
    logits = student.probe(features)[known]
    torch.testing.assert_close(losses["probe"], F.cross_entropy(logits, labels.repeat(2)[known]))
    assert losses["probe_top1"] == (logits.argmax(1) == labels.repeat(2)[known]).float().mean()


def test_a_batch_without_classes_leaves_the_probe_alone():
    student = Student(TINY)
    losses = student.view_losses(torch.rand(2, 4, 3, 32, 32), torch.full((4,), -1), 0.2)
    losses["probe"].backward()
    assert losses["probe"] == 0
    assert not student.probe.weight.grad.any()


def test_the_probe_never_reaches_the_backbone():
    student = Student(TINY)
    student.view_losses(torch.rand(2, 4, 3, 32, 32), torch.arange(4), 0.2)["probe"].backward()
    assert student.probe.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in student.backbone.parameters())
    assert all(p.grad is None for p in student.projection.parameters())


@pytest.mark.parametrize("gradient", ["backbone", "readout"])
def test_the_attention_gradient_goes_where_it_is_sent(gradient):
    student = Student(TINY)
    student.attention_forward(torch.rand(4, 3, 32, 32), gradient)[:, 3, 4].sum().backward()
    assert student.readout.weight.grad.abs().sum() > 0
    reached = [p.grad is not None and bool(p.grad.any()) for p in student.backbone.parameters()]
    assert any(reached) == (gradient == "backbone")
    assert all(p.grad is None for p in [*student.projection.parameters(), *student.probe.parameters()])


def test_the_third_forward_has_statistics_of_its_own():
    student = Student(TINY)
    student.contrastive_forward(torch.rand(2, 4, 3, 32, 32))
    norm = student.backbone.bn1
    before, everything = norm.running_mean.clone(), norm.running_mean_all.clone()
    student.attention_forward(torch.rand(4, 3, 32, 32), "readout")
    assert torch.equal(norm.running_mean, before)
    assert not torch.equal(norm.running_mean_all, everything)


def test_predictions():
    student, images = Student(TINY), _images()
    with pytest.raises(RuntimeError, match=r"call eval\(\) first"):
        student.predict_density(images)
    student.contrastive_forward(torch.rand(2, 8, 3, 32, 32))
    student.attention_forward(torch.rand(8, 3, 32, 32) / 3, "readout")
    student.eval()
    density, logits = student.predict_density(images), student.probe_logits(images)
    assert density.shape == (6, 32, 32)
    assert density.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(density.sum((1, 2)), torch.ones(6))
    assert logits.shape == (6, 5)
    assert not density.requires_grad
    torch.testing.assert_close(student.probe_logits(images[:2]), logits[:2], rtol=1e-4, atol=1e-5)
    use_statistics(student, "all")
    assert not torch.allclose(student.probe_logits(images), logits)


def test_taps_serve_a_refit():
    student = Student(TINY).eval()
    taps = student.taps(_images())
    assert [tuple(t.shape) for t in taps] == [(6, 8, 8, 8), (6, 16, 4, 4), (6, 32, 2, 2)]
    density = student.predict_density(_images())
    fit = refit_readout(readout_maps(taps, 32), density)
    assert abs(fit.kld) < 1e-5
