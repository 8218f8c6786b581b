import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses import attention_loss, nt_xent, point_counts


def _case(batch=4, size=9, points=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, size, size, generator=g)
    density = torch.rand(batch, size, size, generator=g)
    density[:, :2] = 0
    density /= density.sum((1, 2), keepdim=True)
    xy = torch.randint(0, size, (batch, points, 2), generator=g)
    mask = torch.rand(batch, points, generator=g) < 0.7
    return logits, density, xy, mask


def _oracle(logits, density, xy, mask, reverse=False):
    """KLD and NSS per image in float64 numpy, written from the formulas."""
    klds, nsses = [], []
    for one, t, places, valid in zip(logits.double(), density.double(), xy, mask, strict=True):
        p = np.exp(one.numpy() - one.numpy().max())
        p /= p.sum()
        t = t.numpy()
        if reverse:
            klds.append((p * np.log(p / np.maximum(t, 1e-8))).sum())
        else:
            klds.append((t[t > 0] * np.log(t[t > 0] / p[t > 0])).sum())
        z = (p - p.mean()) / p.std()
        chosen = places[valid]
        nsses.append(np.mean([z[y, x] for x, y in chosen.tolist()]) if len(chosen) else 0.0)
    return np.array(klds), np.array(nsses)


@given(n=st.integers(2, 8), seed=st.integers(0, 999), temperature=st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_nt_xent_equals_the_sum_over_anchors(n, seed, temperature):
    g = np.random.default_rng(seed)
    z1, z2 = g.normal(size=(n, 5)), g.normal(size=(n, 5))
    z = np.concatenate([z1, z2])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(2 * n):
        weights = [math.exp(z[i] @ z[j] / temperature) for j in range(2 * n) if j != i]
        terms.append(-math.log(math.exp(z[i] @ z[(i + n) % (2 * n)] / temperature) / sum(weights)))
    found = nt_xent(torch.tensor(z1), torch.tensor(z2), temperature)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-4, abs=1e-5)


def test_nt_xent_of_indistinguishable_views_is_the_log_of_the_candidates():
    z = torch.ones(8, 3)
    assert nt_xent(z, z, 0.1).item() == pytest.approx(math.log(15), rel=1e-5)


def test_nt_xent_is_float32_under_autocast_and_ignores_length():
    g = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(6, 4, generator=g), torch.randn(6, 4, generator=g)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(z1, z2, 0.2)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, nt_xent(z1, z2, 0.2))
    torch.testing.assert_close(nt_xent(5 * z1, 0.1 * z2, 0.2), inside)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_attention_loss_equals_the_formulas(reverse, seed):
    logits, density, xy, mask = _case(seed=seed)
    labelled = torch.tensor([True, False, True, True])
    klds, nsses = _oracle(logits, density, xy, mask, reverse)
    chosen = labelled.numpy()
    loss = attention_loss(logits, density, xy, mask, labelled, 3.0, 0.3, reverse)
    assert loss.kld.item() == pytest.approx(klds[chosen].mean(), rel=1e-4)
    assert loss.nss.item() == pytest.approx(nsses[chosen].mean(), rel=1e-4, abs=1e-5)
    assert loss.total.item() == pytest.approx(3 * klds[chosen].mean() - 0.3 * nsses[chosen].mean(), rel=1e-4)


def test_kld_is_zero_where_the_prediction_is_the_label():
    _, density, xy, mask = _case()
    density += 1e-3
    density /= density.sum((1, 2), keepdim=True)
    loss = attention_loss(density.log() + 5, density, xy, mask, torch.ones(4, dtype=torch.bool), 1, 0.1)
    assert abs(loss.kld.item()) < 1e-6
    assert loss.nss.isfinite()


def test_repeated_points_count_as_often_as_they_occur():
    logits, density, _, _ = _case(batch=1)
    once = torch.tensor([[[1, 2], [3, 4], [0, 0]]])
    twice = torch.tensor([[[1, 2], [1, 2], [3, 4]]])
    labelled = torch.ones(1, dtype=torch.bool)
    masks = torch.tensor([[True, True, False]]), torch.ones(1, 3, dtype=torch.bool)
    found = [
        attention_loss(logits, density, xy, mask, labelled, 1, 1).nss.item()
        for xy, mask in zip((once, twice), masks, strict=True)
    ]
    for value, xy, mask in zip(found, (once, twice), masks, strict=True):
        assert value == pytest.approx(_oracle(logits, density, xy, mask)[1][0], rel=1e-4)
    assert found[0] != pytest.approx(found[1])
    assert point_counts(twice, masks[1], 9)[0, 2, 1] == 2     # row is y, column is x


def test_an_image_without_points_contributes_zero_but_counts():
    logits, density, xy, mask = _case(batch=2)
    mask[0] = True
    mask[1] = False
    both = torch.ones(2, dtype=torch.bool)
    alone = attention_loss(logits[:1], density[:1], xy[:1], mask[:1], both[:1], 1, 1).nss
    torch.testing.assert_close(attention_loss(logits, density, xy, mask, both, 1, 1).nss, alone / 2)


def test_no_labelled_image_gives_zero_loss_and_zero_gradient():
    logits, density, xy, mask = _case()
    logits.requires_grad_()
    loss = attention_loss(logits, density * 0, xy, mask, torch.zeros(4, dtype=torch.bool), 3, 0.3)
    loss.total.backward()
    assert loss.total == loss.kld == loss.nss == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("scale", [0.0, 1e-6, 50.0, 500.0])
def test_flat_and_peaked_predictions_have_finite_gradients(scale):
    logits, density, xy, mask = _case()
    logits = (logits * scale).requires_grad_()
    loss = attention_loss(logits, density, xy, mask, torch.ones(4, dtype=torch.bool), 3, 0.3)
    loss.total.backward()
    assert loss.total.isfinite()
    assert logits.grad.isfinite().all()


def test_attention_loss_is_float32_under_autocast():
    logits, density, xy, mask = _case()
    labelled = torch.ones(4, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        inside = attention_loss(logits, density, xy, mask, labelled, 3, 0.3)
    assert inside.total.dtype == torch.float32
    assert torch.equal(inside.total, attention_loss(logits, density, xy, mask, labelled, 3, 0.3).total)
