"""Procedural scenes laid out as published data sets, which the readers of these formats read back.

Each writer fills an empty folder and depends on its arguments alone, to the byte. Sizes are (width, height).
Fixations are written as continuous as they were simulated, so that reading gives them back.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io

from storage.datasets import _scenes, _shapes
from storage.datasets._observers import Scanpath, watch
from storage.datasets._scenes import CLASSES, Scene

Size = tuple[int, int]

TRAIN, VAL, ORDER = 0, 1, 2  # streams of random numbers
WNIDS = tuple(f"n99{label:03d}{(label * 37 + 11) % 1000:03d}" for label in range(CLASSES))
DEVKIT_IDS = tuple((label * 7 + 3) % CLASSES + 1 for label in range(CLASSES))  # another order, as published


def write_salicon(
    root: Path, images: int, seed: int = 0, val_images: int = 0, observers: int = 15, size: Size = (640, 480)
) -> None:
    """SALICON: images, maps and one .mat per image, for the splits train and val."""
    for split, stream, count in (("train", TRAIN, images), ("val", VAL, val_images)):
        for index, scene, people in _watched(seed, stream, count, observers, size):
            stem = f"COCO_{split}2014_{index + 1:012d}"
            _save(root / "images" / split / f"{stem}.jpg", _jpeg(scene))
            _save(root / "maps" / split / f"{stem}.png", _map(people, size))
            _save(root / "fixations" / split / f"{stem}.mat", _salicon_mat(people, size))


def write_osie(root: Path, images: int, seed: int = 0, observers: int = 15, size: Size = (800, 600)) -> None:
    """OSIE: stimuli from 1001.jpg on, and everyone's fixations in one .mat."""
    cells = np.empty((images, 1), object)
    for index, scene, people in _watched(seed, TRAIN, images, observers, size):
        name = f"{1001 + index}.jpg"
        _save(root / "data" / "stimuli" / name, _jpeg(scene))
        cells[index, 0] = {"img": name, "subjects": _osie_subjects(people)}
    _save(root / "data" / "eye" / "fixations.mat", _mat({"fixations": cells}))


def write_fixation_table(
    root: Path, images: int, seed: int = 0, observers: int = 15, size: Size = (320, 240)
) -> None:
    """A folder of images with one Parquet table of fixations."""
    parts: list[pa.Table] = []
    for index, scene, people in _watched(seed, TRAIN, images, observers, size):
        name = f"{index + 1:05d}.jpg"
        _save(root / "images" / name, _jpeg(scene))
        parts += [_table(name, number, person, size) for number, person in enumerate(people, start=1)]
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(parts), buffer)
    _save(root / "fixations.parquet", buffer.getvalue())


def write_imagenet(
    root: Path, train_per_class: int, val_per_class: int, seed: int = 0, size: Size = (160, 120)
) -> None:
    """ImageNet of ten invented classes: train by wnid, val flat with its truth in the development kit."""
    for index in range(train_per_class * CLASSES):
        wnid, number = WNIDS[index % CLASSES], index // CLASSES + 1
        scene = _scenes.draw(_scenes.random(seed, TRAIN, index), size, index % CLASSES)
        _save(root / "train" / wnid / f"{wnid}_{number}.JPEG", _jpeg(scene))
    labels = _scenes.random(seed, ORDER, 0).permutation(np.arange(val_per_class * CLASSES) % CLASSES).tolist()
    for index, label in enumerate(labels):
        scene = _scenes.draw(_scenes.random(seed, VAL, index), size, label)
        _save(root / "val" / f"ILSVRC2012_val_{index + 1:08d}.JPEG", _jpeg(scene))
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    _save(kit / "meta.mat", _mat({"synsets": _synsets(train_per_class)}))
    truth = "".join(f"{DEVKIT_IDS[label]}\n" for label in labels)
    _save(kit / "ILSVRC2012_validation_ground_truth.txt", truth.encode())


def _watched(
    seed: int, stream: int, count: int, observers: int, size: Size
) -> Iterator[tuple[int, Scene, tuple[Scanpath, ...]]]:
    for index in range(count):
        rng = _scenes.random(seed, stream, index)
        scene = _scenes.draw(rng, size, index % CLASSES)
        yield index, scene, watch(rng, scene, observers)


def _save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _jpeg(scene: Scene) -> bytes:
    _, data = cv2.imencode(".jpg", scene.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return bytes(data)


def _map(people: tuple[Scanpath, ...], size: Size) -> bytes:
    """All fixations blurred by 19 pixels of a frame 640 wide, as SALICON's tools do, as an 8-bit PNG."""
    counts = np.zeros(size[::-1], np.float32)
    for person in people:
        np.add.at(counts, (person.y.astype(int), person.x.astype(int)), 1)
    blurred = cv2.GaussianBlur(counts, (0, 0), 19 * size[0] / 640, borderType=cv2.BORDER_CONSTANT)
    _, data = cv2.imencode(".png", np.round(255 * blurred / blurred.max()).astype(np.uint8))
    return bytes(data)


def _mat(variables: dict[str, Any]) -> bytes:
    """A MATLAB 5 file whose header names no platform and no time: the same content gives the same bytes."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    return b"MATLAB 5.0 MAT-file, gazeflow".ljust(116) + buffer.getvalue()[116:]


def _salicon_mat(people: tuple[Scanpath, ...], size: Size) -> bytes:
    """`gaze`, a struct per person; mouse samples are taken to rest at the fixations, one in 20 ms."""
    gaze = np.empty((len(people), 1), [(name, object) for name in ("location", "timestamp", "fixations")])
    for number, person in enumerate(people):
        fixations = np.stack([person.x, person.y], 1).astype(np.float64) + 0.5
        location = np.repeat(fixations, person.duration // 20, axis=0)
        gaze[number, 0] = (location, 20.0 * np.arange(len(location))[:, None], fixations)
    return _mat({"resolution": np.array([[size[1], size[0]]], np.float64), "gaze": gaze})


def _osie_subjects(people: tuple[Scanpath, ...]) -> np.ndarray:
    cells = np.empty((len(people), 1), object)
    for number, person in enumerate(people):
        cells[number, 0] = {
            "fix_x": person.x[None].astype(np.float64) + 0.5,
            "fix_y": person.y[None].astype(np.float64) + 0.5,
            "fix_duration": person.duration[None],
        }
    return cells


def _table(name: str, subject: int, person: Scanpath, size: Size) -> pa.Table:
    count = len(person.x)
    columns = {
        "image": pa.array([name] * count),
        "subject": pa.array([subject] * count, pa.int16()),
        "order": pa.array(range(1, count + 1), pa.int32()),
        "x": pa.array(person.x),
        "y": pa.array(person.y),
        "duration_ms": pa.array(person.duration.astype(np.float32)),
        "width": pa.array([size[0]] * count, pa.int16()),
        "height": pa.array([size[1]] * count, pa.int16()),
    }
    return pa.table(columns)


def _synsets(train_per_class: int) -> np.ndarray:
    """The kit's struct array: the classes by ILSVRC2012_ID, then the one synset above them all."""
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
             "num_train_images")
    synsets = np.empty((CLASSES + 1, 1), [(name, object) for name in names])
    for label, number in enumerate(DEVKIT_IDS):
        texture = _shapes.TEXTURES[label % len(_shapes.TEXTURES)]
        words = f"{_shapes.NAMES[label]}, {_shapes.NAMES[label]} of {texture}"
        gloss = f"a procedural {_shapes.NAMES[label]}"
        synsets[number - 1, 0] = (number, WNIDS[label], words, gloss, 0, np.empty((0, 0)), 0, train_per_class)
    children = np.arange(1, CLASSES + 1, dtype=np.float64)[None]
    synsets[-1, 0] = (CLASSES + 1, "n99999999", "shape", "a procedural shape", CLASSES, children, 1, 0)
    return synsets
