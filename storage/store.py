"""The artifact store: which versions there are, and which of them a ref or a key means."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from storage.backends import Backend, open_backend
from storage.canonical import canonical_json
from storage.errors import Format, Integrity, InvalidInput, NotFound
from storage.manifest import RECORD_LIMIT, STORE_FORMAT, Attempt, Manifest, Member, parse
from storage.parallel import ordered_map

_VERSION = re.compile(r"([0-9a-f]{12})(?:-([2-9]|[1-9][0-9]+))?")
REF = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})@([0-9a-f]{4,12})(-(?:[2-9]|[1-9][0-9]+))?")
TAG_REF = re.compile(r"([a-z0-9][a-z0-9._-]{0,63}):([a-z0-9][a-z0-9._-]{0,63})")


@dataclass(frozen=True)
class Version:
    """One attempt at a key, as the store's listing shows it."""

    kind: str
    name: str  # "3f9c0a1b2c3d" or "3f9c0a1b2c3d-2"
    state: str  # "complete", "open" or "closed" (ended without a result of its own)

    @property
    def ref(self) -> str:
        return f"{self.kind}@{self.name}"

    @property
    def number(self) -> int:
        return int(self.name[13:] or 1)


class Store:
    """Artifacts by kind and version, on any backend."""

    def __init__(self, backend: Backend, create_only: bool = True) -> None:
        self.backend = backend
        self.create_only = create_only  # False: its user accepted a place that overwrites what it should refuse to

    @classmethod
    def open(cls, url: str) -> Store:
        """Open the store at a URL to write, made when it is new.

        Raises Format when a newer release wrote it or the file that says so is damaged, InvalidInput for a place that
        overwrites an object which it was told to create only, unless `gazeflow doctor --accept-unsafe` said so before.
        """
        backend = open_backend(url)
        try:
            record = backend.get("gazeflow.json", limit=4096)
        except NotFound:
            record = canonical_json({"format": STORE_FORMAT})
            if not backend.create("gazeflow.json", record):
                record = backend.get("gazeflow.json", limit=4096)
        store = cls(backend, stated_create_only(backend, record))
        if store.create_only and backend.create("gazeflow.json", record):
            raise InvalidInput(
                f"{backend.url}: expected a place that refuses to create an object twice, found one that overwrites "
                "it; nothing was run, since two runs could destroy each other's records. Take another server, or look "
                "at `gazeflow doctor` and accept the risk with `gazeflow doctor --accept-unsafe`"
            )
        return store

    @classmethod
    def existing(cls, url: str) -> Store:
        """Open the store at a URL to read it, making nothing. Raises NotFound where there is none, Format as `open`."""
        backend = open_backend(url)
        try:
            record = backend.get("gazeflow.json", limit=4096)
        except NotFound as error:
            if "no such bucket" in str(error):
                raise
            raise NotFound(
                f"{backend.url}: expected a store, found none; nothing was made. Start one with `gazeflow run CONFIG`, "
                "or name another with --config FILE or GAZEFLOW_STORE"
            ) from None
        return cls(backend, stated_create_only(backend, record))

    def kinds(self) -> list[str]:
        """Names of all kinds that have artifacts, sorted."""
        return [c[:-1] for c in self.backend.children("artifacts/") if c.endswith("/")]

    def versions(self, kind: str) -> list[Version]:
        """All versions of a kind, sorted by digits, then attempt."""
        names = [c[:-1] for c in self.backend.children(f"artifacts/{kind}/") if c.endswith("/")]
        found = [self._version(kind, n) for n in names if _VERSION.fullmatch(n)]
        return sorted((v for v in found if v is not None), key=lambda v: (v.name[:12], v.number))

    def version(self, kind: str, name: str) -> Version:
        """One version with its state. Raises NotFound when nobody ever opened it."""
        found = self._version(kind, name)
        if found is None:
            raise NotFound(f"{kind}@{name}: no such version in {self.backend.url}; see `gazeflow versions {kind}`")
        return found

    def _version(self, kind: str, name: str) -> Version | None:
        """One version, or None where there is only the folder of one that is just being opened."""
        found = set(self.backend.children(f"artifacts/{kind}/{name}/"))
        if "attempt.json" not in found:
            return None
        if "collected.json" in found:  # by gc, which deletes the manifest next
            return Version(kind, name, "closed")
        if "manifest.json" in found:
            return Version(kind, name, "complete")
        return Version(kind, name, "closed" if "closed.json" in found else "open")

    def of_key(self, kind: str, key_digest: str) -> list[Version]:
        """All attempts at a key, first to last. Raises Integrity when two keys share 12 digits."""
        prefix = key_digest[:12]
        found = []
        for child in self.backend.children(f"artifacts/{kind}/"):
            match = _VERSION.fullmatch(child.rstrip("/"))
            version = self._version(kind, match[0]) if match and match[1] == prefix else None
            if version is not None:
                found.append(version)
        for version in found[:1]:
            other = self.attempt(version).key.digest()
            if other != key_digest:
                raise Integrity(
                    f"{version.ref}: two keys begin with the same 12 digits ({key_digest} and {other}); nothing "
                    "was made. Change any param of one of them"
                )
        return sorted(found, key=lambda v: v.number)

    def complete(self, kind: str, key_digest: str) -> Version | None:
        """The version an unpinned ref means: the highest complete one of its key."""
        done = [v for v in self.of_key(kind, key_digest) if v.state == "complete"]
        return done[-1] if done else None

    def attempt(self, version: Version) -> Attempt:
        """The record that opened a version."""
        key = f"artifacts/{version.kind}/{version.name}/attempt.json"
        return _of(version.kind, version.name, parse(Attempt, self.backend.get(key, limit=RECORD_LIMIT), key), key)

    def manifest(self, kind: str, name: str) -> Manifest:
        """The record that closed a version. Raises NotFound while it is open."""
        key = f"artifacts/{kind}/{name}/manifest.json"
        try:
            data = self.backend.get(key, limit=RECORD_LIMIT)
        except NotFound:
            state = self.version(kind, name).state
            raise NotFound(
                f"{kind}@{name}: expected a complete version, found one that is {state}; "
                "run the pipeline again to finish it"
            ) from None
        return _of(kind, name, parse(Manifest, data, key), key)

    def resolve(self, ref: str) -> Manifest:
        """The manifest that a ref names: `kind:tag`, or `kind@version`, where 4 digits will do if one key has them.

        Raises InvalidInput for something that is no ref, NotFound when nothing complete matches.
        """
        from storage.tags import current

        tagged = TAG_REF.fullmatch(ref)
        if tagged:
            return self.manifest(tagged[1], current(self.backend, tagged[1], tagged[2]).version)
        match = REF.fullmatch(ref)
        if not match:
            raise InvalidInput(f"ref {ref!r}: expected KIND@VERSION or KIND:TAG, as saliency@3f9c0a1b or saliency:prod")
        kind, digits, attempt = match[1], match[2], match[3]
        matching = [v for v in self.versions(kind) if v.name.startswith(digits)]
        if attempt or len(digits) == 12:
            found = [v for v in matching if v.name[12:] == (attempt or "")]
        else:  # the highest complete attempt of each key
            found = list({v.name[:12]: v for v in matching if v.state == "complete"}.values())
        if len(found) != 1:
            names = ", ".join(v.ref for v in found) or "none"
            raise NotFound(
                f"ref {ref!r}: expected one version in {self.backend.url}, found {names}; "
                f"see `gazeflow versions {kind}`"
            )
        return self.manifest(kind, found[0].name)

    def holds(self, members: Iterable[Member]) -> bool:
        """Whether all members are there in their size."""
        sizes = ordered_map(lambda m: self.backend.size(m.key) == m.bytes, members, self.backend.threads, ahead=64)
        with contextlib.closing(sizes):
            return all(sizes)

    def read(self, member: Member) -> bytes:
        """A member's bytes, verified. Raises Integrity when size or SHA-256 differ."""
        from storage.verify import check_bytes

        return check_bytes(member, self.backend.get(member.key, limit=member.bytes))


R = TypeVar("R", Attempt, Manifest)


def _of(kind: str, name: str, record: R, key: str) -> R:
    """The record, if it is of the version in whose folder it lies. Raises Format."""
    if (record.kind, record.version) != (kind, name):
        raise Format(
            f"{key}: expected a record of {kind}@{name}, found one of {record.kind[:80]}@{record.version[:80]}; it was "
            "not used. Put back the file that belongs there"
        )
    return record


def stated_create_only(backend: Backend, record: bytes) -> bool:
    """What a store's own record says of it. Raises Format when it is not of this release."""
    try:
        found = json.loads(record)
        version, create_only = found["format"], found.get("create_only", True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Format(
            f"{backend.url}/gazeflow.json: expected the store's format, found something else; nothing was "
            "changed. Restore that file, or point GAZEFLOW_STORE at another place"
        ) from None
    if version != STORE_FORMAT:
        raise Format(
            f"{backend.url}: expected store format {STORE_FORMAT}, found {version}; nothing was read or "
            "written. Use the release of gazeflow that wrote it, or another store"
        )
    return create_only is not False
