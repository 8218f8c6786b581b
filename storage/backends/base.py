"""What a store needs of the place that holds its bytes: little enough that every real object store has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from storage.errors import InvalidInput

CHUNK = 2**20  # bytes read at once from a stream

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it."""

    key: str
    bytes: int
    modified: float  # seconds since the epoch, by the store's clock
    etag: str = ""  # another one for other bytes, where the place has such


class Backend(Protocol):
    """A flat map from keys to bytes. Of conditional writes, create-only is the only one asked for."""

    url: str
    threads: int  # calls worth making at once

    def get(self, key: str, limit: int | None = None) -> bytes:
        """Return the object's bytes. Raises NotFound; Integrity when it is larger than `limit` bytes."""
        ...

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`. Raises NotFound; Integrity when the object ends before."""
        ...

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes from `offset` in chunks of at most 1 MiB. Raises NotFound; Integrity when it ends before."""
        ...

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None when there is none."""
        ...

    def create(self, key: str, data: bytes | memoryview) -> bool:
        """Write a new object, all or nothing and durable; False (and no change) when the key exists."""
        ...

    def replace(self, key: str, data: bytes | memoryview) -> None:
        """Write an object whether or not it exists; readers see the old or the new bytes, never a mix."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield all objects whose keys begin with `prefix` ("" or "a/b/" or "a/b/c"), sorted by key."""
        ...

    def children(self, prefix: str) -> list[str]:
        """Return the names directly below a folder `prefix` ("" or "a/b/"), sorted; folders end in "/"."""
        ...

    def sweep(self, seconds: float) -> int:
        """Remove what killed writers left half-written so long ago; returns how many."""
        ...


def without_secrets(text: str) -> str:
    """Text with what stands before the host in its URLs left out: user names, keys, passwords."""
    return re.sub(r"//\S*@", "//", text)


def check_key(key: str) -> str:
    """Return a store key that is safe as a path. Raises InvalidInput for any other."""
    parts = key.split("/")
    if len(key) > 900 or not all(_PART.fullmatch(p) for p in parts):
        raise InvalidInput(
            f"store key {key[:200]!r}: expected parts of letters, digits, '.', '_', '-' joined by '/', none above "
            "255 characters or beginning with '.'; nothing was read or written"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return the prefix of a listing: empty, or what a key may begin with. Raises InvalidInput for any other."""
    folder, slash, rest = prefix.rpartition("/")
    for part in (folder if slash else None, rest or None):
        if part is not None:
            check_key(part)
    return prefix
