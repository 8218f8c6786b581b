"""The figures of the evaluation: distributions of per-image scores, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from tasks._report.names import COLOURS, SHORT, comparison
from tasks._report.pictures import INK, MUTED, RULE, new_figure, plain, to_png
from tasks._report.words import number

_ROWS = ("people", "teacher", "teacher_small", "guided", "permuted", "centre_prior", "baseline")
_BINS = 48


def distributions(values: Callable[[str, str], NDArray[np.float64]]) -> bytes:
    """One histogram of per-image CC for each predictor, over a common axis, the mean marked, as a PNG.

    Args:
        values: scores [seeds, images] by predictor and metric; seeds are averaged.
    """
    scores = {name: _defined(values(name, "cc")) for name in _ROWS}
    everything = np.concatenate([*scores.values(), [0.0, 0.9]])
    edges = np.linspace(everything.min() - 0.03, everything.max() + 0.03, _BINS)
    figure = new_figure(6.2, 4.6)
    axes = _rows(figure.add_axes((0.24, 0.12, 0.66, 0.83)), [SHORT[n] for n in scores], 0.32)
    axes.axvline(0, color=RULE, linewidth=1)
    for row, (name, found) in enumerate(scores.items()):
        _ridge(axes, len(scores) - row - 1, name, found, edges)
    _beside(axes, len(scores) - 0.1, "mean", color=MUTED, fontsize=8)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(-0.15, len(scores))
    axes.set_xlabel("correlation with people (CC), one value per image", color=MUTED, fontsize=9)
    return to_png(figure, 2)


def _ridge(axes: Axes, base: int, name: str, scores: NDArray[np.float64], edges: NDArray[np.float64]) -> None:
    """A filled histogram standing on its line, as high as its own maximum, with its mean."""
    axes.plot(edges[[0, -1]], [base, base], color=RULE, linewidth=0.8, zorder=1)
    mean = float(scores.mean()) if len(scores) else None
    _beside(axes, base + 0.32, number(mean), color=INK, fontsize=9.5)
    if mean is None:
        return
    counts, _ = np.histogram(scores, edges)
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], "same")
    heights = 0.82 * smooth / smooth.max()
    axes.fill_between((edges[:-1] + edges[1:]) / 2, base, base + heights, color=COLOURS[name], alpha=0.75, linewidth=0)
    axes.plot([mean, mean], [base, base + 0.9], color=INK, linewidth=1.3, zorder=3)


def _beside(axes: Axes, height: float, text: str, **look: Any) -> None:
    """Text in the right margin."""
    axes.text(1.08, height, text, transform=axes.get_yaxis_transform(), ha="right", va="center", **look)


def differences(tests: Mapping[str, Any]) -> bytes:
    """Paired differences in CC with their 95 % intervals, the primary one first, as a PNG.

    A thin line is the interval over images; a pale band the bootstrap over seeds and images, where there is one.
    """
    shown = [tests["primary"], *(t for t in tests["exploratory"] if t["metric"] == "cc")]
    shown = [t for t in shown if t["difference"] is not None]
    figure = new_figure(6.2, 0.75 + 0.46 * max(1, len(shown)))
    height = figure.get_figheight()
    labels = [comparison(t).replace(", ", "\n") + ("\nprimary" if t is tests["primary"] else "") for t in shown]
    axes = _rows(figure.add_axes((0.36, 0.55 / height, 0.61, 1 - 0.6 / height)), labels, 0)
    axes.axvline(0, color=INK, linewidth=1)
    for row, test in enumerate(shown):
        _interval(axes, len(shown) - row - 1, test, primary=test is tests["primary"])
    axes.set_ylim(-0.6, len(shown) - 0.35)
    axes.margins(x=0.12)
    axes.set_xlabel("difference in CC; right of 0 guided is closer to people", color=MUTED, fontsize=9)
    return to_png(figure, 2)


def _interval(axes: Axes, row: int, test: Mapping[str, Any], primary: bool) -> None:
    colour = COLOURS["guided"] if test["resolved"] else MUTED
    if test["bootstrap"] is not None:
        axes.plot(test["bootstrap"], [row, row], color=colour, alpha=0.25, linewidth=9, solid_capstyle="butt")
    axes.plot([test["low"], test["high"]], [row, row], color=colour, linewidth=2.2 if primary else 1.6)
    axes.plot(test["difference"], row, "D" if primary else "o", color=colour, markersize=7 if primary else 5)
    axes.annotate(
        f"{test['difference']:+.3f}", (test["difference"], row), (0, 7), textcoords="offset points", ha="center",
        color=INK, fontsize=9, fontweight="bold" if primary else "normal",
    )  # fmt: skip


def _rows(axes: Axes, labels: Sequence[str], rise: float) -> Axes:
    """A plot whose rows are named at the left, the first at the top."""
    axes = plain(axes)
    axes.set_yticks([len(labels) - n - 1 + rise for n in range(len(labels))], labels, color=INK, fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return axes


def _defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over the seeds, undefined images left out."""
    mean = values.mean(0)
    return np.asarray(mean[np.isfinite(mean)], np.float64)
