"""Does a version still hold what its manifest promises?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from storage.backends import Backend
from storage.canonical import sha256
from storage.errors import Integrity, NotFound
from storage.manifest import Manifest, Member


@dataclass(frozen=True)
class Damage:
    """One member that is not what its manifest promises."""

    member: Member
    shard: int | None
    problem: str


def check_bytes(member: Member, data: bytes) -> bytes:
    """Return the bytes of a member unchanged. Raises Integrity when size or SHA-256 differ."""
    found = sha256(data)
    if len(data) != member.bytes or found != member.sha256:
        raise Integrity(
            f"{member.key}: expected {member.bytes} bytes with SHA-256 {member.sha256}, found {len(data)} with "
            f"{found}; the bytes were not used. Run `gazeflow verify --deep`, then rerun the node that made it"
        )
    return data


def damaged(backend: Backend, manifest: Manifest, deep: bool = False) -> Iterator[Damage]:
    """Name every member that is missing or has another size; with `deep`, read and hash all bytes."""
    shard_of = {m.key: r.shard for r in manifest.shards for m in r.members}
    for member in (*manifest.members, *manifest.views):
        problem = _problem(backend, member, deep)
        if problem:
            yield Damage(member, shard_of.get(member.key), problem)


def _problem(backend: Backend, member: Member, deep: bool) -> str | None:
    size = backend.size(member.key)
    if size is None:
        return "missing"
    if size != member.bytes:
        return f"expected {member.bytes} bytes, found {size}"
    if deep:
        try:
            check_bytes(member, backend.get(member.key))
        except (Integrity, NotFound) as error:  # a Transient one says nothing about the bytes
            return str(error)
    return None
