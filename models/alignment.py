"""Alignment with people: one path for model, teacher, centre prior and the people themselves.

A density on the squashed square is resized bilinearly to the stimulus frame and made to sum to 1; the human map is
built in that frame. Whatever is compared passes through `score`, so that numbers can be set side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models import metrics
from models.human_maps import SIGMA_FRACTION, fixation_density, human_map, normalised

Map = NDArray[np.float32]
UNIFORM_SHARE = 0.01  # mixed into centre-bias densities, so that no fixation costs infinitely many bits


@dataclass(frozen=True)
class Gaze:
    """Where people looked in one image.

    Attributes:
        x, y: float [n] columns and rows in pixels of the stimulus frame, continuous, 0 <= x < width.
        subject: int [n], who looked.
        width, height: size of the stimulus frame in pixels.
    """

    x: NDArray[np.floating]
    y: NDArray[np.floating]
    subject: NDArray[np.integer]
    width: int
    height: int

    def only(self, chosen: NDArray[np.bool_]) -> Gaze:
        """Keep the chosen fixations."""
        return Gaze(self.x[chosen], self.y[chosen], self.subject[chosen], self.width, self.height)

    def moved_to(self, width: int, height: int) -> Gaze:
        """Scale the fixations to another frame."""
        if (width, height) == (self.width, self.height):
            return self
        scaled = (_scaled(self.x, self.width, width), _scaled(self.y, self.height, height))
        return Gaze(*scaled, self.subject, width, height)

    def map(self, sigma_fraction: float = SIGMA_FRACTION) -> Map:
        """Blur into a density, float32 [height, width]."""
        return human_map(self.x, self.y, self.width, self.height, sigma_fraction)


@dataclass(frozen=True)
class Reference:
    """What a prediction for one image is held against.

    Attributes:
        gaze: the fixations on the image.
        human: their density, float32 [height, width].
        centre_bias: density of the fixations on all other images, float32 [height, width].
        others: fixations on all other images, moved to this frame.
        other_human: density of one other image, drawn at random, in this frame.
    """

    gaze: Gaze
    human: Map
    centre_bias: Map
    others: Gaze
    other_human: Map


def to_frame(density: Map, width: int, height: int) -> Map:
    """Resize a density bilinearly to a frame and make it sum to 1.

    Args:
        density: float [S, S] (or any shape), never negative.
        width, height: size of the frame in pixels.

    Returns:
        float32 [height, width].
    """
    resized = cv2.resize(np.asarray(density, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return normalised(np.asarray(resized, np.float32))


def centre_prior(gazes: Sequence[Gaze], size: int, sigma_fraction: float = SIGMA_FRACTION) -> Map:
    """Give the mean human map of a set, on the squashed square; images without fixations are left out.

    Returns:
        float32 [size, size] of sum 1; uniform for an empty set.
    """
    total = np.zeros((size, size), np.float64)
    for gaze in gazes:
        if len(gaze.x):
            total += _square(gaze, size, sigma_fraction)
    return normalised(total.astype(np.float32))


def references(
    gazes: Sequence[Gaze], sigma_fraction: float = SIGMA_FRACTION, seed: int = 0, grid: int = 128
) -> Iterator[Reference]:
    """Give the references of a whole evaluation set, image by image, in order.

    Args:
        gazes: at least two images.
        sigma_fraction: sigma of human maps over the longer side of the frame.
        seed: of the partners for shuffled scores: a random cycle through all images.
        grid: side of the square on which the leave-one-out centre bias is kept.

    Raises:
        ValueError: fewer than two images.
    """
    if len(gazes) < 2:
        raise ValueError(
            f"alignment references: expected at least 2 images, found {len(gazes)}; no score was computed. Shuffled"
            " and centre-bias scores need other images: evaluate on a larger set."
        )
    partner = _cycle(len(gazes), seed)
    total = sum(_square(gaze, grid, sigma_fraction).astype(np.float64) for gaze in gazes)
    for index, gaze in enumerate(gazes):
        frame = gaze.width, gaze.height
        rest = normalised((total - _square(gaze, grid, sigma_fraction)).clip(0).astype(np.float32))
        bias = (1 - UNIFORM_SHARE) * to_frame(rest, *frame) + UNIFORM_SHARE / (gaze.width * gaze.height)
        others = _joined([other.moved_to(*frame) for other in (*gazes[:index], *gazes[index + 1 :])])
        other_human = gazes[partner[index]].moved_to(*frame).map(sigma_fraction)
        yield Reference(gaze, gaze.map(sigma_fraction), bias.astype(np.float32), others, other_human)


def score(density: Map, reference: Reference) -> dict[str, float]:
    """Hold one prediction against people; the same function for model, teacher, centre prior and other people.

    Args:
        density: float [H, W] of any size, never negative, over the whole image.
        reference: of the same image.

    Returns:
        cc, nss, kld (nats, human map first), sim, auc_judd, sauc, ig (bits a fixation over the leave-one-out centre
        bias), shuffled_cc (with another image's human map); NaN where a score is undefined, as without fixations.
    """
    gaze = reference.gaze
    prediction = to_frame(density, gaze.width, gaze.height)
    points, others = _pixels(gaze), _pixels(reference.others)
    return {
        "cc": float(metrics.correlation(prediction, reference.human)),
        "nss": metrics.nss(prediction, *points),
        "kld": float(metrics.kl_divergence(reference.human, prediction)) if len(gaze.x) else float("nan"),
        "sim": float(metrics.similarity(prediction, reference.human)) if len(gaze.x) else float("nan"),
        "auc_judd": metrics.auc_judd(prediction, *points),
        "sauc": metrics.shuffled_auc(prediction, *points, *others),
        "ig": metrics.information_gain(prediction, reference.centre_bias, *points),
        "shuffled_cc": float(metrics.correlation(prediction, reference.other_human)),
    }


def label_skill(labels: Map, predictions: Map, mean_label: Map) -> float:
    """Give 1 - KLD(label || prediction) / KLD(label || mean training label), both averaged over held-out images.

    Args:
        labels, predictions: float [N, H, W].
        mean_label: float [H, W], over the training images.

    Returns:
        1 for a perfect prediction, 0 for one no better than the mean label, negative for a worse one.
    """
    ours = metrics.kl_divergence(labels, predictions).mean()
    theirs = metrics.kl_divergence(labels, np.broadcast_to(mean_label, labels.shape)).mean()
    return float(1 - ours / theirs)


def _square(gaze: Gaze, size: int, sigma_fraction: float) -> Map:
    return fixation_density(gaze.x, gaze.y, gaze.width, gaze.height, size, sigma_fraction)


def _pixels(gaze: Gaze) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.floor(gaze.x).astype(np.intp), np.floor(gaze.y).astype(np.intp)


def _scaled(values: NDArray[np.floating], old: int, new: int) -> NDArray[np.float64]:
    """Scale coordinates, keeping what rounding would push onto the far edge inside."""
    return np.minimum(values.astype(np.float64) * (new / old), np.nextafter(new, 0))


def _joined(gazes: Sequence[Gaze]) -> Gaze:
    x, y, subject = (np.concatenate([getattr(g, name) for g in gazes]) for name in ("x", "y", "subject"))
    return Gaze(x, y, subject, gazes[0].width, gazes[0].height)


def _cycle(count: int, seed: int) -> NDArray[np.intp]:
    """Give every image another one: a random order in which each is followed by its partner."""
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, np.intp)
    partner[order] = np.roll(order, -1)
    return partner
