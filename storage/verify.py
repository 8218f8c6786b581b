"""Does a version still hold what its manifest promises?

`damaged` names members whose bytes are not theirs, and shards that do not hold what their index says: what a rerun
puts right. `contradictions` tells where records disagree, which no rerun mends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import pyarrow as pa

from storage import _contents, _records
from storage.backends import Backend
from storage.canonical import sha256
from storage.errors import GazeflowError, Integrity, NotFound, Transient
from storage.manifest import Manifest, Member, ShardRecord
from storage.parallel import ordered_map
from storage.store import Store


@dataclass(frozen=True)
class Damage:
    """One member that is not what its manifest promises."""

    member: Member
    shard: int | None
    problem: str


@dataclass(frozen=True)
class _Part:
    """What is checked together: the members of a shard, or one member without a shard."""

    members: tuple[Member, ...]
    shard: ShardRecord | None

    def damage(self, problems: dict[Member, str]) -> list[Damage]:
        number = self.shard.shard if self.shard else None
        return [Damage(m, number, problems[m]) for m in self.members if m in problems]


def check_bytes(member: Member, data: bytes) -> bytes:
    """Return the bytes of a member unchanged. Raises Integrity when size or SHA-256 differ."""
    problem = _difference(member, len(data), sha256(data))
    if problem:
        raise Integrity(
            f"{member.key}: {problem}; the bytes were not used. Run `gazeflow verify --deep`, then rerun the node that "
            "made it"
        )
    return data


def damaged(backend: Backend, manifest: Manifest, deep: bool = False) -> Iterator[Damage]:
    """Name every member that is missing or has another size, in the manifest's order.

    With `deep`, read and hash all bytes, in parallel and in bounded memory, and compare each tar with its index and
    each fixations shard with its saliency shard. Raises Transient where the store is away, which is no damage.
    """
    check = partial(_read_part, backend, manifest.kind, _sources(backend, manifest)) if deep else None
    found = ordered_map(check or partial(_sized_part, backend), _parts(manifest), backend.threads, backend.threads)
    with contextlib.closing(found):
        for damage in found:
            yield from damage


def contradictions(backend: Backend, manifest: Manifest, deep: bool = False) -> Iterator[str]:
    """Tell what a manifest says that cannot be; with `deep`, also which other records of the version disagree with it.

    Other records are its attempt, progress, inputs and the tags of its kind. Raises Transient.
    """
    yield from _records.of_manifest(manifest)
    if deep:
        yield from _records.of_store(backend, manifest)


def _parts(manifest: Manifest) -> Iterator[_Part]:
    shard_of = {m.key: r for r in manifest.shards for m in r.members}
    members = (*manifest.members, *manifest.views)
    for number, group in groupby(members, key=lambda m: shard_of[m.key].shard if m.key in shard_of else None):
        if number is None:
            yield from (_Part((m,), None) for m in group)
        else:
            together = tuple(group)
            yield _Part(together, shard_of[together[0].key])


def _sized_part(backend: Backend, part: _Part) -> list[Damage]:
    problems = {m: _size_problem(backend, m) for m in part.members}
    return part.damage({m: p for m, p in problems.items() if p})


def _size_problem(backend: Backend, member: Member) -> str | None:
    size = backend.size(member.key)
    if size is None:
        return "missing"
    return None if size == member.bytes else f"expected {member.bytes} bytes, found {size}"


def _read_part(backend: Backend, kind: str, sources: dict[int, Member], part: _Part) -> list[Damage]:
    """Damage of a part, each member read once; contents are compared where the bytes they hang on are whole."""
    names = [m.name.rpartition(".")[2] for m in part.members]
    if part.shard and kind == "saliency" and names == ["tar", "parquet"]:
        return part.damage(_saliency_problems(backend, part.shard, *part.members))
    if part.shard and kind == "fixations" and names == ["parquet"]:
        return part.damage(_fixations_problems(backend, part.shard, part.members[0], sources))
    problems = {m: _bytes_problem(backend, m) for m in part.members}
    return part.damage({m: p for m, p in problems.items() if p})


def _saliency_problems(backend: Backend, shard: ShardRecord, tar: Member, index: Member) -> dict[Member, str]:
    found: dict[Member, str] = {}
    table = None
    try:
        table = _contents.read_index(_read(backend, index), index.key)
        problem = _contents.index_problem(table, shard.done + shard.failed, shard.done)
    except (Integrity, NotFound) as error:
        problem = str(error)
    if problem:
        found[index] = problem
    problem = _bytes_problem(backend, tar, None if problem else table)
    return found | ({tar: problem} if problem else {})


def _fixations_problems(
    backend: Backend, shard: ShardRecord, member: Member, sources: dict[int, Member]
) -> dict[Member, str]:
    try:
        keys = _keys(backend, sources.get(shard.shard))
        problem = _contents.fixations_problem(_read(backend, member), keys, shard.done + shard.failed, member.key)
    except (Integrity, NotFound) as error:
        problem = str(error)
    return {member: problem} if problem else {}


def _keys(backend: Backend, index: Member | None) -> list[str] | None:
    """The keys of a saliency shard, None where it is damaged: that is told of its own version."""
    if index is None:
        return None
    try:
        keys: list[str] = _contents.read_index(_read(backend, index), index.key)["key"].to_pylist()
    except (Integrity, NotFound):
        return None
    return keys


def _sources(backend: Backend, manifest: Manifest) -> dict[int, Member]:
    """The saliency indexes that fixations were made from, by shard; none where that version is gone or damaged."""
    refs = manifest.key.inputs.get("saliency", []) if manifest.kind == "fixations" else []
    try:
        records = [r for ref in refs for r in Store(backend).resolve(ref).shards]
    except Transient:
        raise
    except GazeflowError:
        return {}
    return {r.shard: r.members[-1] for r in records if r.members}


def _read(backend: Backend, member: Member) -> bytes:
    return check_bytes(member, backend.get(member.key, limit=member.bytes))


def _bytes_problem(backend: Backend, member: Member, index: pa.Table | None = None) -> str | None:
    """What is wrong with a member's bytes, or, by its index, with what a tar holds."""
    try:
        problem = _size_problem(backend, member)
        if problem:
            return problem
        stream = _contents.Hashed(iter(backend.stream(member.key)))
        held = _contents.tar_problem(stream, index) if index is not None else None
        digest = stream.digest()
        return _difference(member, stream.taken, digest) or held
    except (Integrity, NotFound) as error:  # a Transient one says nothing about the bytes
        return str(error)


def _difference(member: Member, size: int, digest: str) -> str | None:
    if (size, digest) == (member.bytes, member.sha256):
        return None
    return f"expected {member.bytes} bytes with SHA-256 {member.sha256}, found {size} with {digest}"
