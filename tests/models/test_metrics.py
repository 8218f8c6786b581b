"""Identities, edge cases and slow oracles written from the definitions."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import metrics

SHAPE = (12, 17)


def scene(seed, points=9, ties=False):
    rng = np.random.default_rng(seed)
    prediction, human = rng.random((2, *SHAPE))
    if ties:
        prediction = np.floor(prediction * 5) / 5
    x, y = rng.integers(0, SHAPE[1], points), rng.integers(0, SHAPE[0], points)
    return prediction.astype(np.float32), human.astype(np.float32), x, y


seeds = st.integers(0, 10_000)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_identities(seed):
    p, q, x, y = scene(seed)
    assert metrics.correlation(p, p) == pytest.approx(1)
    assert metrics.correlation(p, -p) == pytest.approx(-1)
    assert metrics.correlation(p, 3 * p + 2) == pytest.approx(1)
    assert metrics.kl_divergence(p, p) == pytest.approx(0, abs=1e-9)
    assert metrics.kl_divergence(p, q) > 0
    assert metrics.similarity(p, 7 * p) == pytest.approx(1)
    assert metrics.similarity(p, q) == metrics.similarity(q, p)
    assert metrics.information_gain(p, p, x, y) == 0
    assert metrics.nss(5 * p - 1, x, y) == pytest.approx(metrics.nss(p, x, y), rel=1e-5)
    assert metrics.auc_judd(np.exp(p), x, y) == metrics.auc_judd(p, x, y)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_map_scores_against_slow_oracles(seed):
    p, q, _, _ = scene(seed)
    a, b = p.ravel().astype(float), q.ravel().astype(float)
    assert metrics.correlation(p, q) == pytest.approx(np.corrcoef(a, b)[0, 1])
    a, b = a / a.sum(), b / b.sum()
    e = 2.2204e-16
    nats = sum(j * math.log(e + j / (i + e)) for i, j in zip(a, b, strict=True))
    assert metrics.kl_divergence(q, p) == pytest.approx(nats)
    assert metrics.similarity(p, q) == pytest.approx(sum(min(i, j) for i, j in zip(a, b, strict=True)))


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_fixation_scores_against_slow_oracles(seed):
    p, q, x, y = scene(seed)
    values = [float(p[j, i]) for i, j in zip(x, y, strict=True)]
    flat = [float(v) for v in p.ravel()]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in flat) / len(flat))
    assert metrics.nss(p, x, y) == pytest.approx(sum((v - mean) / deviation for v in values) / len(values))
    bits = [math.log2(p[j, i] / p.sum()) - math.log2(q[j, i] / q.sum()) for i, j in zip(x, y, strict=True)]
    assert metrics.information_gain(p, q, x, y) == pytest.approx(sum(bits) / len(bits), abs=1e-4)


def slow_auc_judd(p, x, y):
    """Walk down the thresholds pixel by pixel."""
    fixated = set(zip(x.tolist(), y.tolist(), strict=True))
    positives = [p[j, i] for i, j in fixated]
    negatives = [p[j, i] for j in range(p.shape[0]) for i in range(p.shape[1]) if (i, j) not in fixated]
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(positives), reverse=True):
        alarms = sum(v >= threshold for v in negatives) / len(negatives)
        curve.append((alarms, sum(v >= threshold for v in positives) / len(positives)))
    curve.append((1.0, 1.0))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(curve))


@settings(max_examples=40, deadline=None)
@given(seed=seeds, ties=st.booleans(), points=st.integers(1, 40))
def test_auc_judd_against_the_curve_drawn_by_hand(seed, ties, points):
    p, _, x, y = scene(seed, points, ties)
    assert metrics.auc_judd(p, x, y) == pytest.approx(slow_auc_judd(p, x, y))


def test_auc_judd_is_mits_formula_where_there_are_no_ties():
    p, _, _, _ = scene(3)
    x, y = np.array([1, 5, 9, 16]), np.array([0, 4, 11, 2])
    thresholds = np.sort(p[y, x])[::-1]
    hits = np.array([0, 0.25, 0.5, 0.75, 1, 1])
    above = np.array([(p >= t).sum() for t in thresholds])
    alarms = np.r_[0, (above - np.arange(1, 5)) / (p.size - 4), 1]
    expected = sum((alarms[i + 1] - alarms[i]) * (hits[i] + hits[i + 1]) / 2 for i in range(5))
    assert metrics.auc_judd(p, x, y) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, ties=st.booleans())
def test_shuffled_auc_is_the_share_of_won_comparisons(seed, ties):
    p, _, x, y = scene(seed, 9, ties)
    other_x, other_y = scene(seed + 1, 14)[2:]
    wins = [
        1.0 if own > other else 0.5 if own == other else 0.0
        for own, other in product(p[y, x].tolist(), p[other_y, other_x].tolist())
    ]
    assert metrics.shuffled_auc(p, x, y, other_x, other_y) == pytest.approx(sum(wins) / len(wins))


def test_stacks_score_like_single_maps():
    p, q = np.random.default_rng(0).random((2, 5, *SHAPE))
    p[3] = 1
    for metric in (metrics.correlation, metrics.kl_divergence, metrics.similarity):
        np.testing.assert_allclose(metric(p, q), [float(metric(a, b)) for a, b in zip(p, q, strict=True)])


def test_constant_maps():
    p, q, x, y = scene(0)
    flat = np.full(SHAPE, 0.3, np.float32)
    assert metrics.correlation(flat, q) == 0
    assert np.isnan(metrics.correlation(p, flat))
    assert np.isnan(metrics.correlation(flat, flat))
    assert metrics.nss(flat, x, y) == 0
    assert metrics.auc_judd(flat, x, y) == 0.5
    assert metrics.shuffled_auc(flat, x, y, y, x[::-1] % SHAPE[0]) == 0.5
    assert metrics.information_gain(flat, np.ones(SHAPE), x, y) == pytest.approx(0, abs=1e-6)


def test_maps_of_zeros_count_as_uniform_and_negative_ones_are_shifted():
    q = scene(0)[1]
    zeros = np.zeros(SHAPE)
    assert metrics.kl_divergence(q, zeros) == pytest.approx(metrics.kl_divergence(q, np.ones(SHAPE)))
    assert metrics.similarity(zeros, np.ones(SHAPE)) == pytest.approx(1)
    assert metrics.similarity(q - q.min() - 5, q - q.min()) == pytest.approx(1, abs=1e-5)


def test_known_divergences():
    one = np.zeros(SHAPE)
    one[3, 4] = 1
    miss = np.roll(one, 1)
    assert metrics.kl_divergence(one, np.ones(SHAPE)) == pytest.approx(math.log(one.size))
    assert metrics.kl_divergence(one, miss) == pytest.approx(36.04, abs=0.01)


def test_nobody_looking_is_nan_and_never_zero():
    p, q, x, y = scene(0)
    none = np.array([], int)
    assert math.isnan(metrics.nss(p, none, none))
    assert math.isnan(metrics.auc_judd(p, none, none))
    assert math.isnan(metrics.shuffled_auc(p, none, none, x, y))
    assert math.isnan(metrics.shuffled_auc(p, x, y, none, none))
    assert math.isnan(metrics.information_gain(p, q, none, none))


def test_repeats_count_for_nss_and_not_for_auc_judd():
    p, _, x, y = scene(1, 2)
    twice = np.r_[x, x[:1]], np.r_[y, y[:1]]
    assert metrics.nss(p, *twice) != metrics.nss(p, x, y)
    assert metrics.auc_judd(p, *twice) == metrics.auc_judd(p, x, y)


def test_auc_judd_needs_a_pixel_that_nobody_looked_at():
    assert math.isnan(metrics.auc_judd(np.ones((1, 2)), [0, 1], [0, 0]))
