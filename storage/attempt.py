"""An attempt at a version: open or resume it, record finished shards and checkpoints, publish it.

Every record but a checkpoint's is written create-only, and members are named by their content, so that a run
killed anywhere leaves nothing half made, and two runs of one attempt meet without harm.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storage.canonical import canonical_json, now, pretty_json, sha256
from storage.errors import Conflict, Integrity, NotFound, Transient
from storage.gc import about_to_go
from storage.manifest import RECORD_LIMIT, Attempt, Key, Manifest, Member, ShardRecord, parse
from storage.parallel import ordered_map
from storage.store import Store, Version

_TRIES = 5  # at an object that gc deletes between two looks at it


def open_attempt(
    store: Store, key: Key, node: str, reason: str, run: str, base: str | None = None, redo: list[int] | None = None
) -> OpenAttempt:
    """Resume the open attempt at a key, or open the next one.

    Args:
        base: the complete version a forced attempt starts from; None for the first attempt.
        redo: shards of `base` to make again; None for all of them.

    Raises Conflict where gc is collecting the base or an input.
    """
    while True:
        attempts = store.of_key(key.stage, key.digest())
        if attempts and attempts[-1].state == "open":
            resumed = OpenAttempt(store, attempts[-1], store.attempt(attempts[-1]))
            if resumed.attempt.redo == redo or base is None:
                return resumed._standing()
            resumed.close("given up: other shards were asked for")
        number = attempts[-1].number + 1 if attempts else 1
        name = key.digest()[:12] + (f"-{number}" if number > 1 else "")
        attempt = Attempt(
            kind=key.stage, version=name, node=node, key=key, reason=reason, base=base, redo=redo, opened=now(), run=run
        )
        version = Version(key.stage, name, "open")
        if store.backend.create(f"artifacts/{key.stage}/{name}/attempt.json", attempt.to_bytes()):
            return OpenAttempt(store, version, attempt)._standing()


@dataclass(frozen=True)
class OpenAttempt:
    """A version in the making."""

    store: Store
    version: Version
    attempt: Attempt

    @property
    def folder(self) -> str:
        return f"artifacts/{self.version.kind}/{self.version.name}"

    def _standing(self) -> OpenAttempt:
        """The same, if what it is made from stays: gc, which looks at open attempts, has not marked any of it."""
        base = [f"{self.version.kind}@{self.attempt.base}"] if self.attempt.base else []
        for ref in (*base, *(r for refs in self.attempt.key.inputs.values() for r in refs)):
            if self.store.backend.size(f"artifacts/{ref.replace('@', '/')}/collected.json") is not None:
                self.close(f"given up: gc was collecting {ref}")
                raise Conflict(
                    f"{self.version.ref}: expected to make it from {ref}, which `gazeflow gc` is collecting or has "
                    "collected; nothing was made. Run again: what is gone is made anew, what gc spared is used"
                )
        return self

    def put(self, name: str, data: bytes, samples: int = 0) -> Member:
        """Store a result or view of an unsharded stage under a name made of its content."""
        stem, dot, ending = name.partition(".")
        return self._create(name, f"{self.folder}/{stem}-{sha256(data)[:16]}{dot}{ending}", data, samples)

    def put_shard(self, shard: int, ending: str, data: bytes, samples: int) -> Member:
        """Store a member of a sharded artifact, where any version of the kind may name it."""
        kind = self.version.kind
        name = f"{kind}-{shard:06d}"
        key = f"artifacts/{kind}/shards/{name}-{sha256(data)[:16]}{ending}"
        return self._create(name + ending, key, data, samples)

    def _create(self, name: str, key: str, data: bytes, samples: int) -> Member:
        member = Member(name=name, key=key, bytes=len(data), sha256=sha256(data), samples=samples)
        self._ensure(member, data)
        return member

    def _ensure(self, member: Member, data: bytes) -> None:
        """Have the object of a member, made or mended; gc may delete an old one, which nothing named, meanwhile."""
        for _ in range(_TRIES):
            if self.store.backend.create(member.key, data):
                return
            with contextlib.suppress(NotFound):
                self._mend(member, data)
                return
        raise Transient(f"{member.key}: it was deleted {_TRIES} times while it was made; run again when gc has ended")

    def _mend(self, member: Member, data: bytes) -> None:
        """See that the object under a content's name is that content: one that was damaged is put right."""
        found = sha256(self.store.backend.get(member.key))
        if found == member.sha256:
            return
        if found[:16] == member.sha256[:16]:
            raise Integrity(
                f"{member.key}: expected SHA-256 {member.sha256}, found other bytes with {found}, whose names are the "
                "same; left as they are. Change any param"
            )
        self.store.backend.replace(member.key, data)

    def finished(self) -> dict[int, ShardRecord]:
        """Shards of this attempt that are done and whose members are there, by number."""
        backend = self.store.backend
        names = [n for n in backend.children(f"{self.folder}/progress/") if n.removesuffix(".json").isdigit()]
        records = ordered_map(lambda n: self._record(f"{self.folder}/progress/{n}"), names, backend.threads, ahead=64)
        return {r.shard: r for r in records if r is not None}

    def is_finished(self, shard: int) -> bool:
        """Whether a shard is done, by this run or another, and its members are there."""
        return self._record(f"{self.folder}/progress/{shard:06d}.json") is not None

    def _record(self, key: str) -> ShardRecord | None:
        """The record of a finished shard, or None where there is none or a member of it is missing."""
        try:
            record = parse(ShardRecord, self.store.backend.get(key, limit=RECORD_LIMIT), key)
        except NotFound:
            return None
        return record if all(self.store.backend.size(m.key) == m.bytes for m in record.members) else None

    def start(self, shard: int) -> int:
        """Mark a start of a shard; returns the number of this try, from 1."""
        number = 1
        mark = pretty_json({"started": now()})
        while not self.store.backend.create(f"{self.folder}/progress/{shard:06d}.try-{number}.json", mark):
            number += 1
        return number

    def finish(self, record: ShardRecord) -> ShardRecord:
        """Mark a shard done. Raises Integrity when another run did it with other bytes."""
        key = f"{self.folder}/progress/{record.shard:06d}.json"
        if self.store.backend.create(key, record.to_bytes()):
            return record
        other = parse(ShardRecord, self.store.backend.get(key, limit=RECORD_LIMIT), key)
        if [(m.name, m.sha256) for m in other.members] != [(m.name, m.sha256) for m in record.members]:
            raise Integrity(
                f"{key}: this run and another made shard {record.shard} of {self.version.ref} with different "
                "bytes; the first stays. Compare their environments (package versions, device) before a rerun"
            )
        return other

    def save_checkpoint(self, step: int, tensors: bytes, state: dict[str, object]) -> None:
        """Keep a checkpoint in progress: tensors first, then the record that makes it valid."""
        tensors_key = f"{self.folder}/work/step-{step:08d}-{sha256(tensors)[:16]}.safetensors"
        record = {"step": step, "tensors": tensors_key, "sha256": sha256(tensors), "state": state}
        # replaced, not created: a checkpoint of this step may be there, and damaged
        self.store.backend.replace(tensors_key, tensors)
        self.store.backend.replace(f"{self.folder}/work/step-{step:08d}.json", canonical_json(record))
        self._drop_checkpoints(keep=2)

    def last_checkpoint(self) -> tuple[int, bytes, dict[str, Any]] | None:
        """The newest checkpoint whose bytes are whole: (step, tensors, state)."""
        for name in reversed(self.store.backend.children(f"{self.folder}/work/")):
            whole = self._checkpoint(f"{self.folder}/work/{name}") if name.endswith(".json") else None
            if whole:
                return whole
        return None

    def _checkpoint(self, key: str) -> tuple[int, bytes, dict[str, Any]] | None:
        """A checkpoint by its record, or None when either is damaged or gone."""
        try:
            record = json.loads(self.store.backend.get(key, limit=RECORD_LIMIT))
            step, state = int(record["step"]), dict(record["state"])
            tensors = self.store.backend.get(record["tensors"])
        except (NotFound, Integrity, ValueError, LookupError, TypeError, AttributeError):
            return None
        return (step, tensors, state) if sha256(tensors) == record.get("sha256") else None

    def _drop_checkpoints(self, keep: int) -> None:
        names = self.store.backend.children(f"{self.folder}/work/")
        steps = sorted({n[5:13] for n in names})
        for name in names:
            if name[5:13] in steps[: len(steps) - keep]:
                self.store.backend.delete(f"{self.folder}/work/{name}")

    def publish(self, manifest: Manifest) -> Manifest:
        """Close the attempt with its manifest, members first checked to be there.

        Returns the manifest that stands: another run's, when it finished first. A forced attempt whose result
        equals its base's publishes nothing and returns the base's manifest. Raises Integrity for a member that is
        not there, before the manifest is written or after; Transient and Conflict where gc was quicker.
        """
        if self.attempt.base:
            base = self.store.manifest(self.version.kind, self.attempt.base)
            if base.result_digest() == manifest.result_digest():
                self._heal(base, manifest)
                self.close(f"equal to {base.kind}@{base.version}")
                return base
        members = (*manifest.members, *manifest.views)
        self._refuse_going(members)
        self._check_sizes(members, "before publishing", "nothing was published. Run again")
        key = f"{self.folder}/manifest.json"
        if not self.store.backend.create(key, manifest.to_bytes()):
            return self.store.manifest(self.version.kind, self.version.name)
        self._drop_checkpoints(keep=0)
        self._refuse_collected()
        mend = f"it is published all the same. Run `gazeflow rerun {manifest.node} --damaged`"
        self._check_sizes(members, "after publishing", mend)
        return manifest

    def _refuse_going(self, members: Sequence[Member]) -> None:
        """Raise Transient where gc may delete a member at any moment: it was named too late to be spared."""
        for key, announcement in about_to_go(self.store.backend, [m.key for m in members]).items():
            raise Transient(
                f"{self.version.ref}: `gazeflow gc` is about to delete {key}, which nothing named when it looked; "
                f"nothing was published. Run again when {announcement} is gone, which goes with that collection; of "
                "one that died, two hours later"
            )

    def _check_sizes(self, members: Sequence[Member], when: str, outcome: str) -> None:
        sizes = ordered_map(lambda m: self.store.backend.size(m.key), members, self.store.backend.threads, ahead=64)
        with contextlib.closing(sizes):
            for member, size in zip(members, sizes, strict=True):
                if size != member.bytes:
                    raise Integrity(
                        f"{self.version.ref}: expected {member.key} with {member.bytes} bytes {when}, found {size}; "
                        f"{outcome}"
                    )

    def _refuse_collected(self) -> None:
        """Raise Conflict where gc had marked this attempt, since then its manifest does not count."""
        if self.store.backend.size(f"{self.folder}/collected.json") is not None:
            raise Conflict(
                f"{self.version.ref}: this attempt was ended by another run, and `gazeflow gc` is collecting it; what "
                "was made does not count. Run again"
            )

    def _heal(self, base: Manifest, again: Manifest) -> None:
        """Put right the base's damaged members with the equal ones just made."""
        made = {(m.name, m.sha256): m for m in (*again.members, *again.views)}
        for member in (*base.members, *base.views):
            source = made.get((member.name, member.sha256))
            if source is not None and source.key != member.key:
                data = self.store.read(source)
                self._ensure(member, data)

    def close(self, reason: str) -> None:
        """End the attempt without a version of its own."""
        self.store.backend.create(f"{self.folder}/closed.json", pretty_json({"reason": reason, "closed": now()}))
        self._drop_checkpoints(keep=0)

