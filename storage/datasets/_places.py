"""Where a source's files lie: a local folder, or below the URL of an object store."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, Protocol

from storage.backends import open_backend
from storage.backends._ranged import RangedObject
from storage.backends.base import Entry
from storage.datasets._folder import list_files, open_file, read_range, stat_file
from storage.datasets.base import File
from storage.errors import NotFound

_AHEAD = 2**20  # bytes asked for at once of an object that is read along


class Place(Protocol):
    """Files by their path below a root."""

    root: str

    def files(self) -> list[File]:
        """All files, sorted by path; no bytes are read. Raises NotFound, InvalidInput."""
        ...

    def file(self, name: str) -> File:
        """One file. Raises NotFound."""
        ...

    def open(self, name: str) -> BinaryIO:
        """One file to read and seek in. Raises NotFound."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Some bytes of a file. Raises NotFound; Integrity when it is too short."""
        ...


class LocalPlace:
    """A local folder."""

    def __init__(self, root: str) -> None:
        self.root = root

    def files(self) -> list[File]:
        return list_files(Path(self.root))

    def file(self, name: str) -> File:
        return stat_file(Path(self.root, name), name)

    def open(self, name: str) -> BinaryIO:
        return open_file(Path(self.root, name))

    def read(self, name: str, offset: int, size: int) -> bytes:
        return read_range(Path(self.root, name), offset, size)


class StorePlace:
    """What lies below a URL such as s3://bucket/imagenet; read where it is needed, never copied whole."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._backend = open_backend(root)

    def files(self) -> list[File]:
        found = [_file(e) for e in self._backend.entries("")]
        if not found:
            raise NotFound(f"{self.root}: expected files there; found none. Check the path in the config.")
        return found

    def file(self, name: str) -> File:
        for entry in self._backend.entries(name):
            if entry.key == name:
                return _file(entry)
        raise NotFound(f"{self.root}/{name}: expected a file; found none.")

    def open(self, name: str) -> BinaryIO:
        return io.BufferedReader(RangedObject(self._backend, name, self.file(name).size), _AHEAD)

    def read(self, name: str, offset: int, size: int) -> bytes:
        return self._backend.get_range(name, offset, size)


def _file(entry: Entry) -> File:
    return File(entry.key, entry.bytes, entry.etag or str(entry.modified))  # some stores' clocks tell whole seconds


def place_of(root: str) -> Place:
    """The place that a folder's path or URL names."""
    return StorePlace(root) if "://" in root else LocalPlace(root)
