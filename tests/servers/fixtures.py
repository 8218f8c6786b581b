"""The servers as fixtures: one of each kind for the whole run, started when a test first asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import ceph, rclone
from tests.servers.base import S3Server, Unavailable, moto_server

FAST = ["moto"]
REAL = ["ceph20-http", "ceph20-https", "ceph16-http", "ceph16-https"]

FindServer = Callable[[str], S3Server]
Place = Callable[..., str]


def servers(*names: str) -> list[object]:
    """Values to parametrize a test by, the real servers marked `system`."""
    return [pytest.param(n, marks=() if n in FAST else pytest.mark.system) for n in names]


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def ceph20(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ceph.Ceph]:
    yield from _ceph("ceph20", tmp_path_factory.mktemp("ceph20"))


@pytest.fixture(scope="session")
def ceph16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ceph.Ceph]:
    yield from _ceph("ceph16", tmp_path_factory.mktemp("ceph16"))


def _ceph(name: str, folder: Path) -> Iterator[ceph.Ceph]:
    try:
        with ceph.ceph(name, folder) as cluster:
            yield cluster
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    try:
        with rclone.rclone_server(tmp_path_factory.mktemp("rclone")) as server:
            yield server
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def s3_server(request: pytest.FixtureRequest) -> FindServer:
    """A server by its name: moto, rclone or one of REAL."""

    def find(name: str) -> S3Server:
        if name == "moto":
            return request.getfixturevalue("moto")
        if name == "rclone":
            return request.getfixturevalue("rclone_s3")
        cluster, _, scheme = name.partition("-")
        return getattr(request.getfixturevalue(cluster), scheme)

    return find


@pytest.fixture
def s3_place(monkeypatch: pytest.MonkeyPatch) -> Place:
    """Point this process at a server, or at a proxy before it; returns the URL of a new place there."""

    def point(server: S3Server, endpoint: str | None = None, prefix: str = "/some/where") -> str:
        for name, value in (server.env | ({"AWS_ENDPOINT_URL_S3": endpoint} if endpoint else {})).items():
            monkeypatch.setenv(name, value)
        return f"s3://{server.bucket()}{prefix}"

    return point
