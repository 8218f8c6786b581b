"""SALICON as published: COCO photographs, and mouse-contingent fixations in MATLAB files or as JSON.

    images/train/COCO_train2014_000000000009.jpg     (or all of them directly in images/)
    fixations/train/COCO_train2014_000000000009.mat  columns (x, y), counted from 1
    fixations_train2014.json                         instead of those: pairs (y, x), counted from 1
    maps/train/...                                   not read: fixations are the data, maps one view of them
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from storage.datasets import _mat
from storage.datasets._folder import list_files
from storage.datasets._gaze_folder import GazeFolder, Recording
from storage.datasets.base import Gaze
from storage.errors import InvalidInput

SPLITS = ("train", "val", "test")
MAT = "fixations"


class Reader(GazeFolder):
    """One split of SALICON.

    `split` is train, val or test; test is published without gaze and so gives images alone. `annotations`
    names a JSON file or a folder of .mat files, relative to the source; without it the .mat files are taken
    where they are, else `fixations_{split}2014.json` here or in annotations/.
    Raises InvalidInput for another split.
    """

    def __init__(self, path: str | Path, split: str = "train", annotations: str | None = None) -> None:
        super().__init__(path)
        if split not in SPLITS:
            raise InvalidInput(f"SALICON at {path}: split: expected {', '.join(SPLITS)}, found {split!r}.")
        self.split = split
        self.annotations = annotations

    def image_folder(self) -> str:
        """images/{split}, or images where there is no folder per split."""
        folder = f"images/{self.split}"
        return folder if (self.root / folder).is_dir() else "images"

    def image_names(self) -> list[str]:
        """The images of this split: in a flat folder, all but those named as another split's."""
        return [name for name in super().image_names() if self._mine(name)]

    def annotation_paths(self) -> list[str]:
        """The .mat files or the JSON file of this split; none for the test split."""
        if self.annotations is not None:
            return self._chosen(self.annotations)
        candidates = (f"{MAT}/{self.split}", MAT, f"fixations_{self.split}2014.json", "annotations")
        found = next(filter(None, map(self._found, candidates)), [])
        if found or self.split == "test":
            return found
        raise InvalidInput(
            f"SALICON at {self.root}: expected fixations of {self.split} as {MAT}/{self.split}/*.mat or as "
            f"fixations_{self.split}2014.json (here or in annotations/), found neither; nothing was read. "
            "Download the fixations, or name their place with the option `annotations`."
        )

    def recordings(self) -> dict[str, Callable[[], Recording]]:
        """What was recorded, by image name."""
        paths = self.annotation_paths()
        if paths and paths[0].endswith(".json"):
            return _from_json(self.root / paths[0])
        with_gaze = [] if self.split == "test" else paths
        return {Path(path).stem: partial(_from_mat, self.root / path) for path in with_gaze}

    def _mine(self, path: str) -> bool:
        others = [f"COCO_{split}2014_" for split in SPLITS if split != self.split]
        return not Path(path).name.startswith(tuple(others))

    def _found(self, place: str) -> list[str]:
        """The annotation files of this split at a place: its .mat files, else its one JSON file."""
        if place.endswith(".json"):
            return [place] if (self.root / place).is_file() else []
        if not (self.root / place).is_dir():
            return []
        paths = [f"{place}/{file.path}" for file in list_files(self.root / place) if "/" not in file.path]
        mats = [path for path in paths if path.endswith(".mat") and self._mine(path)]
        jsons = [path for path in paths if path.endswith(".json") and self.split in Path(path).name]
        if len(jsons) > 1 and not mats:
            raise InvalidInput(
                f"SALICON at {self.root}: expected one JSON file of {self.split} in {place}/, found "
                f"{', '.join(jsons)}. Name one with the option `annotations`."
            )
        return mats or jsons

    def _chosen(self, place: str) -> list[str]:
        path = Path(place)
        found = [] if path.is_absolute() or ".." in path.parts else self._found(path.as_posix())
        if not found:
            raise InvalidInput(
                f"SALICON at {self.root}: expected a .json file or a folder of .mat files at {place!r}, as "
                "the option `annotations` says, found none. Give its path relative to the source."
            )
        return found


def _from_mat(path: Path) -> Recording:
    """One image's .mat: `resolution` (rows, columns), and `gaze`, a struct per person."""
    variables = _mat.load(path, "resolution", "gaze")
    if missing := {"resolution", "gaze"} - variables.keys():
        raise InvalidInput(f"{path}: expected the variables resolution and gaze, found no {sorted(missing)}.")
    resolution = _mat.numbers(variables["resolution"], f"{path}: resolution").ravel()
    if resolution.size != 2:
        raise InvalidInput(f"{path}: resolution: expected rows and columns, found {resolution.tolist()}.")
    rows, columns = resolution.astype(int).tolist()
    people = enumerate(_mat.cells(variables["gaze"]), start=1)
    gazes = tuple(_person(person, str(number), f"{path}: gaze({number})") for number, person in people)
    return Recording(gazes, (columns, rows))


def _person(person: Any, subject: str, where: str) -> Gaze:
    points = _mat.numbers(_mat.field(person, "fixations", where), f"{where}.fixations")
    return _gaze(subject, points, x=0, y=1, where=f"{where}.fixations")


def _from_json(path: Path) -> dict[str, Callable[[], Recording]]:
    """All images of a COCO-style file: `images`, and `annotations` with one list of (y, x) per worker."""
    try:
        content = json.loads(path.read_bytes())
        by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        return {
            image["file_name"]: partial(_recorded, path, image, by_image[image["id"]])
            for image in content["images"]
            if by_image[image["id"]]
        }
    except (ValueError, KeyError, TypeError) as why:
        raise InvalidInput(
            f"{path}: expected COCO-style images (id, file_name) and annotations (image_id, fixations), "
            f"found otherwise ({type(why).__name__}: {why}); nothing was taken from it."
        ) from why


def _recorded(path: Path, image: dict[str, Any], annotations: Iterable[dict[str, Any]]) -> Recording:
    frame = (image["width"], image["height"]) if "width" in image and "height" in image else None
    return Recording(tuple(_worker(path, annotation) for annotation in annotations), frame)


def _worker(path: Path, annotation: dict[str, Any]) -> Gaze:
    where = f"{path}: annotation {annotation.get('id')}"
    try:
        points = np.asarray(annotation["fixations"], np.float64)
    except (ValueError, TypeError, KeyError) as why:
        raise InvalidInput(f"{where}: expected fixations as a list of [y, x], found other ({why}).") from why
    return _gaze(str(annotation.get("worker_id", "")), points, x=1, y=0, where=where)


def _gaze(subject: str, points: np.ndarray, x: int, y: int, where: str) -> Gaze:
    """Points counted from 1, of which columns `x` and `y` are the coordinates, as continuous pixels."""
    if points.size == 0:
        points = points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InvalidInput(f"{where}: expected n x 2 coordinates, found the shape {points.shape}.")
    moved = (points - 0.5).astype(np.float32)
    return Gaze(subject, moved[:, x], moved[:, y])
