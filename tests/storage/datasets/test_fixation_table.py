"""A table of fixations beside its images."""

import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.datasets import fixation_table, open_dataset
from storage.datasets.base import AttentionReader
from storage.errors import InvalidInput, NotFound

WIDTH, HEIGHT = 32, 24
REAL = Path(__file__).parents[4] / "shared" / "realdata" / "osie.tar"
FIELDS = ("image", "subject", "order", "x", "y", "width", "height")


def put(root: Path, rows: list[tuple], names: tuple[str, ...] = ("b.jpg", "a.jpg"), **changed: pa.Array) -> None:
    """Rows are (image, subject, order, x, y)."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "images" / name), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    full = [(*row, WIDTH, HEIGHT) for row in rows]
    columns = {name: pa.array([row[number] for row in full]) for number, name in enumerate(FIELDS)}
    pq.write_table(pa.table({**columns, **changed}), root / "fixations.parquet")


def listed(attention) -> list:
    return [(g.subject, np.stack([g.x, g.y], 1).tolist()) for g in attention.gazes]


ROWS = [
    ("b.jpg", 2, 2, 31.5, 0.25),
    ("b.jpg", 10, 1, 3.0, 4.0),
    ("a.jpg", 1, 1, 5.0, 6.0),
    ("b.jpg", 2, 1, 1.0, 23.5),
]


def test_coordinates_are_taken_as_they_are_in_order(tmp_path: Path) -> None:
    put(tmp_path, ROWS)
    first, second = fixation_table.Reader(tmp_path).attention()
    assert (first.key, second.key) == ("a", "b")
    assert listed(first) == [("1", [[5.0, 6.0]])]
    assert listed(second) == [("2", [[1.0, 23.5], [31.5, 0.25]]), ("10", [[3.0, 4.0]])]
    assert (second.width, second.height) == (WIDTH, HEIGHT)
    assert second.gazes[0].x.dtype == second.gazes[0].y.dtype == np.float32


def test_skip_first_leaves_out_order_one(tmp_path: Path) -> None:
    put(tmp_path, ROWS)
    assert listed(*fixation_table.Reader(tmp_path, skip_first=True).attention()) == [("2", [[31.5, 0.25]])]


def test_names_without_extension_and_people_with_names(tmp_path: Path) -> None:
    rows = [("b", "eve", 1, 1.0, 2.0), ("sub/c.d", "bob", 1, 3.0, 4.0), ("b", "bob", 1, 5.0, 6.0)]
    put(tmp_path, rows, names=("b.jpg", "sub/c.d.png"))
    first, second = fixation_table.Reader(tmp_path).attention()
    assert (first.key, second.key) == ("b", "sub/c%2Ed")
    assert listed(first) == [("bob", [[5.0, 6.0]]), ("eve", [[1.0, 2.0]])]


def test_outside_is_dropped_and_counted(tmp_path: Path) -> None:
    below = float(np.nextafter(32.0, 0))  # as float32 it is 32: outside
    points = [(31.99, 23.99), (32.0, 1.0), (1.0, 24.0), (-0.1, 1.0), (below, 1.0), (float("nan"), 1.0)]
    put(tmp_path, [("a.jpg", 1, order, x, y) for order, (x, y) in enumerate(points)])
    (attention,) = fixation_table.Reader(tmp_path).attention()
    assert len(attention.points()[0]) == 1
    assert attention.dropped == 5
    assert (attention.points()[0] < WIDTH).all()


def test_empty_table_gives_images_alone(tmp_path: Path) -> None:
    put(tmp_path, ROWS)
    pq.write_table(pq.read_table(tmp_path / "fixations.parquet").slice(0, 0), tmp_path / "fixations.parquet")
    reader = fixation_table.Reader(tmp_path)
    assert list(reader.attention()) == []
    assert [file.path for file in reader.files()] == ["fixations.parquet", "images/a.jpg", "images/b.jpg"]


@pytest.mark.parametrize("missing", FIELDS)
def test_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    put(tmp_path, ROWS)
    table = pq.read_table(tmp_path / "fixations.parquet").drop_columns([missing])
    pq.write_table(table, tmp_path / "fixations.parquet")
    with pytest.raises(InvalidInput, match=f"'{missing}'.*no such column"):
        list(fixation_table.Reader(tmp_path).attention())


@pytest.mark.parametrize("name", FIELDS)
def test_mistyped_or_empty_column_is_named(tmp_path: Path, name: str) -> None:
    put(tmp_path, ROWS, **{name: pa.array([True, False, True, False])})
    with pytest.raises(InvalidInput, match=f"'{name}'.*bool"):
        list(fixation_table.Reader(tmp_path).attention())
    put(tmp_path, ROWS)
    table = pq.read_table(tmp_path / "fixations.parquet")
    gaps = pa.array([None, *table[name].to_pylist()[1:]], table[name].type)
    put(tmp_path, ROWS, **{name: gaps})
    with pytest.raises(InvalidInput, match=f"'{name}'.*1 of them"):
        list(fixation_table.Reader(tmp_path).attention())


def test_another_frame_than_the_image_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, ROWS, width=pa.array([HEIGHT] * 4), height=pa.array([WIDTH] * 4))
    with pytest.raises(InvalidInput, match=r"a\.jpg.*24 x 32.*32 x 24"):
        list(fixation_table.Reader(tmp_path).attention())
    put(tmp_path, ROWS, width=pa.array([WIDTH, WIDTH, WIDTH, 99]))
    with pytest.raises(InvalidInput, match=r"b\.jpg.*\(99, 24\)"):
        list(fixation_table.Reader(tmp_path).attention())


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        fixation_table.Reader(tmp_path / "nowhere").files()
    with pytest.raises(InvalidInput, match="images/"):
        fixation_table.Reader(tmp_path).files()
    put(tmp_path, [*ROWS, ("z.jpg", 1, 1, 1.0, 1.0)])
    with pytest.raises(InvalidInput, match=r"z\.jpg"):
        list(fixation_table.Reader(tmp_path).attention())
    (tmp_path / "fixations.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match="Parquet"):
        list(fixation_table.Reader(tmp_path).attention())
    (tmp_path / "fixations.parquet").unlink()
    with pytest.raises(InvalidInput, match=r"fixations\.parquet"):
        fixation_table.Reader(tmp_path).files()


def test_two_images_of_one_key_are_an_error(tmp_path: Path) -> None:
    put(tmp_path, ROWS, names=("a.jpg", "a.png", "b.jpg"))
    with pytest.raises(InvalidInput, match=r"a\.jpg.*a\.png"):
        fixation_table.Reader(tmp_path).files()


def test_size_is_found_behind_long_metadata(tmp_path: Path) -> None:
    put(tmp_path, ROWS)
    path = tmp_path / "images" / "a.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:2] + (b"\xff\xe1\xff\xff" + bytes(0xFFFD)) * 3 + data[2:])
    assert len(list(fixation_table.Reader(tmp_path).attention())) == 2


def test_opens_by_name_and_meets_the_contract(tmp_path: Path) -> None:
    assert isinstance(open_dataset("fixation_table", str(tmp_path), skip_first=True), AttentionReader)


@pytest.mark.skipif(not REAL.is_file(), reason="the reduced OSIE set is not beside this checkout")
def test_real_eye_tracking(tmp_path: Path) -> None:
    with tarfile.open(REAL) as tar:
        tar.extractall(tmp_path, filter="data")
    attention = list(fixation_table.Reader(tmp_path / "osie").attention())
    assert len(attention) == 350
    assert sum(len(a.points()[0]) for a in attention) == 48_793
    assert {gaze.subject for a in attention for gaze in a.gazes} == {str(n) for n in range(1, 16)}
    assert sum(a.dropped for a in attention) == 0
    later = list(fixation_table.Reader(tmp_path / "osie", skip_first=True).attention())
    assert 0 < sum(len(a.points()[0]) for a in later) <= 48_793 - 350 * 14
