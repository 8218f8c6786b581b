"""Simulated people who look at procedural scenes.

The first fixation is central. Each later one is on an object (chosen by its salience and the person's own
taste, staying on the last one half of the time), near the centre, or anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storage.datasets._scenes import Scene, Thing

STAY = 0.4  # chance of another fixation on the same object
LONGEST = 13


@dataclass(frozen=True)
class Scanpath:
    """One person's fixations on one scene, in order."""

    x: np.ndarray  # float32, 0 <= x < width
    y: np.ndarray  # float32, 0 <= y < height
    duration: np.ndarray  # uint16, milliseconds


def watch(rng: np.random.Generator, scene: Scene, observers: int) -> tuple[Scanpath, ...]:
    """Scanpaths of `observers` people, 7 to 13 fixations each."""
    height, width = scene.pixels.shape[:2]
    place = _places(rng, scene.things, observers, (width, height))
    place[:, 0] = rng.normal((0.5, 0.5), 0.06, (observers, 2)) * (width, height)
    inside = _reflect(place, (width, height))
    counts = np.clip(np.round(rng.normal(10, 1.3, observers)), 7, LONGEST).astype(int)
    duration = np.clip(190 * rng.lognormal(0, 0.5, (observers, LONGEST)), 60, 2000).astype(np.uint16)
    return tuple(
        Scanpath(inside[person, :count, 0], inside[person, :count, 1], duration[person, :count])
        for person, count in enumerate(counts)
    )


def _places(
    rng: np.random.Generator, things: tuple[Thing, ...], observers: int, size: tuple[int, int]
) -> np.ndarray:
    """Where each person looks, (observers, LONGEST, 2), perhaps a little outside the frame."""
    target = _targets(rng, things, observers)
    centres = np.array([(thing.x, thing.y) for thing in things])
    radii = np.array([thing.radius for thing in things])
    shape = (observers, LONGEST, 2)
    on_object = centres[target] + rng.normal(0, 0.4, shape) * radii[target][..., None]
    near_centre = (0.5 + rng.normal(0, 0.16, shape)) * size
    anywhere = rng.uniform(0, 1, shape) * size
    astray = rng.beta(2, 18, (observers, 1))  # this person's share of fixations anywhere
    central = rng.beta(2, 22, (observers, 1))
    chance = rng.random((observers, LONGEST))[..., None]
    astray, central = astray[..., None], central[..., None]
    return np.where(chance < astray, anywhere, np.where(chance < astray + central, near_centre, on_object))


def _targets(rng: np.random.Generator, things: tuple[Thing, ...], observers: int) -> np.ndarray:
    """The object of each fixation, (observers, LONGEST)."""
    taste = np.array([t.weight for t in things]) * rng.lognormal(0, 0.4, (observers, len(things)))
    bounds = np.cumsum(taste / taste.sum(1, keepdims=True), 1)[:, None, :]
    target = (rng.random((observers, LONGEST, 1)) > bounds[..., :-1]).sum(2)
    stays = rng.random((observers, LONGEST)) < STAY
    for step in range(2, LONGEST):
        target[:, step] = np.where(stays[:, step], target[:, step - 1], target[:, step])
    return target


def _reflect(place: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Points outside the frame mirrored at its edge; float32, inside for sure."""
    limit = np.array(size)
    mirrored = limit - np.abs(limit - np.abs(place))
    return np.clip(mirrored, 0, limit - 0.01).astype(np.float32)
