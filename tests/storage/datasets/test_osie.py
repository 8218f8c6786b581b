"""OSIE's nested cells, written by hand with numbers that tell x from y and 0 from 1."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from storage.datasets import open_dataset, osie
from storage.datasets.base import AttentionReader
from storage.errors import InvalidInput, NotFound

WIDTH, HEIGHT = 80, 60


def cell(members: list) -> np.ndarray:
    cells = np.empty((len(members), 1), object)
    for number, member in enumerate(members):
        cells[number, 0] = member
    return cells


def person(*points: tuple[float, float]) -> dict:
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return {"fix_x": x[None], "fix_y": y[None], "fix_duration": np.full((1, len(x)), 190, np.uint16)}


def put(root: Path, images: dict[str, list], folder: str = "data/") -> None:
    for name in images:
        path = root / f"{folder}stimuli" / (name if "." in name else f"{name}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    put_mat(root / f"{folder}eye" / "fixations.mat", images)


def put_mat(path: Path, images: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    members = [{"img": name, "subjects": cell(people)} for name, people in images.items()]
    scipy.io.savemat(path, {"fixations": cell(members)})


def one_person(fields: dict) -> dict:
    return {"fixations": cell([{"img": "1001.jpg", "subjects": cell([fields])}])}


def listed(attention) -> list:
    return [(g.subject, np.stack([g.x, g.y], 1).tolist()) for g in attention.gazes]


@pytest.mark.parametrize("folder", ["data/", ""])
def test_coordinates_count_from_one(tmp_path: Path, folder: str) -> None:
    images = {"1002.jpg": [person((80, 1)), person((1, 60), (2.5, 3))], "1001.jpg": [person((7, 8)), person((9, 9))]}
    put(tmp_path, images, folder)
    first, second = osie.Reader(tmp_path).attention()
    assert (first.key, second.key) == ("1001", "1002")
    assert listed(second) == [("1", [[79.5, 0.5]]), ("2", [[0.5, 59.5], [2.0, 2.5]])]
    assert (second.width, second.height) == (WIDTH, HEIGHT)


def test_one_image_one_person_one_fixation(tmp_path: Path) -> None:
    put(tmp_path, {"1001.jpg": [person((80, 1))]})
    assert listed(*osie.Reader(tmp_path).attention()) == [("1", [[79.5, 0.5]])]


def test_empty_people_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    put(tmp_path, {"1001.jpg": [person(), person((80, 1)), person((81, 1))]})
    (attention,) = osie.Reader(tmp_path).attention()
    assert listed(attention) == [("2", [[79.5, 0.5]])]
    assert attention.dropped == 1


def test_people_as_struct_array_instead_of_cells(tmp_path: Path) -> None:
    put(tmp_path, {"1001.jpg": [person((1, 1))]})
    structs = np.empty((2, 1), [("fix_x", object), ("fix_y", object)])
    structs[:, 0] = [(np.array([[80.0]]), np.array([[1.0]])), (np.array([[2.0, 3.0]]), np.array([[4.0, 5.0]]))]
    images = cell([{"img": "1001", "subjects": structs}])
    scipy.io.savemat(tmp_path / "data" / "eye" / "fixations.mat", {"fixations": images})
    assert listed(*osie.Reader(tmp_path).attention()) == [("1", [[79.5, 0.5]]), ("2", [[1.5, 3.5], [2.5, 4.5]])]


def test_images_without_fixations_are_images_all_the_same(tmp_path: Path) -> None:
    put(tmp_path, {"1001.jpg": [person((1, 1))], "1002.jpg": [person()]})
    reader = osie.Reader(tmp_path)
    assert [a.key for a in reader.attention()] == ["1001"]
    assert [image.key for image in reader.images(lambda file: file.path)] == ["1001", "1002"]
    paths = [file.path for file in reader.files()]
    assert paths == ["data/eye/fixations.mat", "data/stimuli/1001.jpg", "data/stimuli/1002.jpg"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        osie.Reader(tmp_path / "nowhere").files()
    put(tmp_path, {"1001.jpg": [person((1, 1))]})
    put_mat(tmp_path / "data" / "eye" / "fixations.mat", {"1001.jpg": [person()], "1234.jpg": [person((1, 1))]})
    with pytest.raises(InvalidInput, match=r"1234\.jpg"):
        list(osie.Reader(tmp_path).attention())
    (tmp_path / "data" / "eye" / "fixations.mat").unlink()
    with pytest.raises(InvalidInput, match=r"eye/fixations\.mat"):
        osie.Reader(tmp_path).files()


def test_name_twice_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, {"1001.jpg": [person((1, 1))]})
    put_mat(tmp_path / "data" / "eye" / "fixations.mat", {"1001.jpg": [person()], "1001": [person((1, 1))]})
    with pytest.raises(InvalidInput, match="1001"):
        list(osie.Reader(tmp_path).attention())


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"other": 1}, "fixations"),
        ({"fixations": cell([{"image": "1001.jpg"}])}, r"fixations\{1\}.*img"),
        ({"fixations": cell([{"img": 5, "subjects": cell([person()])}])}, r"img.*text"),
        (one_person({"fix_x": [1.0]}), r"subjects\{1\}.*fix_y"),
        (one_person({"fix_x": [1.0, 2], "fix_y": [1.0]}), "2 and 1"),
        (one_person({"fix_x": "a", "fix_y": "b"}), "numbers"),
    ],
)
def test_mat_of_another_shape_is_named(tmp_path: Path, variables: dict, match: str) -> None:
    put(tmp_path, {"1001.jpg": [person((1, 1))]})
    scipy.io.savemat(tmp_path / "data" / "eye" / "fixations.mat", variables)
    with pytest.raises(InvalidInput, match=match):
        list(osie.Reader(tmp_path).attention())


def test_broken_image_has_no_row(tmp_path: Path) -> None:
    put(tmp_path, {"1001.jpg": [person((1, 1))], "1002.jpg": [person((1, 1))]})
    (tmp_path / "data" / "stimuli" / "1001.jpg").write_bytes(b"no image")
    assert [a.key for a in osie.Reader(tmp_path).attention()] == ["1002"]


def test_opens_by_name_and_meets_the_contract(tmp_path: Path) -> None:
    assert isinstance(open_dataset("osie", str(tmp_path)), AttentionReader)
