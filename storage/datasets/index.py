"""The index of a dataset: every file and image with its SHA-256, and the shard that the image is in.

It is one table, and one Parquet file, with a row per image in shard order, then a row per file that is no
image by itself (annotations, tars). `key` is null in the latter; `stamp` is null in images that are parts of
a larger file. Sources without shards of their own are cut into virtual ones in the order of SHA-256(key), so
that each shard is a fair sample and none depends on how the source lists its files.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.canonical import canonical_json
from storage.datasets._hashing import Progress, hash_files, hash_parts
from storage.datasets.base import File, Image, Reader
from storage.errors import Format, Integrity, InvalidInput
from storage.keys import check_unique

SHARD_SIZE = 1000
FORMAT_VERSION = 1

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("label", pa.int32()),
        ("shard", pa.int32()),
        ("stamp", pa.string()),
    ]
)
_IMAGE = ["key", "path", "offset", "size", "sha256", "label", "shard"]
_FILE = ["path", "size", "stamp", "sha256"]
_META = b"gazeflow.dataset"


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """A dataset's files and images, as last listed and hashed."""

    fingerprint: str  # SHA-256 over the sorted (relative path, sha256) of all files: a copy has the same
    format: str
    classes: tuple[str, ...]
    shard_size: int  # of virtual shards; without meaning where the source has shards of its own
    table: pa.Table  # as in the module's docstring

    def __len__(self) -> int:
        """Number of images."""
        return int(self.table.num_rows - self.table["key"].null_count)

    @cached_property
    def images(self) -> pa.Table:
        """key, path, offset, size, sha256, label, shard of every image, in shard order."""
        return self.table.slice(0, len(self)).select(_IMAGE)

    @cached_property
    def files(self) -> pa.Table:
        """path, size, stamp, sha256 of every file, sorted by path."""
        return self.table.filter(pc.is_valid(self.table["stamp"])).select(_FILE).sort_by("path")

    def shards(self) -> int:
        """Number of shards; none is empty."""
        return len(self._bounds) - 1

    def shard(self, number: int) -> list[Image]:
        """The images of one shard, in order."""
        return [Image(**row) for row in self._rows(number).to_pylist()]

    def shard_digest(self, number: int) -> str:
        """SHA-256 over what the shard's labels depend on: key, sha256 and label of its images, in order."""
        rows = self._rows(number).select(["key", "sha256", "label"])
        return _digest_lines(zip(*rows.to_pydict().values(), strict=True))

    def to_parquet(self) -> bytes:
        """The index as the bytes of a Parquet file; an equal index gives equal bytes."""
        facts = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "format": self.format,
            "classes": self.classes,
            "shard_size": self.shard_size,
        }
        sink = pa.BufferOutputStream()
        table = self.table.replace_schema_metadata({_META: canonical_json(facts)})
        pq.write_table(table, sink, compression="zstd", use_dictionary=["label", "shard"])
        return bytes(sink.getvalue())

    @classmethod
    def from_parquet(cls, data: bytes) -> DatasetIndex:
        """Read what `to_parquet` wrote; raises Format when the bytes are anything else."""
        try:
            table = pq.read_table(pa.BufferReader(data))
            facts = json.loads((table.schema.metadata or {})[_META])
            version = facts.pop("format_version")
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            raise Format(
                f"dataset index: expected the Parquet file of one; found {error!r}. Index the data set again."
            ) from error
        if version != FORMAT_VERSION or not table.schema.equals(_SCHEMA):
            raise Format(
                f"dataset index: expected format {FORMAT_VERSION}; found format {version} with columns "
                f"{', '.join(table.schema.names)}. Index the data set again with this release."
            )
        facts["classes"] = tuple(facts["classes"])
        return cls(table=table.replace_schema_metadata(None).combine_chunks(), **facts)

    @cached_property
    def _bounds(self) -> np.ndarray:
        """First row of each shard, and the end."""
        shard = self.images["shard"].to_numpy()
        return np.searchsorted(shard, np.arange(shard[-1] + 2 if len(shard) else 1))

    def _rows(self, number: int) -> pa.Table:
        if not 0 <= number < self.shards():
            raise InvalidInput(f"dataset shard {number}: expected 0 to {self.shards() - 1}.")
        start, end = self._bounds[number : number + 2].tolist()
        return self.images.slice(start, end - start)


def build_index(
    reader: Reader,
    previous: DatasetIndex | None = None,
    rehash: bool = False,
    progress: Progress | None = None,
    shard_size: int = SHARD_SIZE,
) -> DatasetIndex:
    """List a source, hash what is new, and cut it into shards.

    `previous` is an earlier index of the same path with the same options: entries whose path, size and stamp
    are unchanged are not read again, unless `rehash`; if nothing changed it is returned as it is. `progress`
    gets the bytes read and the bytes to read; images inside tars are a second count, from 0 again. Raises
    what the reader raises, InvalidInput when two images have one key, and Integrity when the source changes
    meanwhile.
    """
    files, classes, format = reader.files(), reader.classes(), _format(reader)
    known = {} if rehash or previous is None else _known_files(previous)
    if previous and list(known) == files and _same(previous, format, classes, shard_size):
        return previous
    digests = hash_files(reader, files, known, progress)
    found = list(reader.images(lambda file: _look_up(digests, file)))
    if not all(image.sha256 for image in found):
        parts = _known_parts(previous, known.keys() & set(files)) if previous and known else {}
        found = hash_parts(reader, found, parts, progress)
    if not found:
        raise InvalidInput(f"{format}: the source holds no images.")
    check_unique((image.key, image.path) for image in found)
    table = _table(_in_shard_order(found), shard_size, files, digests)
    return DatasetIndex(_fingerprint(digests), format, classes, shard_size, table)


def _look_up(digests: dict[str, str], file: File) -> str:
    if file.path not in digests:
        raise Integrity(f"{file.path}: new while the source was read. Index again when nobody writes there.")
    return digests[file.path]


def _in_shard_order(images: list[Image]) -> list[Image]:
    if all(image.shard >= 0 for image in images):
        return sorted(images, key=lambda image: image.shard)
    assert all(image.shard < 0 for image in images), "either all images of a source have a shard or none has"
    return sorted(images, key=lambda image: hashlib.sha256(image.key.encode()).digest())


def _table(images: list[Image], shard_size: int, files: list[File], digests: dict[str, str]) -> pa.Table:
    """The index's table from images in shard order."""
    whole = {file.path: file for file in files}
    rows: dict[str, list[object]] = {name: [getattr(i, name) for i in images] for name in _IMAGE}
    rows["shard"] = [i.shard if i.shard >= 0 else rank // shard_size for rank, i in enumerate(images)]
    own = {i.path for i in images if i.offset == 0 and i.size == whole[i.path].size}
    rows["stamp"] = [whole[i.path].stamp if i.path in own else None for i in images]
    rest = [file for file in files if file.path not in own]
    for file in rest:
        values = (None, file.path, None, file.size, digests[file.path], None, None, file.stamp)
        for name, value in zip(_SCHEMA.names, values, strict=True):
            rows[name].append(value)
    return pa.table(rows, schema=_SCHEMA)


def _same(index: DatasetIndex, format: str, classes: tuple[str, ...], shard_size: int) -> bool:
    return (index.format, index.classes, index.shard_size) == (format, classes, shard_size)


def _known_files(index: DatasetIndex) -> dict[File, str]:
    """SHA-256 of every file of an index, sorted by path."""
    paths, sizes, stamps, digests = index.files.to_pydict().values()
    return dict(zip(map(File, paths, sizes, stamps), digests, strict=True))


def _known_parts(index: DatasetIndex, files: set[File]) -> dict[tuple[str, int, int], str]:
    """SHA-256 of the images of an index that are in these files, by path, offset and size."""
    paths = {file.path for file in files}
    places = index.images.select(["path", "offset", "size", "sha256"]).to_pydict().values()
    return {(path, at, size): digest for path, at, size, digest in zip(*places, strict=True) if path in paths}


def _fingerprint(digests: dict[str, str]) -> str:
    """Over paths in NFC: some file systems store names in another form than they were given."""
    return _digest_lines(sorted((unicodedata.normalize("NFC", path), sha) for path, sha in digests.items()))


def _digest_lines(rows: Iterable[tuple[object, ...]]) -> str:
    """SHA-256 over one line of canonical JSON for each row."""
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(canonical_json(row) + b"\n")
    return hasher.hexdigest()


def _format(reader: Reader) -> str:
    return type(reader).__module__.rpartition(".")[2]
