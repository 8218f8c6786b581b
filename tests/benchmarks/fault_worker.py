"""What fault_loop.py disturbs: publish a version's shards, tag it, collect garbage, pull it.

    python -m tests.benchmarks.fault_worker STORE-URL SEED DEST

Given again, it goes on. Errors end it as they end the command line: with one message and their exit code.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from pathlib import Path

from storage.attempt import OpenAttempt, open_attempt
from storage.canonical import now
from storage.errors import Conflict, GazeflowError
from storage.gc import collect, plan_collection
from storage.manifest import Key, Manifest, Producer, ShardRecord
from storage.pull import pull
from storage.store import Store
from storage.tags import set_tag

KIND = "saliency"
TAG = "prod"
_SIZES = (0, 1_000, 30_000, 300_000, 2_000_000, 18_000_000)  # bytes; the last goes up in parts
_WEIGHTS = (1, 4, 6, 6, 3, 1)


def shards_of(seed: int) -> range:
    """The shards that a seed stands for."""
    return range(random.Random(seed).randint(2, 6))


def shard_bytes(seed: int, shard: int) -> bytes:
    """The bytes of one of them."""
    chance = random.Random(f"{seed}/{shard}")
    return chance.randbytes(chance.choices(_SIZES, _WEIGHTS)[0])


def main() -> int:
    """Do it all, or what is left of it."""
    url, seed, dest = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    try:
        store = Store.open(url)
        key = Key(stage=KIND, stage_version=1, params={"seed": seed}, inputs={}, datasets={})
        version = store.complete(KIND, key.digest())
        manifest = store.manifest(KIND, version.name) if version else _published(store, key, seed)
        set_tag(store, manifest.ref, TAG)
        with contextlib.suppress(Conflict):  # one that was killed is taken for dead after two hours
            collect(store, plan_collection(store))
        pull(store.backend, manifest, dest)
    except GazeflowError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _published(store: Store, key: Key, seed: int) -> Manifest:
    attempt = open_attempt(store, key, KIND, "a benchmark", "run")
    for shard in shards_of(seed):
        if not attempt.is_finished(shard):
            attempt.start(shard)
            attempt.finish(_made(attempt, seed, shard))
    records = [r for _, r in sorted(attempt.finished().items())]
    return attempt.publish(
        Manifest(
            kind=KIND, version=attempt.version.name, node=KIND, key=key, shards=records, views=[],
            members=[m for r in records for m in r.members], done=len(records), failed=0, seconds=0, published=now(),
            producer=Producer(release="0", commit=None, python="3", torch=None, device="cpu"), run="run",
        )
    )  # fmt: skip


def _made(attempt: OpenAttempt, seed: int, shard: int) -> ShardRecord:
    began = time.monotonic()
    member = attempt.put_shard(shard, ".tar", shard_bytes(seed, shard), samples=1)
    seconds = round(time.monotonic() - began, 3)
    return ShardRecord(shard=shard, shard_key=f"{shard:064x}", members=[member], done=1, failed=0, seconds=seconds)


if __name__ == "__main__":
    sys.exit(main())
