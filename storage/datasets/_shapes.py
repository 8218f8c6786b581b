"""Ten classes of procedural objects: an outline, a texture and a colour family each.

Outlines are all different; textures and colour families are shared by pairs of classes, and colours spread
so wide that the mean colour of an image says little about its class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

Outline = tuple[np.ndarray, ...]  # closed contours in the unit disc; a second one is a hole

NAMES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "heart", "flower", "arrow")
TEXTURES = ("stripes", "dots", "checker", "rings", "grain")
HUES = (0, 36, 72, 108, 144)  # centres of the colour families, of OpenCV's 180


def _polar(radius: Callable[[np.ndarray], np.ndarray | float]) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return np.stack([np.sin(angle), -np.cos(angle)], 1) * np.broadcast_to(radius(angle), angle.shape)[:, None]


def _corners(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float64)


def _star() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2, 0.42, 1.0)
    return np.stack([np.sin(angle) * radius, -np.cos(angle) * radius], 1)


def _crescent() -> np.ndarray:
    """A disc without a smaller one that is shifted to the right; both end where the circles meet."""
    outer = np.linspace(0.72, 2 * np.pi - 0.72, 48)
    inner = np.linspace(2 * np.pi - 1.12, 1.12, 48)
    ends = np.array([np.cos(0.72), np.sin(0.72)])
    centre, radius = ends[0] - np.cos(1.12) * ends[1] / np.sin(1.12), ends[1] / np.sin(1.12)
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], 1),
            np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], 1),
        ]
    )


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2.5], 1) / 16.5


@cache
def outline(label: int) -> Outline:
    """The contours of a class, upright, in the unit disc."""
    a = 0.34
    contours: dict[str, Callable[[], Outline]] = {
        "disc": lambda: (_polar(lambda _: 0.95),),
        "square": lambda: (_corners((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),),
        "triangle": lambda: (_corners((0, -1), (0.92, 0.7), (-0.92, 0.7)),),
        "star": lambda: (_star(),),
        "ring": lambda: (_polar(lambda _: 1.0), _polar(lambda _: 0.5)),
        "cross": lambda: (
            _corners((-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a),
                     (-1, -a), (-a, -a)),
        ),
        "crescent": lambda: (_crescent(),),
        "heart": lambda: (_heart(),),
        "flower": lambda: (_polar(lambda angle: 0.72 + 0.28 * np.cos(6 * angle)),),
        "arrow": lambda: (
            _corners((0, -1), (0.85, -0.1), (0.35, -0.1), (0.35, 0.95), (-0.35, 0.95), (-0.35, -0.1),
                     (-0.85, -0.1)),
        ),
    }
    return contours[NAMES[label]]()


def mask(label: int, radius: float, tilt: float, shape: tuple[int, int], x: float, y: float) -> np.ndarray:
    """Coverage of an object in a patch of `shape` (rows, columns), float32 in [0, 1], smooth at the edge."""
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    contours = [np.round((c @ turn * radius + (x, y)) * 16).astype(np.int32) for c in outline(label)]
    patch = np.zeros(shape, np.uint8)
    cv2.fillPoly(patch, contours, 255, cv2.LINE_AA, shift=4)
    return patch.astype(np.float32) / 255


def texture(label: int, rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A pattern in [0, 1] over coordinates in units of the object's radius."""
    pace, phase = rng.uniform(6.5, 8.5), rng.uniform(0, 2 * np.pi)
    kind = TEXTURES[label % 5]
    if kind == "stripes":
        wave = np.sin(pace * u + phase)
    elif kind == "dots":
        wave = np.cos(pace * u + phase) * np.cos(pace * v) * 2 - 0.5
    elif kind == "checker":
        wave = np.sin(pace * 0.8 * u + phase) * np.sin(pace * 0.8 * v) * 4
    elif kind == "rings":
        wave = np.sin(1.3 * pace * np.hypot(u, v) + phase)
    else:
        coarse = rng.normal(size=(9, 9)).astype(np.float32)
        wave = cv2.resize(coarse, (u.shape[1], u.shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.clip(0.5 + wave, 0, 1)


def colours(label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright and a dark colour, RGB float32 in [0, 1]; often, not always, of the class's family."""
    hue = HUES[label // 2] + rng.normal(0, 9) if rng.random() < 0.7 else rng.uniform(0, 180)
    other = hue + rng.choice((-1, 1)) * rng.uniform(15, 50)
    pair = np.array([[[hue % 180, rng.uniform(170, 255), rng.uniform(200, 255)],
                      [other % 180, rng.uniform(90, 230), rng.uniform(40, 110)]]])
    bright, dark = cv2.cvtColor(pair.astype(np.uint8), cv2.COLOR_HSV2RGB)[0].astype(np.float32) / 255
    return bright, dark
