"""What every place that holds a store's bytes must do; another backend joins by a line in BACKENDS."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
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


# What follows is of the local backend alone: other processes, a full disk, kill -9.


def script(code: str, *args: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Another Python process that has `backend`, `sys` and `time`; args[0] is the store's folder."""
    head = (
        "import sys, time\nfrom pathlib import Path\nfrom storage.backends.local import LocalBackend\n"
        "backend = LocalBackend(Path(sys.argv[1]))\n"
    )
    command = [*before, sys.executable, "-c", head + code, *map(str, args)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_processes_racing_for_keys_have_one_winner(tmp_path: Path) -> None:
    racing = """
print("ready", flush=True)
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
data = sys.argv[2].encode() * 300_000
print([n for n in range(20) if backend.create(f"race/{n}", data)], flush=True)
"""
    racers = [script(racing, tmp_path / "store", n, tmp_path / "go") for n in range(8)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    won = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    backend = LocalBackend(tmp_path / "store")
    assert sorted(n for keys in won for n in keys) == list(range(20))
    for number, keys in enumerate(won):
        for n in keys:
            assert backend.get(f"race/{n}") == str(number).encode() * 300_000
    assert list((tmp_path / "store" / ".aside").iterdir()) == []


def test_full_disk_is_transient_and_leaves_nothing(tmp_path: Path) -> None:
    """On a tmpfs of 2 MB, in a mount namespace of its own."""
    filling = """
from storage.errors import Transient
assert backend.create("fits", b"x" * 1_000_000)
for write in (backend.create, backend.replace):
    for key in ("big/new", "fits"):
        try:
            done = write(key, b"y" * 5_000_000)
        except Transient as error:
            assert "Free space" in str(error) and key in str(error), error
        else:
            assert done is False and key == "fits", (write, key)
assert backend.keys("") == ["fits"] and backend.get("fits") == b"x" * 1_000_000
assert list((backend.root / ".aside").iterdir()) == []
backend.delete("fits")
assert backend.create("big/new", b"y" * 1_500_000)
print("done")
"""
    mount = ("unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=2m tmpfs "{tmp_path}" || exit 77; exec "$@"', "sh")
    try:
        filler = script(filling, tmp_path / "store", before=mount)
    except FileNotFoundError:
        pytest.skip("no unshare(1) here")
    output = filler.communicate(timeout=60)[0]
    if filler.returncode in (1, 77) and ("unshare" in output or "mount" in output):
        pytest.skip(f"no mount namespace here: {output.strip()}")
    assert output == "done\n"


WRITERS = {
    "create": """
import hashlib, itertools
print("ready", flush=True)
for n in itertools.count():
    data = f"{sys.argv[2]} {n} ".encode().ljust(64) * 80_000
    assert backend.create("objects/" + hashlib.sha256(data).hexdigest(), data)
""",
    "replace": """
import itertools
print("ready", flush=True)
for n in itertools.count():
    backend.replace("one", bytes([n % 256]) * 5_000_000)
""",
}


@pytest.mark.system
@pytest.mark.parametrize("writer", WRITERS)
def test_killed_writers_leave_whole_objects_alone(tmp_path: Path, writer: str) -> None:
    moments = random.Random(0)
    for round in range(6):
        process = script(WRITERS[writer], tmp_path, round)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stdout.read()
        process.stdout.close()
    backend = LocalBackend(tmp_path)
    keys = backend.keys("")
    assert keys
    for key in keys:
        data = backend.get(key)
        if writer == "create":
            assert key == "objects/" + hashlib.sha256(data).hexdigest()
        else:
            assert (key, len(data), len(set(data))) == ("one", 5_000_000, 1)


def test_leftovers_are_never_listed_and_go_after_a_day(tmp_path: Path) -> None:
    aside = tmp_path / ".aside"
    aside.mkdir()
    (aside / "old").write_bytes(b"half")
    (aside / "young").write_bytes(b"half")
    day_ago = time.time() - 25 * 3600
    os.utime(aside / "old", (day_ago, day_ago))
    backend = LocalBackend(tmp_path)
    assert sorted(p.name for p in aside.iterdir()) == ["young"]
    assert backend.keys("") == backend.children("") == []
