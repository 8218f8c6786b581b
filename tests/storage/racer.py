"""A process of its own that publishes, tags or collects in a store: `python -m tests.storage.racer ROLE URL …`.

It says "ready", waits for a line on its input, does its work and says what came of it in one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from storage.attempt import open_attempt
from storage.canonical import now
from storage.errors import Conflict, GazeflowError
from storage.gc import collect, plan_collection
from storage.manifest import Key, Manifest, Producer, ShardRecord
from storage.store import Store
from storage.tags import set_tag
from tests.storage.mortal import read_whole

PRODUCER = Producer(release="0", commit=None, python="3", torch=None, device="cpu")
KIND = "saliency"


def key_of(number: int) -> Key:
    return Key(stage=KIND, stage_version=1, params={"n": number}, inputs={}, datasets={})


def publish(store: Store, key: Key, shards: dict[int, bytes], run: str) -> Manifest:
    """Make a version of some shards, or find that another process did, as a run does it."""
    done = store.complete(KIND, key.digest())
    if done is None:
        attempt = open_attempt(store, key, "node", "asked for", run)
        done = store.complete(KIND, key.digest())
        if done is not None:
            attempt.close("published by another run meanwhile")
    if done is not None:
        return store.manifest(KIND, done.name)
    records = []
    for shard, data in shards.items():
        attempt.start(shard)
        member = attempt.put_shard(shard, ".tar", data, samples=1)
        records.append(
            attempt.finish(ShardRecord(shard=shard, shard_key="0" * 64, members=[member], done=1, failed=0))
        )
    members = [m for r in records for m in r.members]
    manifest = Manifest(
        kind=KIND, version=attempt.version.name, node="node", key=key, members=members, views=[], shards=records,
        done=len(records), failed=0, seconds=0, published=now(), producer=PRODUCER, run=run,
    )  # fmt: skip
    return attempt.publish(manifest)


def race(store: Store, name: str, rounds: int) -> list[Any]:
    """Publish the same keys as everyone, then move one tag to a version of one's own; says who made what."""
    own = publish(store, key_of(1000 + int(name)), {0: name.encode()}, name)
    made: list[str] = []
    moved: list[int | None] = []
    for n in range(rounds):
        shards = {s: b"%d %d" % (n, s) for s in range(2)}
        try:
            made.append(publish(store, key_of(n), shards, name).run)
        except GazeflowError as error:
            made.append(repr(error))
        try:
            moved.append(set_tag(store, f"{KIND}@{own.version}", f"round-{n}").number)
        except Conflict:
            moved.append(None)
    return [made, moved]


def supply(store: Store, name: str, seconds: float) -> list[Any]:
    """Publish versions that share shards, and tag them, while gc goes on; what was tagged is read at once."""
    chance, until = random.Random(name), time.monotonic() + seconds
    tagged, gave_way = 0, 0
    while time.monotonic() < until:
        shards = {s: b"%d" % chance.randrange(3) for s in range(2)}
        try:
            publish(store, key_of(chance.randrange(10**9)), {0: shards[1], 1: shards[0]}, name)  # nobody wants this one
            made = publish(store, key_of(chance.randrange(10**9)), shards, name)
            set_tag(store, f"{KIND}@{made.version}", f"of-{name}")
        except GazeflowError:
            gave_way += 1
            continue
        tagged += 1
        read_whole(store, store.resolve(f"{KIND}:of-{name}"))
    return [tagged, gave_way]


def sweep(store: Store, name: str, seconds: float) -> list[Any]:
    """Collect without grace, again and again."""
    until = time.monotonic() + seconds
    versions, objects, gave_way = 0, 0, 0
    while time.monotonic() < until:
        try:
            outcome = collect(store, plan_collection(store, days=0))
        except Conflict:
            gave_way += 1
            time.sleep(random.uniform(0, 1))
            continue
        versions, objects = versions + len(outcome.versions), objects + outcome.objects
    return [versions, objects, gave_way]


ROLES: dict[str, Callable[[Store, str, Any], list[Any]]] = {"race": race, "supply": supply, "sweep": sweep}


if __name__ == "__main__":
    role, url, who, amount = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(ROLES[role](Store.open(url), who, int(amount))), flush=True)
