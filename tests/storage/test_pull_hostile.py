"""Whatever lies in the store or in the target: `pull` writes where it should and nothing but verified bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage._landing import LOCK, RECORD
from storage.backends.local import LocalBackend
from storage.errors import Format, Integrity, InvalidInput, NotFound, Transient
from storage.manifest import Manifest, Member
from storage.pull import MARKER, pull
from storage.store import Store

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


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_changed_byte_is_found(kit: Any, data: st.DataObject) -> None:
    store = kit.store()
    manifest = kit.complete(store, shards=SHARDS)
    member = data.draw(st.sampled_from(manifest.members))
    whole = store.backend.get(member.key)
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["bit", "cut", "longer", "doubled"]))
    bit = bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))])
    flipped = whole[:at] + bit + whole[at + 1 :]
    harmed = {"bit": flipped, "cut": whole[:at], "longer": whole + bit, "doubled": whole * 2}
    store.backend.replace(member.key, harmed[kind])
    began = data.draw(st.integers(0, len(whole)))  # of it may be there already, from before the damage
    with tempfile.TemporaryDirectory() as dest:
        folder = Path(dest) / f"saliency@{manifest.version}"
        folder.mkdir()
        (folder / f".{member.name}.{member.sha256[:16]}.part").write_bytes(whole[:began])
        try:
            pull(store.backend, manifest, Path(dest))
        except Integrity as error:
            assert member.key in str(error)  # noqa: PT017  # whether it raises is drawn
            assert not (folder / MARKER).exists()
            assert member.name not in contents(folder)
        else:  # the damage lies in what was not read, or behind the end
            assert began > at or (kind in ("longer", "doubled") and began == len(whole))
            assert contents(folder) == named(SHARDS)


def changed(manifest: Manifest, **fields: object) -> Manifest:
    """A manifest as another program might write it: only what the parser checks is sure."""
    return Manifest.model_validate_json(json.dumps(manifest.model_dump(mode="json") | fields))


def test_hostile_manifests(kit: Any, store: Store, manifest: Manifest, tmp_path: Path) -> None:
    members = [m.model_dump(mode="json") for m in manifest.members]
    records = [r.model_dump(mode="json") for r in manifest.shards]
    dest = tmp_path / "dest"
    for kind in ("../../outside", "a/b", "", ".", "A"):
        with pytest.raises(InvalidInput):
            pull(store.backend, changed(manifest, kind=kind), dest)
        with pytest.raises(InvalidInput):
            pull(store.backend, changed(manifest, version=kind), dest)
    for name in (MARKER, MARKER.upper()):
        with pytest.raises(Format, match="in the place of a file of ours"):
            pull(store.backend, changed(manifest, members=[members[0] | {"name": name}], shards=[]), dest)
    twice = [records[0], records[1] | {"members": records[0]["members"]}]
    with pytest.raises(Format, match="twice"):
        pull(store.backend, changed(manifest, shards=twice), dest, shards=[0, 1])
    unlisted = [records[0] | {"members": [members[0] | {"sha256": "0" * 64}]}]
    with pytest.raises(Format, match="unlisted"):
        pull(store.backend, changed(manifest, shards=unlisted), dest, shards=[0])
    assert not dest.exists()
    for size in (10**18, 2**63, 1):
        huge = changed(manifest, members=[members[0] | {"bytes": size}], shards=[])
        with pytest.raises(Integrity, match=rf"expected {size} bytes"):
            pull(store.backend, huge, dest)
    other = kit.complete(kit.store(), shards=BIG).members[0]
    with pytest.raises(NotFound):
        pull(store.backend, changed(manifest, members=[other.model_dump(mode="json")], shards=[]), dest)
    assert sorted(contents(dest / f"saliency@{manifest.version}")) in ([RECORD], [RECORD, part_name(other)])


def part_name(member: Member) -> str:
    return f".{member.name}.{member.sha256[:16]}.part"


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
    ours = [LOCK, f".{RECORD}.new", "saliency-000002.tar", part_name(manifest.members[2]), f".{MARKER}.new"]
    for name in ours:
        for target in (outside / "precious", outside / "not there", outside):
            (folder / name).symlink_to(target)
            with pytest.raises(InvalidInput, match="a link, which is never followed"):
                pull(store.backend, manifest, tmp_path / "dest")
            assert not (folder / MARKER).exists()
            (folder / name).unlink()
    (folder / RECORD).unlink()
    for name in (MARKER, RECORD):
        (folder / name).symlink_to(outside / "precious")
    pull(store.backend, manifest, tmp_path / "dest")
    assert contents(folder) == named(SHARDS)
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
    (folder / "saliency-000000.tar").rmdir()
    os.mkfifo(folder / "saliency-000000.tar")
    with pytest.raises(InvalidInput, match=r"saliency-000000\.tar: expected a file"):
        pull(store.backend, manifest, tmp_path)


NOWHERE = ["/proc", "/proc/x", "/dev/null", "/dev/null/x", "{}/file", "{}/file/x", "{}/" + "x" * 300]


@pytest.mark.parametrize("dest", NOWHERE)
def test_a_place_where_nothing_can_be_is_refused(store: Store, manifest: Manifest, tmp_path: Path, dest: str) -> None:
    (tmp_path / "file").write_bytes(b"a file")
    with pytest.raises(InvalidInput, match=r"saliency@.*: expected .* found .*nothing was copied\. Name another DEST"):
        pull(store.backend, manifest, Path(dest.format(tmp_path)))
    assert (tmp_path / "file").read_bytes() == b"a file"


AS_NOBODY = """
import os, sys
from pathlib import Path
from storage.attempt import open_attempt
from storage.backends.local import LocalBackend
from storage.errors import InvalidInput
from storage.pull import pull
from storage.store import Store
backend = LocalBackend(Path(sys.argv[1]))
manifest = Store(backend).resolve(sys.argv[2])
os.setgid(65534); os.setuid(65534)
for dry in (True, False):
    try:
        pull(backend, manifest, Path(sys.argv[3]), dry_run=dry)
        print("pulled")
    except InvalidInput as error:
        print("Permission denied" in str(error) and "ame another" in str(error))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("mode", "there", "told"), [
    (0o755, False, ["pulled", "True"]),
    (0o700, False, ["True", "True"]),
    (0o755, True, ["pulled", "True"]),
])  # fmt: skip
def test_a_folder_of_another_user_is_refused(kit: Any, mode: int, there: bool, told: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        manifest = kit.complete(Store(LocalBackend(folder / "store")), shards=SHARDS)
        ref = f"saliency@{manifest.version}"
        (folder / "dest" / (ref if there else "")).mkdir(parents=True)
        (folder / "dest").chmod(mode)
        words = [sys.executable, "-c", AS_NOBODY, str(folder / "store"), ref, str(folder / "dest")]
        ended = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert ended.stdout.split() == told, ended.stderr


def test_a_full_disk_is_transient(
    store: Store, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.fsync, 3

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Transient, match=r"No space left on device.*Free space, then run the same command again"):
        pull(store.backend, manifest, tmp_path)
    folder = tmp_path / f"saliency@{manifest.version}"
    assert not (folder / MARKER).exists()
    monkeypatch.undo()
    pull(store.backend, manifest, tmp_path)
    assert contents(folder) == named(SHARDS)
