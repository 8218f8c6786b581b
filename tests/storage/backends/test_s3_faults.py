"""The S3 backend through a proxy that loses answers, cuts, stalls, refuses and damages."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from storage.backends.s3 import S3Backend, S3Options
from storage.errors import GazeflowError, NotFound, Transient
from tests.servers.base import S3Server
from tests.servers.fixtures import FindServer, Place, servers
from tests.servers.proxy import Fault, FaultProxy

FAULTY = servers("moto", "ceph20-http", "ceph16-http")
MIB = 2**20


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@dataclass(frozen=True)
class Faulty:
    """One place by way of a proxy, and straight."""

    server: S3Server
    proxy: FaultProxy
    backend: S3Backend
    straight: S3Backend

    def request(self, method: str, key: str) -> bytes:
        """How a request for an object begins."""
        return f"{method} /{self.backend.bucket}/{self.backend.prefix}{key}".encode()


@pytest.fixture(params=FAULTY)
def faulty(request: pytest.FixtureRequest, s3_server: FindServer, s3_place: Place) -> Iterator[Faulty]:
    server = s3_server(request.param)
    straight = S3Backend(s3_place(server))
    assert list(straight.entries("")) == []  # connects, while the environment names the server
    with FaultProxy(server.address) as proxy:
        s3_place(server, proxy.endpoint)
        backend = S3Backend(straight.url, S3Options(read_seconds=0.35, connect_seconds=1, attempts=6))
        assert list(backend.entries("")) == []
        yield Faulty(server, proxy, backend, straight)


@pytest.mark.parametrize("fault", [Fault(lose=True), Fault(lose=True, reset=True), Fault(stall_down=0)])
def test_the_winner_is_told_so_though_its_answer_was_lost(faulty: Faulty, fault: Fault) -> None:
    faulty.proxy.set(fault, times=1, only=b"PUT")
    assert faulty.backend.create("a", b"mine")
    assert faulty.proxy.hits == 1
    assert len([r for r in faulty.proxy.requests if r.startswith(b"PUT")]) == 2
    faulty.proxy.set(fault, times=1, only=b"PUT")
    assert not faulty.backend.create("a", b"mine")
    assert faulty.straight.get("a") == b"mine"


@pytest.mark.parametrize("faulty", servers("ceph20-http", "ceph16-http"), indirect=True)
def test_racing_writers_whose_answers_get_lost_have_one_winner(faulty: Faulty) -> None:
    faulty.proxy.set(Fault(lose=True), share=0.3, only=b"PUT")
    with ThreadPoolExecutor(6) as pool:
        for n in range(4):
            won = list(pool.map(lambda i, n=n: faulty.backend.create(f"race/{n}", b"%d" % i), range(6)))
            assert sum(won) == 1
            assert faulty.straight.get(f"race/{n}") == b"%d" % won.index(True)
    assert faulty.proxy.hits > 2


def each_fault() -> Iterator[object]:
    """Servers and faults; moto acts upon half a request, as no true server does: there only the whole ones."""
    halves = [Fault(cut_up=100, reset=True), Fault(cut_up=2), Fault(stall_up=0), Fault(stall_up=300)]
    wholes = [
        Fault(refuse=True), Fault(lose=True), Fault(cut_up=0), Fault(cut_down=20), Fault(cut_down=150, reset=True),
        Fault(stall_down=20), Fault(latency=0.05),
    ]  # fmt: skip
    for name, faults in {"moto": wholes, "ceph20-http": wholes + halves, "ceph16-http": wholes + halves}.items():
        for fault in faults:
            told = " ".join(f"{k}={v}" for k, v in vars(fault).items() if v != getattr(Fault(), k))
            yield pytest.param(name, fault, id=f"{name} {told}", marks=() if name == "moto" else pytest.mark.system)


@pytest.mark.parametrize(("faulty", "fault"), list(each_fault()), indirect=["faulty"])
def test_each_call_gets_over_a_fault(faulty: Faulty, fault: Fault) -> None:
    backend = faulty.backend
    calls: list[Callable[[], object]] = [
        lambda: backend.create("a", b"12345"),
        lambda: backend.replace("b", b"123"),
        lambda: backend.get("a"),
        lambda: backend.get_range("a", 1, 3),
        lambda: b"".join(backend.stream("a", 2)),
        lambda: backend.size("a"),
        lambda: [(e.key, e.bytes) for e in backend.entries("")],
        lambda: backend.children(""),
        lambda: backend.delete("b"),
        lambda: backend.sweep(0),
    ]
    found = []
    for call in calls:
        faulty.proxy.heal()
        faulty.proxy.set(fault, times=1)
        found.append(call())
    assert found == [True, None, b"12345", b"234", b"345", 5, [("a", 5), ("b", 3)], ["a", "b"], None, 0]
    assert faulty.proxy.hits == len(calls)
    assert faulty.straight.children("") == ["a"]


@pytest.mark.parametrize("fault", [Fault(cut_down=MIB // 3), Fault(stall_down=MIB), Fault(cut_down=MIB, reset=True)])
def test_answers_that_break_off_are_taken_up_where_they_broke(faulty: Faulty, fault: Fault) -> None:
    data = noise(3 * MIB + 17)
    faulty.straight.create("a", data)
    faulty.proxy.set(fault, times=3, only=b"GET")
    assert faulty.backend.get("a") == data
    faulty.proxy.set(fault, times=2, only=b"GET")
    assert b"".join(faulty.backend.stream("a", 1000)) == data[1000:]
    faulty.proxy.set(fault, times=2, only=b"GET")
    assert faulty.backend.get_range("a", 5, 3 * MIB) == data[5 : 3 * MIB + 5]
    assert faulty.proxy.hits == 7


def test_bytes_of_two_objects_are_never_joined(faulty: Faulty) -> None:
    faulty.straight.replace("a", b"1" * (3 * MIB))
    faulty.proxy.set(Fault(cut_down=3 * MIB // 2), times=1, only=b"GET")
    reading = faulty.backend.stream("a")
    assert set(next(reading)) == {ord("1")}
    faulty.straight.replace("a", b"2" * (3 * MIB))
    with pytest.raises(Transient, match="changed meanwhile"):
        list(reading)


@pytest.mark.parametrize(("write", "size"), [("create", 65 * MIB), ("replace", 33 * MIB)])
def test_large_objects_get_over_faults_at_every_request(faulty: Faulty, write: str, size: int) -> None:
    """Also where the answer to the request that ends the upload is lost: repeated, it meets no such upload."""
    data = noise(size)
    last = faulty.request("POST", "big?uploadId")
    for rule in (
        {"fault": Fault(lose=True), "only": last},
        {"fault": Fault(lose=True), "only": faulty.request("POST", "big?uploads")},
        {"fault": Fault(cut_up=9 * MIB), "only": faulty.request("PUT", "big?")},
        {"fault": Fault(lose=True), "only": faulty.request("PUT", "big?")},
    ):
        faulty.proxy.set(times=1, **rule)  # type: ignore[arg-type]
    assert getattr(faulty.backend, write)("big", data) is {"create": True, "replace": None}[write]
    assert faulty.proxy.hits == 4
    assert faulty.straight.get("big") == data


@pytest.mark.parametrize("faulty", servers("ceph20-http", "ceph16-http"), indirect=True)
def test_faults_without_end_are_transient_and_soon_told(faulty: Faulty) -> None:
    faulty.straight.replace("a", b"x" * 1000)
    backend = S3Backend(faulty.backend.url, S3Options(attempts=2, read_seconds=0.2, connect_seconds=0.3))
    calls: list[Callable[[], object]] = [
        lambda: backend.get("a"), lambda: backend.size("a"), lambda: backend.create("b", b""),
        lambda: backend.replace("a", b""), lambda: list(backend.entries("")), lambda: backend.delete("a"),
        lambda: backend.create("c", noise(17 * MIB)), lambda: backend.sweep(0),
    ]  # fmt: skip
    for fault in (Fault(refuse=True), Fault(stall_up=0), Fault(cut_up=30)):
        faulty.proxy.heal()
        faulty.proxy.set(fault)
        for call in calls:
            began = time.monotonic()
            with pytest.raises(Transient, match=r"s3://.*run again"):
                call()
            assert time.monotonic() - began < 15
    assert faulty.straight.get("a") == b"x" * 1000


def test_damaged_listings_are_never_raw_errors(faulty: Faulty) -> None:
    for n in range(4):
        faulty.straight.create(f"a{n}", b"x")
    backend = S3Backend(faulty.backend.url, S3Options(attempts=1, read_seconds=0.3))
    for at in range(0, 900, 11):
        faulty.proxy.heal()
        faulty.proxy.set(Fault(flip_down=at), times=1)
        try:
            list(backend.entries(""))
        except GazeflowError:
            continue


@pytest.mark.parametrize("faulty", servers("ceph20-http", "ceph16-http"), indirect=True)
def test_a_workload_under_random_faults_ends_as_without(faulty: Faulty) -> None:
    for fault in (Fault(refuse=True), Fault(lose=True), Fault(cut_down=90), Fault(cut_up=0, reset=True)):
        faulty.proxy.set(fault, share=0.06)
    expected: dict[str, bytes] = {}
    moves = random.Random(5)
    for n in range(60):
        key, data = f"k/{moves.randrange(8)}", b"%d" % n
        match moves.choice(["create", "replace", "delete", "get"]):
            case "create":
                assert faulty.backend.create(key, data) == (key not in expected)
                expected.setdefault(key, data)
            case "replace":
                faulty.backend.replace(key, data)
                expected[key] = data
            case "delete":
                faulty.backend.delete(key)
                expected.pop(key, None)
            case _ if key in expected:
                assert faulty.backend.get(key) == expected[key]
            case _:
                with pytest.raises(NotFound):
                    faulty.backend.get(key)
    assert {e.key: faulty.straight.get(e.key) for e in faulty.backend.entries("")} == expected
    assert faulty.proxy.hits > 10


@pytest.mark.parametrize("name", servers("ceph20-http", "ceph16-http"))
def test_an_upload_damaged_on_its_way_is_refused(s3_server: FindServer, s3_place: Place, name: str) -> None:
    server = s3_server(name)
    with FaultProxy(server.address) as proxy:
        backend = S3Backend(s3_place(server, proxy.endpoint))
        backend.size("a")
        proxy.set(Fault(flip_up=5), only=b"PUT")
        for write in (backend.create, backend.replace):
            with pytest.raises(Transient, match=r"XAmzContentSHA256Mismatch|BadDigest"):
                write("a", noise(1000))
        assert backend.size("a") is None
