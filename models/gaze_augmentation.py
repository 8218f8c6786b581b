"""Augmentation for the teacher: picture and fixations move together, and the map is built from where they land."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.floating]


@dataclass(frozen=True)
class GazeAugmentation:
    """How far a picture may be changed; every change leaves a picture that people would look at alike.

    Attributes:
        flip: probability of a horizontal flip.
        smallest_area: a crop keeps this to 1 of the area, and the aspect; 1 switches it off.
        jitter: brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter.
        coarse: probability of passing the picture through a small square, as the pictures to be labelled were.
        coarse_side: smallest side of that square in pixels.
    """

    flip: float = 0.5
    smallest_area: float = 0.5
    jitter: float = 0.2
    coarse: float = 0.5
    coarse_side: int = 64


def augment(
    image: Image, x: Points, y: Points, rng: Generator, how: GazeAugmentation
) -> tuple[Image, Points, Points]:
    """Crop, flip, coarsen and recolour a picture, moving its fixations along.

    Args:
        image: uint8 [H, W, 3].
        x, y: [n] columns and rows of the fixations in pixels of the image, continuous.
        rng: the only source of chance; the same stream gives the same result.
        how: which changes, and how far.

    Returns:
        The new picture, uint8 [H', W', 3], and the fixations inside it, in its pixels.
    """
    image, x, y = _crop(image, x, y, rng, how.smallest_area)
    if rng.random() < how.flip:
        image, x = image[:, ::-1], np.nextafter(image.shape[1] - x, 0, dtype=x.dtype)
    if rng.random() < how.coarse:
        image = _coarsen(image, rng, how.coarse_side)
    return _recolour(image, rng, how.jitter), x, y


def _crop(
    image: Image, x: Points, y: Points, rng: Generator, smallest_area: float
) -> tuple[Image, Points, Points]:
    height, width = image.shape[:2]
    side = np.sqrt(rng.uniform(smallest_area, 1))
    new_width, new_height = max(1, round(width * side)), max(1, round(height * side))
    left, top = rng.integers(0, width - new_width + 1), rng.integers(0, height - new_height + 1)
    inside = (x >= left) & (x < left + new_width) & (y >= top) & (y < top + new_height)
    return image[top : top + new_height, left : left + new_width], x[inside] - left, y[inside] - top


def _coarsen(image: Image, rng: Generator, smallest: int) -> Image:
    """Shrink to a square of a random side, log-uniform from the smallest to the picture's, and back."""
    height, width = image.shape[:2]
    largest = max(smallest, min(height, width))
    side = round(float(np.exp(rng.uniform(np.log(smallest), np.log(largest)))))
    small = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _recolour(image: Image, rng: Generator, jitter: float) -> Image:
    """Scale brightness, contrast about the mean, and saturation about the grey picture, in one affine map."""
    brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, 3)
    grey = np.full((3, 3), (1 - saturation) / 3) + np.eye(3) * saturation
    mean = image.mean()
    affine = np.column_stack([grey * (brightness * contrast), np.full(3, brightness * (1 - contrast) * mean)])
    return np.asarray(cv2.transform(np.ascontiguousarray(image), affine), np.uint8)
