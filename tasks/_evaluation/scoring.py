"""Scores of every predictor on every image that people looked at, all by one path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.alignment import Gaze, Map, Reference, references, score, to_frame
from models.augment import squash
from models.ceiling import leave_one_out, split_half
from models.metrics import correlation
from storage.errors import InvalidInput
from storage.parallel import ordered_map
from storage.shards import to_parquet
from tasks._data.gaze import Viewed, gaze_of
from tasks._evaluation.networks import Predictor

METRICS = ("cc", "nss", "kld", "sim", "auc_judd", "sauc", "ig", "shuffled_cc")
Scores = dict[tuple[str, int], dict[str, float]]  # (predictor, seed) -> metric -> value
Densities = dict[tuple[str, int], Map]


@dataclass(frozen=True)
class Table:
    """Scores by predictor, seed, metric and image.

    Attributes:
        images: (data set, key) of every image scored.
        rows: the scores of each image.
        errors: "key: message" of every image that could not be read.
    """

    images: list[tuple[str, str]]
    rows: list[Scores]
    errors: list[str]

    def predictors(self) -> list[str]:
        """Names in the order in which they were scored."""
        return list(dict.fromkeys(name for name, _ in self.rows[0]))

    def values(self, predictor: str, metric: str) -> NDArray[np.float64]:
        """[seeds, images]; NaN where a score is undefined or was not computed."""
        keys = [k for k in self.rows[0] if k[0] == predictor]
        return np.array([[row[k].get(metric, np.nan) for row in self.rows] for k in keys], np.float64)

    def to_parquet(self) -> bytes:
        """One row per image, predictor and seed (null: one for all seeds); undefined scores are null."""
        flat = [(image, key, row[key]) for image, row in zip(self.images, self.rows, strict=True) for key in row]
        columns: dict[str, pa.Array] = {
            "dataset": pa.array([image[0] for image, _, _ in flat], pa.string()),
            "key": pa.array([image[1] for image, _, _ in flat], pa.string()),
            "predictor": pa.array([name for _, (name, _), _ in flat], pa.string()),
            "seed": pa.array([None if seed < 0 else seed for _, (_, seed), _ in flat], pa.int64()),
        }
        for metric in METRICS:
            values = np.array([s.get(metric, np.nan) for _, _, s in flat], np.float64)
            columns[metric] = pa.array(values, from_pandas=True)
        return to_parquet(pa.table(columns))


@dataclass(frozen=True)
class Rules:
    """How scores are made."""

    sigma: float  # of human maps, over the image's longer side
    splits: int  # of the people, for the ceiling
    seed: int
    batch_size: int


def score_images(
    viewed: Sequence[Viewed],
    predictors: Sequence[Predictor],
    fixed: Mapping[str, Callable[[Reference], Map]],
    rules: Rules,
    threads: int,
    progress: Callable[[int], None],
) -> Table:
    """Score all predictors, the densities that look at no image, and the people themselves, on all images.

    Images that cannot be decoded are left out and named. Raises InvalidInput when fewer than two remain.
    """
    held_against = references([gaze_of(v.attention) for v in viewed], rules.sigma, rules.seed)

    def work(item: tuple[Viewed, Reference, Densities | str]) -> Scores | str:
        _, reference, densities = item
        if isinstance(densities, str):
            return densities
        drawn = {(name, -1): draw(reference) for name, draw in fixed.items()}
        found = {key: _scored(key[0], d, reference) for key, d in (densities | drawn).items()}
        return found | {("people", -1): people(reference, rules)}

    images, rows, errors = [], [], []
    items = zip(viewed, held_against, densities_of(viewed, predictors, rules.batch_size, threads), strict=True)
    for number, (one, found) in enumerate(zip(viewed, ordered_map(work, items, threads, 4), strict=True)):
        if isinstance(found, str):
            errors.append(f"{one.image.key}: {found}")
        else:
            images.append((one.dataset.name, one.image.key))
            rows.append(found)
        progress(number + 1)
    if len(rows) < 2:
        raise InvalidInput(
            f"evaluation: expected at least 2 readable images, found {len(rows)}; nothing was kept. The first errors: "
            f"{errors[:3]}"
        )
    return Table(images, rows, errors)


def densities_of(
    viewed: Sequence[Viewed], predictors: Sequence[Predictor], batch_size: int, threads: int = 1
) -> Iterator[Densities | str]:
    """Every predictor's density for one image after another; an image that cannot be read gives its error."""
    sizes = sorted({p.size for p in predictors})

    def load(one: Viewed) -> dict[int, NDArray[np.uint8]] | str:
        try:
            pixels = one.pixels()
        except InvalidInput as error:
            return str(error)
        return {size: squash(pixels, size) for size in sizes}

    for batch in _batches(ordered_map(load, viewed, threads, 2 * batch_size), batch_size):
        good = [b for b in batch if not isinstance(b, str)]
        predicted = iter(_predicted(predictors, good))
        for item in batch:
            yield item if isinstance(item, str) else next(predicted)


def _predicted(predictors: Sequence[Predictor], squashed: Sequence[Mapping[int, NDArray[np.uint8]]]) -> list[Densities]:
    found: list[Densities] = [{} for _ in squashed]
    for predictor in predictors if squashed else ():
        images = np.stack([s[predictor.size] for s in squashed])
        for name, densities in predictor.predict(images).items():
            for row, density in zip(found, densities, strict=True):
                row[name, predictor.seed] = density
    return found


def _scored(name: str, density: Map, reference: Reference) -> dict[str, float]:
    """All metrics; for a student under another readout than its own, CC alone."""
    if "." not in name:
        return score(density, reference)
    gaze: Gaze = reference.gaze
    return {"cc": float(correlation(to_frame(density, gaze.width, gaze.height), reference.human))}


def people(reference: Reference, rules: Rules) -> dict[str, float]:
    """The ceiling of an image: CC a noise-free model could reach; one person from the others for the rest."""
    halves = split_half(reference.gaze, rules.splits, rules.seed, rules.sigma)
    others = leave_one_out(reference.gaze, reference.centre_bias, rules.sigma)
    return {"cc": halves.ceiling, "split_half_r": halves.r, "reliability": halves.reliability} | others


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
