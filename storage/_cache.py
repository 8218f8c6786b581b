"""Members of a store on the local disk: bounded, verified at every use, shared by processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from storage._download import fill, locked, open_plain, part_of, told
from storage.backends import Backend, open_backend
from storage.errors import Integrity
from storage.manifest import Member

_NAME = re.compile(r"[0-9a-f]{64}")
_STALE = 3600.0  # seconds without a byte after which a part has no writer


class MemberCache:
    """A folder of members, each named by its SHA-256, the least recently used leaving first.

    A file may leave while others read it: they hold it open. Another process opens the same place by its URL.
    """

    def __init__(self, backend: Backend, folder: Path, limit: int) -> None:
        """Keep at most `limit` bytes in `folder`, beside what is being fetched."""
        self.backend, self.folder, self.limit = backend, folder, limit

    def open(self, member: Member) -> BinaryIO:
        """A member as a file at its first byte, verified. Raises Integrity when the store's bytes are damaged."""
        with told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if member.bytes > self.limit:
            return self._passing(member)
        found = self._kept(member)
        if found is None:
            with locked(self.folder / f".{member.sha256}.lock"):  # two that need one shard fetch it once
                found = self._kept(member) or self._fetched(member)
        return found

    def _kept(self, member: Member) -> BinaryIO | None:
        path = self.folder / member.sha256
        try:
            file = open(open_plain(path, os.O_RDONLY), "rb")  # noqa: SIM115  # closed by whom it is handed to
        except FileNotFoundError:
            return None
        if hashlib.file_digest(file, "sha256").hexdigest() == member.sha256:
            os.utime(file.fileno())
            file.seek(0)
            return file
        file.close()
        path.unlink(missing_ok=True)
        return None

    def _fetched(self, member: Member) -> BinaryIO:
        path = self.folder / member.sha256
        part = part_of(path, member)
        with told(part), _handed_on(open(open_plain(part, os.O_RDWR | os.O_CREAT), "r+b")) as file:
            try:
                fill(self.backend, member, file, _nobody)
            except Integrity:
                part.unlink(missing_ok=True)
                raise
            file.flush()
            os.replace(part, path)
            self._make_room()
        return file

    def _passing(self, member: Member) -> BinaryIO:
        """A member that is larger than the cache, in a file without a name."""
        with told(self.folder), _handed_on(cast(BinaryIO, tempfile.TemporaryFile(dir=self.folder))) as file:
            fill(self.backend, member, file, _nobody)
        return file

    def _make_room(self) -> None:
        with locked(self.folder / ".lock"):
            files = []
            for entry in os.scandir(self.folder):
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if _NAME.fullmatch(entry.name):
                    files.append((found.st_mtime_ns, found.st_size, entry.name))
                elif entry.name.endswith(".part") and time.time() - found.st_mtime > _STALE:
                    (self.folder / entry.name).unlink(missing_ok=True)
            over = sum(size for _, size, _ in files) - self.limit
            for _, size, name in sorted(files):
                if over <= 0:
                    break
                (self.folder / name).unlink(missing_ok=True)
                over -= size

    def __getstate__(self) -> dict[str, Any]:
        return {"url": quote(self.backend.url, safe=":/"), "folder": self.folder, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(open_backend(state["url"]), state["folder"], state["limit"])  # type: ignore[misc]  # as made


@contextlib.contextmanager
def _handed_on(file: BinaryIO) -> Iterator[BinaryIO]:
    """A file that its taker closes, at its first byte; an error closes it."""
    try:
        yield file
        file.seek(0)
    except BaseException:
        file.close()
        raise


def _nobody(count: int) -> None:
    """Takes counts that nobody asked for."""
