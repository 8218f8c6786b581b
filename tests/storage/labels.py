"""A store with a saliency and a fixations version in it, as the stages would make them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.attempt import OpenAttempt, open_attempt
from storage.backends import Backend, open_backend
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.canonical import now, sha256
from storage.datasets.index import DatasetIndex
from storage.errors import Transient
from storage.images import encode_png_gray
from storage.manifest import Key, Manifest, Member, Producer, ShardRecord
from storage.shards import FixationsRow, SaliencyRow, write_fixations, write_saliency
from storage.store import Store

PRODUCER = Producer(release="0", commit=None, python="3", torch=None, device="cpu")
FINGERPRINT = sha256(b"the data set of these labels")


@dataclass(frozen=True)
class Labels:
    """What was put into the store."""

    store: Store
    classes: tuple[str, ...]
    rows: list[list[SaliencyRow]]  # by shard
    points: list[list[FixationsRow]]
    saliency: Manifest
    fixations: Manifest

    @property
    def pngs(self) -> dict[str, bytes]:
        return {r.key: r.png for rows in self.rows for r in rows if r.png is not None}


def make_labels(
    store: Store,
    shards: int = 3,
    per_shard: int = 30,
    classes: int = 5,
    side: int = 6,
    broken: Callable[[int], bool] = lambda number: number % 11 == 3,
) -> Labels:
    """Publish noise as maps, classes dealt to samples in turn and mixed; every so often an image is broken."""
    rng = np.random.default_rng(7)
    names = tuple(f"n{1440764 + 37 * c:08d}" for c in range(classes))
    labels = rng.permutation(np.arange(shards * per_shard) % classes).reshape(shards, per_shard)
    rows = [
        [_row(rng, names, int(label), n * per_shard + i, side, broken) for i, label in enumerate(labels[n])]
        for n in range(shards)
    ]
    points = [[_points(rng, row, side) for row in part] for part in rows]
    store.backend.create(f"datasets/{FINGERPRINT}.parquet", _index(names, rows).to_parquet())
    saliency = _publish(store, "saliency", {}, (_put_maps(n, part) for n, part in enumerate(rows)))
    inputs = {"saliency": [f"saliency@{saliency.version}"]}
    fixations = _publish(store, "fixations", inputs, (_put_points(n, part) for n, part in enumerate(points)))
    return Labels(store, names, rows, points, saliency, fixations)


def _row(
    rng: np.random.Generator, names: tuple[str, ...], label: int, number: int, side: int, broken: Callable[[int], bool]
) -> SaliencyRow:
    key, source = f"{names[label]}/{names[label]}_{number}", sha256(str(number).encode())
    if broken(number):
        return SaliencyRow(key, label, source, error="image: expected a JPEG")
    png = encode_png_gray(rng.integers(0, 256, (side, side), dtype=np.uint8))
    return SaliencyRow(key, label, source, png, 500, 375, float(rng.random()), float(rng.random()))


def _points(rng: np.random.Generator, row: SaliencyRow, side: int) -> FixationsRow:
    n = 0 if row.error else int(rng.integers(1, 9))
    x, y = rng.integers(0, side, (2, n), dtype=np.uint16)
    return FixationsRow(row.key, 0 if row.error else side, 0 if row.error else side, x, y, rng.random(n, np.float32),
                        row.error)  # fmt: skip


Put = Callable[[OpenAttempt], ShardRecord]


def _put_maps(shard: int, rows: list[SaliencyRow]) -> Put:
    tar, index = write_saliency(rows)
    failed = sum(bool(r.error) for r in rows)
    return lambda attempt: _record(shard, len(rows), failed, [
        attempt.put_shard(shard, ".tar", tar, len(rows) - failed),
        attempt.put_shard(shard, ".parquet", index, len(rows)),
    ])  # fmt: skip


def _put_points(shard: int, rows: list[FixationsRow]) -> Put:
    data, failed = write_fixations(rows), sum(bool(r.error) for r in rows)
    return lambda attempt: _record(shard, len(rows), failed, [attempt.put_shard(shard, ".parquet", data, len(rows))])


def _record(shard: int, rows: int, failed: int, members: list[Member]) -> ShardRecord:
    return ShardRecord(shard=shard, shard_key=f"{shard:064x}", members=members, done=rows - failed, failed=failed)


def _publish(store: Store, kind: str, inputs: dict[str, list[str]], puts: Iterable[Put]) -> Manifest:
    images = [{"format": "class_folder", "fingerprint": FINGERPRINT, "options": {}}]
    key = Key(stage=kind, stage_version=1, params={}, inputs=inputs, datasets={} if inputs else {"images": images})
    attempt = open_attempt(store, key, kind, "asked for", "r")
    return publish(attempt, [attempt.finish(put(attempt)) for put in puts])


def publish(attempt: OpenAttempt, records: list[ShardRecord]) -> Manifest:
    """Close an attempt with what was made of its shards."""
    return attempt.publish(Manifest(
        kind=attempt.version.kind, version=attempt.version.name, node="node", key=attempt.attempt.key,
        members=[m for r in records for m in r.members], views=[], shards=records,
        done=sum(r.done for r in records), failed=sum(r.failed for r in records), seconds=0, published=now(),
        producer=PRODUCER, run="r",
    ))  # fmt: skip


def _index(names: tuple[str, ...], rows: list[list[SaliencyRow]]) -> DatasetIndex:
    flat = [(n, row) for n, part in enumerate(rows) for row in part]
    table = pa.table({
        "key": pa.array([r.key for _, r in flat], pa.string()),
        "path": pa.array([f"{r.key}.JPEG" for _, r in flat], pa.string()),
        "offset": pa.array([0] * len(flat), pa.int64()),
        "size": pa.array([1] * len(flat), pa.int64()),
        "sha256": pa.array([r.source_sha256 for _, r in flat], pa.string()),
        "label": pa.array([r.label for _, r in flat], pa.int32()),
        "shard": pa.array([n for n, _ in flat], pa.int32()),
        "stamp": pa.array(["0"] * len(flat), pa.string()),
    })  # fmt: skip
    return DatasetIndex(FINGERPRINT, "class_folder", names, len(rows[0]), table)


def open_place(name: str, request: pytest.FixtureRequest, folder: Path) -> Backend:
    """A new, empty place: memory, local (below the folder) or moto."""
    if name == "memory":
        return MemoryBackend()
    if name == "local":
        return LocalBackend(folder / "store")
    url: str = request.getfixturevalue("s3_place")(request.getfixturevalue("moto"))
    return open_backend(url)


class Counting:
    """Another backend that counts the bytes read, and breaks off after so many when told to."""

    def __init__(self, backend: Any, die_after: int | None = None, step: int = 2**20) -> None:
        self._backend, self._die_after, self._step = backend, die_after, step
        self.read = 0
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def get(self, key: str, limit: int | None = None) -> bytes:
        return self._counted(self._backend.get(key, limit))

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        return self._counted(self._backend.get_range(key, offset, size))

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        for chunk in self._backend.stream(key, offset):
            for start in range(0, len(chunk), self._step):
                yield self._counted(chunk[start : start + self._step])

    def _counted(self, data: bytes) -> bytes:
        with self._lock:
            if self._die_after is not None and self.read + len(data) > self._die_after:
                raise Transient("the connection broke")
            self.read += len(data)
        return data
