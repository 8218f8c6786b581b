"""Label shards: the same rows are the same bytes, and every reader a user has takes them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.canonical import sha256
from storage.errors import Format, Integrity
from storage.images import decode_png_gray, encode_png_gray
from storage.keys import sample_key
from storage.shards import (
    FIXATIONS_SCHEMA,
    SALIENCY_SCHEMA,
    FixationsRow,
    SaliencyRow,
    read_png,
    read_table,
    to_parquet,
    write_fixations,
    write_saliency,
)

PATHS = [
    "n01440764/n01440764_10026.JPEG", "v1.0/50% off.b.png", "日本/東京.webp", "Cafe\u0301 au lait.jpg",
    "x" * 200 + ".jpg", "deep/" * 20 + "é" * 50 + ".jpg", "é" * 100 + ".png", "-rf.jpg", "<script>.jpg",
]  # fmt: skip
KEYS = [sample_key(p) for p in PATHS]
BROKEN = SaliencyRow("broken/image", 3, sha256(b"broken"), error="image: expected a JPEG; found 'x', \"y\"\n")
NONE = np.empty(0, np.uint16)


def png(seed: int) -> bytes:
    return encode_png_gray(np.random.default_rng(seed).integers(0, 256, (5, 6), dtype=np.uint8))


def labelled(n: int, key: str) -> SaliencyRow:
    return SaliencyRow(key, n - 1, sha256(key.encode()), png(n), 640 + n, 480, 0.25 / (n + 1), 10.5)


ROWS = [*(labelled(n, k) for n, k in enumerate(KEYS)), BROKEN, labelled(99, "after")]
FIXED = [
    FixationsRow(
        "a/b", 224, 224, np.array([0, 223, 7], np.uint16), np.array([223, 0, 7], np.uint16),
        np.array([1, 0.5, 0.25], np.float32),
    ),
    FixationsRow("no points", 224, 224, NONE, NONE, np.empty(0, np.float32)),
    FixationsRow("broken/image", 0, 0, NONE, NONE, np.empty(0, np.float32), "image: broken"),
    FixationsRow("日本", 9, 8, np.array([3], np.uint16), np.array([4], np.uint16), np.array([0.75], np.float32)),
]  # fmt: skip


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shard of each kind, as `pull` leaves it."""
    folder = tmp_path_factory.mktemp("pulled")
    tar, index = write_saliency(ROWS)
    (folder / "saliency-000000.tar").write_bytes(tar)
    (folder / "saliency-000000.parquet").write_bytes(index)
    (folder / "fixations-000000.parquet").write_bytes(write_fixations(FIXED))
    return folder


def index_rows(data: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(data, SALIENCY_SCHEMA, "index").to_pylist()
    return found


def test_known_bytes() -> None:
    """The tar is written by Python alone, so that its bytes are the same in every environment."""
    tar, _ = write_saliency([SaliencyRow("a", 0, "", b"png"), SaliencyRow("é" * 60, 0, "", b"second"), BROKEN])
    assert sha256(tar) == "12943b213dde2b8474c6d90df9ec539e22155e06c0a6119e3d69f54c6e355b26"


texts = st.text("ab é日/_-", max_size=8)
floats = st.floats(0, 1e6, width=32)
pixels = st.integers(0, 65535)
saliency_rows = st.builds(
    SaliencyRow, st.sampled_from(KEYS) | texts, st.integers(-1, 999), texts, st.none() | st.binary(max_size=700),
    st.integers(0, 9), st.integers(0, 9), floats, floats, texts,
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(saliency_rows, max_size=5, unique_by=lambda r: r.key))
def test_rows_come_back(rows: list[SaliencyRow]) -> None:
    tar, index = write_saliency(rows)
    assert (tar, index) == write_saliency(iter(rows))
    found = index_rows(index)
    back = [
        SaliencyRow(
            r["key"], r["label"], r["source_sha256"],
            bytes(read_png(tar, r["offset"], r["size"], r["sha256"], "x")) if r["status"] == "ok" else None,
            r["width"], r["height"], r["peak"], r["entropy"], r["error"],
        )
        for r in found
    ]  # fmt: skip
    assert back == rows
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        names = file.getnames()
    assert names == [f"{r.key}.saliency.png" for r in rows if r.png is not None]


@settings(deadline=None)
@given(st.lists(saliency_rows, max_size=3), st.lists(saliency_rows, max_size=3))
def test_other_rows_are_other_bytes(one: list[SaliencyRow], other: list[SaliencyRow]) -> None:
    assert (write_saliency(one) == write_saliency(other)) == (one == other)


@pytest.mark.parametrize(
    "change", [{"key": "b"}, {"label": 1}, {"source_sha256": "s"}, {"png": b"pn"}, {"width": 1}, {"height": 1},
               {"peak": 0.5}, {"entropy": 0.5}, {"error": "x"}, {"png": None}]
)  # fmt: skip
def test_every_field_is_in_the_bytes(change: dict[str, Any]) -> None:
    row = {"key": "a", "label": 0, "source_sha256": "", "png": b"png"}
    assert write_saliency([SaliencyRow(**row)]) != write_saliency([SaliencyRow(**(row | change))])


def test_tar_and_index_agree(shard: Path) -> None:
    tar = (shard / "saliency-000000.tar").read_bytes()
    rows = index_rows((shard / "saliency-000000.parquet").read_bytes())
    assert [r["key"] for r in rows] == [r.key for r in ROWS]
    ok = [r for r in rows if r["status"] == "ok"]
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        members = file.getmembers()
        assert [m.name for m in members] == [f"{r['key']}.saliency.png" for r in ok]
        for member, row in zip(members, ok, strict=True):
            assert member.isreg()
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert (member.offset_data, member.size) == (row["offset"], row["size"])
            data = tar[row["offset"] : row["offset"] + row["size"]]
            assert sha256(data) == row["sha256"]
            assert decode_png_gray(data).shape == (5, 6)


def test_a_broken_image_is_a_row(shard: Path) -> None:
    rows = index_rows((shard / "saliency-000000.parquet").read_bytes())
    (broken,) = [r for r in rows if r["status"] != "ok"]
    assert broken == {
        "key": "broken/image", "label": 3, "offset": -1, "size": 0, "sha256": "", "source_sha256": sha256(b"broken"),
        "width": 0, "height": 0, "peak": 0.0, "entropy": 0.0, "status": "failed", "error": BROKEN.error,
    }  # fmt: skip


def test_empty_shards() -> None:
    tar, index = write_saliency([])
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert file.getnames() == []
    assert index_rows(index) == []
    assert read_table(write_fixations([]), FIXATIONS_SCHEMA, "x").to_pylist() == []


def test_plain_tar_reads_it(shard: Path) -> None:
    command = ["tar", "--quoting-style=literal", "-tf", shard / "saliency-000000.tar"]
    listed = subprocess.run(command, capture_output=True, check=True)
    assert listed.stderr == b""
    assert listed.stdout.decode().splitlines() == [f"{r.key}.saliency.png" for r in ROWS if r.png is not None]
    wanted = f"{KEYS[0]}.saliency.png"
    one = subprocess.run(["tar", "xOf", shard / "saliency-000000.tar", wanted], capture_output=True, check=True)
    assert one.stdout == ROWS[0].png


def test_webdataset_reads_it(shard: Path) -> None:
    import webdataset

    url = str(shard / "saliency-{000000..000000}.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False))
    assert [(s["__key__"], s["saliency.png"]) for s in samples] == [(r.key, r.png) for r in ROWS if r.png is not None]


def test_pyarrow_reads_it(shard: Path) -> None:
    saliency = pq.read_table(shard / "saliency-000000.parquet")
    fixations = pq.read_table(shard / "fixations-000000.parquet")
    assert saliency.schema.equals(SALIENCY_SCHEMA)
    assert fixations.schema.equals(FIXATIONS_SCHEMA)
    assert fixations["x"].to_pylist() == [[0, 223, 7], [], [], [3]]
    assert fixations["peak"].to_pylist() == [[1, 0.5, 0.25], [], [], [0.75]]
    assert fixations["status"].to_pylist() == ["ok", "ok", "failed", "ok"]


def test_duckdb_reads_it(shard: Path) -> None:
    import duckdb

    points = duckdb.sql(
        f"select key, unnest(x) x, unnest(y) y, unnest(peak) peak from '{shard}/fixations-*.parquet' order by all"
    ).fetchall()
    assert points == [("a/b", 0, 223, 1.0), ("a/b", 7, 7, 0.25), ("a/b", 223, 0, 0.5), ("日本", 3, 4, 0.75)]
    labels = duckdb.sql(f"select key, label from '{shard}/saliency-*.parquet' where status = 'ok' and label >= 0")
    assert labels.fetchall() == [(r.key, r.label) for r in ROWS if r.png is not None and r.label >= 0]


def test_keys_survive_unnormalised(shard: Path) -> None:
    """NFC in, NFC out, to the byte, up to 200 bytes."""
    with tarfile.open(shard / "saliency-000000.tar") as file:
        names = [n.removesuffix(".saliency.png") for n in file.getnames()]
    assert max(len(n.encode()) for n in names) == 200
    assert all(unicodedata.is_normalized("NFC", n) for n in names)
    assert {"Café au lait", "v1%2E0/50%25 off%2Eb"} <= set(names)


def test_bytes_do_not_depend_on_the_locale() -> None:
    code = (
        "from storage.shards import *; from storage.canonical import sha256\n"
        "print([sha256(d) for d in write_saliency([SaliencyRow('\\u65e5' * 50, 0, '', b'png')])])"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    env = {"PYTHONPATH": path, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str([sha256(d) for d in write_saliency([SaliencyRow("日" * 50, 0, "", b"png")])])


@settings(deadline=None)
@given(st.lists(st.tuples(texts, st.lists(st.tuples(pixels, pixels, floats), max_size=4))))
def test_fixations_come_back(rows: list[tuple[str, list[tuple[int, int, float]]]]) -> None:
    written = [
        FixationsRow(
            key, 7, 8, np.array([p[0] for p in points], np.uint16), np.array([p[1] for p in points], np.uint16),
            np.array([p[2] for p in points], np.float32),
        )
        for key, points in rows
    ]  # fmt: skip
    data = write_fixations(written)
    assert data == write_fixations(written)
    found = read_table(data, FIXATIONS_SCHEMA, "x").to_pylist()
    assert [(r["key"], list(zip(r["x"], r["y"], r["peak"], strict=True))) for r in found] == rows


@pytest.mark.parametrize(
    "schema",
    [
        FIXATIONS_SCHEMA,
        SALIENCY_SCHEMA.remove(3),
        SALIENCY_SCHEMA.append(pa.field("more", pa.string())),
        pa.schema([SALIENCY_SCHEMA.field(n) for n in reversed(SALIENCY_SCHEMA.names)]),
        SALIENCY_SCHEMA.set(2, pa.field("offset", pa.float64())),
        SALIENCY_SCHEMA.set(0, pa.field("key", pa.binary())),
    ],
)
def test_other_columns_are_refused(schema: pa.Schema) -> None:
    with pytest.raises(Format, match=r"there: expected the columns \['key: string', .*it was not used"):
        read_table(to_parquet(schema.empty_table()), SALIENCY_SCHEMA, "there")


@given(st.data())
@settings(deadline=None)
def test_damaged_parquet_is_refused_or_read(data: st.DataObject) -> None:
    """Bytes are verified before they come here; still nothing but Format is raised for a cut file."""
    whole = write_saliency(ROWS[:2])[1]
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(Format, match="there: expected Parquet"):
        read_table(cut, SALIENCY_SCHEMA, "there")


@pytest.mark.parametrize(("offset", "size"), [(511, 3), (513, 3), (512, 2), (512, 4), (10**9, 3), (-1, 0)])
def test_a_png_from_the_wrong_place_is_refused(offset: int, size: int) -> None:
    tar, index = write_saliency([SaliencyRow("a", 0, "", b"png")])
    (row,) = index_rows(index)
    assert (row["offset"], row["size"]) == (512, 3)
    assert read_png(memoryview(tar), 512, 3, row["sha256"], "there") == b"png"
    with pytest.raises(Integrity, match="there: expected"):
        read_png(tar, offset, size, row["sha256"], "there")
