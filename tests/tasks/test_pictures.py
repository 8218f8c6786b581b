"""Pictures: whole PNGs of the right shape that depend on the data and repeat."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.attempt import open_attempt
from storage.images import encode_png_gray
from storage.manifest import Key, ShardRecord
from storage.shards import SaliencyRow, write_saliency
from storage.store import Store
from tasks._datasets import DatasetConfig, refresh
from tasks._report.gallery import label_gallery
from tasks._report.montage import COLUMNS, Row, choose, montage
from tasks._report.pictures import curves, heat, map_rows, thumbnail
from tasks._report.plots import differences, distributions

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (48, 64, 3), np.uint8)


def opened(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def spot(x: int, y: int) -> np.ndarray:
    density = np.full((12, 16), 1e-4, np.float32)
    density[y, x] = 1
    return density


def test_curves_draw_the_history_and_repeat() -> None:
    history = [{"epoch": n, "loss": 1 / n, "cc": None if n == 2 else n / 10} for n in range(1, 6)]
    png = curves(history, ["loss", "cc"], "Teacher")
    assert opened(png).shape[0] > 150
    assert png == curves(history, ["loss", "cc"], "Teacher")
    assert png != curves(history[:3], ["loss", "cc"], "Teacher")
    assert len(png) < 100_000


def test_curves_of_one_epoch_and_of_undefined_values_are_pictures() -> None:
    assert opened(curves([{"epoch": 1, "loss": 0.5}], ["loss"], "One")).size
    assert opened(curves([{"epoch": 1, "loss": float("nan")}], ["loss"], "None $x")).size


def test_rows_have_a_column_per_title() -> None:
    two = opened(map_rows([(PHOTO, spot(3, 3))], ["image", "people"]))
    three = opened(map_rows([(PHOTO, spot(3, 3), spot(9, 9))] * 2, ["image", "people", "teacher"]))
    assert three.shape[1] > two.shape[1]
    assert three.shape[0] > two.shape[0]


def test_six_rows_fit_a_run_page() -> None:
    assert len(map_rows([(PHOTO, spot(3, 3), spot(9, 9))] * 6, ["image", "people", "teacher"])) < 100_000


@given(x=st.integers(0, 15), y=st.integers(0, 11))
@settings(max_examples=20, deadline=None)
def test_heat_glows_where_the_density_is(x: int, y: int) -> None:
    shown = heat(np.full((48, 64, 3), 90, np.uint8), spot(x, y)).astype(int).sum(2)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert abs(row - (4 * y + 1.5)) <= 3
    assert abs(column - (4 * x + 1.5)) <= 3


def test_heat_of_an_empty_map_is_the_grey_image() -> None:
    shown = heat(PHOTO, np.zeros((4, 4)))
    assert np.ptp(shown.astype(int), axis=2).max() == 0


def test_thumbnails_keep_their_aspect() -> None:
    assert thumbnail(PHOTO, 32).shape == (24, 32, 3)
    assert thumbnail(np.zeros((900, 10, 3), np.uint8), 20).shape == (40, 20, 3)


def test_chosen_images_run_from_good_to_bad() -> None:
    scores = np.random.default_rng(1).random(100)
    scores[7] = np.nan
    picked = choose(scores)
    assert len(picked) == 6
    assert list(scores[picked]) == sorted(scores[picked], reverse=True)
    assert sorted(choose(np.array([0.3, 0.9]))) == [0, 1]


def test_montage_has_a_row_per_image() -> None:
    row = Row(PHOTO, spot(3, 3), {c: spot(5, 5) for c in COLUMNS}, dict.fromkeys(COLUMNS, 0.5))
    one, two = opened(montage([row])), opened(montage([row, row]))
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] - one.shape[0] > 100


def test_plots_survive_undefined_and_single_values() -> None:
    def values(name: str, metric: str) -> np.ndarray:
        return np.full((1, 5), np.nan) if name == "people" else np.full((1, 5), 0.2)

    assert opened(distributions(values)).shape[0] > 300
    undefined = {"difference": None, "metric": "cc", "first": "guided", "second": "permuted"}
    assert opened(differences({"primary": undefined, "exploratory": []})).size


def test_gallery_shows_good_rows_beside_their_maps(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.roll(PHOTO, number, 0)).save(folder / f"{number}.png")
    store = Store.open(f"file://{tmp_path}/store")
    images = refresh(store, "photos", DatasetConfig(format="flat_folder", path=str(folder)))
    listed = images.index.shard(0)

    def gallery(broken: int, x: int) -> bytes:
        grey = encode_png_gray((255 * spot(x, 5)).astype(np.uint8))
        rows = [
            SaliencyRow(i.key, -1, i.sha256, None if n < broken else grey, 64, 48, error="broken" if n < broken else "")
            for n, i in enumerate(listed)
        ]
        key = Key(stage="saliency", stage_version=1, params={"x": x, "broken": broken}, inputs={}, datasets={})
        attempt = open_attempt(store, key, "saliency", "test", "run")
        tar, index = write_saliency(rows)
        members = [attempt.put_shard(0, ".tar", tar, 4), attempt.put_shard(0, ".parquet", index, 4)]
        return label_gallery(store, images, [ShardRecord(shard=0, shard_key="k", members=members, done=4, failed=0)])

    whole = opened(gallery(0, 5))
    assert whole.shape[0] > opened(gallery(1, 5)).shape[0]  # four pairs take two rows, three pairs one
    assert not np.array_equal(whole, opened(gallery(0, 12)))
    assert opened(gallery(4, 5)).shape[0] > 0
