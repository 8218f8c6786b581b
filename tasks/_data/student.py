"""A student's training set: images with their attention labels, in the order of an epoch, as batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.augment import contrastive_view, squash
from models.training import StudentBatch
from tasks._data.images import decoded_rgb, key_hash
from tasks._data.labels import OPEN_SHARDS, Label, LabelReader, density_at, points_at
from tasks._datasets import OpenDataset


@dataclass(frozen=True)
class Sample:
    """One training image, decoded, with its label."""

    key: str
    label: int
    pixels: NDArray[np.uint8]
    attention: Label


class StudentData:
    """Training images with their attention labels, by (shard, row).

    `permuted` gives every image the label of another one of its shard, by a seeded cyclic shuffle: the control
    that keeps everything of the labels but whose they are. Decoded samples stay in memory up to `keep_bytes`.
    """

    def __init__(
        self, images: OpenDataset, labels: LabelReader, permuted: bool, seed: int, keep_bytes: int = 4 * 2**30
    ) -> None:
        self._images = images
        self._labels = labels
        self._permuted = permuted
        self._seed = seed
        self._room = keep_bytes
        self._kept: dict[tuple[int, int], Sample] = {}
        self.rows: list[list[int]] = [self._usable(n) for n in range(images.index.shards())]

    def __len__(self) -> int:
        return sum(len(r) for r in self.rows)

    def sample(self, shard: int, row: int) -> Sample:
        """One sample, from memory or decoded."""
        kept = self._kept.get((shard, row))
        if kept is not None:
            return kept
        images = self._images.index.shard(shard)
        labels = self._labels.shard(shard, images)
        label = labels[self._partner(shard)[row] if self._permuted else row]
        assert label is not None
        pixels = decoded_rgb(self._images, images[row])
        sample = Sample(images[row].key, images[row].label, pixels, label)
        self._keep((shard, row), sample)
        return sample

    def order(self, epoch: int) -> list[tuple[int, int]]:
        """An epoch's samples: shards in a seeded permutation, mixed within windows of open shards."""
        rng = np.random.default_rng((self._seed, epoch))
        shards = rng.permutation(len(self.rows))
        ordered: list[tuple[int, int]] = []
        for first in range(0, len(shards), OPEN_SHARDS):
            window = [(int(s), r) for s in shards[first : first + OPEN_SHARDS] for r in self.rows[s]]
            ordered += [window[i] for i in rng.permutation(len(window))]
        return ordered

    def mean_density(self, size: int, samples: int = 10_000) -> NDArray[np.float32]:
        """The mean label at the student's size, over the first `samples` of the set."""
        places = [(s, r) for s, rows in enumerate(self.rows) for r in rows][:samples]
        total = np.zeros((size, size), np.float64)
        for shard, row in places:
            total += density_at(self.sample(shard, row).attention.saliency, size)
        return (total / total.sum()).astype(np.float32)

    def _usable(self, shard: int) -> list[int]:
        rows = self._labels.usable(shard, self._images.index.shard(shard))
        return rows if len(rows) > 1 or not self._permuted else []  # alone in a shard, nobody's label is to be had

    def _partner(self, shard: int) -> dict[int, int]:
        """Whose label each row gets: everyone another's, along one shuffled ring."""
        ring = np.random.default_rng((self._seed, shard, 1)).permutation(self.rows[shard])
        return dict(zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True))

    def _keep(self, place: tuple[int, int], sample: Sample) -> None:
        size = sample.pixels.nbytes + sample.attention.saliency.nbytes + 1000
        if self._room >= size:
            self._room -= size
            self._kept[place] = sample


def batch_places(order: Sequence[tuple[int, int]], batch_size: int, first: int) -> list[list[tuple[int, int]]]:
    """An epoch's order cut into batches, from the `first` on; the last, incomplete one is dropped."""
    return [
        list(order[n * batch_size : (n + 1) * batch_size]) for n in range(first, len(order) // batch_size)
    ]


def student_batch(
    data: StudentData, places: Sequence[tuple[int, int]], size: int, area: tuple[float, float], seed: int, epoch: int
) -> StudentBatch:
    """A batch as the trainer takes it: two crops, the whole image, and its label at the student's size."""
    samples = [data.sample(*p) for p in places]
    views = [[_view(s, number, size, area, seed, epoch) for s in samples] for number in (0, 1)]
    points = [points_at(s.attention, size) for s in samples]
    longest = max((len(p) for p in points), default=0)
    padded = np.zeros((len(samples), longest, 2), np.int64)
    mask = np.zeros((len(samples), longest), bool)
    for row, p in enumerate(points):
        padded[row, : len(p)], mask[row, : len(p)] = p, True
    return StudentBatch(
        views=_channels_first(np.array(views)),
        whole=_channels_first(np.stack([squash(s.pixels, size) for s in samples])),
        labels=torch.tensor([s.label for s in samples]),
        density=torch.from_numpy(np.stack([density_at(s.attention.saliency, size) for s in samples])),
        points=torch.from_numpy(padded),
        points_mask=torch.from_numpy(mask),
        labelled=torch.ones(len(samples), dtype=torch.bool),
    )


def _view(
    sample: Sample, number: int, size: int, area: tuple[float, float], seed: int, epoch: int
) -> NDArray[np.uint8]:
    """One of a sample's crops, by a random stream of its own."""
    rng = np.random.default_rng((seed, epoch, number, key_hash(sample.key)))
    return contrastive_view(sample.pixels, rng, size, area)


def _channels_first(images: NDArray[np.uint8]) -> torch.Tensor:
    """[..., H, W, 3] to [..., 3, H, W], as a view: a memory format, not a copy."""
    return torch.from_numpy(images).movedim(-1, -3)
