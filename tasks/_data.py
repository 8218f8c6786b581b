"""Images joined with their labels: storage's readers on one side, models' transforms on the other."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.alignment import Gaze
from models.augment import contrastive_view, squash
from models.gaze_augmentation import GazeAugmentation, augment
from models.human_maps import fixation_density
from models.teacher_training import TeacherBatch
from models.training import StudentBatch
from storage.datasets.base import Attention, Image
from storage.errors import Integrity, InvalidInput
from storage.images import decode_png_gray, decode_rgb
from storage.manifest import Manifest
from storage.shards import FIXATIONS_SCHEMA, SALIENCY_SCHEMA, read_png, read_table
from storage.store import Store
from tasks._datasets import OpenDataset

OPEN_SHARDS = 16  # shards whose samples are mixed
_KEPT_LABEL_SHARDS = 2 * OPEN_SHARDS


def read_verified(dataset: OpenDataset, image: Image) -> bytes:
    """An image's bytes as they were indexed. Raises Integrity when the file has changed since."""
    data = dataset.reader.read(image)
    found = hashlib.sha256(data).hexdigest()
    if found != image.sha256:
        raise Integrity(
            f"{dataset.name}: {image.path} ({image.key}): expected SHA-256 {image.sha256} as indexed, found {found}; "
            "it was not used. The source changed while a run was under way: run again"
        )
    return data


def decoded_rgb(dataset: OpenDataset, image: Image) -> NDArray[np.uint8]:
    """An image's pixels, RGB. Raises InvalidInput naming a broken image."""
    try:
        return decode_rgb(read_verified(dataset, image))
    except InvalidInput as error:
        raise InvalidInput(f"{dataset.name}: {image.path}: {error}") from None


def key_hash(key: str) -> int:
    """A number that depends on the key alone, to choose and to seed by."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


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
        attention = dataset.reader.attention()  # type: ignore[attr-defined]  # the role "attention" is checked
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


@dataclass(frozen=True)
class Label:
    """One image's attention label, in the map's frame."""

    saliency: NDArray[np.uint8]  # [H, W], 255 at its maximum
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]


class LabelReader:
    """Saliency and fixations by image shard and row, a few shards held open."""

    def __init__(self, store: Store, saliency: Manifest, fixations: Manifest) -> None:
        self._store = store
        self._saliency = {r.shard: r.members for r in saliency.shards}
        self._fixations = {r.shard: r.members for r in fixations.shards}
        self._names = (f"saliency@{saliency.version}", f"fixations@{fixations.version}")
        self._open: OrderedDict[int, list[Label | None]] = OrderedDict()
        self._lock = threading.Lock()

    def shard(self, number: int, images: Sequence[Image]) -> list[Label | None]:
        """Labels of an image shard, row by row; None for a broken image.

        Raises Integrity naming shard and key when the labels are not those of these images.
        """
        with self._lock:
            if number not in self._open:
                self._open[number] = self._read(number, images)
                while len(self._open) > _KEPT_LABEL_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            return self._open[number]

    def _read(self, number: int, images: Sequence[Image]) -> list[Label | None]:
        for name, shards in zip(self._names, (self._saliency, self._fixations), strict=True):
            if number not in shards:
                raise Integrity(
                    f"{name}: expected labels for image shard {number}, found {len(shards)} shards without it; "
                    "training was not begun. The labels belong to other images: check the node's inputs"
                )
        tar_member, index_member = self._saliency[number]
        (points_member,) = self._fixations[number]
        tar = memoryview(self._store.read(tar_member))
        index = read_table(self._store.read(index_member), SALIENCY_SCHEMA, index_member.key)
        points = read_table(self._store.read(points_member), FIXATIONS_SCHEMA, points_member.key)
        keys = [i.key for i in images]
        for name, table in zip(self._names, (index, points), strict=True):
            _check_keys(keys, table.column("key").to_pylist(), number, name)
        rows = zip(index.to_pylist(), points.column("x").to_pylist(), points.column("y").to_pylist(), strict=True)
        return [_label(row, x, y, tar, tar_member.key) for row, x, y in rows]


def _label(row: dict[str, object], x: list[int], y: list[int], tar: memoryview, where: str) -> Label | None:
    if row["status"] != "ok":
        return None
    png = read_png(tar, int(row["offset"]), int(row["size"]), str(row["sha256"]), f"{where} {row['key']}")  # type: ignore[call-overload]
    return Label(decode_png_gray(png), np.array(x, np.uint16), np.array(y, np.uint16))


def _check_keys(expected: Sequence[str], found: Sequence[str], shard: int, name: str) -> None:
    for row, (ours, theirs) in enumerate(zip(expected, found, strict=False)):
        if ours != theirs:
            raise Integrity(
                f"{name} shard {shard} row {row}: expected the label of {ours!r}, found that of {theirs!r}; training "
                "was not begun. The labels belong to other images: check the node's inputs"
            )
    if len(expected) != len(found):
        raise Integrity(f"{name} shard {shard}: expected {len(expected)} labels, found {len(found)}")


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
        labels = self._labels.shard(shard, self._images.index.shard(shard))
        rows = [row for row, label in enumerate(labels) if label is not None]
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


def density_at(saliency: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """A stored map as a density at a student's size: area-resized, sum 1; uniform when all zero."""
    values = saliency.astype(np.float32)
    if values.shape != (size, size):
        values = cv2.resize(values, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    total = values.sum(dtype=np.float64)
    return (values / total if total > 0 else np.full_like(values, 1 / values.size)).astype(np.float32)


def points_at(label: Label, size: int) -> NDArray[np.int64]:
    """Fixations moved to a student's frame: [P, 2] of (column, row), floor((x + 0.5) * s)."""
    height, width = label.saliency.shape
    x = np.floor((label.x + 0.5) * (size / width))
    y = np.floor((label.y + 0.5) * (size / height))
    return np.stack([x, y], 1).astype(np.int64)


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
