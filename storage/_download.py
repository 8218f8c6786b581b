"""Bytes of the store as local files: continued where they broke off, verified, durable, never through a link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from storage.backends import Backend
from storage.backends.base import CHUNK
from storage.errors import Integrity, InvalidInput, Transient
from storage.manifest import Member

Count = Callable[[int], None]  # takes the bytes that came, before they are used; negative when they are given up
Progress = Callable[[int, int], None]  # bytes done, bytes in all

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_IN_THE_WAY = (errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENXIO)


class Stopped(Exception):
    """The work is given up: another thread failed, or somebody pressed a key."""


class Meter:
    """Sums the bytes of many threads for a progress bar, and stops them all."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total = total
        self.stopped = False
        self._done, self._progress, self._lock = 0, progress, threading.Lock()
        self._told: tuple[int, int] | None = None

    def begin(self, there: int) -> None:
        """Take bytes for done that were there before, so that rates are of what comes."""
        self._done, self.total = there, max(self.total, there)
        if there == self.total:
            self._told = (there, there)  # nothing is to come, or nobody knows how much
        else:
            self._tell()

    def add(self, number: int) -> None:
        """Count bytes that are about to be used. Raises Stopped when they, or none, shall not be."""
        if self.stopped:
            raise Stopped
        with self._lock:
            self._done += number
            self.total = max(self.total, self._done)  # an estimate may be low
            self._tell()

    def _tell(self) -> None:
        now = (self._done, self.total)
        if self._progress is not None and now != self._told:
            self._told = now
            self._progress(*now)


def download(backend: Backend, member: Member, path: Path, count: Count) -> None:
    """Make a file of a member: all of its bytes, verified and durable, or nothing but a part to go on from.

    Raises Integrity for damaged bytes, Transient for a full disk, InvalidInput where a link is in the way.
    """
    part = part_of(path, member)
    with told(path):
        with open(open_plain(part, os.O_RDWR | os.O_CREAT), "r+b") as file:
            try:
                fill(backend, member, file, count)
            except Integrity:
                count(0)  # another may have the part, when this pull was left while it waited for bytes
                part.unlink()
                raise
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def part_of(path: Path, member: Member) -> Path:
    """Where a file grows: its name is of its content, so that bytes of two versions never meet in it."""
    return path.with_name(f".{path.name}.{member.sha256[:16]}.part")


def fill(backend: Backend, member: Member, file: BinaryIO, count: Count) -> None:
    """Bring a file that has none, some or wrong bytes of a member to have them all, verified.

    What is there, and counted, is hashed and continued; when it turns out wrong, the member is fetched anew, once.
    """
    there = os.fstat(file.fileno()).st_size
    counted = _Counted(count, min(there, member.bytes))
    if 0 < there <= member.bytes:
        with contextlib.suppress(Integrity):
            hasher = hashlib.sha256()
            for chunk in iter(lambda: file.read(CHUNK), b""):
                hasher.update(chunk)
                counted(0)
            _append(backend, member, file, hasher, there, counted)
            return
    count(-counted.total)
    file.seek(0)
    file.truncate()
    _append(backend, member, file, hashlib.sha256(), 0, count)


def _append(backend: Backend, member: Member, file: BinaryIO, hasher: Any, size: int, count: Count) -> None:
    """Write what lies behind the first `size` bytes, which `hasher` has seen. Raises Integrity for a wrong whole."""
    if size < member.bytes:
        for chunk in backend.stream(member.key, size):
            size += len(chunk)
            if size > member.bytes:
                break  # never more on the disk than the manifest says
            count(len(chunk))
            file.write(chunk)
            hasher.update(chunk)
    if size != member.bytes or hasher.hexdigest() != member.sha256:
        found = "more" if size > member.bytes else f"{size} with {hasher.hexdigest()}"
        raise Integrity(
            f"{member.key}: expected {member.bytes} bytes with SHA-256 {member.sha256}, found {found}; the bytes were "
            "not used. Run `gazeflow verify --deep`, then rerun the node that made it"
        )


class _Counted:
    """Passes counts on and remembers their sum."""

    def __init__(self, count: Count, total: int) -> None:
        self.count, self.total = count, total

    def __call__(self, number: int) -> None:
        self.total += number
        self.count(number)


def is_whole(path: Path, digest: str, size: int | None = None) -> bool:
    """Whether a file is there with these bytes. Raises InvalidInput where something else is in the way."""
    try:
        with told(path), open(open_plain(path, os.O_RDONLY), "rb") as file:
            if size is not None and os.fstat(file.fileno()).st_size != size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False


def write_file(path: Path, data: bytes) -> None:
    """Write a file at once: its name has the old bytes or the new ones. Its folder is the caller's to sync."""
    aside = path.with_name(f".{path.name}.new")
    with told(path):
        with open(open_plain(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with told(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_plain(path: Path, flags: int) -> int:
    """Open a regular file. Raises InvalidInput for a link, which is not followed, a folder, a pipe or a device."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)  # a pipe would block
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            raise _in_the_way(path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _in_the_way(path)
    return handle


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file alone among all processes and threads, waiting for it; it is gone afterwards.

    It is a file, since network file systems lock nothing that is not open for writing.
    """
    while True:
        with told(path):
            handle = open_plain(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):  # else the one waited for has removed it
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the system says while a file is used into errors that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Transient(
                f"{path}: writing stopped: {error.strerror}; the files before it are whole and no file is half there "
                "under its name. Free space, then run the same command again: it goes on from here"
            ) from error
        if error.errno in _IN_THE_WAY:
            raise _in_the_way(path) from error
        if isinstance(error, PermissionError):
            raise InvalidInput(f"{path}: cannot be read and written: {error.strerror}; name another folder") from error
        raise


def _in_the_way(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path}: expected a file, found a folder, a device or a link, which is never followed; nothing was written "
        "there. Remove it, then run again"
    )
