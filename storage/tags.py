"""Tags: names that people move from version to version.

A tag is a line of numbered records, each create-only: the highest is the tag, the rest its history. Two people who
move one tag at once cannot both succeed; the second is told. A version is claimed before it is checked and tagged, so
that gc, which looks for claims after it has marked a version, cannot take it away in between.
"""

from __future__ import annotations

import contextlib
import getpass
import socket
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from storage.backends import Backend
from storage.canonical import now, pretty_json
from storage.errors import Conflict, Format, GazeflowError, Integrity, InvalidInput, NotFound
from storage.keys import check_name
from storage.manifest import RECORD_LIMIT, Member, Record, parse

if TYPE_CHECKING:
    from storage.store import Store


class TagEntry(Record):
    """One move of a tag."""

    kind: str
    tag: str
    number: int = Field(ge=1, le=999_999)
    version: str = Field(pattern=r"^[0-9a-f]{12}(-([2-9]|[1-9][0-9]+))?$")
    restores: int | None = Field(None, ge=1)  # the entry that a rollback went back to
    who: str
    when: str
    write: str  # of this write alone, so that a lost answer is not taken for a conflict

    @property
    def ref(self) -> str:
        return f"{self.kind}@{self.version}"

    @property
    def key(self) -> str:
        return f"tags/{self.kind}/{self.tag}/{self.number:06d}.json"


def current(backend: Backend, kind: str, tag: str) -> TagEntry:
    """What a tag means now. Raises NotFound."""
    return _read(backend, kind, tag, _last_number(backend, kind, tag))


def history(backend: Backend, kind: str, tag: str) -> list[TagEntry]:
    """All entries of a tag, first to last. Raises NotFound for a tag that was never set."""
    return last_entries(backend, kind, tag, None)


def last_entries(backend: Backend, kind: str, tag: str, count: int | None) -> list[TagEntry]:
    """The last entries of a tag, or all, in their order. Raises NotFound."""
    last = _last_number(backend, kind, tag)
    first = 1 if count is None else max(1, last - count + 1)
    return [_read(backend, kind, tag, n) for n in range(first, last + 1)]


def all_tags(backend: Backend) -> Iterator[tuple[str, str]]:
    """Every tag there is, as (kind, tag); a folder without entries, or of another name, is none."""
    for kind in _folders(backend, "tags/"):
        yield from ((kind, tag) for tag in _folders(backend, f"tags/{kind}/") if _numbers(backend, kind, tag))


def set_tag(store: Store, ref: str, tag: str) -> TagEntry:
    """Point a tag at a version; where it points there already, nothing is written.

    Raises NotFound for a version that is not complete, Integrity when members of it are missing, Conflict when
    someone else moves the tag to another version at the same moment, or gc is collecting this one.
    """
    manifest = store.resolve(ref)
    check_name(tag, "tag")
    try:
        before = current(store.backend, manifest.kind, tag)
    except NotFound:
        before = None
    if before is not None and before.version == manifest.version:
        return before
    return _append(store, manifest.kind, tag, before.number + 1 if before else 1, manifest.version, None)


def rollback(store: Store, kind: str, tag: str) -> TagEntry:
    """Point a tag at what it meant before; again, at what it meant before that.

    Raises NotFound when there is nothing before or gc has collected it, and the rest as `set_tag`.
    """
    entries = history(store.backend, kind, tag)
    means = entries[-1].restores or entries[-1].number
    if means == 1:
        raise NotFound(
            f"{kind}:{tag}: expected an earlier version to go back to; {entries[0].ref} was its first. Nothing was "
            f"changed; see `gazeflow tags {kind}:{tag}`"
        )
    target = entries[means - 2]
    return _append(store, kind, tag, entries[-1].number + 1, target.version, target.restores or target.number)


def _append(store: Store, kind: str, tag: str, number: int, version: str, restores: int | None) -> TagEntry:
    entry = TagEntry(
        kind=kind, tag=tag, number=number, version=version, restores=restores, who=who(), when=now(),
        write=uuid.uuid4().hex,
    )  # fmt: skip
    members = _members(store, entry)
    with _claimed(store.backend, entry):
        _check_whole(store, entry, members)
        if store.backend.create(entry.key, entry.to_bytes()):
            return entry
    other = _read(store.backend, kind, tag, number)
    if other.version == version:  # someone else moved it there, or this write's answer was lost
        return other
    raise Conflict(
        f"{kind}:{tag}: {other.who} moved it to {other.ref} at {other.when}, while this command was about to move it "
        f"to {entry.ref}; it stays where it is. Look at `gazeflow tags {kind}:{tag}`, then run again"
    )


def _members(store: Store, entry: TagEntry) -> tuple[Member, ...]:
    """Everything a version must have. Raises NotFound where it is not complete."""
    try:
        manifest = store.manifest(entry.kind, entry.version)
    except NotFound:
        raise NotFound(
            f"{entry.kind}:{entry.tag}: expected {entry.ref} to be complete, found no manifest of it (gc may have "
            f"collected it); the tag was not moved. Look at `gazeflow tags {entry.kind}:{entry.tag}`"
        ) from None
    return (*manifest.members, *manifest.views)


@contextlib.contextmanager
def _claimed(backend: Backend, entry: TagEntry) -> Iterator[None]:
    """Let gc know that a version is about to be tagged."""
    key = f"artifacts/{entry.kind}/{entry.version}/claims/{entry.write}.json"
    backend.create(key, pretty_json({"tag": entry.tag, "who": entry.who, "when": entry.when}))
    try:
        yield
    finally:
        with contextlib.suppress(GazeflowError):  # what stays counts for a day, then gc deletes it
            backend.delete(key)


def _check_whole(store: Store, entry: TagEntry, members: tuple[Member, ...]) -> None:
    """Raise Conflict where gc is collecting a version, Integrity where members of it are missing."""
    folder = f"artifacts/{entry.kind}/{entry.version}"
    backend = store.backend
    if backend.size(f"{folder}/collected.json") is not None or backend.size(f"{folder}/manifest.json") is None:
        raise Conflict(
            f"{entry.ref}: `gazeflow gc` is collecting this version; the tag {entry.kind}:{entry.tag} was not moved. "
            "Run again in a minute; what a collection that died left so is settled by the next `gazeflow gc --apply`"
        )
    if not store.holds(members):
        raise Integrity(
            f"{entry.ref}: expected all its members in {backend.url}, found some missing; the tag "
            f"{entry.kind}:{entry.tag} was not moved. See `gazeflow verify {entry.ref}`"
        )


def _last_number(backend: Backend, kind: str, tag: str) -> int:
    numbers = _numbers(backend, check_name(kind, "kind"), check_name(tag, "tag"))
    if not numbers:
        known = ", ".join(f"{k}:{t}" for k, t in all_tags(backend)) or "none yet"
        raise NotFound(f"{kind}:{tag}: no such tag in {backend.url}; tags there: {known}")
    return max(numbers)


def _numbers(backend: Backend, kind: str, tag: str) -> list[int]:
    names = backend.children(f"tags/{kind}/{tag}/")
    return [int(n[:6]) for n in names if n[:6].isdigit() and n[6:] == ".json"]


def _folders(backend: Backend, prefix: str) -> Iterator[str]:
    for child in backend.children(prefix):
        with contextlib.suppress(InvalidInput):
            if child.endswith("/"):
                yield check_name(child[:-1], "name")


def _read(backend: Backend, kind: str, tag: str, number: int) -> TagEntry:
    key = f"tags/{kind}/{tag}/{number:06d}.json"
    try:
        entry = parse(TagEntry, backend.get(key, limit=RECORD_LIMIT), key)
    except NotFound:
        raise Integrity(
            f"{backend.url}/{key}: expected an entry of {kind}:{tag}, since the listing has it or a later one; it is "
            "lost. Put it back from a backup"
        ) from None
    if entry.key != key or (entry.restores or 0) >= number:
        raise Format(
            f"{key}: expected entry {number} of {kind}:{tag}, found {entry.key[:200]}, which restores "
            f"{entry.restores}; it was not used. Put back the file that belongs there"
        )
    return entry


def who() -> str:
    """The person and machine that act, for records that people read."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
