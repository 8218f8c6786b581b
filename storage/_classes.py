"""The classes of a version's samples, from the footer of its data set's index: the index itself is not read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from storage.backends import Backend
from storage.backends._ranged import RangedObject
from storage.errors import Format, GazeflowError, InvalidInput, NotFound
from storage.manifest import RECORD_LIMIT, Manifest


def class_labels(backend: Backend, manifest: Manifest, classes: Sequence[str]) -> list[int]:
    """The labels of some classes. Raises NotFound naming a class that is not there and the nearest one that is."""
    names = class_names(backend, manifest)
    label_of = {name: label for label, name in enumerate(names)}
    for name in classes:
        if name not in label_of:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0)
            raise NotFound(
                f"class {name!r}: not one of the {len(names)} of {manifest.kind}@{manifest.version}; "
                + (f"did you mean {near[0]!r}?" if near else "its data set has no classes")
            )
    return [label_of[name] for name in classes]


def class_names(backend: Backend, manifest: Manifest) -> tuple[str, ...]:
    """The classes of the images that a version is of, by label."""
    found = {str(d.get("fingerprint")) for role in manifest.key.datasets.values() for d in role}
    if len(found) != 1:
        raise InvalidInput(
            f"{manifest.kind}@{manifest.version}: expected labels of one data set, found {len(found)}; classes cannot "
            "be chosen. Leave them out"
        )
    (fingerprint,) = found
    return _names(backend, f"datasets/{fingerprint}.parquet", fingerprint)


def _names(backend: Backend, key: str, fingerprint: str) -> tuple[str, ...]:
    size = backend.size(key)
    if size is None:
        raise NotFound(f"{backend.url}/{key}: no such data set index; the names of classes are in it")
    try:
        file = pq.ParquetFile(pa.PythonFile(_Footer(backend, key, size), mode="r"))
        facts = json.loads((file.schema_arrow.metadata or {})[b"gazeflow.dataset"])
        names = tuple(facts["classes"])
        whole = facts["fingerprint"] == fingerprint and len({str(n) for n in names}) == len(names)
    except GazeflowError:
        raise
    except (pa.ArrowException, LookupError, ValueError, TypeError, OSError, RecursionError) as error:
        raise Format(f"{backend.url}/{key}: expected a data set index, found something else ({error!r})") from None
    if not whole:
        raise Format(f"{backend.url}/{key}: expected the index of {fingerprint} with classes of one name each")
    return names


class _Footer(RangedObject):
    """The end of a Parquet file, which says itself how long it is."""

    _asked = 0

    def read(self, size: int = -1) -> bytes:
        self._asked += min(size if size >= 0 else self._size, max(self._size - self._at, 0))
        if self._asked > RECORD_LIMIT:
            raise Format(f"{self._key}: expected a footer of at most {RECORD_LIMIT} bytes, found more; not read")
        return super().read(size)
