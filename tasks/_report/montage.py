"""The paper's Figure 2a: images, where people looked, and where the models expect them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks._report.names import SHORT
from tasks._report.pictures import INK, MUTED, drawn, encoded, heat, new_figure, thumbnail
from tasks._report.words import number

COLUMNS = ("teacher", "guided", "permuted", "baseline")
_WIDTH = 190  # of one picture, pixels
_GAP, _HEAD, _FOOT = 8, 26, 20


@dataclass(frozen=True)
class Row:
    """One image: pixels, people's density, and by predictor a density with its CC."""

    image: NDArray[np.uint8]
    human: NDArray[np.float32]
    densities: Mapping[str, NDArray[np.float32]]
    cc: Mapping[str, float]


def choose(scores: NDArray[np.float64], count: int = 6) -> list[int]:
    """Images to show, from the best to the worst: at even steps of the rank of their score, so none is picked."""
    ranked = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    places = (np.arange(count) + 0.5) / count * len(ranked)
    return list(dict.fromkeys(int(ranked[int(p)]) for p in places))


def montage(rows: Sequence[Row]) -> bytes:
    """A row per image: itself, people, teacher, guided, permuted, baseline, each with its CC, as a PNG."""
    titles = ["Image", "People", *(SHORT[c] for c in COLUMNS)]
    bands = [_pictures(row) for row in rows]
    heights = [band[0].shape[0] + _FOOT + _GAP for band in bands]
    width, height = len(titles) * (_WIDTH + _GAP) + _GAP, _HEAD + sum(heights)
    figure = new_figure(width / 100, height / 100)
    for column, title in enumerate(titles):
        figure.text(_left(column) / width, 1 - 0.7 * _HEAD / height, title, color=INK, fontsize=10, fontweight="bold")
    canvas = np.full((height, width, 3), 255, np.uint8)
    top = _HEAD
    for row, band, taken in zip(rows, bands, heights, strict=True):
        for column, picture in enumerate(band):
            canvas[top : top + picture.shape[0], _left(column) : _left(column) + _WIDTH] = picture
        for column, name in enumerate(COLUMNS):
            below = 1 - (top + band[0].shape[0] + 0.72 * _FOOT) / height
            figure.text(_left(column + 2) / width, below, f"CC {number(row.cc[name])}", color=MUTED, fontsize=8.5)
        top += taken
    return encoded(np.minimum(canvas, drawn(figure, height, width)))  # text lies where no picture does


def _pictures(row: Row) -> list[NDArray[np.uint8]]:
    """The pictures of one row at the montage's width."""
    image = thumbnail(row.image, _WIDTH)
    return [image, heat(image, row.human), *(heat(image, row.densities[c]) for c in COLUMNS)]


def _left(column: int) -> int:
    return _GAP + column * (_WIDTH + _GAP)
