"""A folder as an object store: create-only by link(2), durable by fsync of file and folder."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from storage.backends.base import CHUNK, Entry, check_key, check_prefix
from storage.errors import GazeflowError, Integrity, InvalidInput, NotFound, Transient

_ASIDE = ".aside"  # half-written files: outside every listing, on the same file system


class LocalBackend:
    """Objects as files below one folder."""

    threads = 4

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = f"file://{self.root}"

    def get(self, key: str, limit: int | None = None) -> bytes:
        path = self._path(key)
        with self._reading(key), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise Integrity(f"{self.url}/{key}: expected at most {limit} bytes, found {size}; not read")
            return file.read()

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        with self._reading(key), open(self._path(key), "rb") as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise Integrity(
                f"{self.url}/{key}: expected {size} bytes at offset {offset}, found {len(data)}; "
                "the file is cut: run `gazeflow verify` on the version that names it"
            )
        return data

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        with self._reading(key), open(self._path(key), "rb") as file:
            if offset > os.fstat(file.fileno()).st_size:
                raise Integrity(f"{self.url}/{key}: expected more than {offset} bytes, found fewer; the file is cut")
            file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk

    def size(self, key: str) -> int | None:
        try:
            with self._reading(key):
                found = os.stat(self._path(key))
        except NotFound:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def create(self, key: str, data: bytes | memoryview) -> bool:
        path = self._path(key)
        if self.size(key) is not None:
            return False
        with self._written_aside(key, data) as aside:
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
        with self._writing(key, "it is there, and may be gone after a power cut"):
            self._sync_folder(path.parent)
        return True

    def replace(self, key: str, data: bytes | memoryview) -> None:
        path = self._path(key)
        with self._written_aside(key, data) as aside:
            os.replace(aside, path)
        with self._writing(key, "it is there, and may be gone after a power cut"):
            self._sync_folder(path.parent)

    def delete(self, key: str) -> None:
        path, absent = self._path(key), (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        with self._writing(key, "it is still there"), contextlib.suppress(*absent):
            os.unlink(path)

    def entries(self, prefix: str) -> Iterator[Entry]:
        folder = self.root / check_prefix(prefix).rpartition("/")[0]
        found = []
        for parent, folders, names in os.walk(folder, onerror=self._unlisted, followlinks=True):
            folders[:] = [f for f in folders if f != _ASIDE]
            base = Path(parent).relative_to(self.root).as_posix()
            found += [n if base == "." else f"{base}/{n}" for n in names]
        for key in sorted(k for k in found if k.startswith(prefix)):
            with contextlib.suppress(NotFound), self._reading(key):  # deleted meanwhile
                stat = os.stat(self.root / key)
                yield Entry(key, stat.st_size, stat.st_mtime)

    def children(self, prefix: str) -> list[str]:
        try:
            entries = list(os.scandir(self.root / check_prefix(prefix)))
        except OSError as error:
            self._unlisted(error)
            return []
        return sorted(e.name + "/" * e.is_dir() for e in entries if e.name != _ASIDE)

    def _unlisted(self, error: OSError) -> None:
        """Raise what keeps a folder from being listed: a listing that lacks a part would pass for a whole one."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise _meaning(error, f"{error.filename}: cannot be listed", "nothing was left out unseen")

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"{self.url}/{key}: no such object in the store") from None
        except OSError as error:
            if error.errno == errno.EIO:
                raise Integrity(
                    f"{self.url}/{key}: the disk cannot read it ({error.strerror}); run `gazeflow verify` on the "
                    "version that names it, and look at the disk"
                ) from error
            raise _meaning(error, f"{self.url}/{key}: cannot be read", "nothing was changed") from error

    @contextlib.contextmanager
    def _writing(self, key: str, outcome: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _meaning(error, f"{self.url}/{key}: cannot be written", outcome) from error

    @contextlib.contextmanager
    def _written_aside(self, key: str, data: bytes | memoryview) -> Iterator[Path]:
        """A durable file of `data` under a private name, gone on leaving; the target's folder exists."""
        aside = self.root / _ASIDE / uuid.uuid4().hex
        try:
            with self._writing(key, f"nothing of its {len(data)} bytes is visible in the store"):
                aside.parent.mkdir(parents=True, exist_ok=True)
                self._make_folder(self._path(key).parent)
                with open(aside, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield aside
        finally:
            with contextlib.suppress(OSError):
                os.unlink(aside)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and its parents, each durable: a synced file in a folder that is lost is lost."""
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            self._sync_folder(folder.parent)

    def _sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def sweep(self, seconds: float) -> int:
        count = 0
        with self._writing(_ASIDE, "what is in it stays"):
            for path in (self.root / _ASIDE).glob("*"):
                with contextlib.suppress(FileNotFoundError):  # its writer lives and has just ended
                    if time.time() - path.stat().st_mtime > seconds:
                        path.unlink()
                        count += 1
        return count


def _meaning(error: OSError, what: str, outcome: str) -> GazeflowError:
    """An error of the file system as what its user can do about it."""
    told = f"{what}: {error.strerror}; {outcome}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Transient(f"{told} Free space, then run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InvalidInput(f"{told} Ask for the right to do this there, or point GAZEFLOW_STORE at another place")
    if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError):
        return InvalidInput(f"{told} There can be no folder of that name; point GAZEFLOW_STORE at another place")
    return Transient(f"{told} Look at the disk, then run the same command again")
