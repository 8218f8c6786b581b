"""Label versions whose shards are as a test wants them, and bytes that rot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from storage.attempt import OpenAttempt
from storage.backends.memory import MemoryBackend
from storage.manifest import Key, Manifest, ShardRecord
from storage.shards import FixationsRow, SaliencyRow, write_fixations, write_saliency
from storage.store import Store
from storage.verify import damaged

Tables = tuple[bytes, bytes]

KEYS = ["a/one", "b/broken", "c/" + "long" * 40, "d/vier %C3%BC", "ë/five"]


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """The same bytes with one changed, or cut, or with one more."""
    at = draw(st.integers(0, len(whole) - 1))
    kind = draw(st.sampled_from(["bit", "byte", "cut", "longer"]))
    byte = draw(st.binary(min_size=1, max_size=1))
    if kind == "bit":
        byte = bytes([whole[at] ^ 1 << draw(st.integers(0, 7))])
    if kind in ("bit", "byte"):
        return whole[:at] + byte + whole[at + 1 :]
    return whole[:at] if kind == "cut" else whole + byte


def saliency(shard: int, keys: Iterable[str] = KEYS) -> Tables:
    def row(key: str) -> SaliencyRow:
        if "broken" in key:
            return SaliencyRow(key, 1, "", error="cut")
        return SaliencyRow(key, 1, "", f"{key}{shard}".encode() * 99, 9, 9)

    return write_saliency(map(row, keys))


def fixations(keys: Iterable[str] = KEYS) -> bytes:
    points = np.arange(3, dtype=np.uint16)
    return write_fixations(FixationsRow(k, 8, 8, points, points, points.astype(np.float32)) for k in keys)


class Labels:
    """A saliency version of two shards and the fixations made from it, each shard as a test wants it."""

    def __init__(
        self, kit: Any, tables: dict[int, Tables] | None = None, points: dict[int, bytes] | None = None
    ) -> None:
        self.kit, self.store = kit, Store(Parallel())
        self.saliency = self._publish(kit.key(), self._maps, tables or {n: saliency(n) for n in (0, 1)})
        key = Key(stage="fixations", stage_version=1, params={}, inputs={"saliency": [self.saliency.ref]}, datasets={})
        self.fixations = self._publish(key, self._points, points or {n: fixations() for n in (0, 1)})

    def _publish(self, key: Key, put: Callable[..., ShardRecord], data: dict[int, Any]) -> Manifest:
        attempt = self.kit.open(self.store, key)
        for n in data:
            attempt.start(n)
        records = [attempt.finish(put(attempt, n, data[n])) for n in data]
        done, failed = sum(r.done for r in records), sum(r.failed for r in records)
        manifest = self.kit.manifest(attempt, records).model_copy(update={"done": done, "failed": failed})
        published: Manifest = attempt.publish(manifest)
        return published

    def _maps(self, attempt: OpenAttempt, shard: int, data: Tables) -> ShardRecord:
        tar, index = data
        members = [attempt.put_shard(shard, ".tar", tar, 4), attempt.put_shard(shard, ".parquet", index, 5)]
        return ShardRecord(shard=shard, shard_key=f"{shard:064x}", members=members, done=4, failed=1)

    def _points(self, attempt: OpenAttempt, shard: int, data: bytes) -> ShardRecord:
        members = [attempt.put_shard(shard, ".parquet", data, 5)]
        return ShardRecord(shard=shard, shard_key=f"{shard:064x}", members=members, done=4, failed=1)

    def problems(self, manifest: Manifest) -> list[tuple[str, int | None, str]]:
        return [(d.member.name, d.shard, d.problem) for d in damaged(self.store.backend, manifest, deep=True)]


class Parallel(MemoryBackend):
    """Several threads; tars are never held whole."""

    threads = 4

    def get(self, key: str, limit: int | None = None) -> bytes:
        assert not key.endswith(".tar"), "a shard was read whole"
        return super().get(key, limit)

    def stream(self, key: str, offset: int = 0) -> Any:
        data = self._objects[key]
        return (data[at : at + 700] for at in range(offset, len(data), 700))
