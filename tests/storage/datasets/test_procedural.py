"""Generated data sets: read back by the formats' readers, equal to the byte, whole or not there."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from storage.datasets import _observers, _scenes, _writers, formats, open_dataset, procedural
from storage.errors import InvalidInput
from storage.images import decode_png_gray, decode_rgb, image_size

SIZE = [64, 48]
SMALL: dict[str, dict] = {
    "salicon": {"images": 12, "val_images": 2, "observers": 3, "size": SIZE, "seed": 5},
    "osie": {"images": 12, "observers": 3, "size": SIZE, "seed": 5},
    "fixation_table": {"images": 12, "observers": 3, "size": SIZE, "seed": 5},
    "imagenet": {"train_per_class": 2, "val_per_class": 3, "size": SIZE, "seed": 5},
}
PEOPLE = sorted(SMALL.keys() - {"imagenet"})


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small data set of each format."""
    root = tmp_path_factory.mktemp("made")
    for format, options in SMALL.items():
        assert procedural.generate(format, root / format, options)
    return {format: root / format for format in SMALL}


@pytest.mark.parametrize("format", PEOPLE)
def test_reading_gives_the_simulated_fixations_back(made: dict[str, Path], format: str) -> None:
    reader = open_dataset(format, str(made[format]))
    attention = list(reader.attention())
    images = list(reader.images(lambda file: file.path))
    assert [a.key for a in attention] == [image.key for image in images]
    assert len(images) == 12
    for index, (image, found) in enumerate(zip(images, attention, strict=True)):
        rng = _scenes.random(5, _writers.TRAIN, index)
        people = _observers.watch(rng, _scenes.draw(rng, tuple(SIZE), index % 10), 3)
        assert image_size(reader.read(image)) == (found.width, found.height) == tuple(SIZE)
        assert (len(found.gazes), found.dropped) == (3, 0)
        for gaze, person in zip(found.gazes, people, strict=True):
            np.testing.assert_allclose(gaze.x, person.x, atol=1e-4)
            np.testing.assert_allclose(gaze.y, person.y, atol=1e-4)


@pytest.mark.parametrize("format", sorted(SMALL))
def test_same_options_same_bytes(made: dict[str, Path], format: str, tmp_path: Path) -> None:
    options = SMALL[format]
    assert procedural.generate(format, tmp_path / "again", dict(reversed(options.items())))
    assert contents(tmp_path / "again") == contents(made[format])
    procedural.generate(format, tmp_path / "other", {**options, "seed": 6})
    assert contents(tmp_path / "other").keys() == contents(made[format]).keys()
    assert contents(tmp_path / "other") != contents(made[format])


def test_mat_headers_hold_no_clock(made: dict[str, Path]) -> None:
    headers = {path.read_bytes()[:116] for format in made for path in made[format].rglob("*.mat")}
    assert headers == {b"MATLAB 5.0 MAT-file, gazeflow".ljust(116)}


def test_more_images_leave_the_first_ones_as_they_are(made: dict[str, Path], tmp_path: Path) -> None:
    procedural.generate("salicon", tmp_path / "more", {**SMALL["salicon"], "images": 13})
    assert {**contents(tmp_path / "more"), **contents(made["salicon"])} == {
        **contents(tmp_path / "more"),
        ".generated.json": contents(made["salicon"])[".generated.json"],
    }


def test_salicon_splits_and_maps(made: dict[str, Path]) -> None:
    root = made["salicon"]
    validation = list(open_dataset("salicon", str(root), split="val").attention())
    assert [a.key for a in validation] == [f"COCO_val2014_{n:012d}" for n in (1, 2)]
    train = list(open_dataset("salicon", str(root)).attention())
    assert not np.array_equal(train[0].points()[0][:5], validation[0].points()[0][:5])
    for found in train:
        saliency = decode_png_gray((root / "maps" / "train" / f"{found.key}.png").read_bytes())
        assert saliency.shape == (48, 64)
        assert saliency.max() == 255
        x, y = found.points()
        assert saliency[y.astype(int), x.astype(int)].mean() > 1.5 * saliency.mean()


def test_salicon_mat_is_as_published(made: dict[str, Path]) -> None:
    content = scipy.io.loadmat(made["salicon"] / "fixations" / "train" / "COCO_train2014_000000000001.mat")
    assert content["resolution"].tolist() == [[48, 64]]
    assert content["gaze"].shape == (3, 1)
    assert content["gaze"].dtype.names == ("location", "timestamp", "fixations")
    person = content["gaze"][0, 0]
    assert person["location"].shape[1] == person["fixations"].shape[1] == 2
    assert person["timestamp"].shape == (len(person["location"]), 1)
    assert person["fixations"].min() >= 0.5


def test_osie_mat_is_as_published(made: dict[str, Path]) -> None:
    fixations = scipy.io.loadmat(made["osie"] / "data" / "eye" / "fixations.mat")["fixations"]
    assert (fixations.shape, fixations.dtype) == ((12, 1), object)
    first = fixations[0, 0][0, 0]
    assert first["img"].item() == "1001.jpg"
    assert first["subjects"].shape == (3, 1)
    person = first["subjects"][0, 0][0, 0]
    assert person["fix_x"].shape == person["fix_y"].shape == person["fix_duration"].shape
    assert person["fix_x"].shape[0] == 1
    assert person["fix_duration"].dtype == np.uint16


def test_imagenet_labels_survive_the_devkits_order(made: dict[str, Path]) -> None:
    root = made["imagenet"]
    wnids = sorted(path.name for path in (root / "train").iterdir())
    assert wnids == sorted(_writers.WNIDS) == list(_writers.WNIDS)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)
    assert all(len(list((root / "train" / wnid).glob(f"{wnid}_*.JPEG"))) == 2 for wnid in wnids)
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    truth = [int(line) for line in (kit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()]
    meta = scipy.io.loadmat(kit / "meta.mat", squeeze_me=True)["synsets"]
    leaves = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in meta if s["num_children"] == 0}
    assert len(leaves) == 10
    assert list(leaves.values()) != wnids  # the trap: the kit counts in another order
    assert np.bincount(truth, minlength=11).tolist() == [0] + [3] * 10
    for index, number in enumerate(truth):
        label = wnids.index(leaves[number])
        scene = _scenes.draw(_scenes.random(5, _writers.VAL, index), tuple(SIZE), label)
        data = (root / "val" / f"ILSVRC2012_val_{index + 1:08d}.JPEG").read_bytes()
        assert np.abs(decode_rgb(data).astype(int) - scene.pixels).mean() < 12


@pytest.mark.parametrize("split", ["train", "val"])
def test_imagenet_reader_reads_it(made: dict[str, Path], split: str) -> None:
    reader = open_dataset("imagenet", str(made["imagenet"]), split=split)
    reader.files()
    labels = [image.label for image in reader.images(lambda file: file.path)]
    assert np.bincount(labels).tolist() == [2 if split == "train" else 3] * 10


def test_second_call_does_nothing(made: dict[str, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made["osie"].rglob("*")}
    assert procedural.generate("osie", made["osie"], SMALL["osie"]) is False
    assert procedural.generate("osie", str(made["osie"]), {**SMALL["osie"], "size": tuple(SIZE)}) is False
    assert {path: path.stat().st_mtime_ns for path in made["osie"].rglob("*")} == before


def test_other_options_name_the_difference_and_the_folder(made: dict[str, Path]) -> None:
    before = contents(made["osie"])
    with pytest.raises(InvalidInput, match=r"images: found 12, asked for 13.*Delete .*osie"):
        procedural.generate("osie", made["osie"], {**SMALL["osie"], "images": 13})
    with pytest.raises(InvalidInput, match="format: found 'osie', asked for 'fixation_table'"):
        procedural.generate("fixation_table", made["osie"], SMALL["fixation_table"])
    assert contents(made["osie"]) == before


@pytest.mark.parametrize("record", [None, "", "[]", "{}", '{"options": 3}'])
def test_a_folder_of_the_users_own_is_never_touched(tmp_path: Path, record: str | None) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"precious")
    if record is not None:
        (tmp_path / "mine" / procedural.RECORD).write_text(record)
    before = contents(tmp_path)
    with pytest.raises(InvalidInput, match="left alone"):
        procedural.generate("osie", tmp_path / "mine", SMALL["osie"])
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("format", "options", "match"),
    [
        ("coco", {}, "coco"),
        ("osie", {}, "images.*found nothing"),
        ("osie", {"images": 0}, "images.*from 1, found 0"),
        ("osie", {"images": True}, "images"),
        ("osie", {"images": 2.0}, "images"),
        ("osie", {"images": 1, "seed": -1}, "seed"),
        ("osie", {"images": 1, "size": [64]}, "size"),
        ("osie", {"images": 1, "size": [64, 5]}, "size"),
        ("osie", {"images": 1, "observer": 3}, "'observer'; did you mean 'observers'"),
        ("osie", {"images": 1, "root": "/tmp"}, "unknown option 'root'"),
        ("imagenet", {"images": 1, "train_per_class": 1, "val_per_class": 1}, "unknown option 'images'"),
    ],
)
def test_wrong_options_are_named_before_anything_is_written(
    tmp_path: Path, format: str, options: dict, match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        procedural.generate(format, tmp_path / "x", options)
    assert list(tmp_path.iterdir()) == []


def test_defaults_are_recorded(made: dict[str, Path], tmp_path: Path) -> None:
    procedural.generate("fixation_table", tmp_path / "x", {"images": 1})
    record = json.loads((tmp_path / "x" / procedural.RECORD).read_text())
    assert record["format"] == "fixation_table"
    assert record["options"] == {"images": 1, "observers": 15, "seed": 0, "size": [320, 240]}


def test_concurrent_generations_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(procedural.generate, "osie", tmp_path / "x", SMALL["osie"]) for _ in range(4)]
        assert sum(call.result() for call in calls) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_failed_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        procedural.generate("osie", tmp_path / "x", SMALL["osie"])
    assert list(tmp_path.iterdir()) == []


def test_killed_generation_leaves_nothing_at_the_final_name(tmp_path: Path) -> None:
    script = (
        "from storage.datasets.procedural import generate; "
        f"generate('fixation_table', {str(tmp_path / 'x')!r}, {{'images': 100000}})"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(procedural.__file__).parents[2])
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith("x.partial-")
    assert procedural.generate("fixation_table", tmp_path / "x", SMALL["fixation_table"])
    assert partial.exists()


def test_it_is_no_format_of_its_own() -> None:
    assert set(SMALL) <= set(formats())
    assert "procedural" not in formats()
    with pytest.raises(InvalidInput, match="procedural"):
        open_dataset("procedural", "x")
