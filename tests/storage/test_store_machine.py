"""Any order of making, publishing, tagging, pulling, collecting and dying keeps what a store promises.

Hypothesis plays people against a store whose writes may fail at any moment, before or after they took place, and
compares it with the model in tests/storage/model.py: a list of versions for each key, and of moves for each tag.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from storage.attempt import OpenAttempt
from storage.errors import Conflict, NotFound
from storage.gc import collect, plan_collection
from storage.manifest import Key, Manifest
from storage.pull import pull
from storage.runs import Run
from storage.store import Store
from storage.tags import history, rollback, set_tag
from tests.storage.model import HOUR, SHARDS, Known, Model, replayed
from tests.storage.mortal import Died, Mortal, read_whole

TAGS = ("prod", "test")
WHICH = st.integers(0, 2)


class People(RuleBasedStateMachine):
    """Two keys of saliency, and one of fixations that are made from the first key's first version."""

    kit: Any  # tests/storage/conftest.py

    def __init__(self) -> None:
        super().__init__()
        self.backend = Mortal()
        self.store = Store(self.backend)
        self.keys: list[Key] = [self.kit.key(n) for n in (1, 2)]
        source = f"saliency@{self.keys[0].digest()[:12]}"
        child = self.kit.key(3, "fixations")
        self.keys.append(child.model_copy(update={"inputs": {"labels": [source]}}))
        self.model = Model([(k.stage, k.digest()[:12]) for k in self.keys], child=2, source=source)
        self.handles: list[tuple[int, OpenAttempt]] = []

    # making and publishing, by any number of runs at once

    @rule(which=WHICH, forced=st.booleans(), redo=st.none() | st.just([1]), generation=st.integers(0, 1))
    def open(self, which: int, forced: bool, redo: list[int] | None, generation: int) -> None:
        standing = self.model.standing(which)
        source = self.model.find(self.model.source)
        if (standing and not forced) or (which == 2 and (source is None or source.state in ("open", "closed"))):
            return  # a hit, or its input is not there yet
        base = standing.name if standing else None
        redo = redo if base else None
        opening = Known(self.model.next_name(which), base=base, redo=redo, generation=generation)
        with self.may_die(opening=(which, opening)):
            if which == 2 and source is not None and source.state != "complete":
                with pytest.raises(Conflict, match="which `gazeflow gc` is collecting"):
                    self.kit.open(self.store, self.keys[which], base, redo)
                self.model.resume(which, opening, self.backend.now).end("closed", self.backend.now)
                return
            handle = self.kit.open(self.store, self.keys[which], base, redo)
            known = self.model.resume(which, opening, self.backend.now)
            assert handle.version.name == known.name
            assert sorted(handle.finished()) == sorted(known.shards)
            self.handles = [*self.handles[-3:], (which, handle)]

    @rule(which=WHICH, forced=st.booleans(), generation=st.integers(0, 1), tag=st.sampled_from([None, *TAGS]))
    def make(self, which: int, forced: bool, generation: int, tag: str | None) -> None:
        """A whole run, and what often follows."""
        self.handles = []
        self.open(which, forced, None, generation)
        for handle, known in self.usable():
            self.finish_shards(handle, known, SHARDS)
        for handle, known in self.usable():
            self.publish_one(handle, known)
        standing = self.model.standing(which)
        if tag and standing:
            ref = f"{self.keys[which].stage}@{standing.name}"
            self.move(self.keys[which].stage, tag, ref, lambda: set_tag(self.store, ref, tag))

    @precondition(lambda self: self.usable())
    @rule(data=st.data(), shards=st.sampled_from([SHARDS, SHARDS, *((s,) for s in SHARDS)]))
    def finish(self, data: st.DataObject, shards: tuple[int, ...]) -> None:
        self.finish_shards(*data.draw(st.sampled_from(self.usable())), shards)

    def finish_shards(self, handle: OpenAttempt, known: Known, shards: tuple[int, ...]) -> None:
        with self.may_die():
            for shard in shards:
                handle.start(shard)
                record = self.kit.finish(handle, {shard: b"%d %d" % (shard, known.generation)})[0]
                assert known.shards.setdefault(shard, record.to_bytes()) == record.to_bytes()
            if known.state == "open":
                handle.save_checkpoint(len(shards), b"weights", {})

    @precondition(lambda self: any(set(k.shards) == set(SHARDS) for _, k in self.usable()))
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        ready = [(h, k) for h, k in self.usable() if set(k.shards) == set(SHARDS)]
        self.publish_one(*data.draw(st.sampled_from(ready)))

    def publish_one(self, handle: OpenAttempt, known: Known) -> None:
        base = self.model.find(f"{handle.version.kind}@{known.base}") if known.base else None
        if base is not None and base.state != "complete":
            return  # its attempt was published by another handle, so that it keeps its base no longer
        with self.may_die():
            Run(self.store, {}, "a run refreshes its record, which tells the time")
            manifest = handle.publish(self.kit.manifest(handle, handle.finished().values()))
            if base is None or base.generation != known.generation:
                assert manifest.version == known.name
                if known.state == "open":
                    known.publish(manifest.to_bytes(), self.backend.now)
                assert manifest.to_bytes() == known.manifest
            else:
                assert manifest.version == base.name
                known.end("closed", self.backend.now)

    # tags

    @rule(data=st.data(), tag=st.sampled_from(TAGS))
    def tag(self, data: st.DataObject, tag: str) -> None:
        refs = self.model.refs()
        if refs:
            ref = data.draw(st.sampled_from(refs))
            self.move(ref.split("@")[0], tag, ref, lambda: set_tag(self.store, ref, tag))

    @precondition(lambda self: self.model.tags)
    @rule(tag=st.sampled_from(TAGS), kind=st.sampled_from(["saliency", "fixations"]))
    def rollback(self, tag: str, kind: str) -> None:
        before = replayed(self.model.tags.get((kind, tag), []))
        ref = f"{kind}@{before[-2].version}" if len(before) > 1 else None
        self.move(kind, tag, ref, lambda: rollback(self.store, kind, tag))

    def move(self, kind: str, tag: str, ref: str | None, act: Any) -> None:
        known = self.model.find(ref) if ref else None
        entries = self.model.tags.get((kind, tag), [])
        with self.may_die():
            if known is None or known.state in ("open", "closed", "collected"):
                with pytest.raises(NotFound):
                    act()
            elif known.state == "pending" and not (entries and entries[-1].version == known.name):
                with pytest.raises(Conflict):
                    act()
            else:
                entry = act()
                assert entry.version == known.name
                if entry not in entries:
                    self.model.tags[kind, tag] = [*entries, entry]

    # pulling and collecting

    @precondition(lambda self: self.model.tags)
    @rule(data=st.data())
    def pull(self, data: st.DataObject) -> None:
        kind, tag = data.draw(st.sampled_from(sorted(self.model.tags)))
        manifest = self.store.resolve(f"{kind}:{tag}")
        with tempfile.TemporaryDirectory() as folder:
            told = pull(self.backend, manifest, Path(folder))
            found = {p.name: p.read_bytes() for p in Path(told["folder"]).iterdir() if p.suffix == ".tar"}
        assert found == {m.name: self.store.read(m) for m in manifest.members}

    @precondition(lambda self: self.model.refs())
    @rule(hours=st.sampled_from([1, 24, 24 * 6, 24 * 8]))
    def wait(self, hours: int) -> None:
        self.backend.now += hours * HOUR

    @precondition(lambda self: self.model.refs())
    @rule(days=st.sampled_from([0, 7, 7]))
    def gc(self, days: int) -> None:
        kept = self.model.kept(days, self.backend.now)
        with self.may_die(kept=kept):
            outcome = collect(self.store, plan_collection(self.store, days, self.backend.clock), self.backend.clock)
            expected = self.model.collect(days, self.backend.now, kept)
            assert set(outcome.versions) == expected

    # dying

    @precondition(lambda self: self.backend.left is None)
    @rule(writes=st.integers(0, 15), after=st.booleans())
    def doom(self, writes: int, after: bool) -> None:
        """Whoever is at work will die at one of the next writes."""
        self.backend.doom(writes, after)

    def usable(self) -> list[tuple[OpenAttempt, Known]]:
        """Handles of attempts that have not ended without a result."""
        known = [(h, self.model.versions[which][h.version.number - 1]) for which, h in self.handles]
        return [(h, k) for h, k in known if k.state in ("open", "complete")]

    @contextlib.contextmanager
    def may_die(self, opening: tuple[int, Known] | None = None, kept: set[str] | None = None) -> Iterator[None]:
        """After a death all handles are gone, and the model learns how far the step came."""
        try:
            yield
        except Died:
            self.backend.revive()
            self.handles = []
            if opening and len(self.of_key(opening[0])) > len(self.model.versions[opening[0]]):
                self.model.open(*opening)
            self.learn(kept)
            self.backend.now += 3 * HOUR  # then a collection that died counts as dead

    def learn(self, kept: set[str] | None) -> None:
        """One step makes a version one or two states older; anything else fails here or in `holds`."""
        for which, key in enumerate(self.keys):
            for version, known in zip(self.of_key(which), self.model.versions[which], strict=True):
                files = self.backend.children(f"artifacts/{key.stage}/{version.name}/")
                marked = version.state == "closed" and "collected.json" in files
                found = ("pending" if "manifest.json" in files else "collected") if marked else version.state
                assert kept is None or version.ref not in kept or found in ("complete", "pending")
                known.learn(found, self.manifest(version.kind, version.name), self.backend.now)
                if found == "open":
                    finished = OpenAttempt(self.store, version, self.store.attempt(version)).finished()
                    assert known.shards.items() <= {n: r.to_bytes() for n, r in finished.items()}.items()
                    known.shards = {n: r.to_bytes() for n, r in finished.items()}
        for entry in self.backend.entries("artifacts/"):
            if "/claims/" in entry.key:
                _, kind, name, *_ = entry.key.split("/")
                self.model.claims[f"{kind}@{name}"] = entry.modified
        for kind in ("saliency", "fixations"):
            for tag in TAGS:
                with contextlib.suppress(NotFound):
                    entries = history(self.backend, kind, tag)
                    before = self.model.tags.get((kind, tag), [])
                    assert entries[: len(before)] == before
                    assert len(entries) <= len(before) + 1
                    self.model.tags[kind, tag] = entries

    def of_key(self, which: int) -> list[Any]:
        return self.store.of_key(self.keys[which].stage, self.keys[which].digest())

    def manifest(self, kind: str, name: str) -> Manifest | None:
        with contextlib.suppress(NotFound):
            return self.store.manifest(kind, name)
        return None

    # what always holds

    @invariant()
    def holds(self) -> None:
        for which, key in enumerate(self.keys):
            versions, known = self.of_key(which), self.model.versions[which]
            assert [(v.name, v.state) for v in versions] == [(k.name, k.shown) for k in known]
            standing = self.store.complete(key.stage, key.digest())
            expected = self.model.standing(which)
            assert (standing.name if standing else None) == (expected.name if expected else None)
            assert [v.state for v in versions[:-1] if v.state == "open"] == [], "only the last attempt is ever open"
            for version, one in zip(versions, known, strict=True):
                self.unchanged(version, one)

    def unchanged(self, version: Any, known: Known) -> None:
        if known.state in ("complete", "pending"):
            manifest = self.store.resolve(version.ref)
            assert manifest.to_bytes() == known.manifest
            read_whole(self.store, manifest)
        else:
            assert self.manifest(version.kind, version.name) is None
        if known.state == "open":
            finished = OpenAttempt(self.store, version, self.store.attempt(version)).finished()
            assert {n: r.to_bytes() for n, r in finished.items()} == known.shards

    @invariant()
    def tags_mean_whole_versions(self) -> None:
        for (kind, tag), entries in self.model.tags.items():
            assert history(self.backend, kind, tag) == entries
            assert [e.number for e in entries] == list(range(1, len(entries) + 1))
            current = self.model.find(entries[-1].ref)
            assert current is not None
            assert current.state == "complete"
            for ref in self.store.resolve(f"{kind}:{tag}").key.inputs.get("labels", []):
                assert self.store.resolve(ref)

    def teardown(self) -> None:
        """When nobody wants anything any more, gc leaves the records alone."""
        self.backend.revive()
        for which, _ in enumerate(self.keys):
            for version in self.of_key(which):
                if version.state == "open":
                    OpenAttempt(self.store, version, self.store.attempt(version)).close("the end")
        for key in self.backend.names("tags/"):
            self.backend.delete(key)
        for _ in range(3):
            self.backend.now += 8 * 24 * HOUR
            collect(self.store, plan_collection(self.store, 7, self.backend.clock), self.backend.clock)
        left = {k.rpartition("/")[2] for k in self.backend.names() if not k.startswith("runs/")}
        assert left <= {"attempt.json", "closed.json", "collected.json"}


@pytest.mark.timeout(240)
def test_stores_keep_their_promises(kit: Any) -> None:
    machine = type("PeopleWithKit", (People,), {"kit": kit})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True)
    )
