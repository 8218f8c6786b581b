"""Do the records of a version agree with each other, and with what a version must be?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from storage.backends import Backend
from storage.errors import Integrity, NotFound
from storage.manifest import RECORD_LIMIT, Attempt, Manifest, Member, Record, ShardRecord, parse
from storage.parallel import ordered_map
from storage.store import Store
from storage.tags import TagEntry, all_tags

R = TypeVar("R", bound=Record)


def of_manifest(manifest: Manifest) -> Iterator[str]:
    """What a manifest says that cannot be, without reading anything else."""
    digits = manifest.key.digest()[:12]
    if manifest.version[:12] != digits or manifest.key.stage != manifest.kind:
        yield f"manifest: its key is that of {manifest.key.stage}@{digits}"
    for member in (*manifest.members, *manifest.views):
        if member.sha256[:16] not in member.key.rpartition("/")[2]:
            yield f"manifest: {member.name} lies under the name of another content, {member.key}"
    if manifest.shards:
        yield from _of_shards(manifest)


def _of_shards(manifest: Manifest) -> Iterator[str]:
    records = manifest.shards
    if [r.shard for r in records] != list(range(len(records))):
        missing = sorted(set(range(len(records))) - {r.shard for r in records})
        yield f"manifest: expected the shards 0 to {len(records) - 1} in order, found others in place of {missing[:10]}"
    listed = {m.key: m for m in manifest.members}
    endings = {tuple(_ending(m, manifest.kind, r.shard) for m in r.members) for r in records}
    if len(endings) != 1 or None in next(iter(endings)):
        yield f"manifest: expected every shard to have members of the same kinds, found {sorted(map(str, endings))[:4]}"
    for record in records:
        if any(listed.get(m.key) != m for m in record.members):
            yield f"manifest: the members of shard {record.shard} are not among the version's"
    for name in ("done", "failed"):
        total = sum(getattr(r, name) for r in records)
        if getattr(manifest, name) != total:
            yield f"manifest: {name} is {getattr(manifest, name)}, of its shards {total}"


def _ending(member: Member, kind: str, shard: int) -> str | None:
    """`.tar` of `saliency-000012.tar`; None for a name that is not the shard's."""
    stem = f"{kind}-{shard:06d}"
    return member.name.removeprefix(stem) if member.name.startswith(f"{stem}.") else None


def of_store(backend: Backend, manifest: Manifest) -> Iterator[str]:
    """What other records say against a manifest: the attempt, progress, inputs and tags. Reads them all."""
    folder = f"artifacts/{manifest.kind}/{manifest.version}"
    yield from _told(lambda: _attempt(backend, f"{folder}/attempt.json", manifest))
    checks = ordered_map(
        lambda r: list(_told(lambda: _progress(backend, f"{folder}/progress/{r.shard:06d}.json", r))),
        manifest.shards, backend.threads, ahead=64,
    )  # fmt: skip
    with contextlib.closing(checks):
        for found in checks:
            yield from found
    for ref in (r for refs in manifest.key.inputs.values() for r in refs):
        yield from _told(lambda ref=ref: _input(backend, ref))  # type: ignore[misc]
    for kind, tag in all_tags(backend):
        if kind == manifest.kind:
            yield from _tag(backend, kind, tag)


def _told(check: Callable[[], str | None]) -> Iterator[str]:
    """What a check says, or the error that a damaged record raised; Transient errors say nothing about bytes."""
    try:
        said = check()
    except (Integrity, NotFound) as error:
        said = str(error)
    if said is not None:
        yield said


def _read(backend: Backend, record: type[R], key: str) -> R:
    return parse(record, backend.get(key, limit=RECORD_LIMIT), key)


def _attempt(backend: Backend, key: str, manifest: Manifest) -> str | None:
    found = _read(backend, Attempt, key)
    agrees = (found.kind, found.version, found.key) == (manifest.kind, manifest.version, manifest.key)
    return None if agrees else f"{key}: it opened another version than the manifest closed"


def _progress(backend: Backend, key: str, record: ShardRecord) -> str | None:
    if backend.size(key) is None:  # its work is done: the manifest has it
        return None
    return None if _read(backend, ShardRecord, key) == record else f"{key}: not the shard that stands in the manifest"


def _input(backend: Backend, ref: str) -> None:
    try:
        Store(backend).resolve(ref)
    except NotFound:
        raise NotFound(f"{ref}: expected this input in the store, found none") from None


def _tag(backend: Backend, kind: str, tag: str) -> Iterator[str]:
    folder = f"tags/{kind}/{tag}/"
    names = backend.children(folder)
    if names != [f"{n:06d}.json" for n in range(1, len(names) + 1)]:
        yield f"{folder}: expected entries from 1 without gaps, found {names[:8]}"
    for name in names:
        yield from _told(lambda name=name: _entry(backend, kind, tag, name))  # type: ignore[misc]


def _entry(backend: Backend, kind: str, tag: str, name: str) -> str | None:
    entry = _read(backend, TagEntry, f"tags/{kind}/{tag}/{name}")
    agrees = entry.key == f"tags/{kind}/{tag}/{name}"
    return None if agrees else f"tags/{kind}/{tag}/{name}: expected an entry of that name, found {entry.key}"
