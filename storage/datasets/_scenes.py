"""Procedural scenes: a textured background, dull distractors, and one to four objects that stand out.

A scene depends on (seed, stream, index) alone. Positions are spread over the whole frame, so that a prior for
the centre does not explain where the objects are.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from storage.datasets import _shapes

CLASSES = len(_shapes.NAMES)


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    label: int
    x: float  # centre, pixels from the left edge
    y: float
    radius: float  # pixels
    weight: float  # its share of the salience of all objects


@dataclass(frozen=True)
class Scene:
    """One image and what stands out in it; `things[0]` is the dominant one."""

    pixels: np.ndarray  # uint8, (height, width, 3), RGB
    things: tuple[Thing, ...]

    @property
    def label(self) -> int:
        """The class of the dominant object."""
        return self.things[0].label


def random(seed: int, stream: int, index: int) -> np.random.Generator:
    """The generator of one scene: streams keep splits apart."""
    return np.random.default_rng([seed, stream, index])


def draw(rng: np.random.Generator, size: tuple[int, int], label: int) -> Scene:
    """A scene of `size` (width, height) whose dominant object is of the class `label`."""
    things = _arrange(rng, size, label)
    canvas = _background(rng, size)
    for _ in range(rng.integers(3, 9)):
        _distract(rng, canvas)
    for thing in reversed(things):
        _paint(rng, canvas, thing)
    noise = rng.integers(-4, 5, canvas.shape, np.int8)
    pixels = np.clip(canvas * 255 + noise, 0, 255).astype(np.uint8)
    return Scene(pixels, things)


def _arrange(rng: np.random.Generator, size: tuple[int, int], label: int) -> tuple[Thing, ...]:
    """Objects that hardly overlap, the first the largest."""
    short = min(size)
    radii = [short * rng.uniform(0.17, 0.27)]
    radii += [short * rng.uniform(0.07, 0.12) for _ in range(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15)))]
    labels = [label, *rng.integers(0, CLASSES, len(radii) - 1).tolist()]
    areas = np.square(radii) ** 0.8
    placed: list[Thing] = []
    for number, radius in enumerate(radii):
        x, y = _place(rng, size, radius, placed)
        placed.append(Thing(labels[number], x, y, radius, float(areas[number] / areas.sum())))
    return tuple(placed)


def _place(
    rng: np.random.Generator, size: tuple[int, int], radius: float, placed: list[Thing]
) -> tuple[float, float]:
    """A centre anywhere in the frame but its middle, the first of some tries with room around it."""
    low, high = np.full(2, 0.8 * radius), np.array(size) - 0.8 * radius
    tries = rng.uniform(low, high, (12, 2))
    room = np.hypot(*((tries - np.array(size) / 2) / size).T) - 0.2
    for other in placed:
        gap = np.hypot(tries[:, 0] - other.x, tries[:, 1] - other.y) / (1.1 * (radius + other.radius)) - 1
        room = np.minimum(room, gap)
    first = int(np.argmax(room > 0)) if (room > 0).any() else int(np.argmax(room))
    return float(tries[first, 0]), float(tries[first, 1])


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Float32 RGB in [0, 1]: two dull colours mixed by one of several patterns."""
    first, second = _dull(rng), _dull(rng)
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](rng, size)
    fine = _noise(rng, size, 1 / 3) * 0.25 + _noise(rng, size, 1 / 10) * 0.2
    mix = np.clip(pattern + fine, 0, 1)[..., None]
    return first + (second - first) * mix


def _dull(rng: np.random.Generator) -> np.ndarray:
    """A colour without much saturation, of any hue."""
    grey = rng.uniform(0.2, 0.75)
    return np.clip(grey + rng.normal(0, 0.07, 3), 0.05, 0.9).astype(np.float32)


def _noise(rng: np.random.Generator, size: tuple[int, int], grain: float) -> np.ndarray:
    """Smooth noise around 0; `grain` is cells per pixel of a frame 160 wide, less for larger ones."""
    scale = grain * 160 / max(size)
    cells = (max(2, round(size[1] * scale)), max(2, round(size[0] * scale)))
    coarse = rng.standard_normal(cells, np.float32)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def _axes(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in units of the short side, broadcastable to the frame."""
    short = min(size)
    u = np.arange(size[0], dtype=np.float32)[None, :] / short
    v = np.arange(size[1], dtype=np.float32)[:, None] / short
    return u, v


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    u, v = _axes(size)
    angle = rng.uniform(0, 2 * np.pi)
    return 0.5 + 0.7 * (np.cos(angle) * (u - 0.6) + np.sin(angle) * (v - 0.5)).astype(np.float32)


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return 0.5 + 0.35 * _noise(rng, size, 1 / 40) + 0.2 * _noise(rng, size, 1 / 16)


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    u, v = _axes(size)
    angle, pace = rng.uniform(0, np.pi), rng.uniform(15, 60)
    wave = np.sin((pace * (np.cos(angle) * u + np.sin(angle) * v)).astype(np.float32))
    return 0.5 + 0.35 * wave + 0.15 * _noise(rng, size, 1 / 30)


def _tiles(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    rows, columns = rng.integers(3, 9, 2)
    tiles = rng.random((rows, columns), np.float32)
    return cv2.resize(tiles, size, interpolation=cv2.INTER_NEAREST)


def _clutter(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Many overlapping ellipses of random greys."""
    canvas = np.full(size[::-1], rng.uniform(0.3, 0.7), np.float32)
    for _ in range(40):
        centre = rng.integers(0, size)
        axes = (rng.uniform(0.02, 0.14, 2) * min(size)).astype(int) + 1
        cv2.ellipse(canvas, centre.tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, rng.random(), -1)
    return canvas


def _horizon(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Two surfaces that meet at an uneven line."""
    _, v = _axes(size)
    line = rng.uniform(0.3, 0.7) + 0.04 * _noise(rng, size, 1 / 25)[:1]
    return np.where(v < line, 0.1, 0.9).astype(np.float32) + 0.1 * _noise(rng, size, 1 / 30)


_PATTERNS = (_gradient, _clouds, _stripes, _tiles, _clutter, _horizon)


def _distract(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """One dull shape of any class, hardly apart from what is behind it."""
    height, width = canvas.shape[:2]
    radius = min(width, height) * rng.uniform(0.05, 0.14)
    thing = Thing(int(rng.integers(CLASSES)), rng.uniform(0, width), rng.uniform(0, height), radius, 0)
    window, coverage, u, v = _window(rng, canvas, thing)
    shift = rng.choice((-1, 1)) * rng.uniform(0.06, 0.13) + rng.normal(0, 0.025, 3)
    pattern = 0.4 + 0.6 * _shapes.texture(thing.label, rng, u, v)
    canvas[window] += (coverage * pattern)[..., None] * shift.astype(np.float32)


def _paint(rng: np.random.Generator, canvas: np.ndarray, thing: Thing) -> None:
    """A saturated, textured object, shaded from one side and dark at its edge."""
    window, coverage, u, v = _window(rng, canvas, thing)
    bright, dark = _shapes.colours(thing.label, rng)
    pattern = _shapes.texture(thing.label, rng, u, v)[..., None]
    light = (1 + 0.15 * (np.cos(angle := rng.uniform(0, 2 * np.pi)) * u + np.sin(angle) * v))[..., None]
    body = np.clip((dark + (bright - dark) * pattern) * light, 0, 1)
    inside = cv2.blur(coverage, (3, 3))[..., None] ** 3
    canvas[window] += coverage[..., None] * (body * (0.25 + 0.75 * inside) - canvas[window])


def _window(
    rng: np.random.Generator, canvas: np.ndarray, thing: Thing
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]:
    """The part of the frame around an object, its coverage there, and coordinates turned with it."""
    height, width = canvas.shape[:2]
    reach = thing.radius * 1.05 + 1
    left, top = max(0, int(thing.x - reach)), max(0, int(thing.y - reach))
    right, bottom = min(width, int(thing.x + reach) + 1), min(height, int(thing.y + reach) + 1)
    tilt = rng.uniform(-0.45, 0.45)
    x, y = thing.x - left, thing.y - top
    coverage = _shapes.mask(thing.label, thing.radius, tilt, (bottom - top, right - left), x, y)
    column = (np.arange(right - left, dtype=np.float32)[None, :] + 0.5 - x) / thing.radius
    row = (np.arange(bottom - top, dtype=np.float32)[:, None] + 0.5 - y) / thing.radius
    u = np.cos(tilt) * column + np.sin(tilt) * row
    v = np.cos(tilt) * row - np.sin(tilt) * column
    return (slice(top, bottom), slice(left, right)), coverage, u, v
