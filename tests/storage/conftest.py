"""What the tests of the store share: keys, attempts and shards in a line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from storage.attempt import OpenAttempt, open_attempt
from storage.backends.memory import MemoryBackend
from storage.canonical import now
from storage.manifest import Key, Manifest, Member, Producer, ShardRecord
from storage.store import Store

PRODUCER = Producer(release="0", commit=None, python="3", torch=None, device="cpu")


class Kit:
    """Stateless helpers, so that Hypothesis may share them between examples."""

    def store(self) -> Store:
        return Store(MemoryBackend())

    def key(self, size: int = 8, kind: str = "saliency") -> Key:
        return Key(stage=kind, stage_version=1, params={"size": size}, inputs={}, datasets={})

    def open(
        self, store: Store, key: Key | None = None, base: str | None = None, redo: list[int] | None = None
    ) -> OpenAttempt:
        return open_attempt(store, key or self.key(), "node", "asked for", "r", base, redo)

    def record(self, attempt: OpenAttempt, shard: int, data: bytes) -> ShardRecord:
        """A shard's record, its member stored but the shard not yet marked done."""
        member = attempt.put_shard(shard, ".tar", data, samples=1)
        return ShardRecord(shard=shard, shard_key=f"{shard:064x}", members=[member], done=1, failed=0)

    def finish(self, attempt: OpenAttempt, shards: Mapping[int, bytes]) -> list[ShardRecord]:
        return [attempt.finish(self.record(attempt, n, data)) for n, data in shards.items()]

    def manifest(
        self,
        attempt: OpenAttempt,
        records: Iterable[ShardRecord] = (),
        members: Iterable[Member] = (),
        views: Iterable[Member] = (),
        run: str = "r",
    ) -> Manifest:
        shards = list(records)
        return Manifest(
            kind=attempt.version.kind,
            version=attempt.version.name,
            node="node",
            key=attempt.attempt.key,
            members=[*members, *(m for r in shards for m in r.members)],
            views=list(views),
            shards=shards,
            done=1,
            failed=0,
            seconds=0,
            published=now(),
            producer=PRODUCER,
            run=run,
        )

    def publish(self, attempt: OpenAttempt, shards: Mapping[int, bytes]) -> Manifest:
        return attempt.publish(self.manifest(attempt, self.finish(attempt, shards)))

    def complete(self, store: Store, key: Key | None = None, shards: Mapping[int, bytes] | None = None) -> Manifest:
        """A version opened, made and published."""
        return self.publish(self.open(store, key), {0: b"zero", 1: b"one"} if shards is None else shards)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture
def store(kit: Kit) -> Store:
    return kit.store()
