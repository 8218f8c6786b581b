"""Does a label shard hold what its index says? Read once from the front, in bounded memory, trusting nothing."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.canonical import sha256
from storage.errors import Format
from storage.shards import FIXATIONS_SCHEMA, SALIENCY_SCHEMA, read_table

LARGEST = 64 * 2**20  # bytes of a map; it is held whole


class Hashed:
    """The bytes of a stream, taken piece by piece, hashed on the way."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")
        self._hash = hashlib.sha256()
        self.taken = 0  # bytes so far

    def take(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        parts: list[memoryview] = []
        while size > 0 and (self._left or self._next()):
            parts.append(self._left[:size])
            self._left = self._left[size:]
            self.taken += len(parts[-1])
            size -= len(parts[-1])
        return b"".join(parts)

    def _next(self) -> bool:
        chunk = next(self._chunks, b"")
        self._hash.update(chunk)
        self._left = memoryview(chunk)
        return bool(chunk)

    def digest(self) -> str:
        """Read on to the end; the SHA-256 of all."""
        self.taken += len(self._left)
        while self._next():
            self.taken += len(self._left)
        self._left = memoryview(b"")
        return self._hash.hexdigest()


def index_problem(index: pa.Table, images: int, samples: int) -> str | None:
    """What is wrong with a saliency shard's index by itself.

    Args:
        images: rows that its record promises.
        samples: of them those with a map.
    """
    rows = index.select(["key", "offset", "size", "sha256", "status"]).to_pylist()
    if len(rows) != images or len({r["key"] for r in rows}) != images:
        return f"expected {images} images, each with a row, found {len(rows)} rows"
    good = [r for r in rows if r["status"] == "ok"]
    if len(good) != samples:
        return f"expected {samples} maps, found {len(good)} rows that are ok"
    large = next((r["key"] for r in good if not 0 < r["size"] <= LARGEST), None)
    if large is not None:
        return f"row {large!r} is of a map of impossible size"
    none = {"offset": -1, "size": 0, "sha256": "", "status": "failed"}
    strange = next((r["key"] for r in rows if r["status"] != "ok" and not none.items() <= r.items()), None)
    return None if strange is None else f"row {strange!r} is neither a map nor a broken image"


def tar_problem(tar: Hashed, index: pa.Table) -> str | None:
    """Where a tar differs from what its index says; no header of it is believed, each is compared."""
    rows = index.select(["key", "offset", "size", "sha256", "status"]).to_pylist()
    for row in (r for r in rows if r["status"] == "ok"):
        header = _header(row)
        begin = tar.taken + len(header)
        if tar.take(len(header)) != header or begin != row["offset"]:
            return f"expected {row['key']!r} with {row['size']} bytes at byte {row['offset']}, found something else"
        if sha256(tar.take(row["size"])) != row["sha256"]:
            return f"the map of {row['key']!r} is not the one of the index"
        if tar.take(-row["size"] % tarfile.BLOCKSIZE).strip(b"\0"):
            return f"bytes that belong to nothing behind the map of {row['key']!r}"
    end = 2 * tarfile.BLOCKSIZE
    end += -(tar.taken + end) % tarfile.RECORDSIZE
    if tar.take(end + 1) != bytes(end):
        return f"expected the end after the last map of the index, at byte {tar.taken}; found more, or less"
    return None


def _header(row: dict[str, Any]) -> bytes:
    """The header of a map as shards are written."""
    info = tarfile.TarInfo(f"{row['key']}.saliency.png")
    info.size = row["size"]
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def fixations_problem(data: bytes, keys: list[str] | None, images: int, where: str) -> str | None:
    """What is wrong with a fixations shard; `keys` are those of its saliency shard, None where they are not known."""
    try:
        table = _table(data, FIXATIONS_SCHEMA, where)
    except Format as error:
        return str(error)
    if len(table) != images:
        return f"expected {images} rows, found {len(table)}"
    if keys is not None and table["key"].to_pylist() != keys:
        return "its keys are not those of the saliency shard, in that order"
    x, y, peak = (pc.list_value_length(table[n]) for n in ("x", "y", "peak"))
    if not (x.equals(y) and x.equals(peak)):
        return "a row's x, y and peak are not equally long"
    return None


def read_index(data: bytes, where: str) -> pa.Table:
    """A saliency shard's index. Raises Format."""
    return _table(data, SALIENCY_SCHEMA, where)


def _table(data: bytes, schema: pa.Schema, where: str) -> pa.Table:
    """A table of ours without nulls, its strings UTF-8. Raises Format."""
    table = read_table(data, schema, where)
    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise Format(f"{where}: {error}; it was not used") from None
    empty = [n for n in table.column_names if table[n].null_count]
    if empty:
        raise Format(f"{where}: expected a value in every row, found none in some of {empty}; it was not used")
    return table
