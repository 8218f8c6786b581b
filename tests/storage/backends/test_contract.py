"""What every place that holds a store's bytes must do; another one joins by a name in PLACES."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.backends import Backend, open_backend
from storage.backends.base import check_key, check_prefix
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.errors import Integrity, InvalidInput, NotFound
from tests.servers.fixtures import FAST, REAL, FindServer, Place, servers

PLACES = ["memory", "local", *servers(*FAST, *REAL)]
RACING = ["memory", "local", *servers(*REAL)]  # moto looks whether there is an object, then writes: two steps
MIB = 2**20

HOSTILE = [
    "", "/", "/etc/passwd", "a//b", "a/", "/a", "..", "../a", "a/../b", "a/..", ".", "a/./b", "a\0b", "a\\b", "a b",
    "é", "a\n", "a/b\n", ".aside/x", "a/.hidden", "a?b", "a*", "x" * 256, "/".join(["x" * 100] * 10), "a:b", "~", "%2e",
]  # fmt: skip


@pytest.fixture(params=PLACES)
def backend(request: pytest.FixtureRequest, tmp_path: Path, s3_server: FindServer, s3_place: Place) -> Backend:
    if request.param == "memory":
        return MemoryBackend()
    if request.param == "local":
        return LocalBackend(tmp_path / "store")
    return open_backend(s3_place(s3_server(request.param)))


def keys(backend: Backend, prefix: str = "") -> list[str]:
    return [entry.key for entry in backend.entries(prefix)]


def noise(size: int) -> bytes:
    """Bytes of which no piece is like another."""
    return random.Random(size).randbytes(size)


def test_create_only(backend: Backend) -> None:
    assert backend.create("a/b/c.bin", b"first")
    assert not backend.create("a/b/c.bin", b"second")
    assert not backend.create("a/b/c.bin", b"first")
    assert backend.get("a/b/c.bin") == b"first"


def test_created_bytes_are_a_copy(backend: Backend) -> None:
    buffer = bytearray(b"before")
    assert backend.create("a", memoryview(buffer))
    buffer[:] = b"after!"
    assert backend.get("a") == b"before"


def test_empty_objects_are_objects(backend: Backend) -> None:
    assert backend.create("a", b"")
    assert not backend.create("a", b"x")
    assert (backend.get("a"), backend.size("a"), backend.get_range("a", 0, 0)) == (b"", 0, b"")


@pytest.mark.parametrize("backend", RACING, indirect=True)
def test_threads_racing_for_a_key_have_one_winner(backend: Backend) -> None:
    barrier, rounds = Barrier(8), range(10)

    def racer(number: int) -> list[bool]:
        won = []
        for n in rounds:
            barrier.wait()
            won.append(backend.create(f"race/{n}", bytes([number]) * 100_000))
        return won

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(racer, range(8)))
    for n in rounds:
        (winner,) = [number for number in range(8) if won[number][n]]
        assert backend.get(f"race/{n}") == bytes([winner]) * 100_000


def test_replace_is_seen_whole(backend: Backend) -> None:
    sizes = (200_000, 50)
    backend.replace("r", b"\0" * sizes[0])
    done = False

    def writer() -> None:
        nonlocal done
        for n in range(1, 60):
            backend.replace("r", bytes([n]) * sizes[n % 2])
        done = True

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(writer)
        while not done and not written.done():
            data = backend.get("r")
            assert len(set(data)) == 1
            assert len(data) == sizes[data[0] % 2]
        written.result()
    assert backend.get("r") == bytes([59]) * sizes[1]


def test_replace_makes_what_is_not_there(backend: Backend) -> None:
    backend.replace("x/y", b"new")
    assert backend.get("x/y") == b"new"
    assert not backend.create("x/y", b"other")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=64), st.integers(0, 80), st.integers(0, 80))
def test_ranges(backend: Backend, data: bytes, offset: int, size: int) -> None:
    backend.replace("a", data)
    if offset + size <= len(data):
        assert backend.get_range("a", offset, size) == data[offset : offset + size]
    elif size:
        with pytest.raises(Integrity, match=r"a.*expected"):
            backend.get_range("a", offset, size)
    if offset <= len(data):
        assert b"".join(backend.stream("a", offset)) == data[offset:]
    else:
        with pytest.raises(Integrity, match=r"a.*expected"):
            list(backend.stream("a", offset))


def test_streams_come_in_small_chunks(backend: Backend) -> None:
    data = noise(3 * MIB + 5)
    backend.create("a", data)
    for offset in (0, 1, MIB, 3 * MIB, len(data)):
        chunks = list(backend.stream("a", offset))
        assert b"".join(chunks) == data[offset:]
        assert all(0 < len(chunk) <= MIB for chunk in chunks)
    half_read = backend.stream("a")
    assert data.startswith(next(half_read))  # and left there


def test_large_objects(backend: Backend) -> None:
    """An object store takes them in parts."""
    data, other = noise(65 * MIB + 7), noise(17 * MIB)
    key = "objects/" + hashlib.sha256(data).hexdigest()
    assert backend.create(key, memoryview(data))
    assert not backend.create(key, data)
    assert backend.size(key) == len(data)
    assert backend.get(key) == data
    assert backend.get_range(key, 16 * MIB - 3, 6) == data[16 * MIB - 3 : 16 * MIB + 3]
    assert b"".join(backend.stream(key, 32 * MIB)) == data[32 * MIB :]
    backend.replace(key, other)
    assert backend.get(key) == other
    assert keys(backend) == [key]


@pytest.mark.parametrize("backend", RACING, indirect=True)
def test_threads_racing_to_create_large_objects(backend: Backend) -> None:
    """Up to 64 MiB there is one winner; above, where writers of a name write equal bytes, they are whole."""
    for size in (17 * MIB, 65 * MIB):
        data = noise(size)
        with ThreadPoolExecutor(3) as pool:
            won = list(pool.map(backend.create, [f"{size}"] * 3, [data] * 3))
        assert sum(won) == 1 if size < 64 * MIB else any(won)
        assert backend.get(f"{size}") == data


def test_threads_racing_to_replace_leave_one_of_their_objects(backend: Backend) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: backend.replace("a", bytes([n]) * 1000), range(64)))
    assert backend.get("a") in [bytes([n]) * 1000 for n in range(64)]


def test_what_is_not_there(backend: Backend) -> None:
    backend.create("a/b/c", b"x")
    for key in ("nothing", "a/b/c/d", "a/b", "a"):
        assert backend.size(key) is None
        with pytest.raises(NotFound, match=key):
            backend.get(key)
        with pytest.raises(NotFound, match=key):
            backend.get_range(key, 0, 1)
        for offset in (0, 7):
            with pytest.raises(NotFound, match=key):
                list(backend.stream(key, offset))
        backend.delete(key)
    assert backend.get("a/b/c") == b"x"


def test_limit(backend: Backend) -> None:
    backend.create("a", b"12345")
    assert backend.get("a", limit=5) == b"12345"
    with pytest.raises(Integrity, match="at most 4 bytes, found 5"):
        backend.get("a", limit=4)


def test_delete(backend: Backend) -> None:
    backend.create("a/b", b"1")
    backend.delete("a/b")
    backend.delete("a/b")
    assert backend.size("a/b") is None
    assert keys(backend) == []
    assert backend.create("a/b", b"2")


def test_listings(backend: Backend) -> None:
    names = ["a/b/c.bin", "a/b-c", "a/b.d/e", "a/bb", "ab", "z/1"]
    for key in names:
        backend.create(key, b"x")
    assert keys(backend) == sorted(names)
    assert keys(backend, "a/") == ["a/b-c", "a/b.d/e", "a/b/c.bin", "a/bb"]
    assert keys(backend, "a/b") == ["a/b-c", "a/b.d/e", "a/b/c.bin", "a/bb"]
    assert keys(backend, "a/b/") == ["a/b/c.bin"]
    assert keys(backend, "none/") == []
    assert backend.children("") == ["a/", "ab", "z/"]
    assert backend.children("a/") == ["b-c", "b.d/", "b/", "bb"]
    assert backend.children("a/b/") == ["c.bin"]
    assert backend.children("none/") == []


def test_entries_tell_size_and_time(backend: Backend) -> None:
    before = time.time()
    for size in (0, 1, 70_000):
        backend.create(f"a/{size}", b"x" * size)
    entries = list(backend.entries("a/"))
    assert [(e.key, e.bytes) for e in entries] == [("a/0", 0), ("a/1", 1), ("a/70000", 70_000)]
    assert all(before - 2 < e.modified < time.time() + 2 for e in entries)  # some stores know whole seconds alone
    assert [*backend.entries("a/7")] == entries[2:]


def test_sweep_leaves_what_is_whole(backend: Backend) -> None:
    backend.create("a/b", b"x")
    assert backend.sweep(0) == 0
    assert backend.get("a/b") == b"x"


def test_hostile_keys_are_refused(backend: Backend) -> None:
    calls: list[Callable[[str], object]] = [
        lambda key: backend.get(key),
        lambda key: backend.get_range(key, 0, 1),
        lambda key: list(backend.stream(key)),
        lambda key: backend.size(key),
        lambda key: backend.create(key, b"x"),
        lambda key: backend.replace(key, b"x"),
        lambda key: backend.delete(key),
    ]
    for key in HOSTILE:
        for call in calls:
            with pytest.raises(InvalidInput, match="store key"):
                call(key)
    assert keys(backend) == []


def test_hostile_prefixes_are_refused(backend: Backend) -> None:
    for prefix in ("/", "/etc/", "../", "a/../", "a//", ".aside/", "a/..", "é/", "\0"):
        for listing in (backend.entries, backend.children):
            with pytest.raises(InvalidInput, match="store key"):
                list(listing(prefix))


@settings(deadline=None)
@given(st.text(max_size=30) | st.text("a./\\-", max_size=12))
def test_a_good_key_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except InvalidInput:
        return
    assert os.path.normpath(f"/root/{key}") == f"/root/{key}"
    assert check_prefix(key) == key
    assert check_prefix(f"{key}/") == f"{key}/"


def test_longest_parts_fit(backend: Backend) -> None:
    key = "/".join(["x" * 255] * 3)
    assert backend.create(key, b"x")
    assert keys(backend) == [key]


def test_store_urls(tmp_path: Path) -> None:
    backend = open_backend(f"file://{tmp_path}/a%20b")
    backend.create("k", b"v")
    assert (tmp_path / "a b" / "k").read_bytes() == b"v"
    for url in ("ftp://host/x", str(tmp_path), ""):
        with pytest.raises(InvalidInput, match="expected file:"):
            open_backend(url)
    for url in ("s3://", "s3:///key", "s3://bucket/a//b", "s3://bucket/../x", "s3://bucket?x=1", "s3://Bucket!"):
        with pytest.raises(InvalidInput, match="store"):
            open_backend(url)
