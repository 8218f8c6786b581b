"""Attention labels out of the store: joined with their images by shard and key, moved to a student's size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.datasets.base import Image
from storage.errors import Integrity
from storage.images import decode_png_gray
from storage.manifest import Manifest
from storage.shards import FIXATIONS_SCHEMA, SALIENCY_SCHEMA, read_png, read_table
from storage.store import Store

OPEN_SHARDS = 16  # shards whose samples are mixed
_KEPT_SHARDS = 2 * OPEN_SHARDS


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
                while len(self._open) > _KEPT_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            return self._open[number]

    def usable(self, number: int, images: Sequence[Image]) -> list[int]:
        """Rows of an image shard that have a label, by the tables alone: no map is read.

        Raises Integrity as `shard` does.
        """
        return [row for row, good in enumerate(_good(*self._tables(number, images))) if good]

    def _read(self, number: int, images: Sequence[Image]) -> list[Label | None]:
        index, points = self._tables(number, images)
        member = self._saliency[number][0]
        tar = memoryview(self._store.read(member))
        columns = index.to_pylist(), points.column("x").to_pylist(), points.column("y").to_pylist()
        rows = zip(*columns, _good(index, points), strict=True)
        return [_label(row, x, y, tar, member.key) if good else None for row, x, y, good in rows]

    def _tables(self, number: int, images: Sequence[Image]) -> tuple[pa.Table, pa.Table]:
        """A shard's saliency index and fixations, their keys checked against those of its images."""
        for name, shards in zip(self._names, (self._saliency, self._fixations), strict=True):
            if number not in shards:
                raise Integrity(
                    f"{name}: expected labels for image shard {number}, found {len(shards)} shards without it; "
                    "training was not begun. The labels belong to other images: check the node's inputs"
                )
        _, index_member = self._saliency[number]
        (points_member,) = self._fixations[number]
        index = read_table(self._store.read(index_member), SALIENCY_SCHEMA, index_member.key)
        points = read_table(self._store.read(points_member), FIXATIONS_SCHEMA, points_member.key)
        keys = [i.key for i in images]
        for name, table in zip(self._names, (index, points), strict=True):
            _check_keys(keys, table.column("key").to_pylist(), number, name)
        return index, points


def _good(index: pa.Table, points: pa.Table) -> list[bool]:
    """Whether each row has both a map and its points."""
    both = zip(index.column("status").to_pylist(), points.column("status").to_pylist(), strict=True)
    return [status == ("ok", "ok") for status in both]


def _label(row: dict[str, Any], x: list[int], y: list[int], tar: memoryview, where: str) -> Label:
    png = read_png(tar, row["offset"], row["size"], row["sha256"], f"{where} {row['key']}")
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
