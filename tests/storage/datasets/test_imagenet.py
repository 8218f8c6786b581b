"""ImageNet: one set of keys and labels, whatever form it lies there in."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from storage.datasets import open_dataset
from storage.datasets.index import DatasetIndex, build_index
from storage.errors import Integrity, InvalidInput, NotFound

WNIDS = ["n02000000", "n01000000", "n03000000"]  # of ILSVRC2012_ID 1, 2, 3: not in sorted order
TRUTH = [3, 1, 2, 2]
LABELS = [2, 1, 0, 0]


def tar_of(content: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def train_content() -> dict[str, dict[str, bytes]]:
    return {w: {f"{w}_{n}.JPEG": f"{w} {n}".encode() * (n + 1) for n in range(5)} for w in WNIDS}


def val_content() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{n:08d}.JPEG": f"val {n}".encode() for n in range(1, 5)}


def meta_mat() -> bytes:
    names = ["ILSVRC2012_ID", "WNID", "words", "num_children"]
    rows = [(n + 1, wnid, "a, b", 0) for n, wnid in enumerate(WNIDS)] + [(4, "n00000001", "ancestor", 3)]
    synsets = np.array(rows, dtype=[(name, object) for name in names])[:, None]
    out = io.BytesIO()
    savemat(out, {"synsets": synsets})
    return out.getvalue()


def devkit_content() -> dict[str, bytes]:
    home = "ILSVRC2012_devkit_t12"
    truth = "".join(f"{number}\n" for number in TRUTH).encode()
    return {
        f"{home}/data/ILSVRC2012_validation_ground_truth.txt": truth,
        f"{home}/data/meta.mat": meta_mat(),
        f"{home}/readme.txt": b"x",
    }


def write(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tars(root: Path) -> Path:
    train = tar_of({f"{w}.tar": tar_of(images) for w, images in train_content().items()})
    return write(root, {"ILSVRC2012_img_train.tar": train, "ILSVRC2012_img_val.tar": tar_of(val_content())})


def write_folders(root: Path) -> Path:
    write(root, {f"train/{w}/{name}": data for w, i in train_content().items() for name, data in i.items()})
    return write(root, {f"val/{name}": data for name, data in val_content().items()})


def rows(index: DatasetIndex) -> list[tuple[str, str, int]]:
    return [(i.key, i.sha256, i.label) for s in range(index.shards()) for i in index.shard(s)]


def test_train_is_the_same_in_folders_and_in_the_official_tar(tmp_path: Path) -> None:
    folders = build_index(open_dataset("imagenet", str(write_folders(tmp_path / "a"))), shard_size=4)
    reader = open_dataset("imagenet", str(write_tars(tmp_path / "b")))
    tars = build_index(reader, shard_size=4)
    assert rows(folders) == rows(tars)
    assert folders.classes == tars.classes == tuple(sorted(WNIDS))
    assert [folders.shard_digest(n) for n in range(4)] == [tars.shard_digest(n) for n in range(4)]
    labels = {i.key: i.label for i in reader.images(lambda file: "")}
    assert labels["n01000000/n01000000_3"] == 0
    assert labels["n02000000/n02000000_3"] == 1
    for image in (i for s in range(tars.shards()) for i in tars.shard(s)):
        wnid, stem = image.key.split("/")
        assert reader.read(image) == train_content()[wnid][f"{stem}.JPEG"]


@pytest.mark.parametrize("kit", ["tar.gz", "folder", "data folder"])
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_val_labels_come_from_the_devkit_by_rank_of_the_wnid(tmp_path: Path, form: str, kit: str) -> None:
    devkit = write(tmp_path / "kit", devkit_content())
    if kit == "tar.gz":
        devkit = write(tmp_path, {"ILSVRC2012_devkit_t12.tar.gz": tar_of(devkit_content(), "w:gz")})
        devkit /= "ILSVRC2012_devkit_t12.tar.gz"
    elif kit == "data folder":
        devkit = devkit / "ILSVRC2012_devkit_t12" / "data"
    home = write_tars(tmp_path / "x") if form == "tar" else write_folders(tmp_path / "x")
    path = home / ("ILSVRC2012_img_val.tar" if form == "tar" else "val")
    reader = open_dataset("imagenet", str(path), split="val", devkit=str(devkit))
    assert reader.classes() == tuple(sorted(WNIDS))
    images = {i.key: i for i in reader.images(lambda file: file.path)}
    assert [images[f"ILSVRC2012_val_{n:08d}"].label for n in range(1, 5)] == LABELS
    assert all(reader.read(i) == val_content()[f"{key}.JPEG"] for key, i in images.items())
    assert len(build_index(reader)) == 4


def test_the_devkit_beside_the_images_is_found_and_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    home = write(write_folders(tmp_path), devkit_content())
    reader = open_dataset("imagenet", str(home), split="val")
    first = build_index(reader)
    assert "devkit/meta.mat" in first.files["path"].to_pylist()
    truth = home / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n1\n2\n2\n")
    second = build_index(reader, first)
    assert second.fingerprint != first.fingerprint
    assert sorted(r[2] for r in rows(second)) == [0, 0, 1, 1]


def test_val_in_class_folders_needs_no_devkit(tmp_path: Path) -> None:
    content = {f"{WNIDS[t - 1]}/ILSVRC2012_val_{n:08d}.JPEG": b"x" for n, t in enumerate(TRUTH[1:], 2)}
    reader = open_dataset("imagenet", str(write(tmp_path / "val", content)), split="val")
    assert {i.key: i.label for i in reader.images(lambda f: "")}["n02000000/ILSVRC2012_val_00000002"] == 1
    kit = write(tmp_path / "kit", devkit_content())
    full = open_dataset("imagenet", str(tmp_path / "val"), split="val", devkit=str(kit))
    assert full.classes() == tuple(sorted(WNIDS))
    assert full.files()


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    home = write_folders(tmp_path)
    with pytest.raises(InvalidInput, match="option devkit"):
        open_dataset("imagenet", str(home), split="val")
    with pytest.raises(InvalidInput, match="'train' or 'val'"):
        open_dataset("imagenet", str(home), split="test")
    with pytest.raises(NotFound, match="devkit_t12"):
        open_dataset("imagenet", str(home), split="val", devkit=str(home / "none")).files()
    truth = "broken/data/ILSVRC2012_validation_ground_truth.txt"
    write(home, {"broken/data/meta.mat": b"no", truth: b"1\n"})
    with pytest.raises(InvalidInput, match="synsets"):
        open_dataset("imagenet", str(home), split="val", devkit=str(home / "broken")).classes()
    write(home, {"broken/data/meta.mat": meta_mat(), truth: b"9\n"})
    with pytest.raises(InvalidInput, match="names 9"):
        open_dataset("imagenet", str(home), split="val", devkit=str(home / "broken")).classes()
    write(home, {"train/cats/x.jpg": b"x"})
    with pytest.raises(InvalidInput, match="WordNet id"):
        open_dataset("imagenet", str(home)).files()


def test_val_images_beyond_the_truth_are_refused(tmp_path: Path) -> None:
    home = write(write_folders(tmp_path), devkit_content())
    write(home, {"val/ILSVRC2012_val_00000005.JPEG": b"x"})
    with pytest.raises(InvalidInput, match="00000005"):
        list(open_dataset("imagenet", str(home), split="val").images(lambda f: ""))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_a_cut_train_tar_is_refused(tmp_path: Path, share: float) -> None:
    tar = write_tars(tmp_path) / "ILSVRC2012_img_train.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Integrity, match="train"):
        list(open_dataset("imagenet", str(tar)).images(lambda f: ""))


def test_a_tar_of_other_things_is_no_train_tar(tmp_path: Path) -> None:
    write(tmp_path, {"x.tar": tar_of(val_content())})
    with pytest.raises(InvalidInput, match="class tars"):
        open_dataset("imagenet", str(tmp_path / "x.tar")).classes()
