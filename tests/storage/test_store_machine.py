"""Any order of opening, finishing, forcing, publishing and dying keeps what a store promises.

Hypothesis plays runs against a store whose writes may fail at any moment, before or after they took place, and
compares it with a model that is one small dict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from storage.attempt import OpenAttempt
from storage.backends.memory import MemoryBackend
from storage.manifest import Key
from storage.store import Store
from storage.verify import damaged

SHARDS = (0, 1)


class Died(Exception):
    """The run ends here, as by kill -9."""


class Mortal(MemoryBackend):
    """Dies at a write, before or after it took place."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.after = False

    @contextlib.contextmanager
    def _dying(self) -> Iterator[None]:
        if self.left == 0 and not self.after:
            raise Died
        yield
        if self.left == 0:
            raise Died
        self.left = None if self.left is None else self.left - 1

    def create(self, key: str, data: bytes | memoryview) -> bool:
        with self._dying():
            return super().create(key, data)

    def replace(self, key: str, data: bytes) -> None:
        with self._dying():
            super().replace(key, data)

    def delete(self, key: str) -> None:
        with self._dying():
            super().delete(key)


@dataclass
class Known:
    """What the model knows of a version."""

    state: str = "open"
    base: str | None = None
    redo: list[int] | None = None
    generation: int = 0  # of its content: a forced attempt may come to the same or to something else
    shards: dict[int, bytes] = field(default_factory=dict)  # finished: the record's bytes
    manifest: bytes = b""


class Runs(RuleBasedStateMachine):
    """Runs at two keys; `model` is key -> attempts in order."""

    kit: Any  # tests/storage/conftest.py

    def __init__(self) -> None:
        super().__init__()
        self.backend = Mortal()
        self.store = Store(self.backend)
        self.keys: list[Key] = [self.kit.key(n) for n in (1, 2)]
        self.model: list[list[Known]] = [[], []]
        self.handles: dict[int, OpenAttempt] = {}

    def name(self, which: int, index: int) -> str:
        return self.keys[which].digest()[:12] + (f"-{index + 1}" if index else "")

    def standing(self, which: int) -> str | None:
        done = [n for n, known in enumerate(self.model[which]) if known.state == "complete"]
        return self.name(which, done[-1]) if done else None

    @rule(which=st.integers(0, 1), forced=st.booleans(), redo=st.none() | st.just([1]), generation=st.integers(0, 1))
    def open(self, which: int, forced: bool, redo: list[int] | None, generation: int) -> None:
        base = self.standing(which)
        if base and not forced:
            return  # a hit: nothing is opened
        redo = redo if base else None
        with self.may_die(which, Known(base=base, redo=redo, generation=generation)):
            handle = self.kit.open(self.store, self.keys[which], base, redo)
            attempts = self.model[which]
            resumed = bool(attempts) and attempts[-1].state == "open" and (base is None or attempts[-1].redo == redo)
            if not resumed:
                if attempts and attempts[-1].state == "open":
                    attempts[-1].state = "closed"  # given up for other shards
                attempts.append(Known(base=base, redo=redo, generation=generation))
            assert handle.version.name == self.name(which, len(attempts) - 1)
            assert sorted(handle.finished()) == sorted(attempts[-1].shards)
            self.handles[which] = handle

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), shards=st.sampled_from([SHARDS, SHARDS, *([s] for s in SHARDS)]))
    def finish(self, data: st.DataObject, shards: list[int]) -> None:
        which = data.draw(st.sampled_from(sorted(self.handles)))
        handle, known = self.handles[which], self.known(which)
        with self.may_die(which):
            for shard in shards:
                handle.start(shard)
                record = self.kit.finish(handle, {shard: b"%d %d" % (shard, known.generation)})[0]
                assert known.shards.setdefault(shard, record.to_bytes()) == record.to_bytes()
            handle.save_checkpoint(len(shards), b"weights", {})

    @precondition(lambda self: any(set(self.known(w).shards) == set(SHARDS) for w in self.handles))
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        ready = [w for w in sorted(self.handles) if set(self.known(w).shards) == set(SHARDS)]
        which = data.draw(st.sampled_from(ready))
        handle, known = self.handles[which], self.known(which)
        finished = handle.finished()
        with self.may_die(which):
            manifest = handle.publish(self.kit.manifest(handle, finished.values()))
            del self.handles[which]
            if manifest.version == handle.version.name:
                known.state, known.manifest = "complete", manifest.to_bytes()
            else:
                assert manifest.version == known.base
                known.state = "closed"
            if known.base:
                base = next(k for n, k in enumerate(self.model[which]) if self.name(which, n) == known.base)
                assert (known.state == "closed") == (known.generation == base.generation)

    @precondition(lambda self: self.backend.left is None)
    @rule(writes=st.integers(0, 15), after=st.booleans())
    def doom(self, writes: int, after: bool) -> None:
        """The run will die at one of its next writes."""
        self.backend.left, self.backend.after = writes, after

    def known(self, which: int) -> Known:
        """The model of the version a handle is of."""
        number = self.handles[which].version.number
        return self.model[which][number - 1]

    @contextlib.contextmanager
    def may_die(self, which: int, opening: Known | None = None) -> Iterator[None]:
        """After a death all handles are gone, and the model learns how far the step came."""
        try:
            yield
        except Died:
            self.handles.clear()
            self.backend.left = None
            self.learn(which, opening)

    def learn(self, which: int, opening: Known | None) -> None:
        """One step makes one transition at most in one direction; anything else fails here or in `holds`."""
        attempts = self.model[which]
        versions = self.store.of_key("saliency", self.keys[which].digest())
        if opening is not None and len(versions) == len(attempts) + 1:
            attempts.append(opening)
        assert len(versions) == len(attempts)
        for version, known in zip(versions, attempts, strict=True):
            if known.state == "open":
                known.state = version.state
                if known.state == "complete":
                    known.manifest = self.store.manifest("saliency", version.name).to_bytes()
                found = OpenAttempt(self.store, version, self.store.attempt(version)).finished()
                assert known.shards.items() <= {n: r.to_bytes() for n, r in found.items()}.items()
                known.shards = {n: r.to_bytes() for n, r in found.items()}

    @invariant()
    def holds(self) -> None:
        for which, key in enumerate(self.keys):
            versions = self.store.of_key("saliency", key.digest())
            assert [(v.name, v.state) for v in versions] == [
                (self.name(which, n), k.state) for n, k in enumerate(self.model[which])
            ]
            standing = self.store.complete("saliency", key.digest())
            assert (standing.name if standing else None) == self.standing(which)
            assert [v.state for v in versions[:-1] if v.state == "open"] == []
            for version, known in zip(versions, self.model[which], strict=True):
                self.unchanged(version.name, known)

    def unchanged(self, name: str, known: Known) -> None:
        folder = f"artifacts/saliency/{name}"
        for shard, record in known.shards.items():
            assert self.backend.get(f"{folder}/progress/{shard:06d}.json") == record
        if known.state == "complete":
            manifest = self.store.resolve(f"saliency@{name}")
            assert manifest.to_bytes() == known.manifest
            assert list(damaged(self.backend, manifest, deep=True)) == []
        if known.state != "open":
            assert known.state == "closed" or self.backend.size(f"{folder}/closed.json") is None


@pytest.mark.timeout(120)
def test_stores_keep_their_promises(kit: Any) -> None:
    machine = type("RunsWithKit", (Runs,), {"kit": kit})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=120, stateful_step_count=30, deadline=None, derandomize=True)
    )
