"""What `gazeflow doctor` asks of an S3 server alone; each probe answers (verdict, what was found, advice)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from storage.backends._s3_errors import status
from storage.backends.base import without_secrets

if TYPE_CHECKING:
    from storage.backends.s3 import S3Backend

Answer = tuple[str, str, str]

_DAY = 24 * 3600  # seconds


@dataclass(frozen=True)
class Spot:
    """Where a probe may try things: an object that does not exist yet."""

    client: Any
    bucket: str
    prefix: str  # of the store, with its slash
    name: str

    @property
    def address(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.name}


Probe = Callable[[Spot], Answer]


def ask(probe: Probe, backend: S3Backend, key: str) -> Answer:
    """A probe's answer, `key` being free to be written. Raises what calls of the backend raise."""
    with backend._asking(key) as client:
        return probe(Spot(client, backend.bucket, backend.prefix, backend.prefix + key))


def server(spot: Spot) -> Answer:
    """Which server, in which region."""
    answer = spot.client.list_objects_v2(Bucket=spot.bucket, Prefix=spot.name)["ResponseMetadata"]["HTTPHeaders"]
    region = answer.get("x-amz-bucket-region", spot.client.meta.region_name)
    name = answer.get("server", "a server that does not name itself")
    endpoint = without_secrets(spot.client.meta.endpoint_url)
    return "ok", f"{name} at {endpoint}, bucket {spot.bucket}, region {region}", ""


def transport(spot: Spot) -> Answer:
    """Whether others can read and change what goes over the wire."""
    address = urlsplit(spot.client.meta.endpoint_url)
    if address.scheme == "https":
        return "ok", "https: the objects of this examination went up and down by it", ""
    if _within_this_machine(address.hostname or ""):
        return "ok", "http, within this machine", ""
    return "warning", f"plain http to {address.hostname}", "use https: keys and labels can be read on the way"


def versions(spot: Spot) -> Answer:
    """Whether the bucket keeps what is deleted, which breaks create-only on some servers."""
    try:
        state = spot.client.get_bucket_versioning(Bucket=spot.bucket).get("Status")
    except spot.client.exceptions.ClientError as error:
        return _untold(error, "whether the bucket is versioned")
    if state is None:
        return "ok", "the bucket keeps no versions", ""
    return (
        "warning",
        f"the bucket's versioning is {state.lower()}",
        "take a bucket that never was versioned: some servers then ignore create-only, or let several writers win, and "
        "what gc deletes stays and is paid for",
    )


def signed_bodies(spot: Spot) -> Answer:
    """Whether an upload that was changed on its way is refused: every one of ours is signed over its SHA-256."""
    events = spot.client.meta.events

    def change(request: Any, **_: Any) -> None:
        if spot.name in request.url:
            request.body = b"as it is!"

    events.register("before-send.s3.PutObject", change, unique_id="doctor")
    try:
        spot.client.put_object(**spot.address, Body=b"as signed")
    except spot.client.exceptions.ClientError as error:
        if status(error) >= 500:  # busy: it may not have looked
            raise
        return "ok", f"an upload changed on its way is refused ({error.response['Error']['Code']})", ""
    finally:
        events.unregister("before-send.s3.PutObject", unique_id="doctor")
    return (
        "warning",
        "an upload that was changed on its way was taken",
        "run `gazeflow verify --deep` after publishing: the server does not check what it is sent",
    )


def kept_digests(spot: Spot) -> Answer:
    """Whether the server keeps an object's SHA-256; told only, since every reader here hashes by itself."""
    data = b"digest"
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    try:
        spot.client.put_object(**spot.address, Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=digest)
        kept = spot.client.head_object(**spot.address, ChecksumMode="ENABLED").get("ChecksumSHA256")
    except spot.client.exceptions.ClientError as error:
        return _untold(error, "whether digests are kept")
    return "ok", "the server keeps SHA-256 digests" if kept == digest else "the server keeps no digests; we do", ""


def unfinished(spot: Spot) -> Answer:
    """Uploads in parts that killed writers never ended: they are paid for and seen in no listing."""
    pages = spot.client.get_paginator("list_multipart_uploads")
    try:
        found = [u for p in pages.paginate(Bucket=spot.bucket, Prefix=spot.prefix) for u in p.get("Uploads", ())]
    except spot.client.exceptions.ClientError as error:
        return _untold(error, "which uploads in parts are unfinished")
    old = [u for u in found if (datetime.now(UTC) - u["Initiated"]).total_seconds() > _DAY]
    if old:
        return "warning", f"{len(old)} unfinished uploads in parts are a day old", "`gazeflow gc --apply` ends them"
    return "ok", "no unfinished upload in parts is a day old", ""


PROBES: dict[str, Probe] = {
    "server": server,
    "transport": transport,
    "versions": versions,
    "signed bodies": signed_bodies,
    "digests": kept_digests,
    "leftovers": unfinished,
}


def _untold(error: Any, what: str) -> Answer:
    code = error.response["Error"]["Code"]
    if status(error) > 501:
        raise error
    if status(error) == 501:
        return "ok", f"the server lacks the request that tells {what}", ""
    return "warning", f"the server does not tell {what} ({code})", "docker/writer-policy.json allows the request"


def _within_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
