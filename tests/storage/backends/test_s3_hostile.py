"""The S3 backend before servers that do not do as asked, and with secrets where they do not belong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from storage.backends import open_backend
from storage.backends.s3 import S3Backend, S3Options
from storage.datasets._places import place_of
from storage.doctor import examine
from storage.errors import GazeflowError, Integrity
from tests.servers.base import S3Server, free_ports
from tests.servers.fixtures import Place

DATA = bytes(range(100))


class Deaf(BaseHTTPRequestHandler):
    """An object of 100 bytes, given whole or another part of it, whatever is asked."""

    part: tuple[int, int] | None = None

    def do_GET(self) -> None:
        first, last = self.part or (0, 99)
        self.send_response(206 if self.part else 200)
        if self.part:
            self.send_header("Content-Range", f"bytes {first}-{last}/100")
        for name, value in (("ETag", "e"), ("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(DATA[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def deaf(moto: S3Server, s3_place: Place) -> Iterator[S3Backend]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Deaf) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = s3_place(moto, f"http://127.0.0.1:{server.server_port}")
        yield S3Backend(url, S3Options(attempts=2, read_seconds=2))
        server.shutdown()


@pytest.mark.parametrize("part", [None, (0, 99), (10, 99), (9, 13)])
def test_bytes_of_another_range_are_never_used(
    deaf: S3Backend, monkeypatch: pytest.MonkeyPatch, part: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(Deaf, "part", part)
    with pytest.raises(Integrity, match=r"expected bytes 10 to 15, found .*: http://127\.0\.0\.1:\d+ ignores Range"):
        deaf.get_range("x", 10, 5)
    if part != (10, 99):
        with pytest.raises(Integrity, match="ignores Range"):
            list(deaf.stream("x", 10))
    monkeypatch.setattr(Deaf, "part", (10, 14))
    assert deaf.get_range("x", 10, 5) == DATA[10:15]


def test_secrets_in_urls_are_never_told(moto: S3Server, s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    host = moto.endpoint.removeprefix("http://")
    backend = S3Backend(s3_place(moto, f"http://user:hush/@{host}"), S3Options(attempts=1))
    told = [f"{f.found} {f.advice}" for f in examine(backend)]
    for endpoint in (f"http://user:hush@127.0.0.1:{free_ports(1)[0]}", "http://user:hush@[", "http://user:hush@a b"):
        with pytest.raises(GazeflowError) as refused:
            S3Backend(s3_place(moto, endpoint), S3Options(attempts=1)).get("a")
        told.append(str(refused.value))
    for url in ("s3://KEY:hush@bucket", "s3://KEY:hu/hush+@bucket/x", "https://KEY:hush@host/bucket"):
        with pytest.raises(GazeflowError, match="bucket") as refused:
            open_backend(url)
        told.append(str(refused.value))
    assert [t for t in told if "hush" in t] == []


def test_objects_changed_within_a_second_have_another_stamp(moto: S3Server, s3_place: Place) -> None:
    backend = S3Backend(s3_place(moto))
    backend.replace("a", b"one")
    place = place_of(backend.url)
    before = place.file("a")
    assert place.files() == [before]
    backend.replace("a", b"two")
    assert place.file("a") != before
    backend.replace("a", b"one")
    assert place.file("a") == before, "what is equal is not read again"
