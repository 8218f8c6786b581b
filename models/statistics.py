"""Statistics for comparing models: intervals before verdicts, and the unit of analysis always named.

Per-image tests speak of these networks and these images; only seeds speak of the method. All functions take plain
arrays, leave NaN to the caller (they raise), and give frozen results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]
QUANTILES = 10_000  # of the estimated deviation, in computing power


@dataclass(frozen=True)
class Summary:
    """Mean of n values, their standard deviation (n - 1) and its standard error SD / sqrt(n); NaN where n is 1."""

    n: int
    mean: float
    sd: float
    se: float


@dataclass(frozen=True)
class TTest:
    """A two-sided t-test: the estimated difference with its interval, t, degrees of freedom and p.

    `d` is the difference over the standard deviation: d_z of paired differences, d of one sample, NaN for Welch.
    """

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float
    n: int
    d: float


@dataclass(frozen=True)
class Wilcoxon:
    """A two-sided signed-rank test: the smaller rank sum, p, and the number of non-zero differences."""

    statistic: float
    p: float
    n: int


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval; it resolves an effect only if it excludes zero."""

    estimate: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero; if not, say "not resolved", never "no difference"."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs of two classifiers on the same images, and the exact two-sided p."""

    only_first: int
    only_second: int
    p: float


def summary(values: ArrayLike) -> Summary:
    """Describe values, for instance one accuracy per seed."""
    x = _clean(values, 1, "summary")
    sd = float(x.std(ddof=1)) if len(x) > 1 else math.nan
    return Summary(len(x), float(x.mean()), sd, sd / math.sqrt(len(x)))


def one_sample_t(values: ArrayLike, null: float = 0.0, confidence: float = 0.95) -> TTest:
    """Test whether the mean of values differs from `null`; the difference is mean - null."""
    x = _clean(values, 2, "one-sample t-test")
    described = summary(x)
    return _t_test(described.mean - null, described.se, len(x) - 1, confidence, len(x), described.sd)


def paired_t(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> TTest:
    """Test first - second, pair by pair: per image (the mean over seeds), or per seed.

    Raises:
        ValueError: the lengths differ, there are fewer than two pairs, or a value is not finite.
    """
    return one_sample_t(_differences(first, second, "paired t-test"), 0.0, confidence)


def welch_t(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> TTest:
    """Test whether the means of two independent samples differ, variances unequal; first - second."""
    a, b = summary(_clean(first, 2, "Welch test")), summary(_clean(second, 2, "Welch test"))
    return welch_t_from_summary(a.mean, a.se, a.n, b.mean, b.se, b.n, confidence)


def welch_t_from_summary(
    mean1: float, se1: float, n1: int, mean2: float, se2: float, n2: int, confidence: float = 0.95
) -> TTest:
    """Welch's test from published means, standard errors (not deviations) and sizes; first - second."""
    if min(n1, n2) < 2:
        raise ValueError(f"Welch test: expected at least 2 values on each side, found {n1} and {n2}; not computed.")
    v1, v2 = se1**2, se2**2
    spread = v1**2 / (n1 - 1) + v2**2 / (n2 - 1)
    df = (v1 + v2) ** 2 / spread if spread > 0 else float(n1 + n2 - 2)
    return _t_test(mean1 - mean2, math.sqrt(v1 + v2), df, confidence, n1 + n2, math.nan)


def wilcoxon(first: ArrayLike, second: ArrayLike) -> Wilcoxon:
    """Signed-rank test of paired values; zero differences are dropped, and p is 1 if nothing remains."""
    differences = _differences(first, second, "Wilcoxon test")
    differences = differences[differences != 0]
    if len(differences) == 0:
        return Wilcoxon(0.0, 1.0, 0)
    result = stats.wilcoxon(differences)
    return Wilcoxon(float(result.statistic), float(result.pvalue), len(differences))


def bootstrap(
    differences: ArrayLike, rounds: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the mean of paired differences, seeds and images both drawn with replacement.

    Args:
        differences: [seeds, images], one model minus the other, paired by seed and by image.
        rounds: bootstrap samples.
        confidence: coverage of the interval.
        seed: of the draws.
    """
    x = np.asarray(differences, np.float64)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"bootstrap: expected finite values [seeds, images], found {list(x.shape)}; not computed.")
    rng = np.random.default_rng(seed)
    seeds, images = x.shape
    # A draw with replacement is a vector of counts: the mean of the resampled table is counts x table x counts.
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), rounds) / seeds
    by_image = rng.multinomial(images, np.full(images, 1 / images), rounds) / images
    means = ((by_seed @ x) * by_image).sum(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(x.mean()), float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p values of one family (Holm, 1979), in their order; none exceeds 1."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.maximum.accumulate(np.asarray(p_values, np.float64)[order] * factors)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1)
    return [float(p) for p in adjusted]


def mcnemar(first_correct: ArrayLike, second_correct: ArrayLike) -> McNemar:
    """Exact test of two classifiers on the same images, pooled over seeds if there are several.

    Args:
        first_correct, second_correct: bool [n], whether each prediction was right.
    """
    a, b = np.asarray(first_correct, np.bool_), np.asarray(second_correct, np.bool_)
    if a.shape != b.shape:
        raise ValueError(f"McNemar test: expected equal shapes, found {a.shape} and {b.shape}; not computed.")
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def smallest_effect(sd: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Give the smallest mean paired difference that a two-sided t-test would find with the given power.

    Args:
        sd: expected standard deviation of the paired differences, in the unit of the result.
        n: pairs, at least two; for accuracy the unit is the seed.
        power: chance of finding it, between alpha and 1.
        alpha: level of the test.
    """
    if n < 2 or not alpha < power < 1:
        raise ValueError(f"power: expected n >= 2 and alpha < power < 1, found n {n}, power {power}; not computed.")
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    # Given the estimated over the true deviation, t is normal; its quantiles stand for its distribution. (The
    # non-central t of scipy gives NaN in its tails.)
    ratio = np.sqrt(stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, n - 1) / (n - 1))

    def missing(shift: float) -> float:
        found = special.ndtr(shift - critical * ratio) + special.ndtr(-shift - critical * ratio)
        return float(found.mean()) - power

    return float(optimize.brentq(missing, 0, critical * ratio.max() + 10)) * sd / math.sqrt(n)


def _t_test(difference: float, se: float, df: float, confidence: float, n: int, sd: float) -> TTest:
    """Fill a result; without any spread t is infinite, or 0 for no difference."""
    margin = float(stats.t.ppf((1 + confidence) / 2, df)) * se
    t = difference / se if se > 0 else math.copysign(math.inf, difference) if difference else 0.0
    d = difference / sd if sd > 0 else math.nan
    return TTest(difference, difference - margin, difference + margin, t, df, float(2 * stats.t.sf(abs(t), df)), n, d)


def _differences(first: ArrayLike, second: ArrayLike, name: str) -> Array:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{name}: expected pairs, found {a.shape} and {b.shape} values; nothing was computed.")
    return _clean(a - b, 2, name)


def _clean(values: ArrayLike, least: int, name: str) -> Array:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) < least or not np.isfinite(x).all():
        raise ValueError(
            f"{name}: expected at least {least} finite values in one row, found shape {list(x.shape)} with"
            f" {int((~np.isfinite(x)).sum())} not finite; nothing was computed. Leave undefined scores out first, in"
            " pairs, and count them."
        )
    return x
