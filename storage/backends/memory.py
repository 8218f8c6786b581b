"""An object store in memory, for tests and for models of what a store should do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from storage.backends.base import CHUNK, Entry, check_key, check_prefix
from storage.errors import Integrity, NotFound


class MemoryBackend:
    """Objects in a dict; safe to use from many threads."""

    threads = 1

    def __init__(self) -> None:
        self.url = "memory://"
        self._objects: dict[str, bytes] = {}
        self._modified: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, key: str, limit: int | None = None) -> bytes:
        try:
            data = self._objects[check_key(key)]
        except KeyError:
            raise NotFound(f"{self.url}/{key}: no such object in the store") from None
        if limit is not None and len(data) > limit:
            raise Integrity(f"{self.url}/{key}: expected at most {limit} bytes, found {len(data)}; not read")
        return data

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        data = self.get(key)[offset : offset + size]
        if len(data) != size:
            raise Integrity(f"{self.url}/{key}: expected {size} bytes at {offset}, found {len(data)}")
        return data

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        data = self.get(key)
        if offset > len(data):
            raise Integrity(f"{self.url}/{key}: expected more than {offset} bytes, found {len(data)}")
        for start in range(offset, len(data), CHUNK):
            yield data[start : start + CHUNK]

    def size(self, key: str) -> int | None:
        data = self._objects.get(check_key(key))
        return None if data is None else len(data)

    def create(self, key: str, data: bytes | memoryview) -> bool:
        with self._lock:
            if check_key(key) in self._objects:
                return False
            self._write(key, data)
            return True

    def replace(self, key: str, data: bytes | memoryview) -> None:
        with self._lock:
            self._write(check_key(key), data)

    def _write(self, key: str, data: bytes | memoryview) -> None:
        self._objects[key] = bytes(data)
        self._modified[key] = time.time()

    def delete(self, key: str) -> None:
        self._objects.pop(check_key(key), None)

    def entries(self, prefix: str) -> Iterator[Entry]:
        check_prefix(prefix)
        for key, data in sorted(self._objects.items()):
            if key.startswith(prefix):
                yield Entry(key, len(data), self._modified.get(key, 0.0))

    def children(self, prefix: str) -> list[str]:
        rest = (k[len(prefix) :] for k in (e.key for e in self.entries(prefix)))
        return sorted({r.split("/")[0] + "/" * ("/" in r) for r in rest})

    def sweep(self, seconds: float) -> int:
        return 0  # nothing here is ever half-written
