"""WebDataset tars: their shards, order, keys and labels are kept."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.backends import open_backend
from storage.datasets import open_dataset
from storage.datasets.base import Image
from storage.datasets.index import build_index
from storage.errors import Integrity, InvalidInput, NotFound
from tests.servers.base import S3Server
from tests.servers.fixtures import Place


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(shard: int, count: int = 3) -> list[tuple[str, bytes]]:
    pairs = [(f"s{shard}_{n}", f"{shard} {n}".encode()) for n in reversed(range(count))]
    return [m for key, data in pairs for m in ((f"{key}.jpg", data), (f"{key}.cls", str(shard).encode()))]


def images(path: Path | str, **options: object) -> list[Image]:
    return list(open_dataset("webdataset_tar", str(path), **options).images(lambda f: ""))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for n in range(3):
        write_tar(tmp_path / f"train-{n:04d}.tar", samples(n))
    return tmp_path


@pytest.mark.parametrize(
    "pattern", ["", "train-{0000..0002}.tar", "train-000{0,1,2}.tar", "{train}-{0000..0002}.tar"]
)
def test_shards_and_order_are_kept(home: Path, pattern: str) -> None:
    reader = open_dataset("webdataset_tar", str(home / pattern), classes=["a", "b", "c"])
    index = build_index(reader)
    assert index.shards() == 3
    for number in range(3):
        shard = index.shard(number)
        assert [i.key for i in shard] == [f"s{number}_{n}" for n in (2, 1, 0)]
        assert {i.label for i in shard} == {number}
        assert [reader.read(i) for i in shard] == [f"{number} {n}".encode() for n in (2, 1, 0)]
    assert index.classes == ("a", "b", "c")


def test_equal_fingerprints_mean_equal_shards(home: Path) -> None:
    """A folder and a pattern of the same tars, unpadded numbers among them, agree on every shard."""
    write_tar(home / "train-00010.tar", samples(10))
    folder = build_index(open_dataset("webdataset_tar", str(home)))
    pattern = build_index(open_dataset("webdataset_tar", str(home / "train-{0000,0001,00010,0002}.tar")))
    assert pattern.fingerprint == folder.fingerprint
    assert pattern.table.equals(folder.table)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("train-{0002..0000}.tar", "'train-0001.tar' after 'train-0002.tar'"),
        ("train-000{0,2,1}.tar", "'train-0001.tar' after 'train-0002.tar'"),
        ("train-{0000,0000}.tar", "'train-0000.tar' after 'train-0000.tar'"),
        ("x{9..10}.tar", "'x10.tar' after 'x9.tar'"),
        ("{b,a}/0.tar", "'a/0.tar' after 'b/0.tar'"),
    ],
)
def test_another_order_than_that_of_the_paths_is_refused(home: Path, pattern: str, found: str) -> None:
    """The fingerprint is over sorted paths: shards in another order would have other numbers under the same key."""
    with pytest.raises(InvalidInput, match=f"expected tars in the order of their paths.*{found}"):
        open_dataset("webdataset_tar", str(home / pattern))


def test_patterns_may_name_folders_and_single_tars(home: Path) -> None:
    for part in ("a", "b"):
        write_tar(home / part / "0.tar", [(f"{part}.jpg", b"x")])
    assert [(i.key, i.path) for i in images(home / "{a,b}/0.tar")] == [("a", "a/0.tar"), ("b", "b/0.tar")]
    assert len(images(home / "train-0001.tar")) == 3


def test_wrong_patterns_are_refused(home: Path) -> None:
    with pytest.raises(NotFound, match=r"train-0003\.tar"):
        images(home / "train-{0000..0003}.tar")
    with pytest.raises(InvalidInput, match="more than"):
        images(home / "train-{0..99999999}.tar")


@pytest.mark.parametrize("url", ["https://x.org/a.tar", "pipe:cat a.tar"])
def test_only_folders_and_object_stores(url: str) -> None:
    with pytest.raises(InvalidInput, match="s3://"):
        images(url)


@pytest.mark.parametrize("pattern", ["", "/", "/train-{0000..0002}.tar"])
def test_tars_in_an_object_store_are_read_in_place(
    home: Path, pattern: str, s3_server: Callable[[str], S3Server], s3_place: Place
) -> None:
    url = s3_place(s3_server("moto"), prefix="/sets/imagenet")
    backend = open_backend(url)
    for tar in home.iterdir():
        backend.create(tar.name, tar.read_bytes())
    here = build_index(open_dataset("webdataset_tar", str(home)))
    reader = open_dataset("webdataset_tar", url + pattern)
    there = build_index(reader)
    assert there.fingerprint == here.fingerprint
    assert [there.shard(n) for n in range(3)] == [here.shard(n) for n in range(3)]
    assert reader.read(there.shard(2)[0]) == b"2 2"


def test_a_tar_that_an_object_store_lacks_is_named(s3_server: Callable[[str], S3Server], s3_place: Place) -> None:
    url = s3_place(s3_server("moto"))
    with pytest.raises(NotFound, match=r"train-1\.tar"):
        images(f"{url}/train-{{1..2}}.tar")
    with pytest.raises(NotFound, match="expected files"):
        images(url)



def test_keys_end_at_the_first_dot(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar",
        [
            ("v1.0/cat (1).JPG", b"x"),
            ("v1.0/cat (1).meta.json", b"{}"),
            ("._cat.jpg", b"m"),
            ("./dog.webp", b"y"),
        ],
    )
    assert [i.key for i in images(tar)] == ["v1%2E0/cat %281%29", "dog"]


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ([], -1),
        ([("a.cls", b" 7\n")], 7),
        ([("a.cls", b"007")], 7),
        ([("a.json", b'{"label": 3}')], 3),
        ([("a.json", b'{"url": "x"}')], -1),
        ([("a.json", b'{"label": 3}'), ("a.cls", b"4")], 4),
        ([("a.txt", b"a cat")], -1),
    ],
)
def test_labels(tmp_path: Path, members: list[tuple[str, bytes]], label: int) -> None:
    tar = write_tar(tmp_path / "a.tar", [("a.jpg", b"x"), *members])
    assert [i.label for i in images(tar)] == [label]


@pytest.mark.parametrize(
    "member",
    [
        ("a.cls", b"cat"),
        ("a.cls", b""),
        ("a.cls", b"-1"),
        ("a.cls", b"10"),
        ("a.json", b"{"),
        ("a.json", b'{"label": true}'),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, member: tuple[str, bytes]) -> None:
    tar = write_tar(tmp_path / "a.tar", [("a.jpg", b"x"), member])
    with pytest.raises(InvalidInput, match="whole number from 0 to 9"):
        images(tar, classes=list("0123456789"))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"x"), ("a.png", b"y")], "has 2 images"),
        ([("a.jpg", b"x"), ("a.JPG", b"y")], "two members"),
        ([("a.jpg", b"x"), ("b.cls", b"1")], "'b' has 0 images"),
        ([("a.v2.jpg", b"x")], "'a' has 0 images"),
        ([], "found none"),
        ([("../a.jpg", b"x")], "relative names"),
    ],
)
def test_wrong_samples_are_refused(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    tar = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(InvalidInput, match=message):
        images(tar)


def test_one_key_in_two_tars_is_refused(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, [("same.jpg", b"x")])
    with pytest.raises(InvalidInput, match=r"'a\.tar' and 'b\.tar'"):
        build_index(open_dataset("webdataset_tar", str(tmp_path)))


def test_a_cut_tar_is_refused(home: Path) -> None:
    tar = home / "train-0001.tar"
    data = tar.read_bytes()
    for size in (512 * 3, 512 * 4, 700, 0):  # 512 * 4 ends after whole members
        tar.write_bytes(data[:size])
        with pytest.raises(Integrity, match=r"train-0001\.tar"):
            images(home)


def test_webdataset_sees_the_same_samples(home: Path) -> None:
    import webdataset

    urls = sorted(str(p) for p in home.glob("*.tar"))
    stream = webdataset.WebDataset(urls, shardshuffle=False)
    found = [(sample["__key__"], sample["jpg"], int(sample["cls"])) for sample in stream]
    reader = open_dataset("webdataset_tar", str(home))
    assert [(i.key, reader.read(i), i.label) for i in reader.images(lambda f: "")] == found
