"""A store with a clock of its own, and gc on it: what the tests of gc share."""

from __future__ import annotations

from typing import Any

from storage._garbage import Collection
from storage.gc import Outcome, collect, plan_collection
from storage.manifest import Key, Manifest
from storage.store import Store
from tests.storage.mortal import DAY, Mortal, read_whole


def plan(store: Store, days: float = 7) -> Collection:
    assert isinstance(store.backend, Mortal)
    return plan_collection(store, days, store.backend.clock)


def gc(store: Store, days: float = 7) -> Outcome:
    assert isinstance(store.backend, Mortal)
    return collect(store, plan(store, days), store.backend.clock)


def later(store: Store, days: float) -> None:
    assert isinstance(store.backend, Mortal)
    store.backend.now += days * DAY


def ref(manifest: Manifest) -> str:
    return f"{manifest.kind}@{manifest.version}"


def made_from(kit: Any, *inputs: str, kind: str = "fixations") -> Key:
    key: Key = kit.key(8, kind)
    return key.model_copy(update={"inputs": {"labels": list(inputs)}})


def state(store: Store, version: Any) -> str:
    return store.version(version.kind, getattr(version, "version", None) or version.name).state


def whole(store: Store, manifest: Manifest) -> bool:
    """Whether a version is complete; raises Integrity or NotFound when its bytes are not all there."""
    assert store.resolve(ref(manifest)) == manifest
    read_whole(store, manifest)
    return state(store, manifest) == "complete"
