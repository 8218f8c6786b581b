"""The fault proxy before a plain HTTP server: each fault does what it says, and to the requests it was meant for."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.servers.proxy import Fault, FaultProxy

BODY = bytes(range(256)) * 400


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) == length:
            self.server.got.append(body)  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a cut connection is what we are here for


@pytest.fixture
def got() -> list[bytes]:
    """The bodies of the PUTs that reached the server whole."""
    return []


@pytest.fixture
def proxy(got: list[bytes]) -> Iterator[FaultProxy]:
    server = Server(("127.0.0.1", 0), Handler)
    server.got = got  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with FaultProxy(("127.0.0.1", server.server_port), seed=3) as proxy:
        yield proxy
    server.shutdown()
    server.server_close()
    thread.join()


def connect(proxy: FaultProxy, timeout: float = 5) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=timeout)


def fetch(proxy: FaultProxy, timeout: float = 5) -> bytes:
    connection = connect(proxy, timeout)
    connection.request("GET", "/")
    return connection.getresponse().read()


def put(proxy: FaultProxy, body: bytes, timeout: float = 5, **headers: str) -> int:
    connection = connect(proxy, timeout)
    connection.request("PUT", "/x", body, {"Content-Length": str(len(body)), **headers})
    return connection.getresponse().status


def test_without_faults_all_passes(proxy: FaultProxy, got: list[bytes]) -> None:
    connection = connect(proxy)
    for _ in range(3):
        connection.request("GET", "/")
        assert connection.getresponse().read() == BODY
    assert put(proxy, BODY) == 204
    assert got == [BODY]
    assert proxy.requests == [b"GET / HTTP/1.1"] * 3 + [b"PUT /x HTTP/1.1"]
    assert proxy.hits == 0


def test_faults_are_counted_in_requests(proxy: FaultProxy) -> None:
    """Also within a connection that is kept open."""
    proxy.set(Fault(flip_down=0), times=2, only=b"GET")
    connection, flipped = connect(proxy), []
    for _ in range(4):
        connection.request("GET", "/")
        flipped.append(connection.getresponse().read() != BODY)
    assert flipped == [True, True, False, False]
    assert put(proxy, b"") == 204
    assert proxy.hits == 2


def test_a_share_of_faults_is_the_same_for_a_seed(proxy: FaultProxy) -> None:
    proxy.set(Fault(flip_down=7), share=0.5)
    found = [fetch(proxy) != BODY for _ in range(20)]
    other = FaultProxy(("127.0.0.1", 1), seed=3)
    other.set(Fault(flip_down=7), share=0.5)
    assert found == [other._drawn(b"GET").flip_down == 7 for _ in range(20)]
    assert 4 < sum(found) < 16
    other._listener.close()
    proxy.heal()
    assert fetch(proxy) == BODY


def test_cut_answers(proxy: FaultProxy) -> None:
    proxy.set(Fault(cut_down=5000))
    with pytest.raises(http.client.IncompleteRead) as cut:
        fetch(proxy)
    assert 4000 < len(cut.value.partial) < 5000
    assert BODY.startswith(cut.value.partial)


def test_cut_and_reset_requests(proxy: FaultProxy, got: list[bytes]) -> None:
    proxy.set(Fault(cut_up=5000, reset=True), times=1)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        put(proxy, BODY * 10)
    assert put(proxy, b"whole") == 204
    assert got == [b"whole"]


def test_lost_answers_are_to_requests_that_went_through(proxy: FaultProxy, got: list[bytes]) -> None:
    proxy.set(Fault(lose=True), times=1)
    with pytest.raises(http.client.RemoteDisconnected):
        put(proxy, BODY)
    proxy.set(Fault(lose=True, reset=True), times=1)
    with pytest.raises(ConnectionResetError):
        put(proxy, b"2")
    assert got == [BODY, b"2"]


def test_go_on_is_no_answer(proxy: FaultProxy, got: list[bytes]) -> None:
    """An `Expect: 100-continue` passes, and the fault meets the true answer."""
    proxy.set(Fault(lose=True), times=1)
    with pytest.raises(http.client.RemoteDisconnected):
        put(proxy, BODY, Expect="100-continue")
    assert got == [BODY]


@pytest.mark.parametrize("fault", [Fault(stall_up=0), Fault(stall_down=0), Fault(stall_down=3000)])
def test_silence(proxy: FaultProxy, fault: Fault) -> None:
    proxy.set(fault, times=1)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        fetch(proxy, timeout=0.3)
    assert 0.25 < time.monotonic() - began < 2
    assert fetch(proxy) == BODY


def test_refused(proxy: FaultProxy, got: list[bytes]) -> None:
    proxy.set(Fault(refuse=True), times=1)
    connection = connect(proxy)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert (answer.status, b"SlowDown" in answer.read()) == (503, True)
    proxy.set(Fault(refuse=True), times=1)
    assert put(proxy, BODY * 5) == 503
    assert got == []
    assert fetch(proxy) == BODY


def test_one_bit(proxy: FaultProxy, got: list[bytes]) -> None:
    proxy.set(Fault(flip_down=70_001, flip_up=99_999), times=2)
    answer = fetch(proxy)
    assert [i for i, (a, b) in enumerate(zip(answer, BODY, strict=True)) if a != b] == [70_001]
    assert put(proxy, BODY) == 204
    assert [i for i, (a, b) in enumerate(zip(got[0], BODY, strict=True)) if a ^ b == 1] == [99_999]


def test_slow(proxy: FaultProxy) -> None:
    began = time.monotonic()
    assert fetch(proxy) == BODY
    fast = time.monotonic() - began
    for fault in (Fault(latency=0.15), Fault(bandwidth=len(BODY) / 0.3)):
        proxy.set(fault, times=1)
        began = time.monotonic()
        assert fetch(proxy) == BODY
        assert time.monotonic() - began > fast + 0.25


def test_leaving_ends_connections_that_hang(proxy: FaultProxy) -> None:
    proxy.set(Fault(stall_down=0))
    ended: list[OSError] = []

    def hanging() -> None:
        try:
            fetch(proxy, timeout=20)
        except OSError as error:
            ended.append(error)

    thread = threading.Thread(target=hanging)
    thread.start()
    while proxy.hits == 0:
        time.sleep(0.01)
    began = time.monotonic()
    proxy.__exit__(None, None, None)
    thread.join()
    assert time.monotonic() - began < 5
    assert ended
