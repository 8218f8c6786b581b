"""Whoever crosses gc gives way or is spared. (test_interleaved.py plays all orders; here are the known ones.)"""

from __future__ import annotations

from typing import Any

import pytest

from storage._garbage import Collected
from storage.canonical import pretty_json
from storage.errors import Conflict, Integrity, Transient
from storage.gc import Outcome, about_to_go, collect
from storage.runs import Run
from storage.store import Store
from storage.tags import set_tag
from tests.storage.mortal import Mortal
from tests.storage.scene import gc, later, made_from, plan, ref, state, whole


@pytest.fixture
def backend() -> Mortal:
    return Mortal()


@pytest.fixture
def store(backend: Mortal) -> Store:
    return Store(backend)


def test_what_was_tagged_after_the_plan_is_spared(kit: Any, store: Store, backend: Mortal) -> None:
    manifest = kit.complete(store)
    later(store, 8)
    made = plan(store)
    set_tag(store, ref(manifest), "prod")
    assert collect(store, made, backend.clock) == Outcome((), (ref(manifest),), 0, 0, 0)
    assert whole(store, manifest)


def test_a_marked_version_that_is_not_whole_is_not_spared(kit: Any, store: Store, backend: Mortal) -> None:
    """One whose members went, and whose manifest a forgotten run brought back, must not look complete."""
    manifest = kit.complete(store)
    set_tag(store, ref(manifest), "prod")
    mark = Collected(collected="2030-01-01T00:00:00Z").to_bytes()
    backend.create(f"artifacts/saliency/{manifest.version}/collected.json", mark)
    backend.delete(manifest.members[0].key)
    assert gc(store).versions == (ref(manifest),)
    assert plan(store).missing == {ref(manifest): "saliency:prod"}


def test_a_forgotten_run_cannot_bring_back_half_a_version(kit: Any, store: Store, backend: Mortal) -> None:
    """Two runs share an attempt; one publishes, gc collects, weeks later the other publishes."""
    mine, theirs = kit.open(store), kit.open(store)
    manifest = kit.publish(mine, {0: b"zero"})
    later(store, 8)
    gc(store)
    with pytest.raises(Conflict, match="gazeflow gc` is collecting it; what was made does not count"):
        theirs.publish(manifest)
    assert state(store, manifest) == "closed"
    assert gc(store).spared == (ref(manifest),), "it is whole, and it was published just now"
    later(store, 8)
    gc(store)
    later(store, 8)
    gc(store)
    with pytest.raises(Integrity, match="before publishing, found None; nothing was published"):
        theirs.publish(manifest)


def test_a_closed_attempt_published_late_counts_or_is_told(kit: Any, backend: Mortal) -> None:
    store = Store(backend)
    base = kit.complete(store)
    late = kit.open(store, base=base.version, redo=[1])
    records = kit.finish(late, {0: b"zero", 1: b"late"})
    kit.open(store, base=base.version, redo=[0])  # closes the other
    later(store, 8)
    made = late.publish(kit.manifest(late, records))
    assert state(store, made) == "complete"
    gc(store)
    assert whole(store, made)


def test_what_is_about_to_go_is_not_published(kit: Any, store: Store, backend: Mortal) -> None:
    attempt = kit.open(store)
    (record,) = kit.finish(attempt, {0: b"zero"})
    announcement = {"who": "x", "started": "2030-01-01T00:00:00Z", "objects": [record.members[0].key]}
    backend.create("gc/0123.json", pretty_json(announcement))
    assert about_to_go(backend, [record.members[0].key, "x"]) == {record.members[0].key: "gc/0123.json"}
    with pytest.raises(Transient, match=r"gc` is about to delete .*nothing was published.*gc/0123.json is gone"):
        attempt.publish(kit.manifest(attempt, [record]))
    assert state(store, attempt.version) == "open"
    later(store, 1 / 12)
    Run(store, {}, "refreshes its record, so that the time is known")
    assert whole(store, attempt.publish(kit.manifest(attempt, [record]))), "that collection is dead"


def test_an_attempt_is_not_made_from_what_is_being_collected(kit: Any, store: Store, backend: Mortal) -> None:
    source = kit.complete(store, kit.key(1, "teacher"), {0: b"t"})
    child = made_from(kit, ref(source))
    mark = f"artifacts/teacher/{source.version}/collected.json"
    backend.create(mark, b"{}")
    for _ in range(2):
        with pytest.raises(Conflict, match=rf"expected to make it from {ref(source)}, which `gazeflow gc`"):
            kit.open(store, child)
    assert [v.state for v in store.versions("fixations")] == ["closed", "closed"]
    backend.delete(mark)
    assert kit.open(store, child).version.number == 3


def test_a_member_taken_while_the_manifest_was_written_is_told(kit: Any, store: Store, backend: Mortal) -> None:
    attempt = kit.open(store)
    (record,) = kit.finish(attempt, {0: b"zero"})
    taken = lambda: backend._objects.pop(record.members[0].key, None)  # noqa: E731
    manifest = kit.manifest(attempt, [record])
    backend.before_call = lambda: taken() if f"{attempt.folder}/manifest.json" in backend._objects else None
    with pytest.raises(Integrity, match=r"after publishing, found None; it is published all.*rerun node --damaged"):
        attempt.publish(manifest)


def test_claims_of_taggers_that_died_go_after_a_day(kit: Any, store: Store, backend: Mortal) -> None:
    manifest = kit.complete(store)
    later(store, 30)
    backend.create(f"artifacts/saliency/{manifest.version}/claims/0123.json", b"{}")
    made = plan(store)
    assert made.kept == {ref(manifest): "it is being tagged"}
    later(store, 1)
    outcome = gc(store)
    assert (outcome.versions, outcome.objects) == ((ref(manifest),), 1)
