"""The cache of members: bounded, verified at every use, safe with many readers."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from storage._cache import MemberCache
from storage.backends import Backend
from storage.backends.memory import MemoryBackend
from storage.canonical import sha256
from storage.errors import Integrity, InvalidInput, Transient
from storage.manifest import Member
from tests.storage.labels import Counting


def member_of(backend: Backend, data: bytes) -> Member:
    key = f"artifacts/saliency/shards/{sha256(data)[:16]}.tar"
    backend.create(key, data)
    return Member(name="x.tar", key=key, bytes=len(data), sha256=sha256(data))


@pytest.fixture
def blobs() -> list[bytes]:
    return [random.Random(n).randbytes(100_000) for n in range(6)]


def read(cache: MemberCache, member: Member) -> bytes:
    with cache.open(member) as file:
        return file.read()


def test_the_least_recently_used_leaves(tmp_path: Path, blobs: list[bytes]) -> None:
    backend = Counting(MemoryBackend())
    members = [member_of(backend, b) for b in blobs]
    cache = MemberCache(backend, tmp_path / "cache", 350_000)
    for n in (0, 1, 2, 0, 3):
        assert read(cache, members[n]) == blobs[n]
        time.sleep(0.002)
    assert {p.name for p in cache.folder.iterdir()} == {members[n].sha256 for n in (0, 2, 3)}
    assert backend.read == 400_000
    read(cache, members[1])
    assert backend.read == 500_000
    assert sum(p.stat().st_size for p in cache.folder.iterdir()) <= 350_000


def test_a_file_in_use_may_leave(tmp_path: Path, blobs: list[bytes]) -> None:
    backend = MemoryBackend()
    cache = MemberCache(backend, tmp_path, 150_000)
    with cache.open(member_of(backend, blobs[0])) as file:
        read(cache, member_of(backend, blobs[1]))
        assert not (tmp_path / sha256(blobs[0])).exists()
        assert file.read() == blobs[0]


@pytest.mark.parametrize("limit", [0, 99_999])
def test_a_member_larger_than_the_cache(tmp_path: Path, blobs: list[bytes], limit: int) -> None:
    backend = MemoryBackend()
    cache = MemberCache(backend, tmp_path, limit)
    member = member_of(backend, blobs[0])
    assert read(cache, member) == blobs[0]
    assert list(tmp_path.iterdir()) == []
    backend.replace(member.key, blobs[1])
    with pytest.raises(Integrity, match=member.key):
        read(cache, member)


def test_an_interrupted_fetch_goes_on(tmp_path: Path, blobs: list[bytes]) -> None:
    backend = MemoryBackend()
    member = member_of(backend, blobs[0])
    with pytest.raises(Transient):
        read(MemberCache(Counting(backend, die_after=60_000, step=10_000), tmp_path, 10**6), member)
    rest = Counting(backend)
    assert read(MemberCache(rest, tmp_path, 10**6), member) == blobs[0]
    assert rest.read == 40_000
    assert [p.name for p in tmp_path.iterdir()] == [member.sha256]


def test_parts_of_killed_readers_leave(tmp_path: Path, blobs: list[bytes]) -> None:
    backend = MemoryBackend()
    (tmp_path / f".{'0' * 64}.{'0' * 16}.part").write_bytes(b"new")
    (tmp_path / f".{'1' * 64}.{'1' * 16}.part").write_bytes(b"old")
    os.utime(tmp_path / f".{'1' * 64}.{'1' * 16}.part", (1, 1))
    member = member_of(backend, blobs[0])
    read(MemberCache(backend, tmp_path, 10**6), member)
    assert {p.name for p in tmp_path.iterdir()} == {member.sha256, f".{'0' * 64}.{'0' * 16}.part"}


def test_links_in_the_cache_are_never_followed(tmp_path: Path, blobs: list[bytes]) -> None:
    backend = MemoryBackend()
    member = member_of(backend, blobs[0])
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "cache").mkdir()
    for name in (member.sha256, f".{member.sha256}.{member.sha256[:16]}.part"):
        (tmp_path / "cache" / name).symlink_to(tmp_path / "precious")
        with pytest.raises(InvalidInput, match="link"):
            read(MemberCache(backend, tmp_path / "cache", 10**6), member)
        (tmp_path / "cache" / name).unlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_readers_share_a_cache(tmp_path: Path, blobs: list[bytes]) -> None:
    """Many threads with little room: every read is whole, whatever the others push out."""
    backend = Counting(MemoryBackend())
    members = [member_of(backend, b) for b in blobs]
    wrong: list[int] = []

    def reader(seed: int) -> None:
        cache, rng = MemberCache(backend, tmp_path, 250_000), random.Random(seed)
        for _ in range(40):
            n = rng.randrange(len(blobs))
            if read(cache, members[n]) != blobs[n]:
                wrong.append(n)

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 250_000


def test_two_that_need_one_member_fetch_it_once(tmp_path: Path, blobs: list[bytes]) -> None:
    backend = Counting(MemoryBackend())
    member = member_of(backend, blobs[0])
    cache = MemberCache(backend, tmp_path, 10**6)
    threads = [threading.Thread(target=read, args=(cache, member)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backend.read == 100_000
