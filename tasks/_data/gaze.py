"""Images that people looked at: for the teacher to learn from, and for everyone to be scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.alignment import Gaze
from models.augment import squash
from models.gaze_augmentation import GazeAugmentation, augment
from models.human_maps import fixation_density
from models.teacher_training import TeacherBatch
from storage.datasets.base import Attention, AttentionReader, Image
from storage.errors import InvalidInput
from tasks._data.images import decoded_rgb, key_hash
from tasks._datasets import OpenDataset


@dataclass(frozen=True)
class Viewed:
    """One image that people looked at."""

    dataset: OpenDataset
    image: Image
    attention: Attention

    def pixels(self) -> NDArray[np.uint8]:
        return decoded_rgb(self.dataset, self.image)


def viewed_images(datasets: Sequence[OpenDataset]) -> list[Viewed]:
    """All images with at least one fixation, in the order of data set and key.

    Raises InvalidInput when a data set has none.
    """
    found: list[Viewed] = []
    for dataset in datasets:
        images = {i.key: i for n in range(dataset.index.shards()) for i in dataset.index.shard(n)}
        assert isinstance(dataset.reader, AttentionReader), "the plan checks the role"
        attention = dataset.reader.attention()
        rows = [Viewed(dataset, images[a.key], a) for a in attention if any(len(g.x) for g in a.gazes)]
        if not rows:
            raise InvalidInput(f"dataset {dataset.name!r}: expected images with fixations, found none of {len(images)}")
        found += rows
    return found


def gaze_of(attention: Attention) -> Gaze:
    """Everyone's fixations as the metrics take them, people numbered in their order."""
    x, y = attention.points()
    people = np.concatenate([np.full(len(g.x), n) for n, g in enumerate(attention.gazes)])
    return Gaze(x, y, people, attention.width, attention.height)


def teacher_batch(
    rows: Sequence[Viewed], size: int, sigma: float, seeds: Sequence[int] | None = None, seed: int = 0
) -> TeacherBatch:
    """Rows as the teacher takes them; with an epoch's `seeds`, each row augmented by its own stream."""
    images, densities = [], []
    for number, row in enumerate(rows):
        pixels, (x, y) = row.pixels(), row.attention.points()
        if seeds is not None:
            rng = np.random.default_rng((seed, seeds[number], key_hash(row.image.key)))
            pixels, x, y = augment(pixels, x, y, rng, GazeAugmentation())
        height, width = pixels.shape[:2]
        images.append(squash(pixels, size))
        densities.append(fixation_density(x, y, width, height, size, sigma))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return TeacherBatch(stacked, torch.from_numpy(np.stack(densities)))
