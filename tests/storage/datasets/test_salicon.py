"""SALICON's two kinds of annotations, written by hand with numbers that tell x from y and 0 from 1."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from storage.datasets import open_dataset, salicon
from storage.datasets.base import AttentionReader
from storage.errors import Integrity, InvalidInput, NotFound

STEM = "COCO_train2014_{:012d}"
WIDTH, HEIGHT = 64, 48
GAZE = [("location", object), ("timestamp", object), ("fixations", object)]


def put_image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def put_mat(path: Path, people: list, resolution: tuple = (HEIGHT, WIDTH), column: bool = True) -> None:
    """`people`: an array of fixations each; `column` as published, n x 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    gaze = np.empty(len(people), GAZE)
    for number, fixations in enumerate(people):
        gaze[number] = (np.full((5, 2), 700.0), np.arange(5.0)[:, None], np.asarray(fixations))
    gaze = gaze[:, None] if column else gaze[None, :]
    scipy.io.savemat(path, {"image": path.stem, "resolution": np.array([resolution]), "gaze": gaze})


def put_json(path: Path, annotations: list, images: list | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if images is None:
        images = [{"id": i, "file_name": STEM.format(i) + ".jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2)]
    path.write_text(json.dumps({"type": "fixations", "images": images, "annotations": annotations}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in (1, 2):
        put_image(tmp_path / "images" / "train" / f"{STEM.format(number)}.jpg")
    return tmp_path


def mat(root: Path, number: int = 1, split: str = "train") -> Path:
    return root / "fixations" / split / f"{STEM.format(number)}.mat"


def listed(attention) -> list:
    return [(g.subject, np.stack([g.x, g.y], 1).tolist()) for g in attention.gazes]


def test_mat_columns_are_x_then_y_from_one(root: Path) -> None:
    put_mat(mat(root), [[[64, 1], [10, 48]], [[60.25, 2.5]]])
    (attention,) = salicon.Reader(root).attention()
    assert (attention.key, attention.width, attention.height, attention.dropped) == (STEM.format(1), WIDTH, HEIGHT, 0)
    assert listed(attention) == [("1", [[63.5, 0.5], [9.5, 47.5]]), ("2", [[59.75, 2.0]])]
    assert attention.gazes[0].x.dtype == np.float32


def test_json_pairs_are_y_then_x_from_one(root: Path) -> None:
    annotations = [
        {"id": 7, "image_id": 2, "worker_id": 40, "fixations": [[1, 64], [48, 10]]},
        {"id": 8, "image_id": 1, "worker_id": 41, "fixations": [[2, 60]]},
        {"id": 9, "image_id": 2, "worker_id": 42, "fixations": []},
    ]
    put_json(root / "fixations_train2014.json", annotations)
    first, second = salicon.Reader(root).attention()
    assert [first.key, second.key] == [STEM.format(1), STEM.format(2)]
    assert listed(first) == [("41", [[59.5, 1.5]])]
    assert listed(second) == [("40", [[63.5, 0.5], [9.5, 47.5]])]


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize(
    "people",
    [
        [[[64, 1]]],  # one person with one fixation: every axis has length one
        [[[64, 1]], np.empty((0, 2)), np.empty((0, 0))],
        [np.array([[64, 1]], np.uint16), np.empty((0, 1))],
    ],
)
def test_single_and_empty_shapes(root: Path, people: list, column: bool) -> None:
    put_mat(mat(root), people, column=column)
    (attention,) = salicon.Reader(root).attention()
    assert listed(attention) == [("1", [[63.5, 0.5]])]


def test_two_fixations_are_not_mistaken_for_columns(root: Path) -> None:
    put_mat(mat(root), [[[64, 1], [3, 4]]])
    (attention,) = salicon.Reader(root).attention()
    assert listed(attention) == [("1", [[63.5, 0.5], [2.5, 3.5]])]


def test_fixations_outside_are_dropped_and_counted(root: Path) -> None:
    put_mat(mat(root), [[[64, 48], [65, 1], [1, 49], [0, 1], [np.nan, 1]], [[-5, 700]]])
    (attention,) = salicon.Reader(root).attention()
    assert listed(attention) == [("1", [[63.5, 47.5]])]
    assert attention.dropped == 5


def test_images_without_fixations_have_no_row_but_are_images(root: Path) -> None:
    put_mat(mat(root, 1), [np.empty((0, 2))])
    reader = salicon.Reader(root)
    assert list(reader.attention()) == []
    images = list(reader.images(lambda file: hashlib.sha256((root / file.path).read_bytes()).hexdigest()))
    assert [image.key for image in images] == [STEM.format(1), STEM.format(2)]
    assert {image.label for image in images} == {-1}
    assert all(hashlib.sha256(reader.read(image)).hexdigest() == image.sha256 for image in images)


def test_files_are_images_and_annotations_of_the_split_alone(root: Path) -> None:
    put_mat(mat(root), [[[1, 1]]])
    put_image(root / "images" / "val" / "COCO_val2014_000000000003.jpg")
    put_image(root / "maps" / "train" / f"{STEM.format(1)}.png")
    (root / "images" / "train" / "notes.txt").write_text("x")
    paths = [file.path for file in salicon.Reader(root).files()]
    images = [f"images/train/{STEM.format(number)}.jpg" for number in (1, 2)]
    assert paths == [f"fixations/train/{STEM.format(1)}.mat", *images]


def test_flat_folders_are_told_apart_by_name(tmp_path: Path) -> None:
    for name in (STEM.format(1), "COCO_val2014_000000000003", "mine"):
        put_image(tmp_path / "images" / f"{name}.jpg")
        put_mat(tmp_path / "fixations" / f"{name}.mat", [[[5, 6]]])
    assert [a.key for a in salicon.Reader(tmp_path).attention()] == [STEM.format(1), "mine"]
    assert [a.key for a in salicon.Reader(tmp_path, "val").attention()] == ["COCO_val2014_000000000003", "mine"]


def test_json_in_annotations_folder_and_by_option(root: Path) -> None:
    rows = [{"id": 1, "image_id": 1, "worker_id": 1, "fixations": [[1, 2]]}]
    put_json(root / "annotations" / "fixations_train2014.json", rows)
    put_json(root / "annotations" / "fixations_val2014.json", [])
    put_json(root / "other.json", [{**rows[0], "fixations": [[3, 4]]}])
    assert listed(*salicon.Reader(root).attention()) == [("1", [[1.5, 0.5]])]
    assert listed(*salicon.Reader(root, annotations="other.json").attention()) == [("1", [[3.5, 2.5]])]


def test_test_split_has_images_but_no_gaze(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "test" / "COCO_test2014_000000000009.jpg")
    assert len(salicon.Reader(tmp_path, "test").files()) == 1
    path = tmp_path / "fixations" / "test" / "COCO_test2014_000000000009.mat"
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, {"resolution": [[HEIGHT, WIDTH]]})
    reader = salicon.Reader(tmp_path, "test")
    assert len(reader.files()) == 2
    assert list(reader.attention()) == []


def test_what_is_missing_is_named(tmp_path: Path, root: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        salicon.Reader(tmp_path / "nowhere").files()
    with pytest.raises(InvalidInput, match=r"fixations_train2014\.json"):
        salicon.Reader(root).files()
    with pytest.raises(InvalidInput, match="images/"):
        salicon.Reader(root / "images" / "train").files()
    with pytest.raises(InvalidInput, match="validation"):
        salicon.Reader(root, "validation")
    for place in ("absent.json", "../images", str(root)):
        with pytest.raises(InvalidInput, match="annotations"):
            salicon.Reader(root, annotations=place).files()


def test_fixations_for_an_absent_image_are_named(root: Path) -> None:
    put_mat(mat(root, 3), [[[1, 1]]])
    with pytest.raises(InvalidInput, match=STEM.format(3)):
        list(salicon.Reader(root).attention())


def test_another_frame_than_the_image_is_an_error(root: Path) -> None:
    put_mat(mat(root), [[[1, 1]]], resolution=(WIDTH, HEIGHT))
    with pytest.raises(InvalidInput, match=r"48 x 64.*64 x 48"):
        list(salicon.Reader(root).attention())


def test_broken_image_keeps_its_stated_frame(root: Path) -> None:
    (root / "images" / "train" / f"{STEM.format(1)}.jpg").write_bytes(b"\xff\xd8\xff")
    put_mat(mat(root), [[[64, 1]]])
    assert listed(*salicon.Reader(root).attention()) == [("1", [[63.5, 0.5]])]


@pytest.mark.parametrize(
    "content",
    [b"not a mat file", b"", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(100)],
)
def test_unreadable_mat_is_named(root: Path, content: bytes) -> None:
    mat(root).parent.mkdir(parents=True)
    mat(root).write_bytes(content)
    with pytest.raises(InvalidInput, match=STEM.format(1)):
        list(salicon.Reader(root).attention())


@pytest.mark.parametrize("variables", [{"x": 1}, {"resolution": [[48, 64]]}, {"resolution": [[9]], "gaze": 1}])
def test_mat_of_another_kind_is_named(root: Path, variables: dict) -> None:
    mat(root).parent.mkdir(parents=True)
    scipy.io.savemat(mat(root), variables)
    with pytest.raises(InvalidInput, match=STEM.format(1)):
        list(salicon.Reader(root).attention())


def test_three_columns_are_refused(root: Path) -> None:
    put_mat(mat(root), [[[1, 2, 3]]])
    with pytest.raises(InvalidInput, match=r"gaze\(1\).fixations.*\(1, 3\)"):
        list(salicon.Reader(root).attention())


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"images": []}', '{"images": [], "annotations": [{"image_id": 4}]}'],
)
def test_unreadable_json_is_named(root: Path, text: str) -> None:
    (root / "fixations_train2014.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"fixations_train2014\.json"):
        list(salicon.Reader(root).attention())


def test_ragged_json_fixations_are_named(root: Path) -> None:
    put_json(root / "fixations_train2014.json", [{"id": 77, "image_id": 1, "fixations": [[1, 2], [3]]}])
    with pytest.raises(InvalidInput, match="annotation 77"):
        list(salicon.Reader(root).attention())


def test_changed_image_is_an_integrity_error(root: Path) -> None:
    put_mat(mat(root), [[[1, 1]]])
    reader = salicon.Reader(root)
    image = next(reader.images(lambda file: "0"))
    (root / image.path).write_bytes(b"short")
    with pytest.raises(Integrity):
        reader.read(image)


def test_opens_by_name_and_meets_the_contract(root: Path) -> None:
    reader = open_dataset("salicon", str(root), split="train")
    assert isinstance(reader, AttentionReader)
    assert reader.classes() == ()
