"""Labels for every image, the same bytes however they are made; broken images are told, never left out."""

from __future__ import annotations

import io
import shutil
import tarfile
import zlib
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
from tasks._make import make_shards, remaining_shards

Members = dict[str, bytes]


def table_of(data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
    return rows


def members_of(tar: bytes) -> Members:
    """A tar's members by name, in its order."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        # extractfile gives None for what is no regular file alone
        return {m.name: file.extractfile(m).read() for m in file}  # type: ignore[union-attr]


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
            assert pixels is not None
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
    one = of_tars(write_tars(tmp_path / "one", four_shards)).make("saliency")
    elsewhere = Path(shutil.copytree(labelled_store, tmp_path / "elsewhere"))
    two = of_tars(write_tars(tmp_path / "two", four_shards), store=elsewhere).make("saliency")
    assert one.version == two.version
    assert one.result_digest() == two.result_digest()


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
