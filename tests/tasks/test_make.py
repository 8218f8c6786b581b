"""Nodes end to end without Prefect: labels for every image, resumed runs, broken images, byte identity."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.errors import Integrity, InvalidInput
from storage.manifest import Manifest
from tasks._make import finish_sharded, make_shards, remaining_shards
from tasks._stage import Event

Members = dict[str, bytes]


class Killed(Exception):
    """Raised from `report`, in the place of a kill."""


def killer(wanted: Callable[[Event], bool], times: int = 1) -> Callable[[Event], None]:
    """A report that raises at the `times`-th event that is wanted."""
    left = [times]

    def report(event: Event) -> None:
        if wanted(event):
            left[0] -= 1
            if left[0] == 0:
                raise Killed

    return report


def table_of(data: bytes) -> list[dict[str, Any]]:
    return pq.read_table(pa.BufferReader(data)).to_pylist()  # type: ignore[no-any-return]


def members_of(tar: bytes) -> Members:
    """A tar's members by name, in its order."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        return {m.name: file.extractfile(m).read() for m in file}  # type: ignore[union-attr]


def shas(manifest: Manifest) -> dict[str, str]:
    return {m.name: m.sha256 for m in manifest.members}


# Labels


def test_labels_hold_every_image_in_the_order_of_its_shard(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path
) -> None:
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    saliency, fixations = made.make("saliency"), made.make("fixations")
    assert (saliency.done, saliency.failed, fixations.done) == (24, 0, 24)
    labels = made.members(f"saliency@{saliency.version}") | made.members(f"fixations@{fixations.version}")
    for number, members in enumerate(four_shards):
        keys = [n.removesuffix(".jpg") for n in members if n.endswith(".jpg")]
        rows = table_of(labels[f"saliency-{number:06d}.parquet"])
        maps = members_of(labels[f"saliency-{number:06d}.tar"])
        points = table_of(labels[f"fixations-{number:06d}.parquet"])
        assert [r["key"] for r in rows] == keys == [r["key"] for r in points]
        assert [n.removesuffix(".saliency.png") for n in maps] == keys
        assert [r["label"] for r in rows] == [int(members[f"{k}.cls"]) for k in keys]
        for row, point in zip(rows, points, strict=True):
            pixels = cv2.imdecode(np.frombuffer(maps[f"{row['key']}.saliency.png"], np.uint8), -1)
            assert pixels.shape == (32, 32)
            assert pixels.dtype == np.uint8
            assert pixels.max() == 255
            assert (row["width"], row["height"], point["width"], point["height"]) == (64, 48, 32, 32)
            assert len(point["x"]) == len(point["y"]) == len(point["peak"]) > 0
            assert max(point["x"]) < 32
            assert max(point["y"]) < 32
            assert pixels[point["y"][0], point["x"][0]] == 255  # the first point is the map's maximum


@pytest.mark.parametrize(("decoders", "batch"), [(1, 1), (4, 3)])
def test_label_bytes_depend_on_neither_threads_nor_batches(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path,
    labelled: Path, decoders: int, batch: int,
) -> None:  # fmt: skip
    tars = write_tars(tmp_path / "tars", four_shards)
    first = [of_tars(tars).make(n) for n in ("saliency", "fixations")]
    other = of_tars(tars, f"settings.decoders={decoders}")
    again = [other.make(n, forced=True, batch=batch) for n in ("saliency", "fixations")]
    assert [m.version for m in again] == [m.version for m in first], "an equal result publishes nothing new"
    attempts = other.store.versions("saliency")
    assert [a.state for a in attempts if a.name == f"{first[0].version}-2"] == ["closed"]


def test_labels_of_a_copy_elsewhere_are_the_same_bytes(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path,
    labelled_store: Path,
) -> None:  # fmt: skip
    import shutil

    one = of_tars(write_tars(tmp_path / "one", four_shards)).make("saliency")
    elsewhere = Path(shutil.copytree(labelled_store, tmp_path / "elsewhere"))
    two = of_tars(write_tars(tmp_path / "two", four_shards), store=elsewhere).make("saliency")
    assert one.version == two.version
    assert shas(one) == shas(two)


# Broken images


def encoded(mode: str, kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A small PNG that says it is 30,000 x 30,000."""
    data = bytearray(encoded("L", "PNG"))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


JPEG = encoded("RGB", "JPEG", quality=90)
GOOD = {
    "cmyk.jpg": encoded("CMYK", "JPEG"),
    "grey.jpg": encoded("L", "JPEG"),
    "rgba.png": encoded("RGBA", "PNG"),
    "palette.png": encoded("P", "PNG"),
    "png-named.jpg": encoded("RGB", "PNG"),
    "webp-named.png": encoded("RGB", "WEBP"),
    "jpeg-named.webp": JPEG,
}
BROKEN = {
    "empty.jpg": (b"", "an empty file"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "do not decode"),
    "header.jpg": (JPEG[:3], "do not decode"),
    "text.jpg": (b"<html>not found</html>", "expected a JPEG, PNG or WebP"),
    "bomb.png": (bomb(), "900000000 pixels"),
    "cutpng.png": (encoded("RGB", "PNG")[:200], "do not decode"),
}


@pytest.fixture
def mixed(write_tars: Callable[..., Path], tmp_path: Path) -> Path:
    """Three tars: broken images before good ones, only good ones, only broken ones."""
    broken = {n: data for n, (data, _) in BROKEN.items()}
    return write_tars(tmp_path / "mixed", [broken | GOOD, GOOD_COPIES, {f"b/{n}": d for n, d in broken.items()}])


GOOD_COPIES = {f"{number}/{n}": d for number in range(2) for n, d in GOOD.items()}


def test_a_broken_image_is_a_row_with_its_error_and_a_good_one_of_any_kind_a_label(
    of_tars: Callable[..., Any], mixed: Path
) -> None:
    made = of_tars(mixed, "settings.max_failed_share=0.5")
    saliency, fixations = made.make("saliency"), made.make("fixations")
    labels = made.members(f"saliency@{saliency.version}") | made.members(f"fixations@{fixations.version}")
    assert (saliency.done, saliency.failed) == (3 * len(GOOD), 2 * len(BROKEN))
    assert (fixations.done, fixations.failed) == (saliency.done, saliency.failed)
    rows = {r["key"]: r for n in range(3) for r in table_of(labels[f"saliency-{n:06d}.parquet"])}
    points = {r["key"]: r for n in range(3) for r in table_of(labels[f"fixations-{n:06d}.parquet"])}
    for name in GOOD:
        key = name.partition(".")[0]
        assert (rows[key]["status"], rows[key]["error"], rows[key]["width"]) == ("ok", "", 64), rows[key]
        assert points[key]["x"]
    for name, (_, told) in BROKEN.items():
        key = name.partition(".")[0]
        assert rows[key]["status"] == "failed"
        assert told in rows[key]["error"]
        assert (rows[key]["offset"], rows[key]["size"]) == (-1, 0)
        assert (points[key]["status"], points[key]["x"]) == ("failed", [])
        assert points[key]["error"] == rows[key]["error"]
    assert list(members_of(labels["saliency-000000.tar"])) == [f"{n.partition('.')[0]}.saliency.png" for n in GOOD]
    assert members_of(labels["saliency-000002.tar"]) == {}
    warned = [e.text for e in made.events if e.kind == "log" and "broken" in e.text]
    assert any("empty" in w for w in warned)


def test_too_many_broken_images_publish_nothing_name_them_and_lose_nothing(
    of_tars: Callable[..., Any], mixed: Path
) -> None:
    made = of_tars(mixed)
    with pytest.raises(InvalidInput, match=r"expected at most 0\.10% broken images, found 12 of 33 \(empty: "):
        made.make("saliency")
    assert made.plan()["saliency"].remaining == (), "the finished shards are kept"
    again = of_tars(mixed, "settings.max_failed_share=0.5")
    assert again.plan()["saliency"].state == "partial"
    manifest = again.make("saliency")
    assert manifest.done == 3 * len(GOOD)
    assert again.store.versions("saliency")[-1].state == "complete"


def test_students_train_on_the_labelled_images_alone(of_tars: Callable[..., Any], mixed: Path) -> None:
    made = of_tars(mixed, "settings.max_failed_share=0.5", "student.batch_size=8", "student.epochs=1")
    made.make("saliency")
    made.make("fixations")
    assert made.make("student").done == 3 * len(GOOD)


def test_a_teacher_names_the_image_it_cannot_read(bare: Callable[..., Any], tiny_data: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_data / "salicon", tmp_path / "people"))
    broken = next(folder.rglob("*.jpg"))
    broken.write_bytes(b"")
    extra = f'\n[datasets.broken]\nformat = "salicon"\npath = "{folder}"\n'
    with pytest.raises(InvalidInput, match=rf"broken: .*{broken.name}.*an empty file"):
        bare("teacher.datasets.attention=broken", extra=extra).make("teacher")


def test_an_image_that_changes_during_a_run_stops_it(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path
) -> None:
    tars = write_tars(tmp_path / "tars", four_shards)
    made = of_tars(tars)
    order, _ = made.open("saliency")
    tar = tars / "part-000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(Integrity, match=r"part-000001\.tar.*changed while a run was under way"):
        make_shards(order, [0, 1], made.report)
    assert sorted(s.number for s in remaining_shards(order)) == [1, 2, 3]


# Resumed runs


@pytest.mark.parametrize("node", ["saliency", "fixations"])
@pytest.mark.parametrize("moment", ["start", "end"])
def test_shards_made_before_a_kill_stay_and_the_rest_is_the_same(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path,
    labelled_store: Path, node: str, moment: str,
) -> None:  # fmt: skip
    import shutil

    tars = write_tars(tmp_path / "tars", four_shards)
    calm = of_tars(tars, store=Path(shutil.copytree(labelled_store, tmp_path / "calm")))
    made = of_tars(tars)
    calm.make("saliency")
    if node == "fixations":
        made.make("saliency")
        calm.make("fixations")
    order, attempt = made.open(node)
    third = killer(lambda e: e.kind == "shard" and (e.record is None) == (moment == "start"), 3)
    with pytest.raises(Killed):
        make_shards(order, range(4), third)
    assert sorted(attempt.finished()) == ([0, 1] if moment == "start" else [0, 1, 2])
    assert made.plan()[node].state == "partial"
    finished = made.make(node)
    assert finished.version == attempt.version.name, "the open attempt is resumed, never numbered past"
    assert shas(finished) == shas(calm.store.resolve(f"{node}@{calm.store.versions(node)[-1].name}"))


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_teacher_ends_bit_equal(
    bare: Callable[..., Any], tmp_path: Path, after: int
) -> None:
    settings = ("teacher.epochs=4", "settings.checkpoint_seconds=0")
    calm = bare("teacher.epochs=4", store=tmp_path / "calm").make("teacher")
    dying = bare(*settings, report=killer(lambda e: e.kind == "progress", after + 1))
    with pytest.raises(Killed):
        dying.make("teacher")
    going_on = bare(*settings)
    resumed = going_on.make("teacher")
    assert any(f"going on after epoch {after}" in e.text for e in going_on.events)
    assert shas(resumed) == shas(calm)


@pytest.mark.parametrize(("after", "dtype"), [(1, "float32"), (3, "bfloat16"), (5, "float32")])
def test_an_interrupted_student_ends_bit_equal(
    bare: Callable[..., Any], labelled: Path, tmp_path: Path, after: int, dtype: str
) -> None:
    import shutil

    calm_store = Path(shutil.copytree(labelled, tmp_path / "calm"))
    dtype_set = f"student.dtype={dtype}"
    calm = bare(dtype_set, store=calm_store).make("student")
    settings = (dtype_set, "settings.checkpoint_seconds=0")
    dying = bare(*settings, store=labelled, report=killer(lambda e: e.kind == "progress", after))
    with pytest.raises(Killed):
        dying.make("student")
    assert dying.plan()["student"].state == "partial"
    going_on = bare(*settings, store=labelled)
    resumed = going_on.make("student")
    assert any(e.text == f"going on after step {after}" for e in going_on.events)
    assert shas(resumed) == shas(calm)
    work = f"artifacts/student/{resumed.version}/work/"
    assert going_on.store.backend.keys(work) == [], "checkpoints in progress go once the version is there"


def test_an_unreadable_newest_checkpoint_falls_back_to_the_one_before(
    bare: Callable[..., Any], labelled: Path, tmp_path: Path
) -> None:
    import shutil

    calm = bare(store=Path(shutil.copytree(labelled, tmp_path / "calm"))).make("student")
    dying = bare("settings.checkpoint_seconds=0", store=labelled, report=killer(lambda e: e.kind == "progress", 4))
    with pytest.raises(Killed):
        dying.make("student")
    newest = sorted(labelled.glob("artifacts/student/*/work/*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    going_on = bare(store=labelled)
    assert shas(going_on.make("student")) == shas(calm)
    assert any(e.text == "going on after step 3" for e in going_on.events)


# Attempts


def test_two_runs_of_one_node_end_with_one_version(bare: Callable[..., Any], labelled: Path) -> None:
    """Run A is overtaken by run B just before it publishes: both come to B's manifest."""
    late = bare("teacher.epochs=3", store=labelled)
    early = bare("teacher.epochs=3", store=labelled)
    seen: list[Event] = []
    won: list[Manifest] = []

    def report(event: Event) -> None:
        seen.append(event)
        if event.kind == "table" and not won:
            won.append(early.make("teacher", run="early"))

    late.report = report
    lost = late.make("teacher", run="late")
    assert (lost.version, lost.run) == (won[0].version, "early")
    assert any("another run published" in e.text for e in seen)
    assert [v.state for v in late.store.versions("teacher")] == ["complete"] * 2


def test_two_runs_of_one_shard_meet_without_harm(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path
) -> None:
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    order, _ = made.open("saliency")

    def report(event: Event) -> None:
        if event.kind == "shard" and event.record is None and event.text == "1":
            assert make_shards(order, [1, 2], made.report) == 2

    assert make_shards(order, range(4), report) == 3, "shard 2 was the other's, shard 1 both made"
    assert made.store.resolve(finish_sharded(order, made.report)).done == 24


def test_redone_shards_adopt_the_rest(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path
) -> None:
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    first = made.make("saliency")
    order, _ = made.open("saliency", forced=True, redo=[3])
    assert [s.number for s in remaining_shards(order)] == [3]
    made.make("saliency", forced=True, redo=[3])
    assert made.plan()["saliency"].ref == f"saliency@{first.version}"


def test_a_manifest_tells_who_made_what_from_what(bare: Callable[..., Any], labelled: Path) -> None:
    made = bare(store=labelled)
    manifest = made.make("fixations")
    assert manifest.key.inputs["saliency"] == [made.plan()["saliency"].ref]
    assert manifest.producer.python
    assert manifest.producer.device == "cpu"
    assert manifest.summary["images"] == 80
    assert manifest.summary["mean_points"] > 0
    assert {v.name for v in made.store.resolve(made.plan()["saliency"].ref).views} == {"gallery.png"}
