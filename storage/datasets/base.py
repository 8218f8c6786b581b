"""What every dataset format gives: its files, its images with their keys, and people's fixations.

A format is one module of this folder, named as in a config's `format = "..."`, with one class `Reader`
whose constructor takes the folder (or tar pattern) and the format's own options as keywords.
`Reader.files` lists (cheap, no bytes read); `index.py` hashes what is new; `Reader.images` then names the
images. Readers never decode: `storage/images.py` does.

Coordinates: x is the column, y the row, both continuous pixels of the source image, 0 at the left and top
edge, so that the pixel is floor(x), floor(y). Formats that count from 1 (pixel centres at whole numbers)
are moved by -0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class File:
    """One file of a source, as listed: enough to know whether it changed."""

    path: str  # relative to the source, "/"-separated
    size: int  # bytes
    stamp: str  # mtime in ns, or an object's ETag


@dataclass(frozen=True)
class Image:
    """One image of a dataset: where its bytes are, and what they are."""

    key: str  # section "Keys" of storage/FORMAT.md
    path: str  # the file that holds the bytes, relative to the source
    offset: int  # first byte in that file; 0 for a file of its own
    size: int  # bytes of the image
    sha256: str  # of the image's bytes; a reader leaves "" for a part of a larger file, index.py fills it in
    label: int  # class index, -1 for none
    shard: int = -1  # virtual shard, set by index.py; a format that has shards of its own sets it


@dataclass(frozen=True)
class Gaze:
    """One person's fixations on one image, in the order of viewing."""

    subject: str
    x: np.ndarray  # float32, 0 <= x < width
    y: np.ndarray  # float32, 0 <= y < height


@dataclass(frozen=True)
class Attention:
    """Everyone's fixations on one image."""

    key: str
    width: int  # of the frame the coordinates are in (the source image's)
    height: int
    gazes: tuple[Gaze, ...]
    dropped: int = 0  # fixations outside the image, left out and counted

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """All people's x and y in one pair of float32 arrays."""
        if not self.gazes:
            return np.empty(0, np.float32), np.empty(0, np.float32)
        return np.concatenate([g.x for g in self.gazes]), np.concatenate([g.y for g in self.gazes])


class Reader(Protocol):
    """A source of images."""

    def files(self) -> list[File]:
        """List all files whose bytes make this dataset (annotations too), sorted by path.

        Raises NotFound when the folder is missing and InvalidInput when it holds nothing of this format.
        """
        ...

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        """Name the images. `digest` gives a file's SHA-256, from the last index or by reading it."""
        ...

    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty where there are none."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open one of `files` for reading, seekable (`_folder.Folder` does it for local folders)."""
        ...

    def read(self, image: Image) -> bytes:
        """The image's bytes. Raises Integrity when they are not there any more in that size."""
        ...


@runtime_checkable
class AttentionReader(Reader, Protocol):
    """A source of images that people looked at."""

    def attention(self) -> Iterator[Attention]:
        """Fixations of every image that has any, sorted by key; keys are those of `images`."""
        ...
