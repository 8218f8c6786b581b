"""flat_folder, class_folder and open_dataset."""

import os
from pathlib import Path

import pytest

from storage.datasets import formats, open_dataset
from storage.datasets.base import Reader
from storage.datasets.index import build_index
from storage.errors import Integrity, InvalidInput, NotFound


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def listed(reader: Reader) -> dict[str, int]:
    return {image.key: image.label for image in reader.images(lambda file: file.path)}


def test_flat_folder_takes_images_by_name_at_any_depth(tmp_path: Path) -> None:
    fill(tmp_path, "b.JPG", "a.jpeg", "sub/c.webp", "d.png")
    fill(tmp_path, "notes.txt", ".hidden.jpg", "__MACOSX/e.jpg", ".git/f.png")
    reader = open_dataset("flat_folder", str(tmp_path))
    assert [file.path for file in reader.files()] == ["a.jpeg", "b.JPG", "d.png", "sub/c.webp"]
    assert listed(reader) == {"a": -1, "b": -1, "d": -1, "sub/c": -1}
    assert reader.classes() == ()


def test_images_are_read_as_listed(tmp_path: Path) -> None:
    reader = open_dataset("flat_folder", str(fill(tmp_path, "a.jpg", "empty.jpg")))
    (tmp_path / "empty.jpg").write_bytes(b"")
    images = list(reader.images(lambda file: file.path))
    assert [reader.read(image) for image in images] == [b"a.jpg", b""]
    assert [image.sha256 for image in images] == ["a.jpg", "empty.jpg"]
    for content in (b"longer than it was", b"x"):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(Integrity, match="expected 5 bytes"):
            reader.read(images[0])
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(NotFound):
        reader.read(images[0])


@pytest.mark.parametrize("format", ["flat_folder", "class_folder", "imagenet", "webdataset_tar"])
def test_missing_and_empty_folders(tmp_path: Path, format: str) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        open_dataset(format, str(tmp_path / "nowhere")).files()
    with pytest.raises(InvalidInput, match="expected"):
        open_dataset(format, str(tmp_path)).files()
    fill(tmp_path, "a/notes.txt")
    with pytest.raises(InvalidInput, match="expected"):
        open_dataset(format, str(tmp_path)).files()


@pytest.mark.parametrize("format", ["flat_folder", "class_folder"])
def test_a_file_is_no_folder(tmp_path: Path, format: str) -> None:
    with pytest.raises(InvalidInput, match="found a file"):
        open_dataset(format, str(fill(tmp_path, "a.jpg") / "a.jpg")).files()


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    real = fill(tmp_path / "real", "cat/1.jpg", "dog/1.jpg")
    subset = tmp_path / "subset"
    subset.mkdir()
    (subset / "cat").symlink_to(real / "cat")
    fill(subset, "ant/own.jpg")
    (subset / "ant/linked.jpg").symlink_to(real / "dog/1.jpg")
    reader = open_dataset("class_folder", str(subset))
    assert listed(reader) == {"ant/linked": 0, "ant/own": 0, "cat/1": 1}
    (subset / "ant/up").symlink_to(subset)
    with pytest.raises(InvalidInput, match="leads back"):
        reader.files()
    (subset / "ant/up").unlink()
    (subset / "ant/gone.jpg").symlink_to(tmp_path / "gone")
    with pytest.raises(InvalidInput, match="leads nowhere"):
        reader.files()


def test_a_name_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    with pytest.raises(InvalidInput, match="not UTF-8"):
        open_dataset("flat_folder", str(tmp_path)).files()


def test_class_folder_counts_sorted_names(tmp_path: Path) -> None:
    fill(tmp_path, "dog/b.jpg", "cat/a.PNG", "cat/deep/er/c.jpeg", "README.md")
    reader = open_dataset("class_folder", str(tmp_path))
    assert reader.classes() == ("cat", "dog")
    assert listed(reader) == {"cat/a": 0, "cat/deep/er/c": 0, "dog/b": 1}


def test_a_class_list_fixes_labels(tmp_path: Path) -> None:
    train = fill(tmp_path / "train", "ant/1.jpg", "cat/1.jpg", "dog/1.jpg")
    val = fill(tmp_path / "val", "dog/9.jpg", "ant/9.jpg")
    classes = list(open_dataset("class_folder", str(train)).classes())
    reader = open_dataset("class_folder", str(val), classes=classes)
    assert reader.files()
    assert listed(reader) == {"ant/9": 0, "dog/9": 2}
    fill(val, "emu/1.jpg")
    with pytest.raises(InvalidInput, match="'emu'"):
        reader.files()
    with pytest.raises(InvalidInput, match="'dog' is named twice"):
        open_dataset("class_folder", str(val), classes=["dog", "dog"])


def test_class_folder_leaves_nothing_out_quietly(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.jpg", "loose.jpg")
    with pytest.raises(InvalidInput, match=r"'loose\.jpg' is in no class folder"):
        open_dataset("class_folder", str(tmp_path)).files()
    (tmp_path / "loose.jpg").unlink()
    (tmp_path / "dog").mkdir()
    with pytest.raises(InvalidInput, match="'dog' holds no image"):
        open_dataset("class_folder", str(tmp_path)).files()
    assert open_dataset("class_folder", str(tmp_path), classes=["cat", "dog"]).files()


def test_colliding_keys_name_both_files(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "a.png")
    with pytest.raises(InvalidInput, match=r"'a\.jpg' and 'a\.png'"):
        build_index(open_dataset("flat_folder", str(tmp_path)))


def test_formats_are_the_modules_with_a_reader() -> None:
    found = formats()
    assert {"class_folder", "flat_folder", "imagenet", "webdataset_tar"} <= set(found)
    assert not {"base", "index", "procedural", "_folder"} & set(found)


@pytest.mark.parametrize("format", ["class_foldr", "base", "index", "_folder", "../keys", "os"])
def test_an_unknown_format_is_refused(format: str) -> None:
    with pytest.raises(InvalidInput, match="known are class_folder"):
        open_dataset(format, "x")


def test_errors_name_what_is_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'class_folder'"):
        open_dataset("class_foldr", "x")
    with pytest.raises(InvalidInput, match="'clases'; its options are: classes"):
        open_dataset("class_folder", "x", clases=["a"])
    with pytest.raises(InvalidInput, match="its options are: none"):
        open_dataset("flat_folder", "x", classes=["a"])
