"""OSIE as published: 700 photographs, and eye tracking of 15 people in one MATLAB file.

    data/stimuli/1001.jpg   (or stimuli/)
    data/eye/fixations.mat  (or eye/): a cell per image {img, subjects}, a cell per person {fix_x, fix_y},
                            pixels counted from 1
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from storage.datasets import _mat
from storage.datasets._gaze_folder import GazeFolder, Recording
from storage.datasets.base import Gaze
from storage.errors import InvalidInput

ANNOTATIONS = "eye/fixations.mat"


class Reader(GazeFolder):
    """All images of OSIE; a key is the image's number, such as 1001."""

    def image_folder(self) -> str:
        """data/stimuli, or stimuli where the source is the folder data itself."""
        return "data/stimuli" if (self.root / "data" / "stimuli").is_dir() else "stimuli"

    def annotation_paths(self) -> list[str]:
        """The one MATLAB file."""
        for path in (f"data/{ANNOTATIONS}", ANNOTATIONS):
            if (self.root / path).is_file():
                return [path]
        raise InvalidInput(
            f"OSIE at {self.root}: expected data/{ANNOTATIONS} or {ANNOTATIONS}, found neither; nothing was "
            "read. Download the eye-tracking data, or mend the path."
        )

    def recordings(self) -> dict[str, Callable[[], Recording]]:
        """What was recorded, by image file name."""
        path = self.root / self.annotation_paths()[0]
        variables = _mat.load(path, "fixations")
        if "fixations" not in variables:
            raise InvalidInput(f"{path}: expected the variable fixations, found none; nothing was read.")
        images = enumerate(_mat.cells(variables["fixations"]), start=1)
        return dict(_image(image, f"{path}: fixations{{{number}}}") for number, image in images)


def _image(image: Any, where: str) -> tuple[str, Callable[[], Recording]]:
    name = _mat.text(_mat.field(image, "img", where), f"{where}.img")
    return name, partial(_recording, _mat.field(image, "subjects", where), where)


def _recording(subjects: np.ndarray, where: str) -> Recording:
    people = enumerate(_mat.cells(subjects), start=1)
    return Recording(tuple(_person(person, number, where) for number, person in people))


def _person(person: Any, number: int, where: str) -> Gaze:
    where = f"{where}.subjects{{{number}}}"
    x, y = (_mat.numbers(_mat.field(person, name, where), where).ravel() - 0.5 for name in ("fix_x", "fix_y"))
    if x.size != y.size:
        raise InvalidInput(f"{where}: expected as many fix_x as fix_y, found {x.size} and {y.size}.")
    return Gaze(str(number), x.astype(np.float32), y.astype(np.float32))
