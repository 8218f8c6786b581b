"""MATLAB files: load one variable, and take nested structs and cells apart in any shape scipy gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from storage.errors import InvalidInput


def load(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The variables that are there of those named. Raises InvalidInput when scipy cannot read the file."""
    try:
        return scipy.io.loadmat(path, variable_names=names)
    except Exception as why:  # scipy raises a dozen kinds for damaged files, zlib's and struct's among them
        raise InvalidInput(
            f"{path}: expected a MATLAB file of version 7 or older, found what scipy cannot read ({why}); "
            "nothing was taken from it. Download it again, or save it with `-v7`."
        ) from why


def cells(value: np.ndarray) -> list[Any]:
    """The members of a cell array or struct array in order, each 1x1 wrapping undone."""
    return [_bare(member) for member in np.ravel(value)]


def field(record: Any, name: str, where: str) -> np.ndarray:
    """One field of a struct. Raises InvalidInput when the struct lacks it."""
    names = getattr(getattr(record, "dtype", None), "names", None) or ()
    if name not in names:
        raise InvalidInput(f"{where}: expected a struct with the field {name!r}, found {names or record!r}.")
    return np.asarray(_bare(record[name]))


def numbers(value: np.ndarray, where: str) -> np.ndarray:
    """A numeric array in float64. Raises InvalidInput for anything else."""
    if value.dtype.kind not in "iuf":
        raise InvalidInput(f"{where}: expected numbers, found {value.dtype} of shape {value.shape}.")
    return value.astype(np.float64)


def text(value: np.ndarray, where: str) -> str:
    """A char array as one string. Raises InvalidInput for anything else."""
    if value.dtype.kind != "U" or value.size != 1:
        raise InvalidInput(f"{where}: expected text, found {value.dtype} of shape {value.shape}.")
    return str(value.item()).strip()


def _bare(value: Any) -> Any:
    """Without the 1x1 object arrays that MATLAB's cells and struct fields come wrapped in."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.item()
    return value
