"""Who names a version, so that it and all it was made from is kept: tags, open attempts, runs, taggers at work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from storage.backends.base import Entry
from storage.errors import Format, Integrity
from storage.manifest import Key
from storage.parallel import ordered_map
from storage.runs import read_run
from storage.store import REF, TAG_REF, Store, Version
from storage.tags import all_tags, last_entries

DAY = 86400.0
HISTORY = 10  # entries of a tag that count
BY_RUN = "run "  # how the reason begins where a run alone names a version

_IN_VERSION = re.compile(r"artifacts/([a-z0-9][a-z0-9._-]{0,63})/([0-9a-f]{12}(?:-(?:[2-9]|[1-9][0-9]+))?)/(.+)")
_SHARD = re.compile(r"artifacts/[a-z0-9][a-z0-9._-]{0,63}/shards/[A-Za-z0-9_-][A-Za-z0-9._-]*")  # others are not ours


@dataclass(frozen=True)
class Folder:
    """A version's folder, as a listing shows it."""

    kind: str
    name: str
    files: dict[str, Entry] = field(default_factory=dict)  # by what follows the folder's name

    @property
    def ref(self) -> str:
        return f"{self.kind}@{self.name}"

    @property
    def key(self) -> str:
        return f"artifacts/{self.kind}/{self.name}"

    @property
    def has_manifest(self) -> bool:
        return "manifest.json" in self.files

    @property
    def is_collected(self) -> bool:
        return "collected.json" in self.files

    @property
    def is_open(self) -> bool:
        return not (self.has_manifest or self.is_collected or "closed.json" in self.files)


def listed(store: Store) -> tuple[dict[str, Folder], dict[str, Entry]]:
    """All version folders by ref, and all objects of shards by key. Raises Integrity where an attempt.json is lost."""
    folders: dict[str, Folder] = {}
    shards: dict[str, Entry] = {}
    for entry in store.backend.entries("artifacts/"):
        match = _IN_VERSION.fullmatch(entry.key)
        if match:
            folder = folders.setdefault(f"{match[1]}@{match[2]}", Folder(match[1], match[2]))
            folder.files[match[3]] = entry
        elif _SHARD.fullmatch(entry.key):
            shards[entry.key] = entry
    for folder in folders.values():  # the listing may have passed the place before the record was there
        if "attempt.json" not in folder.files and store.backend.size(f"{folder.key}/attempt.json") is None:
            raise Integrity(
                f"{store.backend.url}/{folder.key}: expected attempt.json, the record that opens a version, found none "
                "beside the other objects; nothing was deleted, since it cannot be told who needs them. Put the "
                "record back, or delete the folder"
            )
    return folders, shards


def roots(store: Store, folders: Mapping[str, Folder], now: float, days: float) -> dict[str, str]:
    """The versions that are named, and by whom; some may not be there.

    Raises Format (or Integrity) for a record that cannot be read: what it names is not known.
    """
    found: dict[str, str] = {}
    for ref, why in chain(_tags(store), _attempts(store, folders), _taggers(folders, now)):
        found.setdefault(ref, why)
    for ref, why in _runs(store, folders, now, days):
        found.setdefault(ref, why)
    return found


def closure(named: Mapping[str, str], keys: Mapping[str, Key]) -> dict[str, str]:
    """The same, and all versions they were made from."""
    found = dict(named)
    left = list(named)
    while left:
        ref = left.pop()
        inputs = keys[ref].inputs if ref in keys else {}
        new = [i for refs in inputs.values() for i in refs if i not in found]
        found |= dict.fromkeys(new, f"{ref} was made from it")
        left += new
    return found


def seconds(text: str, where: str) -> float:
    """A record's time as seconds since the epoch. Raises Format."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise Format(f"{where}: expected a time such as 2026-01-31T23:59:59Z, found {text[:40]!r}") from None


def utc(moment: float) -> str:
    """Seconds since the epoch as records state a time."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tags(store: Store) -> Iterator[tuple[str, str]]:
    for kind, tag in all_tags(store.backend):
        entries = last_entries(store.backend, kind, tag, HISTORY)
        for back, entry in enumerate(reversed(entries)):
            yield entry.ref, f"{kind}:{tag}" + (f", entry {entry.number} of its history" if back else "")


def _attempts(store: Store, folders: Mapping[str, Folder]) -> Iterator[tuple[str, str]]:
    """What open attempts start from and read."""
    opened = [f for f in folders.values() if f.is_open]
    records = ordered_map(
        lambda f: store.attempt(Version(f.kind, f.name, "open")), opened, store.backend.threads, ahead=64
    )
    for attempt in records:
        ref = f"{attempt.kind}@{attempt.version}"
        if attempt.base:
            yield f"{attempt.kind}@{attempt.base}", f"{ref} is being made again from it"
        for refs in attempt.key.inputs.values():
            yield from ((i, f"{ref} is being made from it") for i in refs)


def _taggers(folders: Mapping[str, Folder], now: float) -> Iterator[tuple[str, str]]:
    """Versions that somebody is about to tag; a claim of yesterday is of a command that died."""
    for ref, folder in folders.items():
        if any(name.startswith("claims/") and now - e.modified < DAY for name, e in folder.files.items()):
            yield ref, "it is being tagged"


def _runs(store: Store, folders: Mapping[str, Folder], now: float, days: float) -> Iterator[tuple[str, str]]:
    """What recent runs and their configs name; a run that has not ended counts for a day whatever `days` is."""
    ids = [
        e.key.removeprefix("runs/").removesuffix(".json")
        for e in store.backend.entries("runs/")
        if e.key.endswith(".json") and now - e.modified < (max(days, 1) + 1) * DAY  # a day for clocks that differ
    ]
    for record in ordered_map(lambda i: read_run(store, i), ids, store.backend.threads, ahead=16):
        age = now - seconds(record["refreshed"], f"runs/{record['id']}.json")
        if age < (days if record["ended"] else max(days, 1)) * DAY:
            why = f"{BY_RUN}{record['id']}"
            yield from ((str(n["ref"]), why) for n in record["nodes"].values() if n.get("ref"))
            yield from ((ref, f"{why}, by its config") for ref in _in_config(store, folders, record["config"]))


def _in_config(store: Store, folders: Mapping[str, Folder], config: Any) -> Iterator[str]:
    """Versions that texts in a config mean: refs, shortened or not, and tags, of kinds that there are."""
    kinds = {f.kind for f in folders.values()}
    for text in _texts(config):
        ref, tag = REF.fullmatch(text), TAG_REF.fullmatch(text)
        if ref and ref[1] in kinds:
            fitting = [f for f in folders.values() if f.kind == ref[1] and _means(ref, f.name)]
            yield from (f.ref for f in fitting) if fitting else [text]
        if tag and tag[1] in kinds and tuple(tag.groups()) in set(all_tags(store.backend)):
            yield last_entries(store.backend, tag[1], tag[2], 1)[0].ref


def _means(ref: re.Match[str], name: str) -> bool:
    """Whether a version may be meant: a shortened ref means the highest attempt, so that all of its key are."""
    digits, attempt = ref[2], ref[3]
    if attempt or len(digits) == 12:
        return name.startswith(digits) and name[12:] == (attempt or "")
    return name.startswith(digits)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return chain.from_iterable(_texts(v) for v in inner)
