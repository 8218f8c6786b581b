"""Label shards as bytes: tars and Parquet files that plain tar, webdataset, pyarrow and DuckDB read.

The same rows give the same bytes: fixed times, owners and order, no clock, no host (storage/FORMAT.md).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.canonical import sha256
from storage.errors import Format, Integrity

SALIENCY_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),  # class of the source image, -1 for none
        ("offset", pa.int64()),  # of the PNG's first byte in the tar; -1 for a broken image
        ("size", pa.int64()),
        ("sha256", pa.string()),  # of the PNG; empty for a broken image
        ("source_sha256", pa.string()),
        ("width", pa.int32()),  # of the source image, pixels; 0 for a broken one
        ("height", pa.int32()),
        ("peak", pa.float32()),  # the density's maximum before it became 255
        ("entropy", pa.float32()),  # of the density, bits
        ("status", pa.string()),  # "ok" or "failed"
        ("error", pa.string()),
    ]
)

FIXATIONS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("width", pa.int32()),  # of the map, pixels: the frame of x and y
        ("height", pa.int32()),
        ("x", pa.list_(pa.uint16())),  # 0-based column, in the order of extraction
        ("y", pa.list_(pa.uint16())),  # 0-based row
        ("peak", pa.list_(pa.float32())),  # 0 to 1
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class SaliencyRow:
    """One image's saliency: its 8-bit PNG, or the reason why there is none."""

    key: str
    label: int
    source_sha256: str
    png: bytes | None = None
    width: int = 0
    height: int = 0
    peak: float = 0.0
    entropy: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class FixationsRow:
    """One map's pseudo-fixations, or the reason why there are none."""

    key: str
    width: int
    height: int
    x: np.ndarray  # uint16
    y: np.ndarray  # uint16
    peak: np.ndarray  # float32
    error: str = ""


def write_saliency(rows: Iterable[SaliencyRow]) -> tuple[bytes, bytes]:
    """Make a saliency shard: (tar of `<key>.saliency.png`, Parquet index), rows in the order given."""
    buffer = io.BytesIO()
    columns: dict[str, list[object]] = {name: [] for name in SALIENCY_SCHEMA.names}
    # GNU format: as USTAR for short names, and keys of up to 200 bytes still fit; UTF-8 whatever the locale is
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for row in rows:
            offset = _add(tar, buffer, f"{row.key}.saliency.png", row.png) if row.png is not None else -1
            values = (
                row.key,
                row.label,
                offset,
                len(row.png or b""),
                sha256(row.png) if row.png is not None else "",
                row.source_sha256,
                row.width,
                row.height,
                row.peak,
                row.entropy,
                "failed" if row.png is None else "ok",
                row.error,
            )
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
    return buffer.getvalue(), to_parquet(pa.table(columns, schema=SALIENCY_SCHEMA))


def write_fixations(rows: Iterable[FixationsRow]) -> bytes:
    """Make a fixations shard: one Parquet row per image, in the order given."""
    columns: dict[str, list[object]] = {name: [] for name in FIXATIONS_SCHEMA.names}
    for row in rows:
        status = "failed" if row.error else "ok"
        values = (row.key, row.width, row.height, row.x, row.y, row.peak, status, row.error)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return to_parquet(pa.table(columns, schema=FIXATIONS_SCHEMA))


def to_parquet(table: pa.Table) -> bytes:
    """Write a table with fixed options, so that equal tables are equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", version="2.6", store_schema=False, write_statistics=True)
    return sink.getvalue()


def read_table(data: bytes, schema: pa.Schema, where: str) -> pa.Table:
    """Read a Parquet shard of ours. Raises Format when it is not Parquet or its columns are not the schema's."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise Format(f"{where}: expected Parquet, found something else ({error}); it was not used") from None
    if not table.schema.equals(schema):
        expected, found = ([f"{f.name}: {f.type}" for f in s] for s in (schema, table.schema))
        raise Format(f"{where}: expected the columns {expected}, found {found}; it was not used")
    return table


def read_png(tar: bytes | memoryview, offset: int, size: int, digest: str, where: str) -> bytes:
    """One map's PNG out of a tar by its index row. Raises Integrity when the bytes are not the row's."""
    data = bytes(tar[offset : offset + size])
    if len(data) != size or sha256(data) != digest:
        raise Integrity(
            f"{where}: expected {size} bytes with SHA-256 {digest} at offset {offset}, found others; the map was not "
            "used. Run `gazeflow verify --deep`"
        )
    return data


def _add(tar: tarfile.TarFile, buffer: io.BytesIO, name: str, data: bytes) -> int:
    """Add a member without clock, owner or host; returns the offset of its first byte."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    padding = -len(data) % tarfile.BLOCKSIZE
    return buffer.tell() - padding - len(data)
