"""Does a place keep the promises a store relies on? Tried out, not looked up: servers differ from their documents.

Everything is written below `doctor/<random>/` of the place and removed again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier

from storage.backends import Backend
from storage.backends.local import LocalBackend
from storage.canonical import canonical_json, sha256
from storage.errors import GazeflowError, Integrity, InvalidInput, NotFound, Transient
from storage.manifest import STORE_FORMAT
from storage.store import stated_create_only

MIB = 2**20
WRITERS = 16
_RACES = ((1000, 8), (9 * MIB, 2))  # (bytes of a body, rounds)
_ABANDONED = 24 * 3600  # seconds after which what an earlier doctor or writer left is nobody's
_FREE = 10 * 10**9  # bytes
CREATE_ONLY = ("create-only", "create-only, 16 at once")

_OTHER_SERVER = "runs at the same time could destroy each other's records: take another server"


@dataclass(frozen=True)
class Finding:
    """What one check found: "ok", "warning" (read the advice), "bad" (do not rely on the place) or "unknown".

    Unknown is what the place could not answer just now; only another examination tells.
    """

    name: str
    verdict: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Place:
    """A backend and a corner of it to try things in."""

    backend: Backend
    folder: str  # "doctor/<random>/"

    def key(self, name: str) -> str:
        return f"{self.folder}{name}"


Check = Callable[[Place], Finding]


def examine(backend: Backend) -> list[Finding]:
    """Try out what the store needs of a place; a place that cannot be written gives that finding alone."""
    place = Place(backend, f"doctor/{uuid.uuid4().hex}/")
    try:
        first = _tried("bytes come back", check_bytes_come_back, place)
        rest = _checks(backend) if first.verdict == "ok" else ()
        return accepted(backend, [first, *(_tried(name, check, place) for name, check in rest)])
    finally:
        _remove(backend, place.folder, older=0)
        _remove(backend, "doctor/", older=_ABANDONED)


def unsafe(findings: Iterable[Finding]) -> bool:
    """Whether create-only cannot be relied on, so that a store there must be accepted by its user."""
    return any(f.name in CREATE_ONLY and f.verdict == "bad" for f in findings)


def accept_unsafe(backend: Backend) -> None:
    """Say in the store that its user accepts a place that overwrites; every manifest made there then says so.

    Raises Format when the store is of another release.
    """
    with contextlib.suppress(NotFound):
        stated_create_only(backend, backend.get("gazeflow.json", limit=4096))
    backend.replace("gazeflow.json", canonical_json({"format": STORE_FORMAT, "create_only": False}))


def _checks(backend: Backend) -> Iterator[tuple[str, Check]]:
    yield "missing objects", check_missing
    yield CREATE_ONLY[0], check_create_only
    yield CREATE_ONLY[1], check_races
    yield "listing", check_listing
    yield "replacing", check_replacing
    yield "ranged reads", check_ranges
    yield "large objects", check_large
    yield "clock", check_clock
    if isinstance(backend, LocalBackend):
        yield "free disk", check_disk
        yield "leftovers", check_aside
    if backend.url.startswith("s3://"):
        from storage.backends import _s3_probe

        for name, probe in _s3_probe.PROBES.items():
            yield name, _probed(functools.partial(_s3_probe.ask, probe))


def _probed(ask: Callable[..., tuple[str, str, str]]) -> Check:
    return lambda place: Finding("", *ask(place.backend, place.key("probe")))


def _tried(name: str, check: Check, place: Place) -> Finding:
    """A check's finding under its name; an error is one too, not the end of the examination."""
    try:
        return replace(check(place), name=name)
    except Transient as error:
        return Finding(name, "unknown", str(error), "run `gazeflow doctor` again when the place is well")
    except GazeflowError as error:
        return Finding(name, "bad", str(error), "mend that, then run `gazeflow doctor` again")


def accepted(backend: Backend, findings: list[Finding]) -> list[Finding]:
    """Findings of create-only are warnings where the store's record says that its user accepts them."""
    if not unsafe(findings):
        return findings
    try:
        if stated_create_only(backend, backend.get("gazeflow.json", limit=4096)):
            return findings
    except GazeflowError:
        return findings
    advice = "accepted in gazeflow.json: never let two runs use this store at once"
    return [replace(f, verdict="warning", advice=advice) if unsafe([f]) else f for f in findings]


def check_bytes_come_back(place: Place) -> Finding:
    """Write random bytes; size, whole read and stream must be those bytes."""
    key, data = place.key("bytes"), os.urandom(100_000)
    place.backend.replace(key, data)
    size, streamed = place.backend.size(key), b"".join(place.backend.stream(key))
    if size != len(data) or {sha256(place.backend.get(key)), sha256(streamed)} != {sha256(data)}:
        return Finding("", "bad", "other bytes came back than were written", "do not use this place")
    return Finding("", "ok", f"SHA-256 of {len(data)} bytes written, listed and read is one")


def check_missing(place: Place) -> Finding:
    """What is not there must be told as missing, not as forbidden, and may be deleted."""
    key = place.key("nothing")
    try:
        size = place.backend.size(key)
        place.backend.delete(key)
    except InvalidInput as error:
        advice = "let the policy allow s3:ListBucket without a condition: some servers answer 403 for 404 else"
        return Finding("", "bad", str(error), advice)
    if size is not None:
        return Finding("", "bad", "an object that was never written has a size", "do not use this place")
    return Finding("", "ok", "what is not there is told as missing")


def check_create_only(place: Place) -> Finding:
    """A second creation must be refused and change nothing, also of a large object."""
    for name, size in (("one", 10), ("part", 9 * MIB)):
        key, first, second = place.key(name), b"1" * size, b"2" * size
        created = place.backend.create(key, first), place.backend.create(key, second)
        if created != (True, False) or place.backend.get(key) != first:
            what = "overwrote an object it was told to create only" if created[0] else "refused a new object"
            return Finding("", "bad", f"the place {what} ({size} bytes)", f"{_OTHER_SERVER}, or `--accept-unsafe`")
    return Finding("", "ok", "an object that exists is not overwritten")


def check_races(place: Place) -> Finding:
    """Of 16 writers at once exactly one must win, and its bytes stand."""
    winners = [_race(place, size, n) for size, rounds in _RACES for n in range(rounds)]
    wrong = [w for w in winners if w != 1]
    if wrong:
        found = f"in {len(wrong)} of {len(winners)} rounds {min(wrong)} to {max(wrong)} of {WRITERS} writers won"
        return Finding("", "bad", found, f"{_OTHER_SERVER}, or an unversioned bucket, or `--accept-unsafe`")
    return Finding("", "ok", f"one of {WRITERS} writers won in each of {len(winners)} rounds")


def _race(place: Place, size: int, number: int) -> int:
    """How many writers were told that they won; 0 also when other bytes stand than the winner's."""
    key = place.key(f"race-{size}-{number}")
    noise = memoryview(os.urandom(size + WRITERS))
    bodies = [noise[n : n + size] for n in range(WRITERS)]  # all different, in the memory of one
    start = Barrier(WRITERS)

    def write(body: memoryview) -> bool:
        start.wait()
        return place.backend.create(key, body)

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, bodies))
    stands = won.count(True) != 1 or place.backend.get(key) == bodies[won.index(True)]
    place.backend.delete(key)
    return won.count(True) if stands else 0


def check_listing(place: Place) -> Finding:
    """An object must be listed right after it was written, and gone from the list right after its deletion."""
    folder = place.key("list/")
    for n in range(20):
        place.backend.create(f"{folder}{n:02d}", b"x")
        if [e.key for e in place.backend.entries(folder)] != [f"{folder}{i:02d}" for i in range(n + 1)]:
            return Finding("", "bad", "an object was not listed right after its write", "do not use this place")
    place.backend.delete(f"{folder}00")
    if "00" in place.backend.children(folder):
        return Finding("", "bad", "an object was listed right after its deletion", "do not use this place")
    return Finding("", "ok", "what is written is listed at once, what is deleted is not")


def check_replacing(place: Place) -> Finding:
    """A replaced object must be read new at once."""
    key = place.key("replaced")
    for n in range(10):
        data = b"x" * n
        place.backend.replace(key, data)
        if place.backend.get(key) != data or place.backend.size(key) != n:
            return Finding("", "bad", "an old object was read right after its replacement", "is a cache in between?")
    return Finding("", "ok", "what is replaced is read new at once")


def check_ranges(place: Place) -> Finding:
    """Bytes from the middle, to the end, and past the end."""
    key, data = place.key("range"), os.urandom(3 * MIB)
    place.backend.replace(key, data)
    read = [place.backend.get_range(key, at, size) for at, size in ((0, 1), (MIB - 1, MIB), (len(data) - 7, 7))]
    read.append(b"".join(place.backend.stream(key, 2 * MIB)))
    if read != [data[:1], data[MIB - 1 : 2 * MIB - 1], data[-7:], data[2 * MIB :]]:
        return Finding("", "bad", "ranges of an object are other bytes than the object's", "do not use this place")
    with contextlib.suppress(Integrity):
        place.backend.get_range(key, len(data) - 1, 2)
        return Finding("", "bad", "a range past an object's end was answered", "do not use this place")
    return Finding("", "ok", "parts of an object are read as asked for")


def check_large(place: Place) -> Finding:
    """A large object must come back whole."""
    key, data = place.key("large"), os.urandom(20 * MIB + 1)
    began = time.monotonic()
    if not place.backend.create(key, data) or place.backend.size(key) != len(data):
        return Finding("", "bad", "an object of 20 MiB could not be created whole", "do not use this place")
    if b"".join(place.backend.stream(key)) != data:
        return Finding("", "bad", "an object of 20 MiB came back with other bytes", "do not use this place")
    return Finding("", "ok", f"20 MiB up and down in {time.monotonic() - began:.1f} s")


def check_clock(place: Place) -> Finding:
    """The time a listing gives a new object must be this machine's."""
    key = place.key("clock")
    before = time.time()
    place.backend.replace(key, b"x")
    after = time.time()
    modified = next((e.modified for e in place.backend.entries(key)), None)
    if modified is None:
        return Finding("", "bad", "an object was not listed right after its write", "do not use this place")
    skew = max(before - 1 - modified, modified - after, 0.0)  # listings round to seconds
    found = f"the place's clock differs from this machine's by {skew:.0f} s"
    advice = "set both by NTP: gc judges the age of objects by them, and S3 refuses requests 15 minutes off"
    return Finding("", "ok" if skew <= 60 else "warning" if skew <= 900 else "bad", found, advice if skew > 60 else "")


def check_disk(place: Place) -> Finding:
    """Room for shards in the store's folder and for temporary files."""
    assert isinstance(place.backend, LocalBackend)
    room = {str(f): _free(f) for f in (place.backend.root, Path(tempfile.gettempdir()))}
    found = ", ".join(f"{free / 10**9:.1f} GB free in {folder}" for folder, free in room.items())
    if min(room.values()) < _FREE:
        return Finding("", "warning", found, f"ImageNet's labels take 15 GB: have {_FREE // 10**9} GB free at least")
    return Finding("", "ok", found)


def _free(folder: Path) -> int:
    at = os.statvfs(folder)
    return at.f_bavail * at.f_frsize


def check_aside(place: Place) -> Finding:
    """Files that killed writers left half-written."""
    assert isinstance(place.backend, LocalBackend)
    files = [f.stat() for f in place.backend.root.glob(".aside/*")]
    old = [f.st_size for f in files if time.time() - f.st_mtime > _ABANDONED]
    if old:
        found = f"{len(old)} half-written files of {sum(old)} bytes are a day old"
        return Finding("", "warning", found, "`gazeflow gc --apply` removes them")
    return Finding("", "ok", "nothing half-written is a day old")


def _remove(backend: Backend, prefix: str, older: float) -> None:
    """Remove what lies below a prefix and is so old; that the place may be unwell was told already."""
    with contextlib.suppress(GazeflowError):
        for entry in list(backend.entries(prefix)):
            if older == 0 or time.time() - entry.modified > older:
                backend.delete(entry.key)
    if isinstance(backend, LocalBackend):
        for folder in (f"{prefix}list", prefix):
            with contextlib.suppress(OSError):  # another doctor is at work there
                (backend.root / folder).rmdir()
