"""A bucket as an object store, through boto3 and s3transfer.

Every upload is signed over the SHA-256 of its body, which servers check, also those that know no newer checksums;
what is read back is checked by whoever knows its digest. ETags are never taken for a hash.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from s3transfer.bandwidth import BandwidthLimitedStream, LeakyBucket
from s3transfer.futures import TransferCoordinator
from s3transfer.manager import TransferManager

from storage.backends._s3_client import PART, S3Options, connect, options_from_environment
from storage.backends._s3_errors import FAILURES, meaning, repeated, status
from storage.backends.base import CHUNK, Entry, check_key, check_prefix, without_secrets
from storage.errors import GazeflowError, Integrity, InvalidInput, NotFound, Transient

__all__ = ["S3Backend", "S3Options"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_MARK = "gazeflow-write"  # the metadata that says whose write an object is
_WHOLE = 64 * 2**20  # bytes: the largest that is created in one request; no record is larger
_BUSY = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # pauses while another writer's request is under way, seconds


class S3Backend:
    """Objects below one prefix of a bucket. Safe in threads; a forked process makes its own connections."""

    def __init__(self, url: str, options: S3Options | None = None) -> None:
        parts = urlsplit(url)
        prefix = parts.path.strip("/")
        if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
            raise InvalidInput(
                f"store {without_secrets(url)!r}: expected s3://BUCKET or s3://BUCKET/PREFIX; nothing was opened"
            )
        self.bucket = parts.netloc
        self.prefix = f"{check_key(prefix)}/" if prefix else ""
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._options = options or options_from_environment()
        self.threads = max(1, self._options.connections // 2)
        rate = self._options.max_bandwidth
        self._bucket_of_bytes = LeakyBucket(rate) if rate else None
        self._lock = threading.Lock()
        self._managers: dict[int, TransferManager] = {}  # by process: connections do not survive a fork

    # reading

    def get(self, key: str, limit: int | None = None) -> bytes:
        return b"".join(self._chunks(key, 0, None, limit))

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        return b"".join(self._chunks(key, offset, size, None)) if size else b""

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        return self._chunks(key, offset, None, None)

    def size(self, key: str) -> int | None:
        head = self._head(key)
        return None if head is None else int(head["ContentLength"])

    def _chunks(self, key: str, offset: int, size: int | None, limit: int | None) -> Iterator[bytes]:
        """The bytes from `offset` (`size` of them, or all); an answer that breaks off is taken up where it broke."""
        end = None if size is None else offset + size
        etag, failures = None, 0
        while end is None or offset < end:
            answer = self._get(key, offset, end, etag)
            if answer is None:
                return
            total = _whole_size(answer)
            try:
                with contextlib.closing(self._limited(answer["Body"])) as body:
                    if limit is not None and total > limit:
                        raise Integrity(f"{self.url}/{key}: expected at most {limit} bytes, found {total}; not read")
                    if not _begins_at(answer, offset, end):
                        raise self._another_range(key, offset, end, answer)
                    while chunk := body.read(CHUNK):  # an end before the stated length is an error of botocore's
                        etag, end = answer["ETag"], total if end is None else end  # no head is cut that a body follows
                        if end > total:
                            raise self._too_short(key, offset, end)
                        offset += len(chunk)
                        failures = 0
                        yield chunk
                end = total if end is None else end
            except FAILURES as error:
                failures += 1
                if failures >= self._options.attempts:
                    raise self._meaning(error, key) from error
                time.sleep(min(0.05 * 2**failures, 5))

    def _get(self, key: str, offset: int, end: int | None, etag: str | None) -> Any:
        """The server's answer, which boto3 asks for repeatedly; None when all from `offset` on is nothing."""
        wanted: dict[str, str] = {"IfMatch": etag} if etag else {}  # never bytes of two objects joined
        if offset or end is not None:
            wanted["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
        try:
            with self._asking(key) as client:
                return client.get_object(Bucket=self.bucket, Key=self._name(key), **wanted)
        except GazeflowError as error:
            if status(error) != 416:
                raise
        if end is None and self.size(key) == offset:
            return None
        raise self._too_short(key, offset, end)

    def _head(self, key: str) -> Any:
        """An object's headers, or None when there is none."""
        try:
            with self._asking(key) as client:
                return client.head_object(Bucket=self.bucket, Key=self._name(key))
        except NotFound:
            return None

    def _another_range(self, key: str, offset: int, end: int | None, answer: Any) -> Integrity:
        found = answer.get("ContentRange", f"all {answer['ContentLength']} bytes")
        return Integrity(
            f"{self.url}/{key}: expected bytes {offset} to {'its end' if end is None else end}, found {found}: "
            f"{without_secrets(self._client.meta.endpoint_url)} ignores Range; the bytes were not used. Keep the store "
            "on another server"
        )

    def _too_short(self, key: str, offset: int, end: int | None) -> Integrity:
        return Integrity(
            f"{self.url}/{key}: expected bytes {offset} to {'its end' if end is None else end}, found fewer; "
            "the object is cut: run `gazeflow verify` on the version that names it"
        )

    # writing

    def create(self, key: str, data: bytes | memoryview) -> bool:
        """As of a Backend. Above 64 MiB only objects named by their content: there the loser writes equal bytes."""
        if len(data) > _WHOLE:
            return self.size(key) is None and self._upload(key, data)
        mark, found = uuid.uuid4().hex, None
        for attempt, pause in enumerate(_BUSY):
            try:
                self._put(key, data, mark, IfNoneMatch="*")
                return True
            except Transient as error:
                refusal = error
            if status(refusal) == 412 and attempt == 0 and not repeated(refusal):
                return False
            # An answer may have been lost after the write took place, and the request's repetition met its own object.
            found = self._head(key)
            if found is None and status(refusal) not in (409, 412):
                raise refusal
            if found is not None and _writer(found):
                return _writer(found) == mark
            time.sleep(pause)
        if found is None:
            raise refusal
        return False  # written by a program that leaves no mark

    def replace(self, key: str, data: bytes | memoryview) -> None:
        if len(data) > PART:
            self._upload(key, data)
        else:
            self._put(key, data, uuid.uuid4().hex)

    def delete(self, key: str) -> None:
        with self._asking(key) as client:
            client.delete_object(Bucket=self.bucket, Key=self._name(key))

    def _put(self, key: str, data: bytes | memoryview, mark: str, **condition: str) -> None:
        with self._asking(key) as client:
            body, marked = self._limited(io.BytesIO(data)), {_MARK: mark}
            client.put_object(Bucket=self.bucket, Key=self._name(key), Body=body, Metadata=marked, **condition)

    def _upload(self, key: str, data: bytes | memoryview) -> bool:
        """Write a large object in parts; it appears at once, when its last part is there."""
        name, mark = self._name(key), uuid.uuid4().hex
        try:
            with self._asking(key):
                body, marked = self._limited(io.BytesIO(data)), {"Metadata": {_MARK: mark}}
                self._manager.upload(body, self.bucket, name, marked).result()
        except Transient:
            found = self._head(key)  # the answer to the request that ends an upload may be lost, too
            if found is None or _writer(found) != mark:
                raise
        return True

    # listing

    def entries(self, prefix: str) -> Iterator[Entry]:
        for page in self._pages(prefix):
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self.prefix)
                etag = found.get("ETag", "").strip('"')
                yield Entry(key, int(found["Size"]), found["LastModified"].timestamp(), etag)

    def children(self, prefix: str) -> list[str]:
        names = set()
        for page in self._pages(prefix, Delimiter="/"):
            keys = [f["Key"] for f in page.get("Contents", ())] + [f["Prefix"] for f in page.get("CommonPrefixes", ())]
            names |= {k.removeprefix(self.prefix + prefix) for k in keys}
        return sorted(names - {""})

    def _pages(self, prefix: str, **how: str) -> Iterator[Any]:
        whole = self.prefix + check_prefix(prefix)
        with self._asking(prefix) as client:
            yield from client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=whole, **how)

    def sweep(self, seconds: float) -> int:
        """Abort uploads in parts that were begun so long ago and never ended; returns how many."""
        with self._asking("") as client:
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
            begun = [upload for page in pages for upload in page.get("Uploads", ())]
            old = [u for u in begun if (datetime.now(UTC) - u["Initiated"]).total_seconds() > seconds]
            for upload in old:
                with contextlib.suppress(client.exceptions.NoSuchUpload):  # it has ended meanwhile
                    client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(old)

    # the client

    @property
    def _manager(self) -> TransferManager:
        pid = os.getpid()
        with self._lock:
            if pid not in self._managers:
                self._managers[pid] = connect(self._options)
        return self._managers[pid]

    @property
    def _client(self) -> Any:
        return self._manager.client

    @contextlib.contextmanager
    def _asking(self, key: str) -> Iterator[Any]:
        """The client, its errors made ours."""
        client = self._client
        try:
            yield client
        except GazeflowError:
            raise
        except FAILURES as error:
            raise self._meaning(error, key) from error

    def _meaning(self, error: Exception, key: str) -> GazeflowError:
        return meaning(error, f"{self.url}/{key}" if key else self.url, str(self._client.meta.endpoint_url))

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _limited(self, body: Any) -> Any:
        if self._bucket_of_bytes is None:
            return body
        return BandwidthLimitedStream(body, self._bucket_of_bytes, TransferCoordinator())


def _whole_size(answer: Any) -> int:
    """The object's size, also when the answer is a part of it."""
    part = answer.get("ContentRange")
    return int(part.rpartition("/")[2]) if part else int(answer["ContentLength"])


def _begins_at(answer: Any, offset: int, end: int | None) -> bool:
    """Whether an answer is of the bytes from `offset` and of none behind `end`."""
    if not offset and end is None:
        return True
    part = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", answer.get("ContentRange", ""))
    return part is not None and int(part[1]) == offset and (end is None or int(part[2]) < end)


def _writer(head: Any) -> str | None:
    """Which write an object is of; None when nothing, or a part of it, is left of the mark."""
    mark = head["Metadata"].get(_MARK, "")
    return mark if len(mark) == 32 else None
