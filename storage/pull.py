"""Copy a version out of the store: verified, resumable by file, never looking complete when it is not."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.backends import Backend
from storage.canonical import pretty_json, sha256
from storage.errors import InvalidInput, NotFound, Transient
from storage.manifest import Manifest, Member
from storage.verify import check_bytes

MARKER = "gazeflow.json"  # written last: its presence means all chosen files are there and verified


def pull(backend: Backend, manifest: Manifest, dest: Path, shards: Sequence[int] | None = None) -> dict[str, Any]:
    """Copy a version's results to DEST/<kind>@<version>/; files already there and whole are kept.

    Raises NotFound for a shard the version does not have, Integrity for damaged bytes, InvalidInput where the
    target is a link.
    """
    members = chosen_members(manifest, shards)
    folder = dest / f"{manifest.kind}@{manifest.version}"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InvalidInput(
            f"{folder}: expected a folder, found a file or a link, which is never followed; nothing was copied"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).unlink(missing_ok=True)
    copied = [m for m in members if _copy(backend, m, folder)]
    record = {
        "ref": f"{manifest.kind}@{manifest.version}",
        "subset": shards is not None,
        "files": {m.name: m.sha256 for m in members},
    }
    _write(folder / MARKER, pretty_json(record))
    return {
        "folder": str(folder),
        "files": len(members),
        "copied": len(copied),
        "bytes": sum(m.bytes for m in copied),
        "samples": sum(m.samples for m in members if m.name.endswith(".parquet")),
    }


def chosen_members(manifest: Manifest, shards: Sequence[int] | None) -> list[Member]:
    """The result members of some shards, or all. Raises NotFound naming the shards that are not there."""
    if shards is None:
        return list(manifest.members)
    by_shard = {r.shard: r.members for r in manifest.shards}
    missing = [s for s in shards if s not in by_shard]
    if missing:
        raise NotFound(
            f"{manifest.kind}@{manifest.version}: no shards {missing[:10]}; it has {len(by_shard)}"
            + (f", 0 to {max(by_shard)}" if by_shard else "; this kind is not sharded")
        )
    return [m for s in shards for m in by_shard[s]]


def _copy(backend: Backend, member: Member, folder: Path) -> bool:
    """Whether the file had to be copied."""
    path = folder / member.name
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InvalidInput(
            f"{path}: expected a file, found a folder or a link, which is never followed; remove it and pull again"
        )
    if path.is_file() and path.stat().st_size == member.bytes and sha256(path.read_bytes()) == member.sha256:
        return False
    _write(path, check_bytes(member, backend.get(member.key, limit=member.bytes)))
    return True


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Transient(
                f"{path}: cannot write {len(data)} bytes: {error.strerror}; the files before it are whole. Free "
                "space, then pull again: it goes on from here"
            ) from error
        raise
    finally:
        aside.unlink(missing_ok=True)
