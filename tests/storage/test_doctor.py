"""The doctor finds what each kind of unfit place does wrong, and nothing wrong with a fit one."""

from __future__ import annotations

import os
import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.backends import Backend, _s3_probe, open_backend
from storage.backends.base import Entry
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.canonical import canonical_json
from storage.doctor import Finding, accept_unsafe, examine, unsafe
from storage.errors import Format, InvalidInput, Transient
from storage.store import Store
from tests.servers.base import S3Server
from tests.servers.fixtures import REAL


class Overwriting(MemoryBackend):
    def create(self, key: str, data: bytes | memoryview) -> bool:
        self.replace(key, data)
        return True


class Racing(MemoryBackend):
    """Looks first and writes then, as servers do that keep conditions apart from writes."""

    def create(self, key: str, data: bytes | memoryview) -> bool:
        free = self.size(key) is None
        time.sleep(0.001)
        if free:
            self.replace(key, data)
        return free


class Denying(MemoryBackend):
    """Keeps one object and tells nobody that he won."""

    def create(self, key: str, data: bytes | memoryview) -> bool:
        return super().create(key, data) and "race" not in key


class Skewed(MemoryBackend):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def entries(self, prefix: str) -> Iterator[Entry]:
        return (replace(e, modified=e.modified + self.seconds) for e in super().entries(prefix))


class Changing(MemoryBackend):
    def replace(self, key: str, data: bytes | memoryview) -> None:
        super().replace(key, bytes(data)[:-1] + b"!")


class Late(MemoryBackend):
    """Lists an object when the next one is written."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        found = list(super().entries(prefix))
        return iter(found[:-1] if prefix.endswith(("list/", "clock")) else found)


class Stale(MemoryBackend):
    """Reads an object as it was before, from the second replacement on."""

    def replace(self, key: str, data: bytes | memoryview) -> None:
        before = self._objects.get(key)
        super().replace(key, data if before is None else before)


class Whole(MemoryBackend):
    """Answers any range with what there is."""

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        return self.get(key)[offset : offset + size]


class Small(MemoryBackend):
    """Cuts large objects."""

    def create(self, key: str, data: bytes | memoryview) -> bool:
        return super().create(key, data[: 16 * 2**20])


class Refusing(MemoryBackend):
    def replace(self, key: str, data: bytes | memoryview) -> None:
        raise InvalidInput("refused by the policy")


class Secretive(MemoryBackend):
    """Says 403 for what is not there."""

    def size(self, key: str) -> int | None:
        if key not in self._objects:
            raise InvalidInput("refused by the policy")
        return super().size(key)


class Failing(MemoryBackend):
    """Breaks down under load."""

    def create(self, key: str, data: bytes | memoryview) -> bool:
        if "race" in key:
            raise Transient("SlowDown")
        return super().create(key, data)


def not_ok(backend: Backend) -> dict[str, str]:
    return {f.name: f.verdict for f in examine(backend) if f.verdict != "ok"}


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (MemoryBackend(), {}),
        (Overwriting(), {"create-only": "bad", "create-only, 16 at once": "bad"}),
        (Racing(), {"create-only, 16 at once": "bad"}),
        (Denying(), {"create-only, 16 at once": "bad"}),
        (Failing(), {"create-only, 16 at once": "unknown"}),
        (Skewed(30), {}),
        (Skewed(-100), {"clock": "warning"}),
        (Skewed(1000), {"clock": "bad"}),
        (Changing(), {"bytes come back": "bad"}),
        (Refusing(), {"bytes come back": "bad"}),
        (Secretive(), {"missing objects": "bad"}),
        (Late(), {"listing": "bad", "clock": "bad"}),
        (Stale(), {"replacing": "bad"}),
        (Whole(), {"ranged reads": "bad"}),
        (Small(), {"large objects": "bad"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MemoryBackend) else "",
)
def test_what_is_wrong_is_found(backend: MemoryBackend, expected: dict[str, str]) -> None:
    backend.create("runs/r.json", b"{}")
    assert not_ok(backend) == expected
    left = set(backend._objects)
    assert left == {"runs/r.json"}, "what the doctor wrote is gone"


def test_every_finding_speaks() -> None:
    findings = examine(Overwriting())
    assert [f for f in findings if not f.found or (f.verdict != "ok") != bool(f.advice)] == []
    assert unsafe(findings)
    assert not unsafe(examine(Skewed(1000)))
    assert not unsafe(examine(Failing())), "what gave no answer is not accepted for ever"


@pytest.mark.parametrize("url", ["file://{}/store", "file://{}"])
def test_a_local_folder(tmp_path: Path, url: str) -> None:
    backend = open_backend(url.format(tmp_path))
    findings = {f.name: f for f in examine(backend)}
    assert {n for n, f in findings.items() if f.verdict != "ok"} <= {"free disk"}
    assert str(backend.root) in findings["free disk"].found  # type: ignore[attr-defined]
    assert backend.children("") == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = namedtuple("room", "f_bavail f_frsize")
    monkeypatch.setattr(os, "statvfs", lambda folder: room(2 * 10**6, 1000))
    (told,) = [f for f in examine(LocalBackend(tmp_path)) if f.name == "free disk"]
    assert told.verdict == "warning"
    assert told.found.startswith(f"2.0 GB free in {tmp_path}, 2.0 GB free in ")


def test_leftovers_are_told_when_they_are_old(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    (tmp_path / ".aside").mkdir()
    for name, age in (("new", 10), ("old", 2 * 24 * 3600)):
        (tmp_path / ".aside" / name).write_bytes(b"half")
        os.utime(tmp_path / ".aside" / name, (time.time() - age,) * 2)
        backend.create(f"doctor/{name}/x", b"")
        os.utime(tmp_path / f"doctor/{name}/x", (time.time() - age,) * 2)
    (told,) = [f for f in examine(backend) if f.name == "leftovers"]
    assert (told.verdict, told.found) == ("warning", "1 half-written files of 4 bytes are a day old")
    assert [e.key for e in backend.entries("doctor/")] == ["doctor/new/x"], "only another doctor at work is left alone"


def test_an_unsafe_place_is_used_once_it_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalBackend, "create", lambda self, key, data: self.replace(key, data) or True)
    url = f"file://{tmp_path}"
    with pytest.raises(InvalidInput, match="--accept-unsafe"):
        Store.open(url)
    backend = open_backend(url)
    assert unsafe(examine(backend))
    accept_unsafe(backend)
    assert not Store.open(url).create_only
    assert not Store.existing(url).create_only
    findings = {f.name: f for f in examine(backend)}
    assert findings["create-only"].verdict == findings["create-only, 16 at once"].verdict == "warning"
    assert "accepted" in findings["create-only"].advice


def test_a_store_of_another_release_is_not_accepted() -> None:
    backend = Overwriting()
    backend.replace("gazeflow.json", canonical_json({"format": 2}))
    with pytest.raises(Format):
        accept_unsafe(backend)
    assert backend.get("gazeflow.json") == b'{"format":2}'


def by_name(backend: Backend) -> dict[str, Finding]:
    return {f.name: f for f in examine(backend)}


def test_moto(moto: S3Server, s3_place: Any) -> None:
    url = s3_place(moto)
    backend = open_backend(url)
    findings = by_name(backend)
    told = {n: f.verdict for n, f in findings.items() if f.verdict != "ok"}
    told.pop("create-only, 16 at once", None)  # moto looks, then writes: it depends on how its threads run
    assert told == {"signed bodies": "warning"}
    assert moto.endpoint in findings["server"].found
    assert findings["transport"].found == "http, within this machine"
    assert findings["digests"].found == "the server keeps SHA-256 digests"
    assert list(backend.entries("")) == []


def test_a_versioned_bucket_is_warned_of(moto: S3Server, s3_place: Any) -> None:
    backend = open_backend(s3_place(moto))
    moto.client().put_bucket_versioning(Bucket=backend.bucket, VersioningConfiguration={"Status": "Enabled"})  # type: ignore[attr-defined]
    found = by_name(backend)["versions"]
    assert (found.verdict, found.found) == ("warning", "the bucket's versioning is enabled")


def test_unfinished_uploads_are_counted_below_the_prefix_alone(moto: S3Server, s3_place: Any) -> None:
    backend = open_backend(s3_place(moto, prefix="/mine"))
    for key in ("mine/x", "other/x"):
        moto.client().create_multipart_upload(Bucket=backend.bucket, Key=key)  # type: ignore[attr-defined]
    found = by_name(backend)["leftovers"]  # moto dates every upload 2010
    assert (found.verdict, found.found) == ("warning", "1 unfinished uploads in parts are a day old")


def test_no_bucket_is_one_finding(moto: S3Server, s3_place: Any) -> None:
    s3_place(moto)
    (found,) = examine(open_backend("s3://no-such-bucket/x"))
    assert found.verdict == "bad"
    assert "no-such-bucket" in found.found


@pytest.mark.parametrize(
    ("endpoint", "verdict"),
    [
        ("http://127.0.0.1:1", "ok"), ("http://[::1]:1", "ok"), ("http://localhost:1", "ok"),
        ("http://10.0.0.7:1", "warning"), ("http://store.example", "warning"), ("https://store.example", "ok"),
    ],
)  # fmt: skip
def test_who_may_listen(endpoint: str, verdict: str, moto: S3Server, s3_place: Any) -> None:
    backend = open_backend(s3_place(moto, endpoint))
    assert _s3_probe.ask(_s3_probe.transport, backend, "doctor/x")[0] == verdict  # type: ignore[arg-type]


@pytest.mark.system
@pytest.mark.parametrize("name", REAL)
def test_a_fit_server(name: str, s3_server: Any, s3_place: Any) -> None:
    backend = open_backend(s3_place(s3_server(name)))
    findings = by_name(backend)
    assert {n: f for n, f in findings.items() if f.verdict != "ok"} == {}
    assert "refused" in findings["signed bodies"].found
    assert findings["transport"].found.startswith("https: " if name.endswith("https") else "http, ")
    kept = "the server keeps SHA-256 digests" if "20" in name else "the server keeps no digests; we do"
    assert findings["digests"].found == kept
    assert list(backend.entries("")) == []


@pytest.mark.system
@pytest.mark.parametrize("name", ["ceph20-http", "ceph16-http"])
def test_a_versioned_bucket_breaks_create_only(name: str, s3_server: Any, s3_place: Any) -> None:
    server = s3_server(name)
    backend = open_backend(s3_place(server))
    server.client().put_bucket_versioning(Bucket=backend.bucket, VersioningConfiguration={"Status": "Enabled"})  # type: ignore[attr-defined]
    findings = by_name(backend)
    assert findings["versions"].verdict == "warning"
    assert unsafe(findings.values())


@pytest.mark.system
def test_a_server_that_ignores_conditions_is_caught(s3_server: Any, s3_place: Any) -> None:
    url = s3_place(s3_server("rclone"))
    with pytest.raises(InvalidInput, match="--accept-unsafe"):
        Store.open(url)
    findings = by_name(open_backend(url))
    assert findings["create-only"].verdict == findings["create-only, 16 at once"].verdict == "bad"
    accept_unsafe(open_backend(url))
    assert not Store.open(url).create_only
