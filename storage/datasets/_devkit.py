"""The ILSVRC-2012 development kit: which class each validation image shows.

`data/ILSVRC2012_validation_ground_truth.txt` has one ILSVRC2012_ID (1-1000) per image, in the order of the
images' numbers. `data/meta.mat` gives the WordNet id of each ILSVRC2012_ID. The ids are not in the order of
the WordNet ids, by which everyone counts labels.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.datasets._folder import stat_file
from storage.datasets.base import File
from storage.errors import InvalidInput, NotFound

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"

_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Devkit:
    """Ground truth of the validation images."""

    classes: tuple[str, ...]  # WordNet ids, sorted: a label is the position in it
    labels: tuple[int, ...]  # of image number 1, 2, ...


def devkit_paths(devkit: Path) -> list[Path]:
    """The devkit's files: the official .tar.gz itself, or the two of an unpacked folder."""
    if devkit.is_file():
        return [devkit]
    for data in (devkit / "data", devkit / "ILSVRC2012_devkit_t12" / "data", devkit):
        if (data / META).is_file() and (data / TRUTH).is_file():
            return [data / TRUTH, data / META]
    raise NotFound(
        f"{devkit}: expected ILSVRC2012_devkit_t12.tar.gz or the folder it unpacks to, with data/{TRUTH} and "
        f"data/{META}; found neither."
    )


def devkit_files(devkit: Path) -> list[File]:
    """The devkit's files as listed, named `devkit/<name>`."""
    return [stat_file(path, f"devkit/{path.name}") for path in devkit_paths(devkit)]


def read_devkit(devkit: Path) -> Devkit:
    """Read the ground truth; raises NotFound without a devkit, InvalidInput when it is not as above."""
    texts = _contents(devkit)
    wnids = _wnids(texts[META], devkit)
    classes = tuple(sorted(wnids.values()))
    ranks = {number: classes.index(wnid) for number, wnid in wnids.items()}
    try:
        labels = tuple(ranks[int(line)] for line in texts[TRUTH].split())
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            f"{devkit}: {TRUTH} names {error}; expected one of the {len(ranks)} class numbers of {META}."
        ) from error
    return Devkit(classes, labels)


def _contents(devkit: Path) -> dict[str, bytes]:
    paths = devkit_paths(devkit)
    if len(paths) > 1:
        return {path.name: path.read_bytes() for path in paths}
    try:
        with tarfile.open(paths[0], "r:gz") as tar:
            found = {i.name.rpartition("/")[2]: i for i in tar if i.isreg() and i.size <= _MAX_BYTES}
            # extractfile gives None for what is no regular file alone
            return {name: tar.extractfile(found[name]).read() for name in (TRUTH, META)}  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise InvalidInput(
            f"{devkit}: expected ILSVRC2012_devkit_t12.tar.gz with data/{TRUTH} and data/{META}; found "
            f"something else ({error}). Fetch it again."
        ) from error


def _wnids(meta: bytes, devkit: Path) -> dict[int, str]:
    """WordNet id by ILSVRC2012_ID, of the classes without children (meta.mat has their ancestors too)."""
    from scipy.io import loadmat  # slow to import, and needed for this format alone

    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        leaves = [s for s in synsets if int(s["num_children"]) == 0]
        wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in leaves}
    except Exception as error:  # scipy raises what it likes on a broken file
        raise InvalidInput(f"{devkit}: {META} does not hold the table synsets ({error!r}).") from error
    if not wnids or len(set(wnids.values())) != len(leaves):
        raise InvalidInput(f"{devkit}: {META} names {len(leaves)} classes, some twice or none at all.")
    return wnids
