"""How well people predict people: the ceiling under which every alignment score is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import metrics
from models.alignment import Gaze, Map
from models.human_maps import SIGMA_FRACTION, gaussian_sum


@dataclass(frozen=True)
class SplitHalf:
    """Agreement of two halves of the people.

    Attributes:
        r: mean correlation of the two halves' maps over random splits.
        reliability: Spearman-Brown 2r / (1 + r), what two groups of all people would agree to.
        ceiling: its square root, the CC that a model without noise could reach.
    """

    r: float
    reliability: float
    ceiling: float


def split_half(
    gaze: Gaze, splits: int = 100, seed: int = 0, sigma_fraction: float = SIGMA_FRACTION
) -> SplitHalf:
    """Correlate the maps of random halves of the people; with an odd number one of them sits out of each split.

    A half's map is a sum of its people's maps, so every correlation follows from the people's covariances.

    Args:
        gaze: fixations on one image.
        splits: random splits.
        seed: of the splits.
        sigma_fraction: sigma of the maps over the longer side.

    Returns:
        NaN throughout for fewer than two people.
    """
    people = np.unique(gaze.subject)
    if len(people) < 2:
        return SplitHalf(math.nan, math.nan, math.nan)
    covariance = np.cov(np.stack([_map_of(gaze, person, sigma_fraction).ravel() for person in people]))
    first, second = _halves(len(people), splits, np.random.default_rng(seed))
    between = np.einsum("si,ij,sj->s", first, covariance, second)
    within = [np.einsum("si,ij,sj->s", half, covariance, half) for half in (first, second)]
    r = float(np.mean(between / np.sqrt(within[0] * within[1])))
    reliability = 2 * r / (1 + r)
    return SplitHalf(r, reliability, math.sqrt(max(0.0, reliability)))


def leave_one_out(gaze: Gaze, centre_bias: Map, sigma_fraction: float = SIGMA_FRACTION) -> dict[str, float]:
    """Predict every person from the others and give the mean NSS, AUC-Judd and information gain over people.

    Args:
        gaze: fixations on one image.
        centre_bias: float [height, width], baseline of the information gain.
        sigma_fraction: sigma of the others' map over the longer side.

    Returns:
        nss, auc_judd and ig; NaN for fewer than two people.
    """
    people = np.unique(gaze.subject)
    if len(people) < 2:
        return dict.fromkeys(("nss", "auc_judd", "ig"), math.nan)
    scores = [_from_others(gaze, person, centre_bias, sigma_fraction) for person in people]
    nss, auc, gain = np.mean(scores, axis=0)
    return {"nss": float(nss), "auc_judd": float(auc), "ig": float(gain)}


def _from_others(gaze: Gaze, person: int, centre_bias: Map, sigma_fraction: float) -> tuple[float, float, float]:
    own = gaze.only(gaze.subject == person)
    others = gaze.only(gaze.subject != person).map(sigma_fraction)
    x, y = np.floor(own.x).astype(np.intp), np.floor(own.y).astype(np.intp)
    return (
        metrics.nss(others, x, y),
        metrics.auc_judd(others, x, y),
        metrics.information_gain(others, centre_bias, x, y),
    )


def _map_of(gaze: Gaze, person: int, sigma_fraction: float) -> Map:
    """Sum one person's Gaussians, not normalised, so that people's maps add up to the map of a group."""
    own = gaze.only(gaze.subject == person)
    sigma = sigma_fraction * max(gaze.width, gaze.height)
    return gaussian_sum(
        own.x.astype(np.float64), own.y.astype(np.float64), gaze.width, gaze.height, sigma, sigma
    )


def _halves(people: int, splits: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw disjoint halves of equal size: two 0/1 matrices [splits, people]."""
    ranks = rng.permuted(np.tile(np.arange(people), (splits, 1)), axis=1)
    half = people // 2
    return (ranks < half).astype(np.float64), ((ranks >= half) & (ranks < 2 * half)).astype(np.float64)
