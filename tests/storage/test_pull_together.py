"""Pulls that are killed, given up, or go on at once end with whole files."""

from __future__ import annotations

import fcntl
import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage._landing import LOCK
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.manifest import Manifest
from storage.pull import MARKER, pull
from storage.store import Store
from tests.storage.labels import Counting

SHARDS = {n: f"shard {n}".encode() * 100 for n in range(4)}
BIG = {n: random.Random(n).randbytes(2_500_000) for n in range(3)}


@pytest.fixture
def manifest(kit: Any, store: Store) -> Manifest:
    found: Manifest = kit.complete(store, shards=SHARDS)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MARKER}


def named(shards: dict[int, bytes]) -> dict[str, bytes]:
    return {f"saliency-{n:06d}.tar": data for n, data in shards.items()}


def test_two_pulls_into_one_folder(kit: Any, tmp_path: Path) -> None:
    backend = Counting(MemoryBackend())
    manifest = kit.complete(Store(backend), shards=BIG)
    done: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: done.append(pull(backend, manifest, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(d["copied"] for d in done) == [0, 0, 0, 3]
    assert backend.read == 7_500_000
    assert contents(tmp_path / f"saliency@{manifest.version}") == named(BIG)


def test_a_pull_that_is_given_up_leaves_at_once(kit: Any, tmp_path: Path) -> None:
    """Nothing is written any more when `pull` has raised: another may have the folder then."""
    manifest = kit.complete(Store(backend := Endless()), shards=BIG)

    def pressed(done: int, total: int) -> None:
        if done > 500_000 and threading.current_thread() is not threading.main_thread():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(backend, manifest, tmp_path, progress=pressed)
    folder = tmp_path / f"saliency@{manifest.version}"
    assert not (folder / LOCK).exists()
    before = {p.name: p.stat().st_size for p in folder.iterdir()}
    time.sleep(0.05)
    assert {p.name: p.stat().st_size for p in folder.iterdir()} == before
    assert not any(name.endswith(".tar") for name in before)


class Endless(MemoryBackend):
    """A place that gives bytes for ever, slowly."""

    threads = 3

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        for chunk in super().stream(key, offset):
            for start in range(0, len(chunk), 10_000):
                time.sleep(0.001)
                yield chunk[start : start + 10_000]
        while True:
            time.sleep(0.001)
            yield b""


def test_a_pull_waits_for_the_one_before(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / f"saliency@{manifest.version}"
    folder.mkdir()
    with open(folder / LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=pull, args=(store.backend, manifest, tmp_path))
        thread.start()
        time.sleep(0.1)
        assert sorted(p.name for p in folder.iterdir()) == [LOCK]
    thread.join()
    assert contents(folder) == named(SHARDS)


CHILD = """
import sys, time
from pathlib import Path
from storage.backends.local import LocalBackend
from storage.pull import pull
from storage.store import Store

class Slow(LocalBackend):
    def stream(self, key, offset=0):
        for chunk in super().stream(key, offset):
            for start in range(0, len(chunk), 25_000):
                time.sleep(0.001)
                yield chunk[start : start + 25_000]

    def get_range(self, key, offset, size):
        time.sleep(0.003)
        return super().get_range(key, offset, size)

backend = Slow(Path(sys.argv[1]))
manifest = Store(backend).resolve(sys.argv[2])
print("go", flush=True)
done = pull(backend, manifest, Path(sys.argv[3]), classes=sys.argv[4:] or None)
print(done["copied"], flush=True)
"""
Child = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def child(tmp_path: Path) -> Child:
    """Start a slow pull in a process of its own, from the store in tmp_path; returns once it begins."""

    def start(ref: str, *classes: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", CHILD, str(tmp_path / "store"), ref, str(tmp_path / "dest"), *classes]
        cwd = Path(__file__).parents[2]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=cwd)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        return process

    return start


def killed_pulls(child: Child, folder: Path, expected: dict[str, str], ref: str, *classes: str) -> None:
    """Kill pulls at random moments; the marker must never be there before all files are."""
    rng = random.Random(5)
    for _ in range(6):
        process = child(ref, *classes)
        end = time.monotonic() + rng.uniform(0, 0.12)
        while time.monotonic() < end:
            if (folder / MARKER).exists():
                assert digests(folder) == expected
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (folder / MARKER).exists():
            assert digests(folder) == expected


def digests(folder: Path) -> dict[str, str]:
    shards = [p for p in folder.iterdir() if not p.name.startswith(".") and p.name != MARKER]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in shards}


def test_killed_pulls_end_whole(kit: Any, child: Child, tmp_path: Path) -> None:
    backend = Counting(LocalBackend(tmp_path / "store"))
    manifest = kit.complete(Store(backend), shards={n: random.Random(n).randbytes(1_500_000) for n in range(6)})
    ref, expected = f"saliency@{manifest.version}", {m.name: m.sha256 for m in manifest.members}
    folder = tmp_path / "dest" / ref
    killed_pulls(child, folder, expected, ref)
    pull(backend, manifest, tmp_path / "dest")
    assert backend.read < 9_000_000, "what the killed ones had copied was not read again"
    assert digests(folder) == expected
    assert sorted(p.name for p in folder.iterdir()) == sorted([*expected, MARKER])


def test_processes_pull_into_one_folder(kit: Any, child: Child, tmp_path: Path) -> None:
    manifest = kit.complete(Store(LocalBackend(tmp_path / "store")), shards=BIG)
    ref = f"saliency@{manifest.version}"
    told = [p.communicate()[0] for p in [child(ref) for _ in range(3)]]
    assert sorted(told) == ["0\n", "0\n", "3\n"]
    assert contents(tmp_path / "dest" / ref) == named(BIG)
