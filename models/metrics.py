"""Scores of a saliency map against people: CC, NSS, KLD, SIM, AUC-Judd, shuffled AUC and information gain.

Where MIT's reference code (Bylinskii et al., "What do different evaluation metrics tell us about saliency models?")
and pysaliency differ, pysaliency's convention holds, unless a function says otherwise. Scores of two maps take
stacks [..., H, W] and give [...]; scores of fixations take one map and the 0-based integer columns and rows of the
points. All arithmetic is in float64. An image without fixations scores NaN, for the caller to count and leave out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 2.2204e-16

Array = NDArray[np.float64]
Maps = NDArray[np.floating[Any]]


def correlation(prediction: Maps, human: Maps) -> Array:
    """Give Pearson's correlation over pixels (CC), in [-1, 1].

    A constant prediction scores 0; a constant human map scores NaN.
    """
    p, q = _flat(prediction), _flat(human)
    constant_p, constant_q = np.ptp(p, axis=-1) == 0, np.ptp(q, axis=-1) == 0
    p, q = p - p.mean(-1, keepdims=True), q - q.mean(-1, keepdims=True)
    scale = np.sqrt(np.square(p).sum(-1) * np.square(q).sum(-1))
    score = (p * q).sum(-1) / np.where(constant_p | constant_q, 1, scale)
    return np.where(constant_q, np.nan, np.where(constant_p, 0, score))


def kl_divergence(human: Maps, prediction: Maps) -> Array:
    """Give sum(q log(e + q / (p + e))) in nats, human map q first, both of sum 1, e = 2.2204e-16.

    A map with negative values is shifted up by its minimum; a map of zeros counts as uniform.
    """
    q, p = _density(human), _density(prediction)
    return (q * np.log(EPSILON + q / (p + EPSILON))).sum(-1)


def similarity(prediction: Maps, human: Maps) -> Array:
    """Give the histogram intersection sum(min(p, q)) of both maps at sum 1 (SIM), in [0, 1].

    A map with negative values is shifted up by its minimum; a map of zeros counts as uniform.
    """
    return np.minimum(_density(prediction), _density(human)).sum(-1)


def nss(prediction: Maps, x: ArrayLike, y: ArrayLike) -> float:
    """Give the mean of the standardised map at the fixations (NSS), in standard deviations.

    Every fixation counts, repeats too; the deviation is the population's; a constant map scores 0.
    """
    values = _at(prediction, x, y)
    if len(values) == 0:
        return float("nan")
    if np.ptp(prediction) == 0:
        return 0.0
    p = np.asarray(prediction, np.float64)
    return float((values.mean() - p.mean()) / p.std())


def auc_judd(prediction: Maps, x: ArrayLike, y: ArrayLike) -> float:
    """Give the area under the ROC curve of fixated pixels against all other pixels (AUC-Judd).

    MIT's definition made exact: pixels fixated twice count once, thresholds are the values at fixated pixels,
    the curve is trapezoidal with ends (0, 0) and (1, 1). Equal values share a threshold, where MIT breaks ties by
    random jitter; so a constant map scores 0.5. NaN where no pixel, or every pixel, is fixated.
    """
    p = np.asarray(prediction)
    fixated = np.zeros(p.shape, np.bool_)
    fixated[np.asarray(y, np.intp), np.asarray(x, np.intp)] = True
    positives, negatives = p[fixated], p[~fixated]
    if len(positives) == 0 or len(negatives) == 0:
        return float("nan")
    thresholds = np.unique(positives)[::-1]
    hits = _share_at_least(positives, thresholds)
    alarms = _share_at_least(negatives, thresholds)
    return float(np.trapezoid(np.r_[0, hits, 1], np.r_[0, alarms, 1]))


def shuffled_auc(prediction: Maps, x: ArrayLike, y: ArrayLike, other_x: ArrayLike, other_y: ArrayLike) -> float:
    """Give the chance that a fixation has a higher value than another image's fixation (sAUC), ties one half.

    Args:
        prediction: float [H, W].
        x, y: fixations on this image, repeats kept.
        other_x, other_y: fixations on other images, moved to this image's pixels, repeats kept.

    Returns:
        The exact area under the ROC curve, in [0, 1]; NaN where either set is empty.
    """
    positives, negatives = _at(prediction, x, y), np.sort(_at(prediction, other_x, other_y))
    if len(positives) == 0 or len(negatives) == 0:
        return float("nan")
    below = np.searchsorted(negatives, positives, "left")
    not_above = np.searchsorted(negatives, positives, "right")
    return float((below + not_above).mean() / (2 * len(negatives)))


def information_gain(prediction: Maps, baseline: Maps, x: ArrayLike, y: ArrayLike) -> float:
    """Give mean(log2(e + p) - log2(e + b)) at the fixations, both maps of sum 1, in bits per fixation.

    Maps are normalised by their sum alone (pysaliency), never stretched to [0, 1] first (MIT); e = 2.2204e-16
    keeps a zero finite.
    """
    shape = np.shape(prediction)
    p, b = (_at(_density(maps).reshape(shape), x, y) for maps in (prediction, baseline))
    if len(p) == 0:
        return float("nan")
    return float((np.log2(EPSILON + p) - np.log2(EPSILON + b)).mean())


def _flat(maps: Maps) -> Array:
    array = np.asarray(maps, np.float64)
    return array.reshape(*array.shape[:-2], -1)


def _density(maps: Maps) -> Array:
    """Flatten to [..., H x W] of sum 1."""
    flat = _flat(maps)
    flat = flat - np.minimum(flat.min(-1, keepdims=True), 0)
    total = flat.sum(-1, keepdims=True)
    return np.where(total > 0, flat / np.where(total > 0, total, 1), 1 / flat.shape[-1])


def _at(prediction: Maps, x: ArrayLike, y: ArrayLike) -> Array:
    return np.asarray(prediction)[np.asarray(y, np.intp), np.asarray(x, np.intp)].astype(np.float64)


def _share_at_least(values: Maps, thresholds: Maps) -> Array:
    """Give the share of the values that reach each threshold."""
    return 1 - np.searchsorted(np.sort(values), thresholds, "left") / len(values)
