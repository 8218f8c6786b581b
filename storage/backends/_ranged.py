"""An object as a file that is read here and there, by its ranges."""

from __future__ import annotations

import io

from storage.backends.base import Backend


class RangedObject(io.RawIOBase):
    """An object of a known size, to read and seek in. Reading raises NotFound, Integrity."""

    def __init__(self, backend: Backend, key: str, size: int) -> None:
        self._backend, self._key, self._size = backend, key, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._at, 0)
        size = left if size < 0 else min(size, left)
        data = self._backend.get_range(self._key, self._at, size) if size else b""
        self._at += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands in
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
