"""Pseudo-fixations: points of gaze read off a saliency map by taking its peak away, again and again.

Yao et al. (CVPR 2023, footnote 1): take the arg-max of the map, subtract a Gaussian centred there, repeat until the
maximum falls below a threshold. Exactly, and in float32 throughout:

    v = map / 255
    repeat: (x, y) = first arg-max of v in row-major order; p = v[y, x]
            stop if p <= 0, or p < threshold * (first p), or `cap` points are out
            v[y + dy, x + dx] -= p * exp(-(dx^2 + dy^2) / (2 sigma^2))   for |dx|, |dy| <= floor(4 sigma)

The Gaussian is a table computed in float64 and rounded to float32 once. Values may fall below zero and are kept so. A
peak falls to exactly 0 and nothing ever rises, so the loop ends after at most height x width points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

TRUNCATE = 4.0  # the Gaussian is cut at this many sigmas, in a square window
CHUNK = 64  # maps one thread takes at a time
SEGMENT = 32  # pixels whose maximum is kept, so that a step costs the window and not the map

# No fastmath: nothing may change a rounding. Maxima are searched on the bits of the floats, as integers: positive
# floats sort like their bits, negative ones have negative bits, and integers are what the compiler vectorises.
_kernel: Callable[[Callable[..., Any]], Any] = numba.njit(nogil=True)


class Fixations(NamedTuple):
    """Points of one map in the order of extraction.

    Attributes:
        x, y: uint16 [n], 0-based column and row.
        peak: float32 [n], height of the map there when the point was taken, in (0, 1], never rising.
        capped: the cap, not the threshold, ended the extraction.
    """

    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    peak: NDArray[np.float32]
    capped: bool


def extract(
    maps: NDArray[np.uint8], sigma: float, threshold: float = 0.2, cap: int = 512, threads: int = 1
) -> list[Fixations]:
    """Read the points of gaze off many maps.

    Args:
        maps: uint8 [N, H, W].
        sigma: of the Gaussian, in pixels.
        threshold: share of the first maximum below which the extraction ends, 0 to 1.
        cap: most points of a map.
        threads: how many work at once; the result does not depend on it.

    Returns:
        One Fixations per map, in order; an all-zero map has no points.

    Raises:
        ValueError: an argument is outside its range.
    """
    _check(maps, sigma, threshold, cap)
    table = gaussian_table(sigma)
    chunks = [np.ascontiguousarray(maps[start : start + CHUNK]) for start in range(0, len(maps), CHUNK)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        results = pool.map(lambda chunk: _extract_chunk(chunk, table, threshold, cap), chunks)
        return [fixations for chunk in results for fixations in chunk]


def gaussian_table(sigma: float) -> NDArray[np.float32]:
    """Give the unit-peak Gaussian over a square of offsets up to floor(4 sigma), float32 [2r + 1, 2r + 1]."""
    radius = math.floor(TRUNCATE * sigma)
    square = np.arange(-radius, radius + 1, dtype=np.float64) ** 2
    return np.exp(-(square[:, None] + square) / (2 * sigma**2)).astype(np.float32)


def _extract_chunk(
    maps: NDArray[np.uint8], table: NDArray[np.float32], threshold: float, cap: int
) -> list[Fixations]:
    count, height, width = maps.shape
    cap = min(cap, height * width)
    x, y = np.empty((count, cap), np.uint16), np.empty((count, cap), np.uint16)
    peak = np.empty((count, cap), np.float32)
    found, capped = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    _extract_maps(maps, table, np.float32(threshold), x, y, peak, found, capped)
    return [
        Fixations(x[i, :n].copy(), y[i, :n].copy(), peak[i, :n].copy(), bool(capped[i]))
        for i, n in enumerate(found.tolist())
    ]


# Below, `work` is the map in float32, its rows padded with zeros to whole segments of 32 pixels; `bits` are the same
# bytes as integers, one segment a row; `tops` is the maximum of every segment. Segments lie in row-major order, so
# the first segment that holds the maximum, and the first pixel in it, are the map's first arg-max.


@_kernel
def _extract_maps(  # type: ignore[no-untyped-def]  # numba infers
    maps, table, threshold, x, y, peak, found, capped
):
    segments = (maps.shape[2] + SEGMENT - 1) // SEGMENT
    work = np.zeros((maps.shape[1], segments * SEGMENT), np.float32)
    bits = work.view(np.int32).reshape((-1, SEGMENT))
    tops = np.empty(len(bits), np.int32)
    for i in range(maps.shape[0]):
        _load(maps[i], work)
        _refresh(bits, tops, 0, len(tops))
        found[i], capped[i] = _extract_map(work, bits, tops, table, maps.shape[2], threshold, x[i], y[i], peak[i])


@_kernel
def _load(source, work):  # type: ignore[no-untyped-def]  # numba infers
    for row in range(source.shape[0]):
        line, greys = work[row], source[row]
        for column in range(greys.shape[0]):
            line[column] = np.float32(greys[column]) / np.float32(255)


@_kernel
def _extract_map(work, bits, tops, table, width, threshold, x, y, peak):  # type: ignore[no-untyped-def]  # numba infers
    limit = np.float32(0)
    for n in range(len(x) + 1):
        top = _largest(tops)
        segment = _first(tops, top)
        row, column = divmod(segment * SEGMENT + _first(bits[segment], top), work.shape[1])
        height = work[row, column]
        if n == 0:
            limit = threshold * height
        if height <= 0 or height < limit:
            return n, False
        if n < len(x):
            x[n], y[n], peak[n] = column, row, height
            _subtract(work, bits, tops, table, width, row, column, height)
    return len(x), True


@_kernel
def _subtract(work, bits, tops, table, width, row, column, height):  # type: ignore[no-untyped-def]  # numba infers
    radius = table.shape[0] // 2
    per_row = work.shape[1] // SEGMENT
    left, right = max(0, column - radius), min(width, column + radius + 1)
    for r in range(max(0, row - radius), min(work.shape[0], row + radius + 1)):
        line, gaussian = work[r, left:right], table[r - row + radius, left - column + radius :]
        for c in range(right - left):
            line[c] -= height * gaussian[c]
        _refresh(bits, tops, r * per_row + left // SEGMENT, r * per_row + (right - 1) // SEGMENT + 1)


@_kernel
def _refresh(bits, tops, start, stop):  # type: ignore[no-untyped-def]  # numba infers
    for segment in range(start, stop):
        tops[segment] = _largest(bits[segment])


@_kernel
def _largest(bits):  # type: ignore[no-untyped-def]  # numba infers
    top = bits[0]
    for i in range(bits.shape[0]):
        top = max(top, bits[i])
    return top


@_kernel
def _first(bits, wanted):  # type: ignore[no-untyped-def]  # numba infers
    index = 0
    while bits[index] != wanted:
        index += 1
    return index


def _check(maps: NDArray[np.uint8], sigma: float, threshold: float, cap: int) -> None:
    if maps.dtype != np.uint8 or maps.ndim != 3 or not all(1 <= side <= 65535 for side in maps.shape[1:]):
        raise ValueError(
            f"fixation maps: expected uint8 [N, H, W] with sides of 1 to 65535, found {maps.dtype}"
            f" {list(maps.shape)}; nothing was extracted."
        )
    if not (0 < sigma < math.inf and 0 <= threshold <= 1 and cap >= 1):
        raise ValueError(
            "fixation extraction: expected sigma > 0, a threshold of 0 to 1 and a cap of at least 1, found"
            f" sigma {sigma}, threshold {threshold}, cap {cap}; nothing was extracted."
        )
