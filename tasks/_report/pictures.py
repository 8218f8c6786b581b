"""Small pictures of any stage: learning curves, and rows of images with maps over them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

INK, MUTED, RULE, ACCENT = "#1d2530", "#66707c", "#d8dde3", "#0b6e99"
DPI = 100
_THUMB = 116  # width of one picture in a row, pixels
_GAP, _HEAD = 6, 22


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches at 100 pixels each, with no state outside itself."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, scale: float = 1) -> bytes:
    """Draw a figure; equal figures give equal bytes (neither date nor library is written).

    `scale` 2 gives twice the pixels, sharp on fine screens.
    """
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=scale * DPI, metadata={"Software": None})
    return sink.getvalue()


def drawn(figure: Figure, height: int, width: int) -> NDArray[np.uint8]:
    """A figure as pixels, uint8 [height, width, 3], cut or filled up with white."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    found = np.asarray(canvas.buffer_rgba())[:height, :width, :3]
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[: found.shape[0], : found.shape[1]] = found
    return pixels


def encoded(pixels: NDArray[np.uint8], small: bool = False) -> bytes:
    """Pixels, uint8 [H, W, 3], as a PNG; a `small` one has 256 colours and a fifth of the bytes."""
    sink = io.BytesIO()
    picture = Image.fromarray(pixels)
    if small:  # covering the colours' range keeps rare ones true, where median cut gives all to the common greys
        picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    picture.save(sink, format="PNG", optimize=True)
    return sink.getvalue()


def plain(axes: Axes) -> Axes:
    """Take away everything of a plot that carries no data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=8, length=3, width=0.8)
    return axes


def curves(history: Sequence[Mapping[str, Any]], names: Sequence[str], title: str) -> bytes:
    """One small panel per name over the epochs, as a PNG.

    Args:
        history: a row per epoch with "epoch" and a value for each name; a missing or undefined one is a gap.
        names: what to draw, at least one.
        title: stands above all panels.
    """
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = new_figure(2.7 * columns, 0.3 + 1.75 * rows)
    figure.suptitle(title, x=0.02, y=0.985, ha="left", color=INK, fontsize=11, fontweight="bold")
    for number, name in enumerate(names):
        axes = plain(figure.add_subplot(rows, columns, number + 1))
        known = [(h["epoch"], h[name]) for h in history if _is_number(h.get(name))]
        x, y = zip(*known, strict=True) if known else ((), ())
        axes.plot(x, y, color=ACCENT, linewidth=1.6, marker="o" if len(known) < 25 else "", markersize=3)
        axes.set_title(name, loc="left", color=INK, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if number >= len(names) - columns:
            axes.set_xlabel("epoch", color=MUTED, fontsize=8)
    figure.tight_layout(h_pad=1.2)
    return to_png(figure)


def map_rows(rows: Sequence[tuple[NDArray[Any], ...]], titles: Sequence[str]) -> bytes:
    """Images and their maps side by side, as a PNG.

    Args:
        rows: (image uint8 [H, W, 3], density [h, w], density, ...), each density over the whole image.
        titles: one per column, the image's first.
    """
    return tiles([[row[0], *(heat(row[0], d) for d in row[1:])] for row in rows], titles)


def tiles(rows: Sequence[Sequence[NDArray[np.uint8]]], titles: Sequence[str], width: int = _THUMB) -> bytes:
    """Pictures in a grid under the titles of its columns, in 256 colours to fit a run page, as a PNG."""
    bands = [_band([thumbnail(p, width) for p in row], len(titles), width) for row in rows]
    full = len(titles) * (width + _GAP) + _GAP
    return encoded(np.concatenate([_heading(titles, width, full), *bands]), small=True)


def heat(image: NDArray[np.uint8], density: NDArray[Any]) -> NDArray[np.uint8]:
    """A density as a glow over its image, greyed; the brightest spot is its maximum. uint8 [H, W, 3]."""
    height, width = image.shape[:2]
    values = np.nan_to_num(np.asarray(density, np.float32)).clip(0)
    values = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    share = values / max(float(values.max()), 1e-30)
    colour = colormaps["inferno"](0.25 + 0.75 * share)[..., :3]
    grey = np.repeat(image.mean(2, keepdims=True) / 255 * 0.75, 3, axis=2)
    alpha = (0.9 * share**0.7)[..., None]
    blended: NDArray[np.uint8] = np.rint(255 * (grey * (1 - alpha) + colour * alpha)).astype(np.uint8)
    return blended


def thumbnail(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """An image at another width, its aspect kept (at most twice as high as wide)."""
    height = min(2 * width, max(8, round(image.shape[0] * width / image.shape[1])))
    way = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)


def _band(pictures: Sequence[NDArray[np.uint8]], columns: int, width: int) -> NDArray[np.uint8]:
    """One row of the grid on white."""
    height = max(p.shape[0] for p in pictures)
    band = np.full((height + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        left = _GAP + number * (width + _GAP)
        band[: picture.shape[0], left : left + width] = picture
    return band


def _heading(titles: Sequence[str], width: int, full: int) -> NDArray[np.uint8]:
    """The titles of the columns, drawn as text; `$` is no formula here."""
    figure = new_figure(full / DPI, _HEAD / DPI)
    for number, title in enumerate(titles):
        left = _GAP + number * (width + _GAP)
        figure.text(left / full, 0.3, title, color=INK, fontsize=8, parse_math=False)
    return drawn(figure, _HEAD, full)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
