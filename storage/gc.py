"""Collect what nobody names any more: versions first, their bytes in a later collection.

Whoever gives something a name and whoever takes it away could cross. So each first writes what it is about to do,
and only then looks at what the other wrote: of two at once, one at least sees the other and gives way.

- A version: gc writes collected.json, then looks for names again. `tag` claims the version, an attempt names what it
  is made from, a run publishes a manifest; then they look for collected.json.
- A member of a shard, which any version may come to name: gc writes gc/<id>.json, the objects that it is about to
  delete, then looks for names again. A shard's record names its members; then publishing looks into gc/.

So ages are for people who read what is being collected, and nothing that is named hangs on them.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from storage._garbage import Collected, Collection, Doomed, Seen, decide, see
from storage._roots import BY_RUN, DAY, closure, utc
from storage.backends import Backend
from storage.backends.base import Entry
from storage.errors import Conflict, GazeflowError, Integrity, InvalidInput, NotFound
from storage.manifest import RECORD_LIMIT, Record, parse
from storage.parallel import ordered_map
from storage.store import Store
from storage.tags import who

GRACE_DAYS = 7.0

_AT_ONCE = 200_000  # objects that one collection deletes; the rest wait for the next
_ANNOUNCEMENT = re.compile(r"[0-9a-f]+\.json")  # what else lies there is not ours
_HOUR = 3600.0  # a collection deletes for no longer; after two it is taken for dead

Clock = Callable[[], float]


class Announcement(Record):
    """A collection under way, and the objects that it may delete at any moment."""

    who: str
    started: str
    objects: list[str]


@dataclass(frozen=True)
class Outcome:
    """What a collection did."""

    versions: tuple[str, ...]  # collected
    spared: tuple[str, ...]  # marked, then named by someone: they stay
    objects: int  # deleted
    bytes: int
    leftovers: int  # half-written by writers that died


def plan_collection(store: Store, days: float = GRACE_DAYS, clock: Clock = time.time) -> Collection:
    """What `collect` would do now; nothing is written.

    Args:
        days: for which a version stays after it was published, and bytes after their version was closed or collected.

    Raises Format or Integrity for a record that cannot be read, since what it names is not known.
    """
    return decide(see(store, days, clock()))


def collect(store: Store, plan: Collection, clock: Clock = time.time) -> Outcome:
    """Do what was planned, as far as it still holds. Killed anywhere, it leaves what the next collection goes on with.

    Raises Conflict when another collection is under way, InvalidInput when this machine's clock is not the store's,
    Integrity when a version is lost that a tag or an attempt names, Format or Integrity as `plan_collection`.
    """
    _refuse_lost(store.backend, plan)
    until = time.time() + _HOUR
    planned = plan.objects[:_AT_ONCE]
    leftovers = _swept(store.backend, plan.days)  # first: on a full disk it makes room for what follows
    with _announced(store, planned, clock()) as announce:
        with _marked(store.backend, plan.versions):
            seen = see(store, plan.days, clock())
            _refuse_lost(store.backend, decide(seen))
            gone, spared = _settle(store, seen, until)
        still = {e.key for e in decide(seen).objects}
        objects = [e for e in planned if e.key in still]
        announce(objects)
        deleted = _delete(store.backend, objects, until)
    versions = tuple(r for r in dict.fromkeys([*(d.ref for d in plan.versions), *gone]) if r not in spared)
    return Outcome(versions, tuple(spared), len(deleted), sum(e.bytes for e in deleted), leftovers)


def _refuse_lost(backend: Backend, plan: Collection) -> None:
    """Raise Integrity where something lasting names a version that is not there: its members pass for nobody's."""
    for ref, why in plan.missing.items():
        # looked up once more: it may have been published since the listing
        seen_late = backend.size(f"artifacts/{ref.replace('@', '/')}/manifest.json") is not None
        if not (seen_late or why.startswith(BY_RUN)):
            raise Integrity(
                f"{backend.url}: expected {ref} ({why}), found no such version; nothing more was collected, since "
                "its bytes cannot be told from garbage. Put its folder back, or move that tag"
            )


def _swept(backend: Backend, days: float) -> int:
    """Half-written leftovers removed; of a place that cannot list them none. Young ones may be of writers at work."""
    try:
        return backend.sweep(max(days, 1) * DAY)
    except GazeflowError:
        return 0


@contextlib.contextmanager
def _marked(backend: Backend, versions: Sequence[Doomed]) -> Iterator[None]:
    """Mark what is to be collected. Where that cannot be settled, the marks go again as far as they can."""
    keys = [f"artifacts/{doomed.ref.replace('@', '/')}/collected.json" for doomed in versions]
    try:
        for key, doomed in zip(keys, versions, strict=True):
            backend.replace(key, Collected(collected=doomed.ended).to_bytes())
        yield
    except BaseException:
        with contextlib.suppress(GazeflowError):  # the next collection settles what stays marked
            for key in keys:
                if backend.size(key.replace("collected.json", "manifest.json")) is not None:
                    backend.delete(key)
        raise


def about_to_go(backend: Backend, keys: Iterable[str]) -> dict[str, str]:
    """Those of some objects that a collection under way may delete at any moment, and the object that says so."""
    found: dict[str, str] = {}
    for name in filter(_ANNOUNCEMENT.fullmatch, backend.children("gc/")):
        with contextlib.suppress(NotFound):  # it has just ended
            record = parse(Announcement, backend.get(f"gc/{name}", limit=RECORD_LIMIT), f"gc/{name}")
            found |= dict.fromkeys(set(keys).intersection(record.objects), f"gc/{name}")
    if not found:
        return {}
    # a run refreshes its record: the newest is the time, by the store's clock
    now = max((e.modified for e in backend.entries("runs/")), default=0.0)
    alive = {e.key for e in backend.entries("gc/") if now - e.modified < 2 * _HOUR}
    return {key: name for key, name in found.items() if name in alive}


@contextlib.contextmanager
def _announced(store: Store, objects: Sequence[Entry], now: float) -> Iterator[Callable[[Sequence[Entry]], None]]:
    """Tell everyone, for as long as the block lasts, which objects may go; yields what tells of others instead."""
    key = f"gc/{uuid.uuid4().hex}.json"

    def announce(objects: Sequence[Entry]) -> None:
        record = Announcement(who=who(), started=utc(now), objects=[e.key for e in objects])
        store.backend.replace(key, record.to_bytes())

    announce(objects)
    try:
        _check_alone(store.backend, key, now)
        yield announce
    finally:
        with contextlib.suppress(GazeflowError):  # what stays is taken for dead in two hours
            store.backend.delete(key)


def _check_alone(backend: Backend, key: str, now: float) -> None:
    """Raise Conflict where another collection is under way, InvalidInput where this machine's clock is wrong."""
    found = {e.key: e for e in backend.entries("gc/") if _ANNOUNCEMENT.fullmatch(e.key.removeprefix("gc/"))}
    mine = found.pop(key).modified
    if abs(mine - now) > _HOUR:
        raise InvalidInput(
            f"{backend.url}: its clock says {utc(mine)}, this machine's {utc(now)}; nothing was collected, since "
            "ages would be wrong. Set the clock, then run again"
        )
    for other in found.values():
        if mine - other.modified < 2 * _HOUR:
            raise Conflict(
                f"{backend.url}/{other.key}: another collection is under way since {utc(other.modified)}; nothing was "
                "collected. Run again when it has ended; of one that died, that is two hours later, or when you have "
                "deleted that object"
            )
        backend.delete(other.key)


def _settle(store: Store, seen: Seen, until: float) -> tuple[list[str], list[str]]:
    """Delete the manifests of what is marked, or the marks of what somebody named meanwhile: (gone, spared).

    What is complete and not marked may be tagged at any moment, so that all it was made from is spared too.
    """
    stands = seen.named | dict.fromkeys((r for r in seen.manifests if not seen.folders[r].is_collected), "complete")
    stands = closure(stands, {r: m.key for r, m in seen.manifests.items()})
    gone, spared = [], []
    for ref, manifest in seen.manifests.items():
        folder = seen.folders[ref]
        if not folder.is_collected or time.time() > until:
            continue
        if ref in stands and store.holds((*manifest.members, *manifest.views)):
            store.backend.delete(f"{folder.key}/collected.json")
            spared.append(ref)
        else:
            store.backend.delete(f"{folder.key}/manifest.json")
            gone.append(ref)
    return gone, spared


def _delete(backend: Backend, entries: Sequence[Entry], until: float) -> list[Entry]:
    """Delete objects until the time is over; returns those that are gone."""

    def delete(entry: Entry) -> bool:
        if time.time() > until:
            return False
        backend.delete(entry.key)
        return True

    done = ordered_map(delete, entries, backend.threads, ahead=64)
    return [e for e, gone in zip(entries, done, strict=True) if gone]
