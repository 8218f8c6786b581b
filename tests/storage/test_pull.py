"""What `pull` leaves is whole and verified, or visibly unfinished."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from storage.backends import Backend
from storage.backends.memory import MemoryBackend
from storage.errors import Integrity, NotFound, Transient
from storage.manifest import Manifest
from storage.pull import MARKER, chosen_members, pull
from storage.store import Store
from tests.storage.labels import Counting, open_place

SHARDS = {n: f"shard {n}".encode() * 100 for n in range(4)}
BIG = {n: random.Random(n).randbytes(2_500_000) for n in range(3)}


@pytest.fixture
def manifest(kit: Any, store: Store) -> Manifest:
    found: Manifest = kit.complete(store, shards=SHARDS)
    return found


@pytest.fixture(params=["memory", "local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return open_place(request.param, request, tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MARKER}


def named(shards: dict[int, bytes]) -> dict[str, bytes]:
    return {f"saliency-{n:06d}.tar": data for n, data in shards.items()}


def test_pull(kit: Any, place: Backend, tmp_path: Path) -> None:
    manifest = kit.complete(Store(place), shards=BIG)
    told: list[tuple[int, int]] = []
    done = pull(place, manifest, tmp_path / "new" / "labels", progress=lambda *n: told.append(n))
    folder = tmp_path / "new" / "labels" / f"saliency@{manifest.version}"
    assert done == {
        "folder": str(folder), "files": 3, "copied": 3, "bytes": 7_500_000, "bytes_there": 0, "samples": 0,
        "subset": False,
    }  # fmt: skip
    assert contents(folder) == named(BIG)
    assert json.loads((folder / MARKER).read_bytes()) == {
        "ref": f"saliency@{manifest.version}",
        "subset": False,
        "files": {m.name: m.sha256 for m in manifest.members},
    }
    assert told == sorted(told)
    assert told[-1] == (7_500_000, 7_500_000)
    assert len(told) >= 9, "more often than once for each file"

    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    again = pull(place, manifest, tmp_path / "new" / "labels")
    assert (again["copied"], again["bytes"], again["bytes_there"]) == (0, 0, 7_500_000)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before, "not even the marker is touched"


def test_views_are_not_pulled(kit: Any, store: Store, tmp_path: Path) -> None:
    attempt = kit.open(store)
    manifest = kit.manifest(attempt, members=[attempt.put("a.json", b"1")], views=[attempt.put("b.png", b"2")])
    folder = Path(pull(store.backend, attempt.publish(manifest), tmp_path)["folder"])
    assert contents(folder) == {"a.json": b"1"}


@pytest.mark.parametrize("harm", [b"", b"shard 2" * 99, b"SHARD 2" * 100, b"shard 2" * 101])
def test_a_damaged_file_is_copied_again(store: Store, manifest: Manifest, tmp_path: Path, harm: bytes) -> None:
    folder = Path(pull(store.backend, manifest, tmp_path)["folder"])
    (folder / "saliency-000002.tar").write_bytes(harm)
    assert pull(store.backend, manifest, tmp_path)["copied"] == 1
    assert contents(folder) == named(SHARDS)


def test_a_dry_run_writes_nothing(kit: Any, tmp_path: Path) -> None:
    backend = Counting(MemoryBackend(), die_after=None)
    manifest = kit.complete(Store(backend), shards=BIG)
    dry = pull(backend, manifest, tmp_path / "dest", dry_run=True)
    assert (dry["files"], dry["copied"], dry["bytes"], dry["bytes_there"]) == (3, 3, 7_500_000, 0)
    assert backend.read == 0
    assert list(tmp_path.iterdir()) == []

    folder = Path(pull(backend, manifest, tmp_path / "dest", shards=[1])["folder"])
    member = manifest.members[0]
    (folder / f".{member.name}.{member.sha256[:16]}.part").write_bytes(BIG[0][:1000])
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    dry = pull(backend, manifest, tmp_path / "dest", dry_run=True)
    assert (dry["copied"], dry["bytes"], dry["bytes_there"]) == (2, 5_000_000 - 1000, 2_500_000 + 1000)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("after", [0, 1, 700_000, 2_499_999, 2_500_000, 4_200_000, 7_499_999])
def test_an_interrupted_pull_goes_on_inside_the_file(kit: Any, tmp_path: Path, after: int) -> None:
    inner = MemoryBackend()
    manifest = kit.complete(Store(inner), shards=BIG)
    broken = Counting(inner, die_after=after, step=100_000)
    with pytest.raises(Transient):
        pull(broken, manifest, tmp_path)
    folder = tmp_path / f"saliency@{manifest.version}"
    assert not (folder / MARKER).exists()
    rest = Counting(inner)
    done = pull(rest, manifest, tmp_path)
    assert rest.read == done["bytes"] == 7_500_000 - broken.read, "what came is not read again"
    assert contents(folder) == named(BIG)


def test_a_broken_connection_on_every_place(kit: Any, place: Backend, tmp_path: Path) -> None:
    manifest = kit.complete(Store(place), shards=BIG)
    broken = Counting(place, die_after=3_000_000, step=100_000)
    with pytest.raises(Transient):
        pull(broken, manifest, tmp_path)
    rest = Counting(place)
    pull(rest, manifest, tmp_path)
    assert rest.read == 7_500_000 - broken.read
    assert contents(tmp_path / f"saliency@{manifest.version}") == named(BIG)


@pytest.mark.parametrize("part", [b"x", b"x" * 2_499_999, b"x" * 2_500_000, b"x" * 2_600_000, BIG[1][:9] + b"\0" * 999])
def test_a_wrong_part_is_fetched_anew_once(kit: Any, tmp_path: Path, part: bytes) -> None:
    backend = Counting(MemoryBackend())
    manifest = kit.complete(Store(backend), shards={1: BIG[1]})
    member = manifest.members[0]
    folder = tmp_path / f"saliency@{manifest.version}"
    folder.mkdir()
    (folder / f".{member.name}.{member.sha256[:16]}.part").write_bytes(part)
    told: list[tuple[int, int]] = []
    pull(backend, manifest, tmp_path, progress=lambda *n: told.append(n))
    assert contents(folder) == named({1: BIG[1]})
    assert 2_500_000 <= backend.read <= 5_000_000
    assert told[-1] == (2_500_000, 2_500_000)


def test_what_was_there_is_done_from_the_beginning(kit: Any, tmp_path: Path) -> None:
    """So that rates and times to go are of what comes, not of how fast this disk is hashed."""
    backend = Counting(MemoryBackend(), step=100_000)
    manifest = kit.complete(Store(backend), shards=BIG)
    folder = Path(pull(backend, manifest, tmp_path, shards=[1])["folder"])
    member = manifest.members[0]
    (folder / f".{member.name}.{member.sha256[:16]}.part").write_bytes(BIG[0][:1_000_000])
    told: list[tuple[int, int]] = []
    pull(backend, manifest, tmp_path, progress=lambda *n: told.append(n))
    assert (told[0], told[-1]) == ((3_500_000, 7_500_000), (7_500_000, 7_500_000))
    assert all(0 < b[0] - a[0] <= 100_000 for a, b in pairwise(told))
    pull(backend, manifest, tmp_path, progress=lambda *n: pytest.fail("nothing came"))


def test_damaged_bytes_do_not_leave_the_store(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    store.backend.replace(manifest.members[1].key, b"SHARD 1" * 100)
    with pytest.raises(Integrity, match=r"saliency-000001-.*: expected 700 bytes with SHA-256"):
        pull(store.backend, manifest, tmp_path)
    folder = tmp_path / f"saliency@{manifest.version}"
    found = contents(folder)
    assert not any("saliency-000001" in name for name in found), "no part of the damaged file stays"
    assert all(found[name] == data for name, data in named(SHARDS).items() if name in found)


def test_a_subset_is_marked(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    done = pull(store.backend, manifest, tmp_path, shards=[3, 1, 3])
    folder = Path(done["folder"])
    marker = json.loads((folder / MARKER).read_bytes())
    assert marker["subset"] is done["subset"] is True
    assert set(marker["files"]) == set(contents(folder)) == {"saliency-000001.tar", "saliency-000003.tar"}
    assert pull(store.backend, manifest, tmp_path)["copied"] == 2
    whole = (folder / MARKER).read_bytes()
    assert json.loads(whole)["subset"] is False
    assert pull(store.backend, manifest, tmp_path, shards=[2])["copied"] == 0
    assert (folder / MARKER).read_bytes() == whole, "what is whole is not called a subset"
    all_shards = pull(store.backend, manifest, tmp_path / "other", shards=[0, 1, 2, 3])
    assert all_shards["subset"] is False


def test_unknown_shards(kit: Any, store: Store, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no shards \[4, 9\]; it has 4, 0 to 3"):
        pull(store.backend, manifest, tmp_path, shards=[0, 4, 9])
    assert list(tmp_path.iterdir()) == []
    attempt = kit.open(store, kit.key(1, "teacher"))
    whole = attempt.publish(kit.manifest(attempt, members=[attempt.put("a.json", b"1")]))
    with pytest.raises(NotFound, match="this kind is not sharded"):
        chosen_members(whole, [0])
