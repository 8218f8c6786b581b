"""Copy a version out of the store: verified, resumed inside a file, never looking complete when it is not."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import as_completed, wait
from pathlib import Path
from typing import Any, Protocol

from storage._download import Meter, Progress, download, is_whole, locked, part_of
from storage._landing import LOCK, MARKER, Copied, Landing
from storage._subset import Subset
from storage.backends import Backend
from storage.errors import Format, InvalidInput, NotFound
from storage.keys import check_name
from storage.manifest import Manifest, Member, ShardRecord
from storage.parallel import Forsaken, ordered_map

__all__ = ["MARKER", "chosen_members", "pull"]

_LEAVING = 2  # seconds for threads to end a pull that is given up; those that wait for bytes are left


def pull(
    backend: Backend,
    manifest: Manifest,
    dest: Path,
    shards: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Copy a version's results to DEST/<kind>@<version>/; files already there and whole are kept.

    Args:
        shards: only these; all by default.
        classes: only samples of these classes, in files of the same names; the bytes of others are not read.
        progress: told bytes done and bytes in all, as they come: at first what was there already; with `classes` the
            latter is an estimate.
        dry_run: say what would be copied and write nothing.

    Returns folder, files, copied (files), bytes (to read for them, beside indexes), bytes_there, samples, subset.
    Raises NotFound for a shard or class the version does not have, Integrity for damaged bytes, InvalidInput where
    a link is in the way or the folder holds other classes, Transient when the disk is full.
    """
    if classes is not None and not classes:
        raise InvalidInput("classes: expected at least one, found none; nothing was copied. Leave the option out")
    classes = None if classes is None else sorted(set(classes))
    folder = dest / f"{check_name(manifest.kind, 'kind')}@{check_name(manifest.version, 'version')}"
    landing = Landing(folder, f"{manifest.kind}@{manifest.version}", classes)
    source = _source(backend, manifest, shards, classes)
    subset = classes is not None or set(source.names) < {m.name for m in manifest.members}
    landing.check()
    if dry_run:
        there, missing = _survey(source, landing)
        done = list(source.plan(missing, folder))
        return _told(source, folder, there, done) | {"subset": subset}
    landing.make()
    with locked(folder / LOCK):
        there, missing = _survey(source, landing)
        meter = Meter(source.size, progress)
        meter.begin(source.there(list(there), folder)[0])
        done = []
        if missing or not landing.covers(there):
            landing.begin(there)
            with contextlib.closing(source.copy(missing, folder, meter)) as copying:  # before the lock is left
                for copied in copying:
                    landing.note(copied.files)
                    done.append(copied)
            landing.finish(there | {n: sha for c in done for n, sha in c.files.items()}, subset)
        landing.clear()
        return _told(source, folder, there, done) | {"subset": subset}


def chosen_members(manifest: Manifest, shards: Sequence[int] | None) -> list[Member]:
    """The result members of some shards, or all. Raises NotFound naming the shards that are not there."""
    chosen = manifest.members if shards is None else [m for r in chosen_shards(manifest, shards) for m in r.members]
    listed = {m.name: m for m in manifest.members}
    names = {MARKER}
    for member in chosen:
        if member.name.casefold() in names or member != listed.get(member.name):
            raise Format(
                f"{manifest.kind}@{manifest.version}: expected members with names of their own, found "
                f"{member.name!r} twice, unlisted, or in the place of a file of ours; nothing was copied"
            )
        names.add(member.name.casefold())
    return list(chosen)


def chosen_shards(manifest: Manifest, shards: Sequence[int] | None) -> list[ShardRecord]:
    """The records of some shards in the order given, or all. Raises NotFound naming those that are not there."""
    by_number = {r.shard: r for r in manifest.shards}
    missing = [s for s in shards or () if s not in by_number]
    if missing:
        raise NotFound(
            f"{manifest.kind}@{manifest.version}: no shards {missing[:10]}; it has {len(by_number)}"
            + (f", 0 to {max(by_number)}" if by_number else "; this kind is not sharded")
        )
    return [by_number[s] for s in dict.fromkeys(by_number if shards is None else shards)]


class Source(Protocol):
    """What is to be in the folder, and how it gets there."""

    names: list[str]
    size: int  # bytes of all files, 0 where that is not known
    threads: int

    def known(self, held: Mapping[str, str]) -> dict[str, str]:
        """SHA-256 by name of the files that can be told to be whole."""
        ...

    def plan(self, names: Sequence[str], folder: Path) -> Iterator[Copied]:
        """Yield what `copy` would, and write nothing."""
        ...

    def copy(self, names: Sequence[str], folder: Path, meter: Meter) -> Generator[Copied, None, None]:
        """Make these files, verified, each at once."""
        ...

    def there(self, names: Sequence[str], folder: Path) -> tuple[int, int]:
        """Bytes and samples of these files, and the bytes of any that are there in part."""
        ...


class Members:
    """Members as they are, one file for each."""

    def __init__(self, backend: Backend, members: Sequence[Member]) -> None:
        self._backend = backend
        self._members = {m.name: m for m in members}
        self.names = list(self._members)
        self.size = sum(m.bytes for m in members)
        self.threads = backend.threads

    def known(self, held: Mapping[str, str]) -> dict[str, str]:
        return {m.name: m.sha256 for m in self._members.values()}

    def plan(self, names: Sequence[str], folder: Path) -> Iterator[Copied]:
        for member in map(self._members.__getitem__, names):
            left = max(member.bytes - _begun(member, folder), 0)
            yield Copied({member.name: member.sha256}, left, _samples(member))

    def copy(self, names: Sequence[str], folder: Path, meter: Meter) -> Generator[Copied, None, None]:
        def work(planned: Copied) -> Copied:
            (name,) = planned.files
            download(self._backend, self._members[name], folder / name, meter.add)
            return planned

        with Forsaken(self.threads) as pool:
            futures = [pool.submit(work, planned) for planned in self.plan(names, folder)]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:
                meter.stopped = True  # from here on bytes that come are not written
                wait([f for f in futures if not f.cancel()], _LEAVING)
                raise

    def there(self, names: Sequence[str], folder: Path) -> tuple[int, int]:
        whole = [self._members[n] for n in names]
        begun = sum(_begun(self._members[n], folder) for n in self._members.keys() - set(names))
        return begun + sum(m.bytes for m in whole), sum(map(_samples, whole))


def _source(
    backend: Backend, manifest: Manifest, shards: Sequence[int] | None, classes: Sequence[str] | None
) -> Source:
    members = chosen_members(manifest, shards)
    if classes is None:
        return Members(backend, members)
    return Subset(backend, manifest, chosen_shards(manifest, shards), classes)


def _survey(source: Source, landing: Landing) -> tuple[dict[str, str], list[str]]:
    """The files that are whole, with their SHA-256, and the names of the others."""
    known = source.known(landing.held(source.names))

    def work(name: str) -> bool:
        return is_whole(landing.folder / name, known.get(name, ""))

    whole = ordered_map(work, source.names, source.threads, len(source.names))
    found = dict(zip(source.names, whole, strict=True))
    return {n: known[n] for n in source.names if found[n]}, [n for n in source.names if not found[n]]


def _told(source: Source, folder: Path, there: Mapping[str, str], done: Sequence[Copied]) -> dict[str, Any]:
    held, samples = source.there(list(there), folder)
    return {
        "folder": str(folder),
        "files": len(source.names),
        "copied": len(source.names) - len(there),
        "bytes": sum(c.bytes for c in done),
        "bytes_there": held,
        "samples": samples + sum(c.samples for c in done),
    }


def _samples(member: Member) -> int:
    """A shard's tar and index are of the same samples: the index counts the failed ones too."""
    return member.samples if member.name.endswith(".parquet") else 0


def _begun(member: Member, folder: Path) -> int:
    """Bytes of a file that is there in part."""
    try:
        found = os.lstat(part_of(folder / member.name, member))
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return min(found.st_size, member.bytes) if stat.S_ISREG(found.st_mode) else 0
