"""What every place that holds a store's bytes must do; another backend joins by a line in BACKENDS."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.backends import Backend, open_backend
from storage.backends.base import check_key, check_prefix
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.errors import Integrity, InvalidInput, NotFound

BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "memory": lambda folder: MemoryBackend(),
    "local": lambda folder: LocalBackend(folder / "store"),
}

HOSTILE = [
    "", "/", "/etc/passwd", "a//b", "a/", "/a", "..", "../a", "a/../b", "a/..", ".", "a/./b", "a\0b", "a\\b", "a b",
    "é", "a\n", "a/b\n", ".aside/x", "a/.hidden", "a?b", "a*", "x" * 256, "/".join(["x" * 100] * 10), "a:b", "~", "%2e",
]  # fmt: skip


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return BACKENDS[request.param](tmp_path)


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


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 80), st.integers(0, 80))
@pytest.mark.parametrize("name", BACKENDS)
def test_ranges(name: str, tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, size: int) -> None:
    backend = BACKENDS[name](tmp_path_factory.getbasetemp() / "ranges")
    backend.replace("a", data)
    if offset + size <= len(data):
        assert backend.get_range("a", offset, size) == data[offset : offset + size]
    elif size:
        with pytest.raises(Integrity, match=r"a.*expected"):
            backend.get_range("a", offset, size)


def test_what_is_not_there(backend: Backend) -> None:
    backend.create("a/b/c", b"x")
    for key in ("nothing", "a/b/c/d", "a/b", "a"):
        assert backend.size(key) is None
        with pytest.raises(NotFound, match=key):
            backend.get(key)
        with pytest.raises(NotFound, match=key):
            backend.get_range(key, 0, 1)
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
    assert backend.keys("") == []
    assert backend.create("a/b", b"2")


def test_listings(backend: Backend) -> None:
    keys = ["a/b/c.bin", "a/b-c", "a/b.d/e", "a/bb", "ab", "z/1"]
    for key in keys:
        backend.create(key, b"x")
    assert backend.keys("") == sorted(keys)
    assert backend.keys("a/") == ["a/b-c", "a/b.d/e", "a/b/c.bin", "a/bb"]
    assert backend.keys("a/b") == ["a/b-c", "a/b.d/e", "a/b/c.bin", "a/bb"]
    assert backend.keys("a/b/") == ["a/b/c.bin"]
    assert backend.keys("none/") == []
    assert backend.children("") == ["a/", "ab", "z/"]
    assert backend.children("a/") == ["b-c", "b.d/", "b/", "bb"]
    assert backend.children("a/b/") == ["c.bin"]
    assert backend.children("none/") == []


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_keys_are_refused(backend: Backend, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: backend.get(key),
        lambda: backend.get_range(key, 0, 1),
        lambda: backend.size(key),
        lambda: backend.create(key, b"x"),
        lambda: backend.replace(key, b"x"),
        lambda: backend.delete(key),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="store key"):
            call()
    assert backend.keys("") == []


@pytest.mark.parametrize("prefix", ["/", "/etc/", "../", "a/../", "a//", ".aside/", "a/..", "é/", "\0"])
def test_hostile_prefixes_are_refused(backend: Backend, prefix: str) -> None:
    for listing in (backend.keys, backend.children):
        with pytest.raises(InvalidInput, match="store key"):
            listing(prefix)


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
    assert backend.keys("") == [key]


def test_store_urls(tmp_path: Path) -> None:
    backend = open_backend(f"file://{tmp_path}/a%20b")
    backend.create("k", b"v")
    assert (tmp_path / "a b" / "k").read_bytes() == b"v"
    for url in ("ftp://host/x", str(tmp_path), ""):
        with pytest.raises(InvalidInput, match="expected file:"):
            open_backend(url)
