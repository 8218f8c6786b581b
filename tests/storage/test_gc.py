"""gc takes what nobody names, in two steps, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from storage.attempt import OpenAttempt
from storage.errors import Conflict, Integrity, InvalidInput, NotFound
from storage.gc import Outcome, collect, plan_collection
from storage.store import Store
from storage.tags import rollback, set_tag
from tests.storage.mortal import DAY, Died, Mortal
from tests.storage.scene import gc, later, made_from, plan, ref, state, whole


@pytest.fixture
def backend() -> Mortal:
    return Mortal()


@pytest.fixture
def store(backend: Mortal) -> Store:
    return Store(backend)


def test_a_version_goes_in_two_steps(kit: Any, store: Store, backend: Mortal) -> None:
    manifest = kit.complete(store)
    assert gc(store) == Outcome((), (), 0, 0, 0), "it is young"
    later(store, 7)
    members = [m.key for m in manifest.members]
    assert gc(store) == Outcome((ref(manifest),), (), 0, 0, 0)
    assert state(store, manifest) == "closed"
    assert all(backend.size(key) is not None for key in members), "its bytes stay through the grace period"
    with pytest.raises(NotFound, match="expected a complete version, found one that is closed"):
        store.resolve(ref(manifest))
    later(store, 6.9)
    assert gc(store) == Outcome((), (), 0, 0, 0)
    later(store, 0.2)
    outcome = gc(store)
    assert (outcome.versions, outcome.objects) == ((), 4)
    folder = f"artifacts/saliency/{manifest.version}"
    assert backend.names() == [f"{folder}/attempt.json", f"{folder}/collected.json"]
    assert gc(store) == Outcome((), (), 0, 0, 0)
    again = kit.complete(store)
    assert again.version == f"{manifest.version}-2", "no number is used twice"
    assert whole(store, again)


def test_what_a_plan_says(kit: Any, store: Store, backend: Mortal) -> None:
    doomed, tagged = kit.complete(store, kit.key(1)), kit.complete(store, kit.key(2), {0: b"zero", 1: b"other"})
    opened = kit.open(store, kit.key(3))
    backend.create("artifacts/saliency/shards/saliency-000009-0123456789abcdef.tar", b"orphan")
    set_tag(store, ref(tagged), "prod")
    later(store, 8)
    before = backend.names()
    made = plan(store)
    assert backend.names() == before, "a plan writes nothing"
    (version,) = made.versions
    assert version.ref == ref(doomed)
    records = sum(e.bytes for e in backend.entries(f"artifacts/saliency/{doomed.version}/progress/"))
    manifest = len(backend.get(f"artifacts/saliency/{doomed.version}/manifest.json"))
    assert version.bytes == len(b"one") + records + manifest, "the shard that prod needs too is not counted"
    assert "named by no tag, open attempt or run of the last 7 days; published 20" in version.why
    assert [(e.key.rpartition("/")[2], e.bytes) for e in made.objects] == [("saliency-000009-0123456789abcdef.tar", 6)]
    assert made.bytes == 6
    assert made.kept == {
        ref(tagged): "saliency:prod",
        opened.version.ref: "open: the next run that asks for it goes on with it",
    }
    assert (made.waiting, made.missing) == ({}, {})
    collect(store, made, backend.clock)
    assert list(plan(store).waiting) == [ref(doomed)]


def test_tags_and_their_last_ten_entries_keep(kit: Any, store: Store) -> None:
    versions = [kit.complete(store, kit.key(n)) for n in range(12)]
    for manifest in versions:
        set_tag(store, ref(manifest), "prod")
    later(store, 30)
    assert set(gc(store).versions) == {ref(m) for m in versions[:2]}
    assert all(whole(store, m) for m in versions[2:])
    for expected in reversed(versions[2:-1]):
        assert rollback(store, "saliency", "prod").version == expected.version
    with pytest.raises(NotFound, match="gc may have collected it"):
        rollback(store, "saliency", "prod")


def test_all_that_a_kept_version_was_made_from_is_kept(kit: Any, store: Store) -> None:
    grand, other = kit.complete(store, kit.key(1, "teacher"), {0: b"t"}), kit.complete(store, kit.key(2, "teacher"))
    parent = kit.complete(store, made_from(kit, ref(grand), kind="saliency"), {0: b"s"})
    child = kit.complete(store, made_from(kit, ref(parent)), {0: b"f"})
    set_tag(store, ref(child), "prod")
    later(store, 30)
    assert gc(store).versions == (ref(other),)
    assert all(whole(store, m) for m in (grand, parent, child))
    young = kit.complete(store, made_from(kit, ref(child), kind="student"), {0: b"y"})
    store.backend.delete("tags/fixations/prod/000001.json")
    assert gc(store).versions == (), "a young version counts as a kept one"
    assert whole(store, young)
    later(store, 30)
    assert len(gc(store).versions) == 4


def test_open_attempts_keep_their_base_inputs_and_shards(kit: Any, store: Store, backend: Mortal) -> None:
    base, source = kit.complete(store), kit.complete(store, kit.key(1, "teacher"), {0: b"t"})
    forced = kit.open(store, base=base.version)
    (record,) = kit.finish(forced, {1: b"another"})
    child = kit.open(store, made_from(kit, ref(source), kind="student"))
    later(store, 100)
    assert gc(store).versions == ()
    assert whole(store, base)
    assert whole(store, source)
    assert forced.finished() == {1: record}
    assert gc(store).objects == 0
    child.close("given up")
    later(store, 8)
    assert set(gc(store).versions) == {ref(source), child.version.ref}


def test_closed_attempts_go_and_their_base_stays(kit: Any, store: Store, backend: Mortal) -> None:
    base = kit.complete(store)
    set_tag(store, ref(base), "prod")
    forced = kit.open(store, base=base.version)
    forced.put("report.html", b"view")
    assert kit.publish(forced, {0: b"zero", 1: b"one"}) == base
    given_up = kit.open(store, base=base.version, redo=[1])
    kit.finish(given_up, {1: b"never used"})
    given_up.close("given up")
    later(store, 8)
    assert set(gc(store).versions) == {forced.version.ref, given_up.version.ref}
    assert gc(store).objects > 0, "the grace is counted from the time they were closed"
    assert sorted(k.rpartition("/")[2] for k in backend.names(f"{given_up.folder}/")) == [
        "attempt.json", "closed.json", "collected.json",
    ]  # fmt: skip
    assert len(backend.names("artifacts/saliency/shards/")) == 2, "the shard that nobody else names is gone"
    assert whole(store, base)
    assert kit.open(store, base=base.version).version.name == f"{base.version}-4"


def test_orphans_go_when_they_are_old(kit: Any, store: Store, backend: Mortal) -> None:
    attempt = kit.open(store)
    kit.record(attempt, 0, b"stored, and never marked done")
    later(store, 6)
    young = kit.record(attempt, 1, b"stored later")
    later(store, 2)
    assert gc(store).objects == 1
    assert backend.names("artifacts/saliency/shards/") == [young.members[0].key]


@pytest.mark.parametrize(
    ("record", "data"),
    [
        ("manifest.json", b"{"), ("manifest.json", None), ("open/attempt.json", b"{}"), ("open/attempt.json", None),
        ("open/progress/000000.json", b"[]"), ("closed/closed.json", b"{}"), ("closed/progress/000000.json", b"x"),
        ("collected/collected.json", b'{"collected": "yesterday"}'), ("tags/saliency/prod/000001.json", b"{}"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_read_stops_gc(
    kit: Any, store: Store, backend: Mortal, record: str, data: bytes | None
) -> None:
    """What it names is not known: nothing at all is deleted."""
    kit.complete(store, kit.key(4))
    collected = kit.complete(store, kit.key(3), {0: b"c"})
    later(store, 8)
    gc(store)
    manifest = kit.complete(store, kit.key(0))
    set_tag(store, ref(manifest), "prod")
    opened, closed = kit.open(store, kit.key(1)), kit.open(store, kit.key(2))
    for attempt in (opened, closed):
        kit.finish(attempt, {0: b"x"})
    closed.close("given up")
    later(store, 6 if "closed" in record else 8)
    folders = {"open": opened.folder, "closed": closed.folder, "collected": f"artifacts/saliency/{collected.version}"}
    first, _, rest = record.partition("/")
    key = f"{folders[first]}/{rest}" if first in folders else record
    key = f"artifacts/saliency/{manifest.version}/{record}" if record == "manifest.json" else key
    if data is None and record == "manifest.json":
        key = f"artifacts/saliency/{manifest.version}/attempt.json"  # a manifest without the record that opened it
    if data is None:
        backend.delete(key)
    else:
        backend.replace(key, data)
    before = backend.names()
    with pytest.raises(Integrity, match=key.rpartition("/")[0]):
        gc(store)
    assert backend.names() == before


def test_named_and_not_there_is_told(kit: Any, store: Store, backend: Mortal) -> None:
    source = kit.complete(store, kit.key(1, "teacher"), {0: b"t"})
    child = kit.complete(store, made_from(kit, ref(source)))
    set_tag(store, ref(child), "prod")
    for key in backend.names(f"artifacts/teacher/{source.version}/"):
        backend.delete(key)
    later(store, 8)
    assert plan(store).missing == {ref(source): f"{ref(child)} was made from it"}
    with pytest.raises(Integrity, match="nothing more was collected"):
        gc(store)


def test_members_of_a_tagged_version_outlive_its_lost_folder(kit: Any, store: Store, backend: Mortal) -> None:
    manifest = kit.complete(store)
    set_tag(store, ref(manifest), "prod")
    for key in backend.names(f"artifacts/saliency/{manifest.version}/"):
        backend.delete(key)
    later(store, 30)
    with pytest.raises(Integrity, match="saliency:prod"):
        gc(store)
    assert store.holds(manifest.members)


def test_names_that_are_not_ours_disturb_nothing(kit: Any, store: Store, backend: Mortal) -> None:
    kit.complete(store)
    for key in ("artifacts/saliency/shards/.nfs0001", "artifacts/saliency/shards/a b", "gc/", "gc/.DS_Store"):
        backend._objects[key] = b""
    later(store, 30)
    assert len(gc(store).versions) == 1


def test_a_collection_that_is_cut_short_takes_its_marks_back(
    kit: Any, store: Store, backend: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = kit.complete(store)
    later(store, 8)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("storage.gc._settle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gc(store)
    assert store.version("saliency", manifest.version).state == "complete"
    assert plan(store).marked == ()


def test_a_place_that_cannot_list_leftovers_is_collected_all_the_same(
    kit: Any, store: Store, backend: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.complete(store)
    later(store, 8)

    def refused(seconds: float) -> int:
        raise InvalidInput("501")

    monkeypatch.setattr(backend, "sweep", refused)
    assert len(gc(store).versions) == 1


class TestOneAtATime:
    def test_another_collection_is_a_conflict(self, kit: Any, store: Store, backend: Mortal) -> None:
        manifest = kit.complete(store)
        later(store, 8)
        backend.create("gc/0123.json", b"{}")
        later(store, 1 / 24)
        with pytest.raises(Conflict, match=r"gc/0123\.json: another collection is under way since 2030-01-09T00:00"):
            gc(store)
        assert whole(store, manifest)
        assert backend.names("gc/") == ["gc/0123.json"]

    def test_one_that_died_is_cleared(self, kit: Any, store: Store, backend: Mortal) -> None:
        manifest = kit.complete(store)
        later(store, 8)
        backend.create("gc/0123.json", b"{}")
        later(store, 2 / 24)
        assert gc(store).versions == (ref(manifest),)
        assert backend.names("gc/") == []

    def test_a_wrong_clock_collects_nothing(self, kit: Any, store: Store, backend: Mortal) -> None:
        """A machine that believes it is 2033 would find everything old."""
        manifest = kit.complete(store)
        clock = lambda: backend.now + 3 * 365 * DAY  # noqa: E731
        with pytest.raises(InvalidInput, match=r"its clock says 2030-01-01T00:00:00Z, this machine's 2032-12-31T"):
            collect(store, plan_collection(store, 7, clock), clock)
        assert whole(store, manifest)
        assert backend.names("gc/") == []


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write_it_is_gone_on_with(kit: Any, after: bool) -> None:
    """Two collections, killed at each of their writes, then run again, end as one that was left in peace."""

    def story(doomed: int | None) -> tuple[list[str], bool]:
        backend = Mortal()
        store, survived = Store(backend), True
        versions = [kit.complete(store, kit.key(n), {0: b"shared", 1: b"%d" % (n // 2)}) for n in range(4)]
        set_tag(store, ref(versions[0]), "prod")
        later(store, 8)
        if doomed is not None:
            backend.doom(doomed, after)
        for _ in range(3):
            try:
                gc(store)
            except Died:
                backend.revive()
                survived = False
            assert whole(store, versions[0])
            for version in store.versions("saliency"):
                if version.state == "complete":
                    assert whole(store, store.manifest("saliency", version.name))
            later(store, 8)
        backend.revive()
        for _ in range(2):
            gc(store)
            later(store, 8)
        return backend.names(), survived

    peaceful, _ = story(None)
    writes, survived = 0, False
    while not survived:
        left, survived = story(writes)
        assert left == peaceful
        writes += 1
    assert writes > 12


def test_checkpoints_that_a_killed_run_left_behind_go(kit: Any, store: Store, backend: Mortal) -> None:
    """It died between its manifest and their deletion; those of an open attempt are what it goes on with."""
    opened = kit.open(store, kit.key(1))
    manifest = kit.complete(store)
    set_tag(store, ref(manifest), "prod")
    for folder in (opened.folder, f"artifacts/saliency/{manifest.version}"):
        backend.create(f"{folder}/work/step-00000001.json", b"{}")
    later(store, 8)
    assert [e.key for e in plan(store).objects] == [f"artifacts/saliency/{manifest.version}/work/step-00000001.json"]
    assert gc(store).objects == 1
    assert whole(store, manifest)


def test_young_leftovers_of_writers_are_left_alone(kit: Any, store: Store, backend: Mortal) -> None:
    asked: list[float] = []
    backend.sweep = lambda seconds: asked.append(seconds) or 3  # type: ignore[method-assign, func-returns-value]
    assert gc(store, days=0).leftovers == 3
    gc(store, days=7)
    assert asked == [DAY, 7 * DAY]


def test_no_days_is_no_grace(kit: Any, store: Store, backend: Mortal) -> None:
    manifest = kit.complete(store)
    later(store, 1)  # Manifests of tests say when they were really made
    assert gc(store, days=0).versions == (ref(manifest),)
    assert gc(store, days=0).objects == 4
    assert isinstance(kit.open(store), OpenAttempt)
