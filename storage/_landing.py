"""The folder that a version is pulled into, and what it says of itself.

The marker says which files are there and verified; it is written last and removed before anything changes. While it
is away, a record says what is being pulled and, of files whose digests no manifest knows, which are done. One of the
two is there at every moment, so that two selections never meet in one folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage._download import open_plain, sync_folder, told, write_file
from storage.canonical import canonical_json, pretty_json
from storage.errors import Format, InvalidInput
from storage.manifest import RECORD_LIMIT, Record, parse

MARKER = "gazeflow.json"
RECORD = ".gazeflow.pulling"
LOCK = ".gazeflow.lock"


class Marker(Record):
    """What a complete pull leaves."""

    ref: str
    subset: bool  # not all files of the version, or not all of their samples
    classes: list[str] | None = None  # the samples' classes; absent: all samples
    files: dict[str, str]  # SHA-256 by name


@dataclass(frozen=True)
class Copied:
    """Files that were made together."""

    files: dict[str, str]  # SHA-256 by name
    bytes: int  # read for them, beside indexes
    samples: int


@dataclass(frozen=True)
class Landing:
    """One version and selection of classes, in its folder."""

    folder: Path
    ref: str
    classes: list[str] | None  # sorted; None: all samples

    def check(self) -> None:
        """Raise InvalidInput when the folder is a link or no folder."""
        with self._placed():
            wrong = self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir())
        if wrong:
            raise InvalidInput(
                f"{self.folder}: expected a folder, found a file or a link, which is never followed; nothing was copied"
            )

    def make(self) -> None:
        """Make the folder. Raises InvalidInput where none can be, Transient when the disk is full."""
        with self._placed():
            self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                with told(self.folder):
                    raise
            raise InvalidInput(
                f"{self.folder}: expected a place where a folder can be made, found none ({error.strerror}); nothing "
                "was copied. Name another DEST"
            ) from error

    def held(self, names: Iterable[str]) -> dict[str, str]:
        """What earlier pulls wrote here: SHA-256 by name. Raises InvalidInput when they chose other classes."""
        marker, record = self._marker(), self._record()
        found = [m for m in (marker, record) if m is not None]
        for other in found:
            if other.classes != self.classes:
                raise InvalidInput(
                    f"{self.folder}: expected {_told(self.classes)}, found a pull of {_told(other.classes)}; nothing "
                    "was copied. Name another DEST, or remove that folder"
                )
        if self.classes is not None and not found and any(os.path.lexists(self.folder / n) for n in names):
            raise InvalidInput(
                f"{self.folder}: expected a folder that says which classes are in it, found files and no {MARKER}; "
                "nothing was copied. Name another DEST, or remove that folder"
            )
        return {name: sha for m in found for name, sha in m.files.items()}

    def covers(self, files: Mapping[str, str]) -> bool:
        """Whether the marker vouches for these files."""
        marker = self._marker()
        return marker is not None and files.items() <= marker.files.items()

    def begin(self, held: Mapping[str, str]) -> None:
        """Say what is being pulled, then take the marker away."""
        opened = Marker(ref=self.ref, subset=True, classes=self.classes, files=dict(held))
        write_file(self.folder / RECORD, canonical_json(opened.model_dump(mode="json")))
        sync_folder(self.folder)
        with told(self.folder / MARKER):
            (self.folder / MARKER).unlink(missing_ok=True)
        sync_folder(self.folder)

    def note(self, files: Mapping[str, str]) -> None:
        """Remember files that are done."""
        path = self.folder / RECORD
        with told(path), open(open_plain(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
            file.write(b"\n" + canonical_json(files))  # a line begins afresh, whatever a crash left of the last

    def finish(self, files: Mapping[str, str], subset: bool) -> None:
        """Say that all is there."""
        marker = Marker(ref=self.ref, subset=subset, classes=self.classes, files=dict(files))
        sync_folder(self.folder)
        write_file(self.folder / MARKER, pretty_json(marker.model_dump(mode="json", exclude_none=True)))
        sync_folder(self.folder)
        self.clear()

    def clear(self) -> None:
        """Drop the record of a pull that is complete."""
        (self.folder / RECORD).unlink(missing_ok=True)

    def _marker(self) -> Marker | None:
        return self._parsed(self._read(MARKER))

    def _record(self) -> Marker | None:
        first, *lines = self._read(RECORD).split(b"\n")
        opened = self._parsed(first)
        if opened is not None:
            for line in lines:
                opened.files.update(_files(line))
        return opened

    def _parsed(self, data: bytes) -> Marker | None:
        """A marker, or None where there is none, a damaged one, or one of another version."""
        try:
            marker = parse(Marker, data, str(self.folder))
        except Format:
            return None
        return marker if marker.ref == self.ref else None

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            with told(path), open(open_plain(path, os.O_RDONLY), "rb") as file:
                return file.read(RECORD_LIMIT)
        except (FileNotFoundError, NotADirectoryError, InvalidInput):  # a link is no marker, wherever it leads
            return b""


def _files(line: bytes) -> dict[str, str]:
    """A line of the record; a torn one says nothing."""
    try:
        found = json.loads(line)
        return {str(k): str(v) for k, v in found.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _told(classes: list[str] | None) -> str:
    if classes is None:
        return "all classes"
    return f"the classes {', '.join(classes[:5])}" + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
