"""Files below a local folder: what the readers of this folder share.

Hidden files and macOS leftovers (`.x`, `__MACOSX`) are no part of a data set. Links are followed, since
subsets of ImageNet are often folders of links; a link that leads back to a folder above it is an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from storage.datasets.base import File, Image
from storage.errors import Integrity, InvalidInput, NotFound

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image's (.jpg, .jpeg, .png, .webp in any case)."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether a base name belongs to the system rather than to the data."""
    return name.startswith(".") or name == "__MACOSX"


def list_files(root: Path) -> list[File]:
    """List the regular files below `root`, sorted by path; no bytes are read.

    Raises NotFound when the folder is missing, InvalidInput when `root` is no folder, a link leads nowhere
    or in a circle, or a name is not UTF-8.
    """
    check_folder(root)
    found = _walk(str(root), "", frozenset())
    files = [File(path, status.st_size, str(status.st_mtime_ns)) for path, status in found]
    return sorted(files, key=lambda file: file.path)


def check_folder(root: Path) -> None:
    """Raise NotFound or InvalidInput unless `root` is a folder."""
    if not root.exists():
        raise NotFound(f"{root}: expected a folder; found nothing there. Check the path in the config.")
    if not root.is_dir():
        raise InvalidInput(f"{root}: expected a folder; found a file.")


def list_folders(root: Path) -> list[str]:
    """Names of the folders directly in `root`, sorted; links to folders count."""
    check_folder(root)
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))


def stat_file(path: Path, name: str) -> File:
    """`path` as a File named `name`; raises NotFound when it is missing."""
    try:
        status = path.stat()
    except OSError as error:
        raise NotFound(f"{path}: expected a file; found none ({error.strerror}).") from error
    return File(name, status.st_size, str(status.st_mtime_ns))


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset`; raises NotFound without the file, Integrity when it is shorter."""
    with open_file(path) as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise Integrity(
            f"{path}: expected {size} bytes from byte {offset}; found {len(data)}. "
            "The file changed since it was listed: run again to list it anew."
        )
    return data


def read_file(path: Path, size: int) -> bytes:
    """Read a whole file; raises NotFound without it, Integrity when it does not have `size` bytes."""
    with open_file(path) as file:
        found = os.fstat(file.fileno()).st_size
    if found != size:
        raise Integrity(
            f"{path}: expected {size} bytes; found {found}. "
            "The file changed since it was listed: run again to list it anew."
        )
    return read_range(path, 0, size)


def open_file(path: Path) -> BinaryIO:
    """Open for reading; raises NotFound when there is no such file."""
    try:
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFound(f"{path}: expected a file; found none ({error.strerror}).") from error


class Folder:
    """Base of the readers of a local folder: opens and reads what lies below it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def open(self, path: str) -> BinaryIO:
        """Open a file of the source."""
        return open_file(self.root / path)

    def read(self, image: Image) -> bytes:
        """Bytes of an image that is a file of its own; Integrity when its size has changed."""
        return read_file(self.root / image.path, image.size)


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> list[tuple[str, os.stat_result]]:
    here = os.stat(folder)
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        raise InvalidInput(f"{folder}: a link leads back to a folder above it. Remove the link.")
    found: list[tuple[str, os.stat_result]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            path = prefix + _utf8(entry.name, folder)
            if entry.is_dir():
                found += _walk(entry.path, path + "/", above | {identity})
            elif entry.is_file():
                found.append((path, entry.stat()))
            elif entry.is_symlink():
                raise InvalidInput(f"{entry.path}: a link that leads nowhere. Mend or remove it.")
    return found


def _utf8(name: str, folder: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{folder}: the file name {name!r} is not UTF-8. Rename it.") from None
    return name
