"""A TCP proxy that does to requests and answers what a bad network or a busy server does to them.

It understands of HTTP only where a request begins (the first bytes of a client after an answer) and where a head ends,
so that a fault can be counted in requests also on connections that are kept open. In front of https it sees records
in place of requests: latency, bandwidth, cuts and silence make sense there, the rest does not.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

_PIECE = 16 * 1024
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"

Way = Literal["up", "down"]


@dataclass(frozen=True)
class Fault:
    """What befalls one request and its answer. Positions count bytes from its beginning, its head included."""

    latency: float = 0.0  # seconds before each piece of either way
    bandwidth: float | None = None  # bytes per second, each way
    cut_up: int | None = None  # the connection ends after so much of the request …
    cut_down: int | None = None  # … or of the answer
    reset: bool = False  # by RST in place of an orderly end
    stall_up: int | None = None  # from there on silence, the connection stays open; 0: nothing is passed on
    stall_down: int | None = None
    lose: bool = False  # the request goes through whole; the connection ends in place of the answer
    refuse: bool = False  # 503 SlowDown from the proxy; the server never hears of it
    flip_up: int | None = None  # one bit is wrong in this byte of the request's body …
    flip_down: int | None = None  # … or of the answer's


@dataclass
class _Rule:
    fault: Fault
    left: int | None  # requests it still befalls, or None for all
    share: float
    only: bytes


@dataclass
class _Exchange:
    """One request and its answer, so far."""

    fault: Fault = field(default_factory=Fault)
    passed: dict[Way, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    heads: dict[Way, bytes] = field(default_factory=lambda: {"up": b"", "down": b""})
    body_at: dict[Way, int | None] = field(default_factory=lambda: {"up": None, "down": None})
    answered: bool = False


class _End(Exception):
    """The connection is over."""


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `target`, within a `with` block."""

    def __init__(self, target: tuple[str, int], seed: int = 0) -> None:
        self.requests: list[bytes] = []  # their first lines
        self.hits = 0  # requests that a fault befell
        self._target = target
        self._random = random.Random(seed)
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def set(self, fault: Fault, times: int | None = None, share: float = 1.0, only: bytes = b"") -> None:
        """Let a fault befall the next `times` requests, or all, or a seeded share, that begin with `only`."""
        with self._lock:
            self._rules.append(_Rule(fault, times, share, only))

    def heal(self) -> None:
        with self._lock:
            self._rules.clear()

    def __enter__(self) -> FaultProxy:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.set()
        with self._lock:
            for one in (self._listener, *self._sockets):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join(10)
        self._listener.close()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    if self._closing.is_set():
                        client.close()
                        return
                    self._sockets.add(client)
                    self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        exchange = _Exchange(answered=True)
        with client, contextlib.suppress(OSError, _End), socket.create_connection(self._target) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(_PIECE)
                    if not data:
                        raise _End
                    if source is server:
                        self._pass(exchange, "down", data, client, client)
                    else:
                        if exchange.answered:
                            exchange = _Exchange(self._drawn(data))
                        self._pass(exchange, "up", data, server, client)
        with self._lock:
            self._sockets.discard(client)

    def _drawn(self, request: bytes) -> Fault:
        """The fault of a request that begins so."""
        with self._lock:
            self.requests.append(request.partition(b"\r\n")[0])
            for rule in self._rules:
                if rule.left != 0 and request.startswith(rule.only) and self._random.random() < rule.share:
                    rule.left = None if rule.left is None else rule.left - 1
                    self.hits += 1
                    return rule.fault
        return Fault()

    def _pass(self, now: _Exchange, way: Way, data: bytes, to: socket.socket, client: socket.socket) -> None:
        """Pass a piece on, or what the fault leaves of it. Raises _End when the connection is over."""
        fault = now.fault
        if way == "down":
            if data.startswith(b"HTTP/1.1 100") and not now.answered:  # "go on" is no answer yet
                head, end, data = data.partition(b"\r\n\r\n")
                to.sendall(head + end)
                if not data:
                    return
            now.answered = True
        if fault.refuse:
            self._refuse(client)
        if fault.lose and way == "down":
            self._end(client, fault.reset)
        cut, stall = (fault.cut_up, fault.stall_up) if way == "up" else (fault.cut_down, fault.stall_down)
        last = min(n for n in (cut, stall, now.passed[way] + len(data) + 1) if n is not None)
        data = _flipped(now, way, data)[: max(last - now.passed[way], 0)]
        self._closing.wait(fault.latency + (len(data) / fault.bandwidth if fault.bandwidth else 0))
        to.sendall(data)
        now.passed[way] += len(data)
        if now.passed[way] == last:
            if last == stall:
                self._hush(client)
            self._end(client, fault.reset)

    def _refuse(self, client: socket.socket) -> None:
        head = f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(_BUSY)}\r\n"
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + _BUSY)
        client.shutdown(socket.SHUT_WR)
        self._hush(client)  # closing at once would take the answer back while the client still sends
        raise _End

    def _hush(self, client: socket.socket) -> None:
        """Say nothing until the client gives up."""
        while client.recv(_PIECE):
            pass

    def _end(self, client: socket.socket, reset: bool) -> None:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _End


def _flipped(now: _Exchange, way: Way, data: bytes) -> bytes:
    """The piece, with the lowest bit of the wanted byte of the body changed where it is in here."""
    wanted = now.fault.flip_up if way == "up" else now.fault.flip_down
    if wanted is None:
        return data
    start = now.body_at[way]
    if start is None:
        now.heads[way] += data
        end = now.heads[way].find(b"\r\n\r\n")
        if end < 0:
            return data
        start = now.body_at[way] = end + 4
    at = start + wanted - now.passed[way]
    return data if not 0 <= at < len(data) else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
