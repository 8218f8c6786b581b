"""Against scipy, published numbers and hand-made sums."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models import statistics as our

RNG = np.random.default_rng(0)
A, B = RNG.normal(0.4, 0.2, 40), RNG.normal(0.3, 0.3, 40)


def test_summary_by_hand():
    result = our.summary([1, 2, 3, 4])
    assert (result.n, result.mean) == (4, 2.5)
    assert result.sd == pytest.approx(math.sqrt(5 / 3))
    assert result.se == pytest.approx(math.sqrt(5 / 3) / 2)
    assert math.isnan(our.summary([0.5]).se)


def test_paired_t_is_scipys():
    expected = stats.ttest_rel(A, B)
    low, high = expected.confidence_interval(0.95)
    result = our.paired_t(A, B)
    assert (result.t, result.p, result.df, result.n) == pytest.approx((expected.statistic, expected.pvalue, 39, 40))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.difference == pytest.approx((A - B).mean())
    assert result.d == pytest.approx((A - B).mean() / (A - B).std(ddof=1))


def test_one_sample_t_is_scipys():
    expected, result = stats.ttest_1samp(A, 0.35), our.one_sample_t(A, 0.35)
    assert (result.t, result.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert result.difference == pytest.approx(A.mean() - 0.35)


def test_welch_is_scipys():
    expected, result = stats.ttest_ind(A, B[:17], equal_var=False), our.welch_t(A, B[:17])
    low, high = expected.confidence_interval(0.95)
    assert (result.t, result.p, result.df) == pytest.approx((expected.statistic, expected.pvalue, expected.df))
    assert (result.low, result.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("first", "second", "difference", "p"),
    [  # mean and SE over 3 seeds from Yao et al.'s Table 1 and slides; p recomputed with scipy's own routine below
        ((68.23, 0.08), (67.61, 0.04), 0.62, 0.007),
        ((76.08, 0.03), (75.91, 0.10), 0.17, 0.23),
        ((76.02, 0.04), (75.91, 0.10), 0.11, 0.39),
        ((69.30, 0.04), (69.17, 0.07), 0.13, 0.20),
        ((66.35, 0.12), (67.61, 0.04), -1.26, 0.005),
        ((29.15, 0.65), (28.23, 0.31), 0.92, 0.30),
        ((60.50, 0.02), (60.42, 0.15), 0.08, 0.65),
    ],
)
def test_welch_from_published_numbers(first, second, difference, p):
    result = our.welch_t_from_summary(*first, 3, *second, 3)
    expected = stats.ttest_ind_from_stats(
        first[0], first[1] * math.sqrt(3), 3, second[0], second[1] * math.sqrt(3), 3, equal_var=False
    )
    assert result.difference == pytest.approx(difference)
    assert (result.t, result.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert result.p == pytest.approx(p, rel=0.1)


def test_wilcoxon_is_scipys_and_survives_equal_values():
    expected, result = stats.wilcoxon(A - B), our.wilcoxon(A, B)
    assert (result.statistic, result.p, result.n) == (expected.statistic, expected.pvalue, 40)
    assert our.wilcoxon([1, 2], [1, 2]) == our.Wilcoxon(0.0, 1.0, 0)
    assert our.wilcoxon([1.0, 2, 3, 5], [1.0, 1, 1, 1]).n == 3


def test_no_spread_is_no_crash():
    same, shifted = our.paired_t([1, 2, 3], [1, 2, 3]), our.paired_t([2, 3, 4], [1, 2, 3])
    assert (same.t, same.p, same.low, same.high) == (0, 1, 0, 0)
    assert (shifted.t, shifted.p, shifted.low, shifted.high) == (math.inf, 0, 1, 1)


def test_bootstrap_over_images_agrees_with_the_t_interval():
    differences = RNG.normal(0.1, 0.3, (1, 300))
    boot, t = our.bootstrap(differences), our.one_sample_t(differences[0])
    assert boot.estimate == pytest.approx(differences.mean())
    assert (boot.low, boot.high) == pytest.approx((t.low, t.high), abs=0.006)
    assert boot.resolved


def test_bootstrap_over_seeds_is_wider_where_seeds_differ():
    images = RNG.normal(0, 0.1, 200)
    agreeing, differing = images + np.zeros((4, 1)), images + np.array([[-0.2], [-0.1], [0.1], [0.2]])
    narrow, wide = our.bootstrap(agreeing), our.bootstrap(differing)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert not wide.resolved
    assert our.bootstrap(differing, seed=1) == our.bootstrap(differing, seed=1)


def test_bootstrap_draws_what_it_says():
    """Two seeds, one image: the four draws of two seeds give means 0, 1/2 (twice) and 1."""
    result = our.bootstrap(np.array([[0.0], [1.0]]), confidence=0.4)
    assert (result.low, result.high) == (0.5, 0.5)
    assert our.bootstrap(np.array([[0.0], [1.0]]), confidence=0.6).low == 0


def test_holm_by_hand():
    assert our.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert our.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert our.holm([]) == []


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p_values):
    adjusted = our.holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, p * len(p_values))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_mcnemar_by_hand():
    first = np.array([1] * 8 + [0] * 2 + [1] * 5, bool)
    second = np.array([0] * 8 + [1] * 2 + [1] * 5, bool)
    result = our.mcnemar(first, second)
    assert (result.only_first, result.only_second) == (8, 2)
    assert result.p == pytest.approx(2 * sum(math.comb(10, k) for k in range(3)) / 2**10)
    assert our.mcnemar(first, first).p == 1


@pytest.mark.parametrize("n", [2, 3, 5, 10, 350])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_smallest_effect_has_the_power_it_claims(n, power):
    effect = our.smallest_effect(2.0, n, power)
    rng = np.random.default_rng(n)
    means = rng.normal(effect, 2.0 / math.sqrt(n), 200_000)
    deviations = 2.0 * np.sqrt(rng.chisquare(n - 1, 200_000) / (n - 1))
    found = np.abs(means / deviations * math.sqrt(n)) > stats.t.ppf(0.975, n - 1)
    assert found.mean() == pytest.approx(power, abs=0.01)


def test_smallest_effect_shrinks_with_pairs_and_scales_with_spread():
    assert our.smallest_effect(1, 3) > our.smallest_effect(1, 4) > our.smallest_effect(1, 100)
    assert our.smallest_effect(3, 5) == pytest.approx(3 * our.smallest_effect(1, 5))
    assert our.smallest_effect(1, 10_000) == pytest.approx(2.80 / 100, rel=0.01)


@pytest.mark.parametrize(
    "call",
    [
        lambda: our.paired_t([1, 2], [1, 2, 3]),
        lambda: our.paired_t([1, math.nan], [1, 2]),
        lambda: our.one_sample_t([1]),
        lambda: our.summary([]),
        lambda: our.welch_t_from_summary(1, 0.1, 1, 1, 0.1, 3),
        lambda: our.bootstrap(np.zeros(4)),
        lambda: our.bootstrap(np.full((2, 2), math.nan)),
        lambda: our.mcnemar([True], [True, False]),
        lambda: our.smallest_effect(1, 1),
    ],
)
def test_what_cannot_be_computed_is_refused(call):
    with pytest.raises(ValueError, match=r"expected .* found"):
        call()
