"""SHA-256 of the files and images of a source, reading only what an earlier index does not know."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Protocol, TypeVar

from storage.datasets.base import File, Image, Reader
from storage.errors import Integrity

Progress = Callable[[int, int], None]

_THREADS = min(8, os.cpu_count() or 1)
_BATCH = 4096
_GROUP = 32  # of small files: handing one to a thread costs as much as reading it
_CHUNK = 1 << 20


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=_Sized)


def hash_files(
    reader: Reader, files: list[File], known: dict[File, str], progress: Progress | None
) -> dict[str, str]:
    """SHA-256 of every file, by path; `known` has those that need not be read.

    Raises Integrity when a file does not have its listed size any more.
    """
    new = [file for file in files if file not in known]
    read = _in_order(lambda file: _hash_file(reader, file), new, progress)
    return {file.path: known.get(file) or next(read) for file in files}


def hash_parts(
    reader: Reader, images: list[Image], known: dict[tuple[str, int, int], str], progress: Progress | None
) -> list[Image]:
    """Fill in the SHA-256 of images that have none yet; `known` has some by (path, offset, size)."""
    digests = [image.sha256 or known.get((image.path, image.offset, image.size), "") for image in images]
    new = [image for image, digest in zip(images, digests, strict=True) if not digest]
    read = _in_order(lambda image: hashlib.sha256(reader.read(image)).hexdigest(), new, progress)
    return [replace(i, sha256=digest or next(read)) for i, digest in zip(images, digests, strict=True)]


def _in_order(function: Callable[[T], str], items: list[T], progress: Progress | None) -> Iterator[str]:
    """Map in threads, a bounded number of items at a time, with the results in the order of the items."""
    done, total = 0, sum(item.size for item in items)
    group = max(1, min(_GROUP, len(items) // (4 * _THREADS)))
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            groups = [batch[at : at + group] for at in range(0, len(batch), group)]
            results = chain.from_iterable(pool.map(lambda some: [function(item) for item in some], groups))
            for item, result in zip(batch, results, strict=True):
                done += item.size
                if progress:
                    progress(done, total)
                yield result


def _hash_file(reader: Reader, file: File) -> str:
    hasher, size = hashlib.sha256(), 0
    with reader.open(file.path) as opened:
        while chunk := opened.read(_CHUNK):
            hasher.update(chunk)
            size += len(chunk)
    if size != file.size:
        raise Integrity(
            f"{file.path}: expected {file.size} bytes as listed; found {size}. "
            "Index again when nobody writes there."
        )
    return hasher.hexdigest()
