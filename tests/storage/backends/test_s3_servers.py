"""The S3 backend where the contract is silent: refusals, wrong settings, leftovers, what servers lack."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.backends.s3 import S3Backend, S3Options
from storage.errors import InvalidInput, NotFound, Transient
from tests.servers.base import SECRET_KEY, S3Server, free_ports
from tests.servers.fixtures import REAL, FindServer, Place, servers

MIB = 2**20


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("name", servers("moto", *REAL))
def test_no_such_bucket(s3_server: FindServer, s3_place: Place, name: str) -> None:
    s3_place(s3_server(name))
    backend = S3Backend("s3://there-is-no-such-bucket/x")
    for call in (
        lambda: backend.get("a"),
        lambda: backend.create("a", b"x"),
        lambda: backend.create("a", noise(17 * MIB)),
        lambda: list(backend.entries("")),
        lambda: backend.sweep(0),
    ):
        with pytest.raises(NotFound, match=r"there-is-no-such-bucket.*make it first"):
            call()


@pytest.mark.parametrize("name", servers(*REAL, "rclone"))
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(
    s3_server: FindServer, s3_place: Place, monkeypatch: pytest.MonkeyPatch, name: str, wrong: str
) -> None:
    url = s3_place(s3_server(name))
    monkeypatch.setenv(wrong, "quite-another-secret")
    backend = S3Backend(url)
    for call in (
        lambda: backend.get("a"),
        lambda: backend.size("a"),
        lambda: backend.create("a", b"x"),
        lambda: backend.replace("a", noise(17 * MIB)),
        lambda: list(backend.entries("")),
    ):
        with pytest.raises(InvalidInput, match=r"refused by http.*check the credentials") as refused:
            call()
        assert not {SECRET_KEY, os.environ["AWS_SECRET_ACCESS_KEY"]} & set(str(refused.value).split())
        assert SECRET_KEY not in str(refused.value)


def test_no_credentials(moto: S3Server, s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3_place(moto)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for call in (S3Backend(url).get, lambda key: S3Backend(url).create(key, b"")):
        with pytest.raises(InvalidInput, match="AWS_ACCESS_KEY_ID"):
            call("a")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InvalidInput, match="nobody"):
        S3Backend(url).get("a")


def test_settings_that_are_wrong(moto: S3Server, s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3_place(moto)
    monkeypatch.setenv("GAZEFLOW_S3_ATTEMPTS", "0")
    with pytest.raises(InvalidInput, match="GAZEFLOW_S3_ATTEMPTS"):
        S3Backend(url)
    monkeypatch.delenv("GAZEFLOW_S3_ATTEMPTS")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no url")
    with pytest.raises(InvalidInput, match="AWS_ENDPOINT_URL_S3"):
        S3Backend(url).get("a")


def test_nobody_listens(moto: S3Server, s3_place: Place) -> None:
    url = s3_place(moto, f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(Transient, match=r"127\.0\.0\.1"):
        S3Backend(url, S3Options(attempts=2)).get("a")


@pytest.mark.system
def test_an_unknown_certificate_is_not_trusted(
    s3_server: FindServer, s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3_place(s3_server("ceph20-https"))
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(InvalidInput, match="AWS_CA_BUNDLE"):
        S3Backend(url, S3Options(attempts=1)).get("a")


@pytest.mark.parametrize("name", servers("moto", "ceph20-http", "ceph16-http"))
def test_sweep_ends_old_uploads_in_parts_alone(s3_server: FindServer, s3_place: Place, name: str) -> None:
    server = s3_server(name)
    backend = S3Backend(s3_place(server))
    for key in (f"{backend.prefix}a", f"{backend.prefix}b", "else/where"):
        server.client().create_multipart_upload(Bucket=backend.bucket, Key=key)
    if name != "moto":  # there uploads are years old from the beginning
        assert backend.sweep(3600) == 0
    time.sleep(1.1)  # some servers tell whole seconds
    assert backend.sweep(0) == 2
    assert backend.sweep(0) == 0
    left = server.client().list_multipart_uploads(Bucket=backend.bucket)["Uploads"]
    assert [u["Key"] for u in left] == ["else/where"]


@pytest.mark.parametrize("name", servers("ceph20-https", "ceph16-http"))
def test_long_listings_come_whole(s3_server: FindServer, s3_place: Place, name: str) -> None:
    """More than the thousand objects that a server shows at once."""
    backend = S3Backend(s3_place(s3_server(name)))
    names = [f"{n % 3}/{n:04d}" for n in range(2010)]
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda name: backend.create(name, b""), names))
    assert [e.key for e in backend.entries("")] == sorted(names)
    assert backend.children("") == ["0/", "1/", "2/"]
    assert backend.children("1/") == sorted(n[2:] for n in names if n.startswith("1/"))


def test_a_forked_process_has_connections_of_its_own(moto: S3Server, s3_place: Place) -> None:
    backend = S3Backend(s3_place(moto))
    backend.create("a", b"from above")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if backend.get("a") == b"from above" and backend.create("b", b"from below") else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert backend.get("b") == b"from below"


def test_bandwidth_is_shared_by_all_threads_up_and_down(moto: S3Server, s3_place: Place) -> None:
    backend = S3Backend(s3_place(moto), S3Options(max_bandwidth=8 * MIB))
    for work in (lambda n: backend.replace(f"{n}", noise(MIB)), lambda n: backend.get(f"{n}")):
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(6)))
        assert 0.4 < time.monotonic() - began < 6


@pytest.mark.parametrize("name", servers("ceph20-http", "ceph16-http"))
def test_prefixes_are_worlds_apart(s3_server: FindServer, s3_place: Place, name: str) -> None:
    one = S3Backend(s3_place(s3_server(name), prefix="/a/b"))
    whole, other = S3Backend(f"s3://{one.bucket}"), S3Backend(f"s3://{one.bucket}/a/bb/")
    one.create("k", b"1")
    assert other.create("k", b"2")
    assert [e.key for e in one.entries("")] == ["k"]
    assert [e.key for e in whole.entries("")] == ["a/b/k", "a/bb/k"]
    assert whole.children("") == ["a/"]


class TestWhatServersLack:
    """Not promises but findings: why `gazeflow doctor` asks for what it asks."""

    @pytest.mark.system
    def test_rclone_overwrites_what_it_was_told_to_create(self, rclone_s3: S3Server, s3_place: Place) -> None:
        backend = S3Backend(s3_place(rclone_s3))
        assert [backend.create("a", b"1"), backend.create("a", b"2")] == [True, True]
        assert backend.get("a") == b"2"

    @pytest.mark.system
    @pytest.mark.parametrize(("name", "second"), [("ceph16-http", True), ("ceph20-http", False)])
    def test_conditions_on_versioned_buckets(
        self, s3_server: FindServer, s3_place: Place, name: str, second: bool
    ) -> None:
        """Ceph 16 overlooks them; Ceph 20 heeds them, but lets several of those win who write at once."""
        server = s3_server(name)
        backend = S3Backend(s3_place(server))
        server.client().put_bucket_versioning(Bucket=backend.bucket, VersioningConfiguration={"Status": "Enabled"})
        assert [backend.create("a", b"1"), backend.create("a", b"2")] == [True, second]
