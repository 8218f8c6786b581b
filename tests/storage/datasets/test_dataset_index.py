"""The index: what is read again, how shards are cut, and what a change costs."""

import hashlib
import io
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.datasets import class_folder, webdataset_tar
from storage.datasets.base import File, Image
from storage.datasets.index import DatasetIndex, build_index
from storage.errors import Format, Integrity, InvalidInput


class Counting(class_folder.Reader):
    """Notes which files are opened, and lists in any order it is told."""

    order: Callable[[list[Image]], list[Image]] = staticmethod(lambda images: images)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.opened: list[str] = []

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        yield from self.order(list(super().images(digest)))

    def open(self, path: str) -> BinaryIO:
        self.opened.append(path)
        return super().open(path)


def make_folder(root: Path, count: int = 60) -> Path:
    for n in range(count):
        path = root / f"class{n % 3}" / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image %d" % n)
    return root


def digests(index: DatasetIndex) -> list[str]:
    return [index.shard_digest(n) for n in range(index.shards())]


def test_shards_are_cut_in_the_order_of_the_hashed_keys(tmp_path: Path) -> None:
    index = build_index(class_folder.Reader(make_folder(tmp_path)), shard_size=25)
    assert (len(index), index.shards()) == (60, 3)
    images = [image for n in range(3) for image in index.shard(n)]
    assert [len(index.shard(n)) for n in range(3)] == [25, 25, 10]
    keys = [image.key for image in images]
    assert keys == sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())
    assert [i.shard for i in images] == [0] * 25 + [1] * 25 + [2] * 10
    for image in images:
        data = (tmp_path / image.path).read_bytes()
        assert (image.offset, image.size, image.sha256) == (0, len(data), hashlib.sha256(data).hexdigest())
    with pytest.raises(InvalidInput, match="expected 0 to 2"):
        index.shard(3)


def test_default_shards_hold_a_thousand(tmp_path: Path) -> None:
    index = build_index(class_folder.Reader(make_folder(tmp_path, 2100)))
    assert [len(index.shard(n)) for n in range(index.shards())] == [1000, 1000, 100]


def test_the_order_of_listing_does_not_matter(tmp_path: Path) -> None:
    reader = Counting(make_folder(tmp_path))
    straight = build_index(reader, shard_size=7)
    reader.order = lambda images: random.Random(1).sample(images, len(images))
    assert build_index(reader, shard_size=7).to_parquet() == straight.to_parquet()


def test_a_copy_has_the_same_fingerprint_and_shards(tmp_path: Path) -> None:
    first = build_index(class_folder.Reader(make_folder(tmp_path / "a")), shard_size=9)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    second = build_index(class_folder.Reader(tmp_path / "b"), shard_size=9)
    assert second.fingerprint == first.fingerprint
    assert digests(second) == digests(first)
    (tmp_path / "b/class0/0.jpg").rename(tmp_path / "b/class0/renamed.jpg")
    assert build_index(class_folder.Reader(tmp_path / "b")).fingerprint != first.fingerprint


def test_a_changed_image_changes_one_shard_and_is_all_that_is_read(tmp_path: Path) -> None:
    reader = Counting(make_folder(tmp_path))
    first = build_index(reader, shard_size=9)
    assert sorted(reader.opened) == [file.path for file in reader.files()]
    reader.opened.clear()
    (tmp_path / "class1/4.jpg").write_bytes(b"another picture")
    second = build_index(reader, first, shard_size=9)
    assert reader.opened == ["class1/4.jpg"]
    assert second.fingerprint != first.fingerprint
    changed = [n for n in range(7) if first.shard_digest(n) != second.shard_digest(n)]
    assert len(changed) == 1
    assert "class1/4" in [image.key for image in second.shard(changed[0])]
    assert second.to_parquet() == build_index(reader, shard_size=9).to_parquet()


def test_nothing_new_means_nothing_read(tmp_path: Path) -> None:
    reader = Counting(make_folder(tmp_path))
    first = build_index(reader)
    reader.opened.clear()
    stored = first.to_parquet()
    assert build_index(reader, DatasetIndex.from_parquet(stored)).to_parquet() == stored
    assert build_index(reader, first) is first
    assert reader.opened == []
    assert build_index(reader, first, shard_size=7).shards() == 9
    assert reader.opened == []


def test_rehash_finds_what_kept_its_size_and_time(tmp_path: Path) -> None:
    reader = Counting(make_folder(tmp_path))
    first = build_index(reader)
    path = tmp_path / "class0/0.jpg"
    status = path.stat()
    path.write_bytes(b"IMAGE 0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert build_index(reader, first) is first
    assert build_index(reader, first, rehash=True).fingerprint != first.fingerprint


def test_labels_are_in_the_shard_digest(tmp_path: Path) -> None:
    make_folder(tmp_path)
    first = build_index(class_folder.Reader(tmp_path))
    second = build_index(class_folder.Reader(tmp_path, ["class2", "class1", "class0"]), first)
    assert second.fingerprint == first.fingerprint
    assert second.shard_digest(0) != first.shard_digest(0)


def write_tar(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(f"{name}.jpg")
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))


class CountingTars(webdataset_tar.Reader):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.read_keys: list[str] = []

    def read(self, image: Image) -> bytes:
        self.read_keys.append(image.key)
        return super().read(image)


def test_tars_keep_their_shards_and_only_a_new_tar_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", ["b", "a"])
    write_tar(tmp_path / "1.tar", ["c"])
    reader = CountingTars(tmp_path)
    first = build_index(reader)
    assert [[i.key for i in first.shard(n)] for n in range(2)] == [["b", "a"], ["c"]]
    assert [i.sha256 for i in first.shard(1)] == [hashlib.sha256(b"c").hexdigest()]
    assert first.files["path"].to_pylist() == ["0.tar", "1.tar"]
    reader.read_keys.clear()
    write_tar(tmp_path / "1.tar", ["c", "d"])
    second = build_index(reader, DatasetIndex.from_parquet(first.to_parquet()))
    assert reader.read_keys == ["c", "d"]
    assert second.shard_digest(0) == first.shard_digest(0)
    assert second.to_parquet() == build_index(reader).to_parquet()


def test_parquet_keeps_everything(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", ["b", "a"])
    for reader in (webdataset_tar.Reader(str(tmp_path)), class_folder.Reader(make_folder(tmp_path / "x"), None)):
        index = build_index(reader, shard_size=7)
        data = index.to_parquet()
        back = DatasetIndex.from_parquet(data)
        assert back.to_parquet() == data
        assert (back.fingerprint, back.format, back.classes) == (index.fingerprint, index.format, index.classes)
        assert [back.shard(n) for n in range(back.shards())] == [index.shard(n) for n in range(index.shards())]
        assert digests(back) == digests(index)
        assert back.files.equals(index.files)


def test_duckdb_reads_it(tmp_path: Path) -> None:
    index = build_index(class_folder.Reader(make_folder(tmp_path / "x")))
    (tmp_path / "index.parquet").write_bytes(index.to_parquet())
    query = f"select label, count(*) from '{tmp_path}/index.parquet' where key is not null group by 1 order by 1"
    assert duckdb.sql(query).fetchall() == [(0, 20), (1, 20), (2, 20)]


def test_other_bytes_are_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    for data in (b"", b"x" * 100, sink.getvalue()):
        with pytest.raises(Format, match="dataset index"):
            DatasetIndex.from_parquet(data)


def test_progress_counts_bytes(tmp_path: Path) -> None:
    reader = class_folder.Reader(make_folder(tmp_path))
    calls: list[tuple[int, int]] = []
    build_index(reader, progress=lambda done, total: calls.append((done, total)))
    total = sum(file.size for file in reader.files())
    assert len(calls) == 60
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    class Growing(class_folder.Reader):
        def open(self, path: str) -> BinaryIO:
            if path == "class0/3.jpg":
                (self.root / path).write_bytes(b"much longer than before")
            return super().open(path)

    with pytest.raises(Integrity, match=r"class0/3\.jpg"):
        build_index(Growing(make_folder(tmp_path)))
