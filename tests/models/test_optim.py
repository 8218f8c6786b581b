import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from models.optim import Lars, Rates, learning_rate, parameter_groups
from models.students.simclr import SimclrConfig, Student

RATES = Rates(backbone=0.3, probe=0.2, readout=0.1, weight_decay=0.05)


@pytest.fixture
def student():
    return Student(SimclrConfig("resnet18", width=4, stem="small", size=32, classes=5))


def _fill_gradients(module, seed):
    g = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=g)


def _numpy_lars(weights, gradients, decays, rates, momentum=0.9, trust=0.001):
    """The update by its formulas, in float64, over a list of gradients per step."""
    weights, velocity = [w.astype(np.float64) for w in weights], [0.0] * len(weights)
    for step, rate in zip(gradients, rates, strict=True):
        for i, grad in enumerate(step):
            g = grad.astype(np.float64)
            if decays[i] is not None:
                g = g + decays[i] * weights[i]
                w_norm, g_norm = np.linalg.norm(weights[i]), np.linalg.norm(g)
                g = g * (trust * w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0)
            velocity[i] = momentum * velocity[i] + rate * g
            weights[i] = weights[i] - velocity[i]
    return weights


def test_schedule_warms_up_then_follows_half_a_cosine():
    rates = [learning_rate(step, 100, 10, 2.0) for step in range(101)]
    assert rates[:10] == pytest.approx([2.0 * (s + 1) / 11 for s in range(10)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert learning_rate(500, 100, 10, 2.0) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(0, 1, 0, 2.0) == 2.0


def test_groups_hold_every_trainable_parameter_once(student):
    groups = {group["role"]: group for group in parameter_groups(student, RATES)}
    found = sorted(name for group in groups.values() for name in group["names"])
    assert found == sorted(name for name, p in student.named_parameters() if p.requires_grad)
    assert groups["readout"]["names"] == ["readout.weight", "readout.bias"]
    assert groups["probe"]["names"] == ["probe.weight", "probe.bias"]
    assert all(p.ndim == 1 for p in groups["plain"]["params"])
    assert all(p.ndim > 1 for p in groups["decay"]["params"])


def test_only_weights_of_backbone_and_projection_decay_and_adapt(student):
    groups = {group["role"]: group for group in parameter_groups(student, RATES)}
    assert {role for role, group in groups.items() if group["weight_decay"]} == {"decay"}
    assert {role for role, group in groups.items() if group["adapt"]} == {"decay"}
    assert {role: group["lr"] for role, group in groups.items()} == {
        "decay": 0.3, "plain": 0.3, "probe": 0.2, "readout": 0.1,
    }


def test_adamw_takes_the_groups(student):
    torch.optim.AdamW(parameter_groups(student, RATES), fused=True)


@pytest.mark.parametrize("rates", [[0.5, 0.5, 0.5], [0.1, 1.0, 0.2]])
def test_lars_equals_numpy(rates):
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
    optimizer = Lars([
        {"params": [matrix], "weight_decay": 0.2, "adapt": True},
        {"params": [bias], "adapt": False},
    ])
    start, gradients = [matrix.detach().numpy().copy(), bias.detach().numpy().copy()], []
    for rate in rates:
        matrix.grad, bias.grad = torch.randn(4, 3), torch.randn(4)
        gradients.append([matrix.grad.numpy().copy(), bias.grad.numpy().copy()])
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    expected = _numpy_lars(start, gradients, [0.2, None], rates)
    np.testing.assert_allclose(matrix.detach().numpy(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(bias.detach().numpy(), expected[1], rtol=1e-5)


@pytest.mark.parametrize(("weight", "grad"), [(0.0, 1.0), (1.0, 0.0)])
def test_lars_does_not_scale_where_a_norm_is_zero(weight, grad):
    parameter = nn.Parameter(torch.full((2, 2), weight))
    parameter.grad = torch.full((2, 2), grad)
    Lars([{"params": [parameter]}], lr=0.1).step()
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), weight - 0.1 * grad))


def test_lars_leaves_parameters_without_gradient_alone(student):
    before = copy.deepcopy(student.state_dict())
    _fill_gradients(student.probe, 0)
    Lars(parameter_groups(student, RATES)).step()
    changed = {n for n, p in student.state_dict().items() if not torch.equal(p, before[n])}
    assert changed == {"probe.weight", "probe.bias"}


def test_lars_equals_timm_on_an_adapted_weight():
    """Without decay: with it, timm divides by the sum of the norms, SimCLR's code by the norm of the sum."""
    timm_optim = pytest.importorskip("timm.optim", reason="timm, a test dependency, is not installed")
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(5, 4))
    theirs = nn.Parameter(ours.detach().clone())
    optimizer = Lars([{"params": [ours], "weight_decay": 0.0}], lr=0.4)
    oracle = timm_optim.Lars([theirs], lr=0.4, momentum=0.9, trust_coeff=0.001, eps=0.0, always_adapt=True)
    for _ in range(4):
        ours.grad = torch.randn(5, 4)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(ours, theirs)      # at a constant rate the place of the rate cannot matter
