"""What is garbage in a store: seen in one pass, then decided without looking again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from storage._roots import DAY, Folder, closure, listed, roots, seconds, utc
from storage.backends import Backend
from storage.backends.base import Entry
from storage.errors import Conflict, NotFound
from storage.manifest import RECORD_LIMIT, Manifest, Member, Record, ShardRecord, parse
from storage.parallel import ordered_map
from storage.store import Store

_RECORDS = ("attempt.json", "closed.json", "collected.json")  # they stay for ever, so that no number is used twice
_SHARD_RECORD = re.compile(r"progress/[0-9]{6}\.json")

R = TypeVar("R", bound=Record)


class Closed(Record):
    """Ends an attempt that came to no version of its own."""

    reason: str
    closed: str


class Collected(Record):
    """Ends a version that gc collected; the grace of its bytes is counted from the time in it."""

    collected: str


@dataclass(frozen=True)
class Doomed:
    """A version to be collected."""

    ref: str
    bytes: int  # that nothing else needs, and that come free later
    why: str
    ended: str  # the time from which the grace of its bytes is counted


@dataclass(frozen=True)
class Collection:
    """What a collection would do, and what it would leave."""

    days: float
    versions: tuple[Doomed, ...]  # to be closed: their manifests go, their bytes in a later collection
    objects: tuple[Entry, ...]  # to be deleted
    kept: dict[str, str]  # complete and open versions, and why
    waiting: dict[str, str]  # versions closed or collected whose bytes stay through the grace period, and since when
    missing: dict[str, str]  # named, and not there: by whom
    marked: tuple[str, ...]  # complete versions that a collection which died had marked: the next one settles them

    @property
    def bytes(self) -> int:
        """The bytes of `objects`."""
        return sum(e.bytes for e in self.objects)


@dataclass(frozen=True)
class Seen:
    """The store at one moment."""

    now: float
    days: float
    folders: dict[str, Folder]
    shards: dict[str, Entry]  # by key
    manifests: dict[str, Manifest]
    named: dict[str, str]  # versions, and by whom
    ended: dict[str, float]  # closed and collected versions, and since when
    records: dict[str, list[Member]]  # members that records of shards name, of open and lately ended versions

    def is_old(self, moment: float) -> bool:
        return self.now - moment >= self.days * DAY

    def is_over(self, ref: str) -> bool:
        """Whether a version's bytes may go: collected by an earlier collection, and the grace is over."""
        return ref in self.ended and self.folders[ref].is_collected and self.is_old(self.ended[ref])


def see(store: Store, days: float, now: float) -> Seen:
    """Objects first, then who names them, so that an object listed here is either old or seen as named."""
    folders, shards = listed(store)
    manifests = _manifests(store, folders)
    ended = {f.ref: _ended(store.backend, f) for f in folders.values() if not (f.is_open or f.has_manifest)}
    named = roots(store, folders, now, days)
    seen = Seen(now, days, folders, shards, manifests, named, ended, {})
    for ref in manifests:
        if not seen.is_old(_published(seen, ref)):
            named.setdefault(ref, f"published less than {days:g} days ago")
    named |= closure(named, {ref: m.key for ref, m in manifests.items()})
    for ref, folder in folders.items():
        if not (folder.has_manifest or seen.is_over(ref)):
            seen.records[ref] = _recorded(store, folder)
    return seen


def _manifests(store: Store, folders: Mapping[str, Folder]) -> dict[str, Manifest]:
    complete = [f for f in folders.values() if f.has_manifest]
    read = ordered_map(lambda f: store.manifest(f.kind, f.name), complete, store.backend.threads, ahead=16)
    try:
        return {f.ref: m for f, m in zip(complete, read, strict=True)}
    except NotFound as error:
        raise Conflict(f"{error}. The store changed while it was looked at: is another collection under way?") from None


def _recorded(store: Store, folder: Folder) -> list[Member]:
    """The members that a version's finished shards name."""
    keys = [e.key for name, e in folder.files.items() if _SHARD_RECORD.fullmatch(name)]
    read = ordered_map(lambda k: _read(store.backend, ShardRecord, k), keys, store.backend.threads, ahead=64)
    return [m for record in read for m in record.members]


def _published(seen: Seen, ref: str) -> float:
    """When a version was published, by its maker's clock or the store's: the later, for one may be wrong."""
    folder = seen.folders[ref]
    told = seconds(seen.manifests[ref].published, f"{folder.key}/manifest.json")
    return max(told, folder.files["manifest.json"].modified)


def _ended(backend: Backend, folder: Folder) -> float:
    """When a version was closed or collected, in seconds since the epoch."""
    if folder.is_collected:
        key = f"{folder.key}/collected.json"
        return seconds(_read(backend, Collected, key).collected, key)
    key = f"{folder.key}/closed.json"
    return max(seconds(_read(backend, Closed, key).closed, key), folder.files["closed.json"].modified)


def decide(seen: Seen) -> Collection:
    """What is garbage in a store as it was seen. Pure."""
    needed = {m.key for ref, members in seen.records.items() if not _to_close(seen, ref) for m in members}
    for ref, manifest in seen.manifests.items():
        if ref in seen.named:
            needed |= {m.key for m in (*manifest.members, *manifest.views)}
    versions = tuple(_doomed(seen, needed))
    named = {m.key for members in seen.records.values() for m in members}
    named |= {m.key for manifest in seen.manifests.values() for m in (*manifest.members, *manifest.views)}
    going = {d.ref for d in versions}
    return Collection(
        days=seen.days,
        versions=versions,
        objects=tuple(e for e in _deletable(seen) if e.key not in named),
        kept=_kept(seen),
        waiting={r: f"since {utc(t)}" for r, t in seen.ended.items() if not (r in going or seen.is_over(r))},
        missing={r: why for r, why in seen.named.items() if _is_missing(seen, r)},
        marked=tuple(r for r in seen.manifests if seen.folders[r].is_collected),
    )


def _to_close(seen: Seen, ref: str) -> bool:
    """Whether an attempt was closed so long ago that it is to be marked as collected."""
    return ref in seen.ended and not seen.folders[ref].is_collected and seen.is_old(seen.ended[ref])


def _doomed(seen: Seen, needed: set[str]) -> Iterator[Doomed]:
    for ref, manifest in seen.manifests.items():
        if ref not in seen.named:
            when = manifest.published
            why = f"named by no tag, open attempt or run of the last {seen.days:g} days; published {when}"
            yield Doomed(ref, _freed(seen, ref, needed, (*manifest.members, *manifest.views)), why, utc(seen.now))
    for ref, since in seen.ended.items():
        if _to_close(seen, ref):
            why = f"an attempt that came to nothing of its own; closed {utc(since)}"
            yield Doomed(ref, _freed(seen, ref, needed, seen.records[ref]), why, utc(since))


def _freed(seen: Seen, ref: str, needed: set[str], members: Iterable[Member]) -> int:
    """Bytes of a version that nothing kept needs; what two versions share counts for the first."""
    sizes = {e.key: e.bytes for name, e in seen.folders[ref].files.items() if name not in _RECORDS}
    sizes |= {m.key: m.bytes for m in members}
    mine = sizes.keys() - needed
    needed |= mine
    return sum(sizes[key] for key in mine)


def _deletable(seen: Seen) -> Iterator[Entry]:
    """What may go unless something names it."""
    for ref, folder in seen.folders.items():
        for name, entry in folder.files.items():
            died = name.startswith("claims/") and seen.now - entry.modified >= DAY
            done = name.startswith("work/") and not folder.is_open and seen.is_old(entry.modified)
            if died or done or (seen.is_over(ref) and name not in _RECORDS):
                yield entry
    yield from (e for e in seen.shards.values() if seen.is_old(e.modified))


def _kept(seen: Seen) -> dict[str, str]:
    opened = {f.ref: "open: the next run that asks for it goes on with it" for f in seen.folders.values() if f.is_open}
    return opened | {r: seen.named[r] for r in seen.manifests if r in seen.named}


def _is_missing(seen: Seen, ref: str) -> bool:
    """Whether a named version is lost; a closed attempt was never there."""
    folder = seen.folders.get(ref)
    return folder is None or not (folder.has_manifest or folder.is_open or "closed.json" in folder.files)


def _read(backend: Backend, record: type[R], key: str) -> R:
    return parse(record, backend.get(key, limit=RECORD_LIMIT), key)
