"""The samples of some classes: which rows, which bytes of the store, and shards of these samples alone.

Of a saliency tar only the chosen maps are read, by the byte ranges in its index. What comes out is a shard like any
other, with the name of the one it was taken from.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage._classes import class_labels
from storage._download import Meter, write_file
from storage._landing import Copied
from storage.backends import Backend
from storage.canonical import sha256
from storage.errors import Format, Integrity, InvalidInput
from storage.keys import MAX_KEY_BYTES
from storage.manifest import Manifest, Member, ShardRecord
from storage.parallel import Forsaken, ordered_map
from storage.shards import (
    FIXATIONS_SCHEMA,
    SALIENCY_SCHEMA,
    SaliencyRow,
    read_png,
    read_table,
    to_parquet,
    write_saliency,
)
from storage.store import Store

_GAP = 2048  # bytes between two maps of neighbours, for which a second request is not worth its while
_SPAN = 2**19  # bytes of one request, so that many in flight stay few
_AHEAD = 4  # shards planned ahead: rows weigh more than the maps of a few classes
_WHOLE = 2**28  # bytes of a Parquet member, which is read whole
_KEY = re.compile(r"[\w %-]+(/[\w %-]+)*")  # what storage.keys makes: no dot, no empty part


@dataclass(frozen=True)
class Span:
    """A byte range of a tar, and the rows whose maps lie in it."""

    offset: int
    size: int
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Plan:
    """The chosen rows of a shard, and what of its tar they need."""

    record: ShardRecord
    rows: list[dict[str, Any]]  # of the saliency index, broken images included
    spans: list[Span]


class Subset:
    """The samples of some classes, as files of the names that whole shards have."""

    size = 0  # known once all indexes are read

    def __init__(
        self, backend: Backend, manifest: Manifest, records: Sequence[ShardRecord], classes: Sequence[str]
    ) -> None:
        """Raises InvalidInput for a kind without samples of classes, NotFound for an unknown class."""
        self._store = Store(backend)
        self._backend, self._kind, self._records = backend, manifest.kind, list(records)
        saliency = _saliency(self._store, manifest)
        self._sources = {r.shard: r for r in saliency.shards}
        self._labels = pa.array(class_labels(backend, saliency, classes), pa.int32())
        self.names = [m.name for r in records for m in r.members]
        self.threads = backend.threads

    def known(self, held: Mapping[str, str]) -> dict[str, str]:
        """What earlier pulls noted: no manifest knows these files."""
        return {n: held[n] for n in self.names if n in held}

    def there(self, names: Sequence[str], folder: Path) -> tuple[int, int]:
        """Bytes of these files, and samples of the shards that have all of theirs."""
        whole = [r for r in self._records if {m.name for m in r.members} <= set(names)]
        tables = [folder / m.name for r in whole for m in r.members if m.name.endswith(".parquet")]
        size = sum((folder / n).stat().st_size for n in names)
        return size, sum(pq.read_metadata(t).num_rows for t in tables)

    def plan(self, names: Sequence[str], folder: Path) -> Iterator[Copied]:
        """Yield what `copy` would, reading indexes alone."""
        for plan in self._plans(names):
            yield Copied({m.name: "" for m in plan.record.members}, self._bytes(plan), len(plan.rows))

    def copy(self, names: Sequence[str], folder: Path, meter: Meter) -> Generator[Copied, None, None]:
        """Make the shards of these files, one after another, while the bytes of later ones are read."""
        before, read, shards = meter.total, 0, len(self._of(names))
        made = self._saliency(names) if self._kind == "saliency" else self._fixations(names)
        for number, (plan, files) in enumerate(made, 1):
            for name, data in files.items():
                write_file(folder / name, data)
            read += self._bytes(plan)
            meter.total = before + read * shards // number
            meter.add(self._bytes(plan))
            yield Copied({n: sha256(d) for n, d in files.items()}, self._bytes(plan), len(plan.rows))

    def _of(self, names: Sequence[str]) -> list[ShardRecord]:
        wanted = set(names)
        return [r for r in self._records if any(m.name in wanted for m in r.members)]

    def _bytes(self, plan: Plan) -> int:
        if self._kind == "saliency":
            return sum(s.size for s in plan.spans)
        return sum(m.bytes for m in plan.record.members)

    def _plans(self, names: Sequence[str]) -> Iterator[Plan]:
        return ordered_map(self._planned, self._of(names), self.threads, _AHEAD, Forsaken)

    def _planned(self, record: ShardRecord) -> Plan:
        tar, index = self._source(record.shard)
        table = read_table(self._whole(index), SALIENCY_SCHEMA, index.key)
        if table.num_rows != index.samples or pc.count_distinct(table["key"]).as_py() != table.num_rows:
            raise Format(
                f"{index.key}: expected {index.samples} rows with keys of their own, found {table.num_rows} rows, or "
                "keys twice; nothing of it was used. Rerun the node that made it"
            )
        rows = table.filter(pc.is_in(table["label"], value_set=self._labels)).to_pylist()
        for row in rows:
            check_sample_key(row["key"], index.key)
        return Plan(record, rows, _spans(rows, tar, index.key))

    def _source(self, shard: int) -> tuple[Member, Member]:
        """Tar and index of a shard's maps."""
        record = self._sources.get(shard)
        members = {m.name.rpartition(".")[2]: m for m in record.members} if record else {}
        if members.keys() != {"tar", "parquet"}:
            raise Format(f"shard {shard}: expected a tar and its index, found {sorted(members)}; nothing was copied")
        return members["tar"], members["parquet"]

    def _whole(self, member: Member) -> bytes:
        if member.bytes > _WHOLE:
            raise Format(f"{member.key}: expected at most {_WHOLE} bytes of Parquet, found {member.bytes}; not read")
        return self._store.read(member)

    def _saliency(self, names: Sequence[str]) -> Iterator[tuple[Plan, dict[str, bytes]]]:
        """Shards of the chosen maps: ranges are read ahead across shards, each shard is made when it has all of its."""
        work = ((plan, span) for plan in self._plans(names) for span in plan.spans or [Span(0, 0, ())])
        for _, parts in groupby(
            ordered_map(self._maps, work, self.threads, self.threads, Forsaken),
            key=lambda part: part[0].record.shard,
        ):
            read = list(parts)
            plan = read[0][0]
            maps = {key: png for _, found in read for key, png in found.items()}
            tar, index = self._source(plan.record.shard)
            made = write_saliency(_row(r, maps.get(r["key"])) for r in plan.rows)
            yield plan, dict(zip((tar.name, index.name), made, strict=True))

    def _maps(self, work: tuple[Plan, Span]) -> tuple[Plan, dict[str, bytes]]:
        plan, span = work
        tar, _ = self._source(plan.record.shard)
        data = self._backend.get_range(tar.key, span.offset, span.size) if span.rows else b""
        return plan, {
            r["key"]: read_png(data, r["offset"] - span.offset, r["size"], r["sha256"], f"{tar.key} {r['key']}")
            for r in span.rows
        }

    def _fixations(self, names: Sequence[str]) -> Iterator[tuple[Plan, dict[str, bytes]]]:
        return ordered_map(self._points, self._plans(names), self.threads, self.threads, Forsaken)

    def _points(self, plan: Plan) -> tuple[Plan, dict[str, bytes]]:
        """The chosen rows of a fixations shard, whose labels stand in the index of its maps."""
        (member,) = plan.record.members
        table = read_table(self._whole(member), FIXATIONS_SCHEMA, member.key)
        keys = [row["key"] for row in plan.rows]
        found = table.filter(pc.is_in(table["key"], value_set=pa.array(keys, pa.string())))
        if found["key"].to_pylist() != keys:
            lost = sorted(set(keys) ^ set(found["key"].to_pylist()))[:1]
            raise Integrity(
                f"{member.key}: expected the keys of saliency shard {plan.record.shard} in its order, found "
                f"{lost or 'another order'} different; nothing of it was used. Rerun the node that made it"
            )
        return plan, {member.name: to_parquet(found.combine_chunks())}


def check_sample_key(key: str, where: str) -> str:
    """Return a sample's key that is safe as a path. Raises Format for any other."""
    if not _KEY.fullmatch(key) or len(key.encode()) > MAX_KEY_BYTES:
        raise Format(
            f"{where}: expected keys of letters, digits, '_', '-', '%' and spaces in parts joined by '/', found "
            f"{key[:200]!r}; it was not used. Another program may have written it"
        )
    return key


def _saliency(store: Store, manifest: Manifest) -> Manifest:
    """The version whose indexes know the classes."""
    if manifest.kind == "saliency":
        return manifest
    refs = [ref for found in manifest.key.inputs.values() for ref in found if ref.startswith("saliency@")]
    if manifest.kind != "fixations" or len(refs) != 1:
        raise InvalidInput(
            f"{manifest.kind}@{manifest.version}: classes are chosen of saliency and fixations, found "
            f"{manifest.kind!r} made from {refs}; nothing was copied. Leave the classes out"
        )
    return store.resolve(refs[0])


def _spans(rows: Sequence[dict[str, Any]], tar: Member, where: str) -> list[Span]:
    """Byte ranges that hold the rows' maps. Raises Format for rows that no tar could have."""
    spans: list[Span] = []
    end = 0
    for row in rows:
        ok = row["status"] == "ok"
        if not ok and row["offset"] == -1:
            continue
        if not ok or row["offset"] < end or row["size"] < 0 or row["offset"] + row["size"] > tar.bytes:
            raise Format(
                f"{where}: {row['key']!r}: expected {tar.bytes} bytes of maps one behind another, found {row['size']} "
                f"at {row['offset']}; nothing of it was used. Rerun the node that made it"
            )
        last = spans[-1] if spans else None
        end = row["offset"] + row["size"]
        if last and row["offset"] - last.offset - last.size <= _GAP and end - last.offset <= _SPAN:
            spans[-1] = Span(last.offset, end - last.offset, (*last.rows, row))
        else:
            spans.append(Span(row["offset"], row["size"], (row,)))
    return spans


def _row(row: dict[str, Any], png: bytes | None) -> SaliencyRow:
    return SaliencyRow(
        row["key"], row["label"], row["source_sha256"], png, row["width"], row["height"], row["peak"], row["entropy"],
        row["error"],
    )  # fmt: skip
