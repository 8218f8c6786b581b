"""A folder of images with one Parquet table of fixations: the plain form for eye tracking of one's own.

    images/*.jpg
    fixations.parquet   a row per fixation: image, subject, order, x, y, width, height

`image` is the file name, with or without extension; x and y are continuous pixels from the left and top edge
(0 <= x < width), in the frame of width x height that the image must have; `order` counts from 1 in a trial.
Other columns are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.datasets._gaze_folder import GazeFolder, Recording
from storage.datasets.base import Gaze
from storage.errors import InvalidInput

TABLE = "fixations.parquet"


def _text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _name(kind: pa.DataType) -> bool:
    return _text(kind) or pa.types.is_integer(kind)


COLUMNS: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "image": (_text, "text"),
    "subject": (_name, "whole numbers or text"),
    "order": (pa.types.is_integer, "whole numbers"),
    "x": (_number, "numbers"),
    "y": (_number, "numbers"),
    "width": (pa.types.is_integer, "whole numbers"),
    "height": (pa.types.is_integer, "whole numbers"),
}


class Reader(GazeFolder):
    """Images and a table of fixations.

    `skip_first` leaves out the rows with `order` 1: first fixations are central whatever the image shows.
    """

    def __init__(self, path: str | Path, skip_first: bool = False) -> None:
        super().__init__(path)
        self.skip_first = skip_first

    def image_folder(self) -> str:
        """images."""
        return "images"

    def annotation_paths(self) -> list[str]:
        """The table."""
        if not (self.root / TABLE).is_file():
            raise InvalidInput(
                f"{self.root}: expected {TABLE} beside images/, found none; nothing was read. Put the table "
                f"there with the columns {', '.join(COLUMNS)}."
            )
        return [TABLE]

    def recordings(self) -> dict[str, Callable[[], Recording]]:
        """What was recorded, by image name: people in their order, fixations by `order`."""
        path = self.root / self.annotation_paths()[0]
        columns = _columns(path)
        if self.skip_first:
            later = columns["order"] != 1
            columns = {name: column[later] for name, column in columns.items()}
        order = np.lexsort((columns["order"], columns["subject"], columns["image"]))
        columns = {name: column[order] for name, column in columns.items()}
        parts = _runs(columns["image"])
        return {str(columns["image"][part][0]): partial(_recording, path, columns, part) for part in parts}


def _columns(path: Path) -> dict[str, np.ndarray]:
    """The columns as arrays. Raises InvalidInput naming a column that is missing, mistyped or has gaps."""
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        for name, (fits, expected) in COLUMNS.items():
            found = schema.field(name).type if name in schema.names else "no such column"
            if isinstance(found, str) or not fits(found):
                raise InvalidInput(f"{path}: expected the column {name!r} of {expected}, found {found}.")
        table = file.read(columns=list(COLUMNS))
    except pa.ArrowException as why:
        raise InvalidInput(f"{path}: expected a Parquet table, found what cannot be read ({why}).") from why
    for name in COLUMNS:
        if table[name].null_count:
            count = table[name].null_count
            raise InvalidInput(f"{path}: expected the column {name!r} without gaps, found {count} of them.")
    return {name: table[name].to_numpy() for name in COLUMNS}


def _runs(values: np.ndarray) -> list[slice]:
    """The slices of equal neighbours."""
    if not len(values):
        return []
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _recording(path: Path, columns: dict[str, np.ndarray], part: slice) -> Recording:
    rows: dict[str, Any] = {name: column[part] for name, column in columns.items()}
    frames = set(zip(rows["width"].tolist(), rows["height"].tolist(), strict=True))
    if len(frames) > 1:
        raise InvalidInput(
            f"{path}: expected one width and height for {rows['image'][0]!r}, found {sorted(frames)}; mend "
            "the table."
        )
    x, y = rows["x"].astype(np.float32), rows["y"].astype(np.float32)
    people = (Gaze(str(rows["subject"][run][0]), x[run], y[run]) for run in _runs(rows["subject"]))
    return Recording(tuple(people), frames.pop())
