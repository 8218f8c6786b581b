"""Members of tar files by offset, without extracting anything.

The whole tar is checked for being whole: a tar cut at a member boundary reads like a shorter tar to most
programs, and so does one with a broken header in the middle.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from storage.errors import Integrity, InvalidInput

_BLOCK = 512
_WINDOW = 1 << 20


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    name: str
    offset: int  # of its first byte, from the start of the outermost file
    size: int  # bytes


def members(file: BinaryIO, source: str, start: int = 0, size: int | None = None) -> Iterator[Member]:
    """Yield the regular members of the uncompressed tar at `start`, of `size` bytes (None: to the end).

    Folders are passed over. Raises InvalidInput for links, devices, sparse files, absolute names and names
    with "..", and Integrity for a tar that is cut, broken or followed by other bytes; since the end is
    checked last, only an exhausted iterator vouches for the tar. `source` is what errors name.
    """
    end = file.seek(0, os.SEEK_END) if size is None else start + size
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.size < 0 or info.offset_data + info.size > end:
                    raise Integrity(f"{source}: cut or broken at {info.name!r}. Fetch the tar again.")
                if not info.isdir():
                    yield _checked(info, source)
            last = tar.offset
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
        if isinstance(error, Integrity | InvalidInput):
            raise
        raise Integrity(
            f"{source}: expected an uncompressed tar; found {end - start} bytes that do not read as one "
            f"({error}). Fetch the tar again."
        ) from error
    _check_end(file, source, last, end)


def _checked(info: tarfile.TarInfo, source: str) -> Member:
    name = info.name.removeprefix("./")
    if not info.isreg() or info.issparse():
        raise InvalidInput(
            f"{source}: expected plain files in the tar; found {info.name!r}, a link, device or sparse file."
        )
    if name.startswith("/") or ".." in name.split("/"):
        raise InvalidInput(f"{source}: expected relative names in the tar; found {info.name!r}.")
    return Member(name, info.offset_data, info.size)


def _check_end(file: BinaryIO, source: str, last: int, end: int) -> None:
    """A whole tar ends with at least one block of zeros, and with nothing else."""
    file.seek(last)
    if end - last < _BLOCK:
        raise Integrity(f"{source}: cut at byte {end}, before the zeros that end a tar. Fetch the tar again.")
    for at in range(last, end, _WINDOW):
        if any(file.read(min(_WINDOW, end - at))):
            raise Integrity(
                f"{source}: broken near byte {at}: expected the zeros that end a tar; found other bytes. "
                "Fetch the tar again; tars joined end to end must be split."
            )
