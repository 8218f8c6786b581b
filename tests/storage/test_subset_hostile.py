"""Damage and malice in what `pull --classes` reads: it is found, or does no harm."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.attempt import open_attempt
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.errors import Format, GazeflowError, Integrity, NotFound
from storage.manifest import Manifest, ShardRecord
from storage.pull import MARKER, pull
from storage.shards import SALIENCY_SCHEMA, read_table, to_parquet, write_fixations, write_saliency
from storage.store import Store
from tests.storage.labels import FINGERPRINT, Labels, make_labels, publish


@pytest.fixture
def labels() -> Labels:
    return make_labels(Store(MemoryBackend()))


def expected(labels: Labels, kind: str, chosen: set[int]) -> dict[str, bytes]:
    """The files that the stages would have made of these samples alone."""
    files: dict[str, bytes] = {}
    for n, (rows, points) in enumerate(zip(labels.rows, labels.points, strict=True)):
        keep = [r.label in chosen for r in rows]
        if kind == "fixations":
            files[f"fixations-{n:06d}.parquet"] = write_fixations(p for p, k in zip(points, keep, strict=True) if k)
        else:
            tar, index = write_saliency(r for r, k in zip(rows, keep, strict=True) if k)
            files |= {f"saliency-{n:06d}.tar": tar, f"saliency-{n:06d}.parquet": index}
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MARKER}


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_every_changed_byte_is_found_or_harmless(data: st.DataObject) -> None:
    labels = make_labels(Store(MemoryBackend()), shards=2, per_shard=8, classes=2, broken=lambda n: n == 3)
    backend = labels.store.backend
    kind = data.draw(st.sampled_from(["saliency", "fixations"]))
    manifest: Manifest = getattr(labels, kind)
    keys = [m.key for m in (*labels.saliency.members, *labels.fixations.members)]
    key = data.draw(st.sampled_from([*keys, f"datasets/{FINGERPRINT}.parquet"]))
    whole = backend.get(key)
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
    backend.replace(key, data.draw(st.sampled_from([flipped, whole[:at]])))
    with tempfile.TemporaryDirectory() as dest:
        folder = Path(dest) / f"{kind}@{manifest.version}"
        try:
            pull(backend, manifest, Path(dest), classes=labels.classes[:1])
        except GazeflowError as error:
            assert isinstance(error, Integrity | NotFound)  # noqa: PT017  # whether it raises is drawn
            assert not (folder / MARKER).exists()
        else:
            assert contents(folder) == expected(labels, kind, {0})


def hostile(labels: Labels, change: Callable[[dict[str, Any], int], None], tar: bytes | None = None) -> Manifest:
    """A version whose first index has rows changed by hand, all digests right."""
    store = labels.store
    whole, index = (store.read(m) for m in labels.saliency.members[:2])
    rows = read_table(index, SALIENCY_SCHEMA, "").to_pylist()
    for number, row in enumerate(rows):
        change(row, number)
    key = labels.saliency.key.model_copy(update={"params": {"hostile": len(store.versions("saliency"))}})
    attempt = open_attempt(store, key, "n", "r", "r")
    members = [
        attempt.put_shard(0, ".tar", whole if tar is None else tar, labels.saliency.members[0].samples),
        attempt.put_shard(0, ".parquet", to_parquet(pa.Table.from_pylist(rows, SALIENCY_SCHEMA)), len(rows)),
    ]
    record = ShardRecord(shard=0, shard_key="0" * 64, members=members, done=1, failed=0)
    return publish(attempt, [attempt.finish(record)])


BAD_KEYS = ["../outside", "/etc/passwd", "a/../../b", "a//b", "", "a\0b", "a\nb", "a.b", "x" * 201, "a/", "\u202eb"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_that_leave_the_shard(labels: Labels, tmp_path: Path, key: str) -> None:
    def change(row: dict[str, Any], number: int) -> None:
        if number == 5:
            row |= {"key": key, "label": 0}

    with pytest.raises(Format, match="expected keys of letters"):
        pull(labels.store.backend, hostile(labels, change), tmp_path, classes=labels.classes[:1])


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": -1}, {"offset": -5}, {"size": -1}, {"size": 2**62}, {"offset": 2**62}, {"size": 10**9},
        {"offset": 0, "size": 10_000}, {"sha256": "0" * 64}, {"status": "failed"}, {"key": "twice"}, {"size": 0},
    ],
)  # fmt: skip
def test_rows_that_no_tar_could_have(labels: Labels, tmp_path: Path, fields: dict[str, Any]) -> None:
    def change(row: dict[str, Any], number: int) -> None:
        row |= {"label": 0} | (fields if number in (5, 7) else {})

    with pytest.raises(Integrity):
        pull(labels.store.backend, hostile(labels, change), tmp_path, classes=labels.classes[:1])
    assert not list(tmp_path.glob("*/*.tar"))
    assert not list(tmp_path.glob("*/gazeflow.json"))


def test_hostile_members_of_the_index(labels: Labels, tmp_path: Path) -> None:
    manifest = hostile(labels, lambda row, number: None)
    for change in ({"samples": 3}, {"bytes": 2**40}):
        record = manifest.shards[0]
        index = record.members[1].model_copy(update=change)
        members = [record.members[0], index]
        harmed = manifest.model_copy(
            update={"members": members, "shards": [record.model_copy(update={"members": members})]}
        )
        with pytest.raises(Format):
            pull(labels.store.backend, harmed, tmp_path, classes=labels.classes[:1])


def test_fixations_of_other_keys(labels: Labels, tmp_path: Path) -> None:
    store = labels.store
    key = labels.fixations.key.model_copy(update={"params": {"other": 1}})
    attempt = open_attempt(store, key, "n", "r", "r")
    points = [replace(p, key="another") if n == 4 else p for n, p in enumerate(labels.points[0])]
    member = attempt.put_shard(0, ".parquet", write_fixations(points), len(points))
    record = ShardRecord(shard=0, shard_key="0" * 64, members=[member], done=1, failed=0)
    manifest = publish(attempt, [attempt.finish(record)])
    name = labels.classes[labels.rows[0][4].label]
    with pytest.raises(Integrity, match=rf"expected the keys of saliency shard 0.*{labels.rows[0][4].key}"):
        pull(store.backend, manifest, tmp_path, classes=[name])


CHILD = """
import sys, time
from pathlib import Path
from storage.backends.local import LocalBackend
from storage.pull import pull
from storage.store import Store

class Slow(LocalBackend):
    def get_range(self, key, offset, size):
        time.sleep(0.002)
        return super().get_range(key, offset, size)

backend = Slow(Path(sys.argv[1]))
manifest = Store(backend).resolve(sys.argv[2])
print("go", flush=True)
pull(backend, manifest, Path(sys.argv[3]), classes=sys.argv[4:])
"""


def test_killed_pulls_end_whole(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "store")
    labels = make_labels(Store(backend), shards=8, per_shard=120, classes=6, side=24)
    ref, files, rng = f"saliency@{labels.saliency.version}", expected(labels, "saliency", {0, 5}), random.Random(3)
    names = [labels.classes[0], labels.classes[5]]
    folder = tmp_path / "dest" / ref
    words = [sys.executable, "-c", CHILD, str(tmp_path / "store"), ref, str(tmp_path / "dest"), *names]
    for _ in range(6):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (folder / MARKER).exists():
            assert contents(folder) == files
    pull(backend, labels.saliency, tmp_path / "dest", classes=names)
    assert contents(folder) == files
