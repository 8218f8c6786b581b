"""What `pull` leaves is whole and verified, or visibly unfinished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from storage.backends.memory import MemoryBackend
from storage.errors import Integrity, InvalidInput, NotFound, Transient
from storage.manifest import Manifest
from storage.pull import MARKER, chosen_members, pull
from storage.store import Store

SHARDS = {n: f"shard {n}".encode() * 100 for n in range(4)}


@pytest.fixture
def manifest(kit: Any, store: Store) -> Manifest:
    found: Manifest = kit.complete(store, shards=SHARDS)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MARKER}


def test_pull(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    done = pull(store.backend, manifest, tmp_path / "new" / "labels")
    folder = tmp_path / "new" / "labels" / f"saliency@{manifest.version}"
    assert done == {"folder": str(folder), "files": 4, "copied": 4, "bytes": 2800, "samples": 0}
    assert contents(folder) == {f"saliency-{n:06d}.tar": data for n, data in SHARDS.items()}
    assert json.loads((folder / MARKER).read_bytes()) == {
        "ref": f"saliency@{manifest.version}",
        "subset": False,
        "files": {m.name: m.sha256 for m in manifest.members},
    }


def test_views_are_not_pulled(kit: Any, store: Store, tmp_path: Path) -> None:
    attempt = kit.open(store)
    manifest = kit.manifest(attempt, members=[attempt.put("a.json", b"1")], views=[attempt.put("b.png", b"2")])
    folder = Path(pull(store.backend, attempt.publish(manifest), tmp_path)["folder"])
    assert contents(folder) == {"a.json": b"1"}


def test_pulling_again_copies_nothing(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    folder = Path(pull(store.backend, manifest, tmp_path)["folder"])
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != MARKER}
    marker = (folder / MARKER).read_bytes()
    assert pull(store.backend, manifest, tmp_path)["copied"] == 0
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != MARKER} == before
    assert (folder / MARKER).read_bytes() == marker


@pytest.mark.parametrize("harm", [b"", b"shard 2" * 99, b"SHARD 2" * 100, b"shard 2" * 101])
def test_a_damaged_file_is_copied_again(store: Store, manifest: Manifest, tmp_path: Path, harm: bytes) -> None:
    folder = Path(pull(store.backend, manifest, tmp_path)["folder"])
    (folder / "saliency-000002.tar").write_bytes(harm)
    assert pull(store.backend, manifest, tmp_path)["copied"] == 1
    assert contents(folder)["saliency-000002.tar"] == SHARDS[2]


class Failing(MemoryBackend):
    """Another backend's objects, of which so many can be read."""

    def __init__(self, backend: Any, reads: int) -> None:
        super().__init__()
        self._objects = dict(backend._objects)
        self.reads = reads

    def get(self, key: str, limit: int | None = None) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise Transient("away")
        return super().get(key, limit)


@pytest.mark.parametrize("reads", range(4))
def test_an_interrupted_pull_is_unmarked_and_goes_on(
    store: Store, manifest: Manifest, tmp_path: Path, reads: int
) -> None:
    folder = Path(pull(store.backend, manifest, tmp_path)["folder"])  # complete, then lost but for the marker
    for name in contents(folder):
        (folder / name).unlink()
    with pytest.raises(Transient):
        pull(Failing(store.backend, reads), manifest, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == [f"saliency-{n:06d}.tar" for n in range(reads)]
    assert contents(folder) == {f"saliency-{n:06d}.tar": SHARDS[n] for n in range(reads)}
    assert pull(store.backend, manifest, tmp_path)["copied"] == 4 - reads
    assert (folder / MARKER).is_file()


def test_damaged_bytes_do_not_leave_the_store(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    store.backend.replace(manifest.members[1].key, b"SHARD 1" * 100)
    with pytest.raises(Integrity, match=r"saliency-000001-.*: expected 700 bytes with SHA-256"):
        pull(store.backend, manifest, tmp_path)
    assert list(contents(tmp_path / f"saliency@{manifest.version}")) == ["saliency-000000.tar"]
    assert not (tmp_path / f"saliency@{manifest.version}" / MARKER).exists()


def test_a_subset_is_marked(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    folder = Path(pull(store.backend, manifest, tmp_path, shards=[3, 1])["folder"])
    marker = json.loads((folder / MARKER).read_bytes())
    assert marker["subset"] is True
    assert set(marker["files"]) == set(contents(folder)) == {"saliency-000001.tar", "saliency-000003.tar"}
    assert pull(store.backend, manifest, tmp_path)["copied"] == 2
    assert json.loads((folder / MARKER).read_bytes())["subset"] is False


def test_unknown_shards(kit: Any, store: Store, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no shards \[4, 9\]; it has 4, 0 to 3"):
        pull(store.backend, manifest, tmp_path, shards=[0, 4, 9])
    assert list(tmp_path.iterdir()) == []
    attempt = kit.open(store, kit.key(1, "teacher"))
    whole = attempt.publish(kit.manifest(attempt, members=[attempt.put("a.json", b"1")]))
    with pytest.raises(NotFound, match="this kind is not sharded"):
        chosen_members(whole, [0])


def test_links_in_the_target_are_never_followed(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    folder = tmp_path / "dest" / f"saliency@{manifest.version}"
    folder.parent.mkdir()
    folder.symlink_to(outside)
    with pytest.raises(InvalidInput, match="found a file or a link, which is never followed"):
        pull(store.backend, manifest, tmp_path / "dest")
    folder.unlink()
    folder.mkdir()
    for target in (outside / "precious", outside / "not there"):
        (folder / "saliency-000002.tar").symlink_to(target)
        with pytest.raises(InvalidInput, match=r"saliency-000002\.tar: expected a file, found a folder or a link"):
            pull(store.backend, manifest, tmp_path / "dest")
        (folder / "saliency-000002.tar").unlink()
    (folder / MARKER).symlink_to(outside / "precious")
    pull(store.backend, manifest, tmp_path / "dest")
    assert not (folder / MARKER).is_symlink()
    assert {p.name: p.read_bytes() for p in outside.iterdir()} == {"precious": b"precious"}


def test_what_is_in_the_way_is_named(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / f"saliency@{manifest.version}"
    folder.write_bytes(b"a file")
    with pytest.raises(InvalidInput, match="expected a folder"):
        pull(store.backend, manifest, tmp_path)
    folder.unlink()
    (folder / "saliency-000000.tar").mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"saliency-000000\.tar: expected a file"):
        pull(store.backend, manifest, tmp_path)


def test_a_full_disk_is_transient(
    store: Store, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Transient, match="No space left"):
        pull(store.backend, manifest, tmp_path)
    assert list((tmp_path / f"saliency@{manifest.version}").iterdir()) == []
