"""What a store should hold, as lists: the model that test_store_machine.py compares a store with."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.manifest import Manifest
from storage.tags import TagEntry

SHARDS = (0, 1)
HOUR = 3600.0
DAY = 24 * HOUR

# What a step that died may have done to a version. "pending" is marked by gc, its manifest still there.
_MAY_BECOME = {
    "open": ("complete", "closed"),
    "complete": ("pending", "collected"),
    "closed": ("collected",),
    "pending": ("collected", "complete"),
    "collected": (),
}


@dataclass
class Known:
    """What the model knows of a version."""

    name: str
    state: str = "open"
    base: str | None = None
    redo: list[int] | None = None
    generation: int = 0  # of its content: a forced attempt may come to the same or to something else
    shards: dict[int, bytes] = field(default_factory=dict)  # finished: the record's bytes
    manifest: bytes = b""
    since: float = 0.0  # when it was published, closed or collected

    @property
    def shown(self) -> str:
        return "closed" if self.state in ("pending", "collected") else self.state

    def publish(self, manifest: bytes, now: float) -> None:
        self.state, self.manifest, self.since = "complete", manifest, now

    def end(self, state: str, now: float) -> None:
        self.state, self.since = state, now

    def learn(self, found: str, manifest: Manifest | None, now: float) -> None:
        if found == self.state:
            return
        assert found in _MAY_BECOME[self.state], f"{self.name}: {self.state} -> {found}"
        if self.state == "open" and manifest is not None:
            self.manifest = manifest.to_bytes()
        if self.state in ("open", "complete") or (self.state, found) == ("pending", "collected"):
            self.since = now
        self.state = found


@dataclass
class Model:
    """Versions by key, in their order, and tags."""

    keys: list[tuple[str, str]]  # kind and 12 digits
    child: int  # the key that is made from `source`
    source: str
    versions: list[list[Known]] = field(default_factory=list)
    tags: dict[tuple[str, str], list[TagEntry]] = field(default_factory=dict)
    claims: dict[str, float] = field(default_factory=dict)  # of taggers that died: ref -> when

    def __post_init__(self) -> None:
        self.versions = [[] for _ in self.keys]

    def next_name(self, which: int) -> str:
        number = len(self.versions[which]) + 1
        return self.keys[which][1] + (f"-{number}" if number > 1 else "")

    def open(self, which: int, known: Known) -> Known:
        known.name = self.next_name(which)
        self.versions[which].append(known)
        return known

    def resume(self, which: int, asked: Known, now: float) -> Known:
        """The open attempt, if it is what is asked for; else the next one, the open one given up."""
        last = self.versions[which][-1] if self.versions[which] else None
        if last is not None and last.state == "open":
            if asked.base is None or last.redo == asked.redo:
                return last
            last.end("closed", now)
        return self.open(which, asked)

    def standing(self, which: int) -> Known | None:
        done = [k for k in self.versions[which] if k.state == "complete"]
        return done[-1] if done else None

    def refs(self) -> list[str]:
        return [f"{kind}@{k.name}" for (kind, _), known in zip(self.keys, self.versions, strict=True) for k in known]

    def find(self, ref: str) -> Known | None:
        kind, _, name = ref.partition("@")
        found = [k for n, known in enumerate(self.versions) if self.keys[n][0] == kind for k in known if k.name == name]
        return found[0] if found else None

    def kept(self, days: float, now: float) -> set[str]:
        """Refs that gc must leave: of tags, open attempts and young versions, and what those are made from."""
        kept = {e.ref for entries in self.tags.values() for e in entries[-10:]}
        kept |= {ref for ref, since in self.claims.items() if now - since < DAY}
        for which, (kind, _) in enumerate(self.keys):
            for known in self.versions[which]:
                if known.state == "open":
                    kept |= {f"{kind}@{known.base}"} | ({self.source} if which == self.child else set())
                elif known.state in ("complete", "pending") and now - known.since < days * DAY:
                    kept.add(f"{kind}@{known.name}")
        if any(ref.startswith(self.keys[self.child][0]) and self._is_there(ref) for ref in kept):
            kept.add(self.source)
        return {ref for ref in kept if self._is_there(ref)}

    def _is_there(self, ref: str) -> bool:
        known = self.find(ref)
        return known is not None and known.state in ("complete", "pending")

    def collect(self, days: float, now: float, kept: set[str]) -> set[str]:
        """Do what gc does; returns what it should say it collected."""
        gone = set()
        for ref in self.refs():
            known = self.find(ref)
            assert known is not None
            if known.state == "pending" and ref in kept:
                known.state = "complete"
            elif known.state in ("complete", "pending") and ref not in kept:
                known.end("collected", now)
                gone.add(ref)
            elif known.state == "closed" and now - known.since >= days * DAY:
                known.state = "collected"
                gone.add(ref)
        return gone


def replayed(entries: list[TagEntry]) -> list[TagEntry]:
    """The moves that a tag still remembers: a rollback takes the last one away."""
    stack: list[TagEntry] = []
    for entry in entries:
        stack = [*stack, entry] if entry.restores is None else stack[:-1]
    return stack
