"""Fixations of people as densities: the target of the teacher and the reference it is scored against."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIGMA_FRACTION = 0.03  # of the longer side: the blur of the reference maps
TRUNCATE = 4.0  # Gaussians are cut at this many sigmas


def fixation_density(
    x: ArrayLike, y: ArrayLike, width: int, height: int, out_size: int, sigma_fraction: float = SIGMA_FRACTION
) -> NDArray[np.float32]:
    """Blur fixations into a density on the picture squashed to a square.

    Sigma is isotropic in the source, hence not in the square: each axis is scaled on its own.

    Args:
        x, y: [n] columns and rows in source pixels, 0 <= x < width, 0 <= y < height, continuous.
        width, height: size of the source in pixels.
        out_size: side of the square in pixels.
        sigma_fraction: sigma over the longer side of the source.

    Returns:
        float32 [out_size, out_size] of sum 1; uniform where there is no fixation.

    Raises:
        ValueError: a fixation lies outside the source.
    """
    sigma = sigma_fraction * max(width, height)
    columns = _inside(x, width, "x") * (out_size / width)
    rows = _inside(y, height, "y") * (out_size / height)
    scale_x, scale_y = out_size / width, out_size / height
    return normalised(gaussian_sum(columns, rows, out_size, out_size, sigma * scale_x, sigma * scale_y))


def human_map(
    x: ArrayLike, y: ArrayLike, width: int, height: int, sigma_fraction: float = SIGMA_FRACTION
) -> NDArray[np.float32]:
    """Blur fixations into a density in the stimulus frame itself, with the same sigma along both axes.

    Args:
        x, y: [n] columns and rows in pixels of the frame, 0 <= x < width, 0 <= y < height, continuous.
        width, height: size of the frame in pixels.
        sigma_fraction: sigma over the longer side of the frame.

    Returns:
        float32 [height, width] of sum 1; uniform where there is no fixation.

    Raises:
        ValueError: a fixation lies outside the frame.
    """
    sigma = sigma_fraction * max(width, height)
    columns, rows = _inside(x, width, "x"), _inside(y, height, "y")
    return normalised(gaussian_sum(columns, rows, width, height, sigma, sigma))


def gaussian_sum(
    x: NDArray[np.float64], y: NDArray[np.float64], width: int, height: int, sigma_x: float, sigma_y: float
) -> NDArray[np.float32]:
    """Add up one Gaussian of height 1 per point, centred on the point's pixel, cut at 4 sigma and at the frame.

    A sum of separable Gaussians is a matrix product, so no map is ever convolved.

    Returns:
        float32 [height, width].
    """
    across, down = _profiles(np.floor(x), width, sigma_x), _profiles(np.floor(y), height, sigma_y)
    return down.T @ across


def normalised(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a map [H, W] to sum 1; a map of zeros becomes uniform."""
    total = maps.sum(dtype=np.float64)
    if total == 0:
        return np.full(maps.shape, 1 / maps.size, np.float32)
    return (maps / total).astype(np.float32)


def _profiles(centres: NDArray[np.float64], length: int, sigma: float) -> NDArray[np.float32]:
    """Give every point's one-dimensional Gaussian over the axis, [n, length]."""
    distance = np.abs(np.arange(length) - centres[:, None]).astype(np.float32)
    profile = np.exp(-0.5 * np.square(distance / np.float32(sigma)))
    profile[distance > TRUNCATE * sigma] = 0
    return profile


def _inside(values: ArrayLike, length: int, axis: str) -> NDArray[np.float64]:
    """Give the coordinates as float64, or raise where one lies outside [0, length)."""
    coordinates = np.asarray(values, np.float64)
    outside = ~((coordinates >= 0) & (coordinates < length))
    if outside.any():
        raise ValueError(
            f"fixations: expected 0 <= {axis} < {length}, found {coordinates[outside][0]}"
            f" ({int(outside.sum())} outside in all); no map was made. Drop or clip them when reading the data set."
        )
    return coordinates
