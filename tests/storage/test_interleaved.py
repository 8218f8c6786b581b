"""gc beside publishers and taggers, in every order of their calls that chance comes up with.

Each actor stops before every call to the store and goes on when it is its turn, so that a seed is an order which can
be played again. There is no grace (days=0): what is named must be safe by the order of writes alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from storage.errors import Conflict, GazeflowError, Integrity, NotFound, Transient
from storage.gc import collect, plan_collection
from storage.manifest import Key, Manifest
from storage.store import Store
from storage.tags import all_tags, history, set_tag
from tests.storage.mortal import DAY, Mortal, Turns, read_whole

Actor = Callable[[], object]
SEEDS = range(120)


def order(seed: int) -> Iterator[int]:
    """Turns in bursts, since two who meet in the middle must each have gone some way undisturbed."""
    chance = random.Random(seed)
    for _ in range(60):
        yield from [chance.randrange(3)] * chance.choice((1, 2, 3, 5, 10, 20))


def child_of(kit: Any, ref: str) -> Key:
    key: Key = kit.key(8, "fixations")
    return key.model_copy(update={"inputs": {"labels": [ref]}})


class Scene:
    """A store where an old version, its input, and bytes that nobody names any more wait for gc."""

    def __init__(self, kit: Any) -> None:
        self.kit = kit
        self.backend = Mortal()
        self.store = Store(self.backend)
        self.source = kit.complete(self.store, kit.key(1), {0: b"zero", 1: b"one"})
        self.forgotten = kit.complete(self.store, kit.key(2), {0: b"zero", 1: b"two", 2: b"three"})
        self.backend.now += DAY
        set_tag(self.store, self.ref(self.source), "kept")
        self.gc()  # takes what is forgotten, leaves its bytes
        self.backend.delete("tags/saliency/kept/000001.json")
        self.backend.now += DAY

    @staticmethod
    def ref(manifest: Manifest) -> str:
        return f"{manifest.kind}@{manifest.version}"

    def gc(self) -> object:
        return collect(self.store, plan_collection(self.store, 0, self.backend.clock), self.backend.clock)

    def gc_twice(self) -> object:
        return [self.gc(), self.gc()]

    def tag(self) -> object:
        return set_tag(self.store, self.ref(self.source), "prod")

    def publish(self) -> Manifest:
        """Make again what was forgotten, of the same bytes, and tag it."""
        manifest: Manifest = self.kit.publish(
            self.kit.open(self.store, self.kit.key(2)), {0: b"zero", 1: b"two", 2: b"three"}
        )
        set_tag(self.store, self.ref(manifest), "made")
        return manifest

    def publish_child(self) -> Manifest:
        """Make something of a version that nobody but the open attempt names."""
        attempt = self.kit.open(self.store, child_of(self.kit, self.ref(self.source)))
        manifest: Manifest = self.kit.publish(attempt, {0: b"fixations"})
        set_tag(self.store, self.ref(manifest), "child")
        return manifest

    def check(self) -> None:
        """What is tagged is whole, with all that it was made from; what is complete is whole."""
        for kind, tag in all_tags(self.store.backend):
            entries = history(self.store.backend, kind, tag)
            assert [e.number for e in entries] == list(range(1, len(entries) + 1))
            manifest = self.store.resolve(f"{kind}:{tag}")
            assert self.store.version(kind, manifest.version).state == "complete"
            for refs in manifest.key.inputs.values():
                for ref in refs:
                    assert self.store.version(*ref.split("@")).state == "complete"
        for kind in ("saliency", "fixations"):
            for version in self.store.versions(kind):
                if version.state == "complete":
                    read_whole(self.store, self.store.manifest(kind, version.name))
        assert self.backend.names("gc/") == []


STORIES: dict[str, Callable[[Scene], list[Actor]]] = {
    "tag": lambda s: [s.gc, s.tag],
    "publish": lambda s: [s.gc_twice, s.publish],
    "child": lambda s: [s.gc_twice, s.publish_child],
    "two-collections": lambda s: [s.gc, s.gc_twice, s.tag],
    "two-publishers": lambda s: [s.gc_twice, s.publish, s.publish],
    "all": lambda s: [s.gc_twice, s.publish, s.publish_child],
}


@pytest.mark.parametrize("story", STORIES)
def test_nothing_that_is_named_is_lost(kit: Any, story: str) -> None:
    ends: set[str] = set()
    for seed in SEEDS:
        scene = Scene(kit)
        actors = STORIES[story](scene)
        results = Turns(scene.backend).play(actors, list(order(seed)))
        for result in results:
            if isinstance(result, Exception):
                assert isinstance(result, (Conflict, Transient, NotFound, Integrity)), (seed, result)
            ends.add(type(result).__name__)
        scene.check()
        scene.backend.now += DAY  # a collection that gave way, or an attempt that was closed, is done with
        for again in (a for a, r in zip(actors, results, strict=True) if isinstance(r, GazeflowError)):
            if again.__name__.startswith("publish") and again.__name__ != "publish_child":
                again()
        scene.check()
    assert len(ends) > 1, "some orders must have made someone give way"


def test_races_for_a_tag_have_one_winner(kit: Any) -> None:
    """Three move a tag to three versions at once."""
    for seed in SEEDS:
        store = Store(Mortal())
        assert isinstance(store.backend, Mortal)
        refs = [Scene.ref(kit.complete(store, kit.key(n))) for n in range(3)]
        actors = [partial(set_tag, store, ref, "prod") for ref in refs]
        results = Turns(store.backend).play(actors, list(order(seed)))
        entries = history(store.backend, "saliency", "prod")
        won = [r for r in results if not isinstance(r, Exception)]
        assert sorted(e.number for e in won) == [e.number for e in entries]  # type: ignore[attr-defined]
        assert all(isinstance(r, Conflict) for r in results if isinstance(r, Exception))
        assert len(won) >= 1
