"""An object store in memory, for tests and for models of what a store should do."""

from __future__ import annotations

import threading

from storage.backends.base import check_key, check_prefix
from storage.errors import Integrity, NotFound


class MemoryBackend:
    """Objects in a dict; safe to use from many threads."""

    def __init__(self) -> None:
        self.url = "memory://"
        self._objects: dict[str, bytes] = {}
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

    def size(self, key: str) -> int | None:
        data = self._objects.get(check_key(key))
        return None if data is None else len(data)

    def create(self, key: str, data: bytes | memoryview) -> bool:
        with self._lock:
            if check_key(key) in self._objects:
                return False
            self._objects[key] = bytes(data)
            return True

    def replace(self, key: str, data: bytes) -> None:
        self._objects[check_key(key)] = bytes(data)

    def delete(self, key: str) -> None:
        self._objects.pop(check_key(key), None)

    def keys(self, prefix: str) -> list[str]:
        check_prefix(prefix)
        return sorted(k for k in list(self._objects) if k.startswith(prefix))

    def children(self, prefix: str) -> list[str]:
        rest = (k[len(prefix) :] for k in self.keys(prefix))
        return sorted({r.split("/")[0] + "/" * ("/" in r) for r in rest})
