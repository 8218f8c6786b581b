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
from storage.errors import Integrity, NotFound, Transient

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
            found = os.stat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def create(self, key: str, data: bytes | memoryview) -> bool:
        path = self._path(key)
        if path.exists():
            return False
        with self._written_aside(key, data) as aside:
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
            self._sync_folder(path.parent)
        return True

    def replace(self, key: str, data: bytes | memoryview) -> None:
        path = self._path(key)
        with self._written_aside(key, data) as aside:
            os.replace(aside, path)
            self._sync_folder(path.parent)

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            os.unlink(self._path(key))

    def entries(self, prefix: str) -> Iterator[Entry]:
        folder = self.root / check_prefix(prefix).rpartition("/")[0]
        found = []
        for parent, folders, names in os.walk(folder):
            folders[:] = [f for f in folders if f != _ASIDE]
            base = Path(parent).relative_to(self.root).as_posix()
            found += [n if base == "." else f"{base}/{n}" for n in names]
        for key in sorted(k for k in found if k.startswith(prefix)):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                stat = os.stat(self.root / key)
                yield Entry(key, stat.st_size, stat.st_mtime)

    def children(self, prefix: str) -> list[str]:
        try:
            entries = list(os.scandir(self.root / check_prefix(prefix)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(e.name + "/" * e.is_dir() for e in entries if e.name != _ASIDE)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"{self.url}/{key}: no such object in the store") from None

    @contextlib.contextmanager
    def _written_aside(self, key: str, data: bytes | memoryview) -> Iterator[Path]:
        """A durable file of `data` under a private name, gone on leaving; the target's folder exists."""
        aside = self.root / _ASIDE / uuid.uuid4().hex
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            self._make_folder(self._path(key).parent)
            with open(aside, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield aside
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise Transient(
                    f"{self.url}/{key}: cannot write {len(data)} bytes: {error.strerror}; nothing of it is "
                    "visible in the store. Free space, then run the same command again"
                ) from error
            raise
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
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.root / _ASIDE):
                with contextlib.suppress(FileNotFoundError):  # its writer lives and has just ended
                    if time.time() - entry.stat().st_mtime > seconds:
                        os.unlink(entry.path)
                        count += 1
        return count
