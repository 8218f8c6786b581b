"""Top-1 and top-5 of the probe on labelled images, under both sets of batch statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from models.augment import squash
from models.batchnorm import Statistics, use_statistics
from storage.datasets.base import Image
from storage.errors import InvalidInput
from storage.images import decode_rgb
from storage.parallel import ordered_map
from tasks._data.images import read_verified
from tasks._datasets import OpenDataset
from tasks._evaluation.networks import ATTENTION_STATISTICS, Arithmetic, Arm

STATISTICS: tuple[Statistics, ...] = ("contrastive", "all")
_CROP = 0.875  # share of the shorter side, as SimCLR is evaluated

Hits = NDArray[np.bool_]  # [seeds, images]
Labelled = tuple[int, dict[int, NDArray[np.uint8]]]  # a class, and the image by size


@dataclass(frozen=True)
class Accuracy:
    """Whether each prediction was right, by (arm, statistics).

    `reason` says why there is none; `errors` names images that could not be read.
    """

    top1: dict[tuple[str, str], Hits]
    top5: dict[tuple[str, str], Hits]
    images: int = 0
    reason: str = ""
    errors: list[str] = field(default_factory=list)


def centre_view(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The central square of an image, 87.5 % of its shorter side, uint8 [size, size, 3]."""
    height, width = pixels.shape[:2]
    side = max(1, round(_CROP * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return squash(pixels[top : top + side, left : left + side], size)


def probe_accuracy(
    dataset: OpenDataset, arms: Sequence[Arm], how: Arithmetic, batch_size: int, threads: int,
    progress: Callable[[int, int], None],
) -> Accuracy:  # fmt: skip
    """Run every student's probe over the labelled images; images without a label are skipped."""
    labelled = [i for n in range(dataset.index.shards()) for i in dataset.index.shard(n) if i.label >= 0]
    reason = _why_none(dataset, labelled, arms)
    if reason:
        return Accuracy({}, {}, reason=reason)
    sizes = sorted({a.size for a in arms})

    def load(image: Image) -> Labelled | str:
        try:
            pixels = decode_rgb(read_verified(dataset, image))
        except InvalidInput as error:
            return f"{image.key}: {error}"
        return image.label, {size: centre_view(pixels, size) for size in sizes}

    ranks: list[NDArray[np.int64]] = []  # of the true class: [arms x statistics, images]
    errors: list[str] = []
    for first in range(0, len(labelled), batch_size):
        loaded = list(ordered_map(load, labelled[first : first + batch_size], threads, batch_size))
        errors += [item for item in loaded if isinstance(item, str)]
        good = [item for item in loaded if not isinstance(item, str)]
        if good:
            ranks.append(_ranks(arms, good, how))
        progress(min(first + batch_size, len(labelled)), len(labelled))
    if not ranks:
        return Accuracy({}, {}, reason=f"none of the {len(labelled)} labelled images could be read", errors=errors)
    return _by_arm(arms, np.concatenate(ranks, axis=1), errors)


def _why_none(dataset: OpenDataset, labelled: Sequence[Image], arms: Sequence[Arm]) -> str:
    """Why accuracy cannot be told, or nothing."""
    if not labelled:
        return f"the images of {dataset.name!r} carry no class labels"
    known, probes = len(dataset.index.classes), {a.student.config.classes for a in arms}
    if probes != {known}:
        return f"{dataset.name!r} has {known} classes, the probes were trained on {sorted(probes)}"
    return ""


def _ranks(arms: Sequence[Arm], good: Sequence[Labelled], how: Arithmetic) -> NDArray[np.int64]:
    """How many classes score at least as high as the true one, itself left out: 0 is a hit."""
    labels = torch.tensor([label for label, _ in good], device=how.device)
    found = []
    for arm in arms:
        pixels = how.tensor(np.stack([views[arm.size] for _, views in good]))
        for statistics in STATISTICS:
            use_statistics(arm.student, statistics)
            with how.cast():
                logits = arm.student.probe_logits(pixels)
            own = logits.gather(1, labels[:, None])
            found.append(((logits >= own).sum(1) - 1).cpu().numpy())
        use_statistics(arm.student, ATTENTION_STATISTICS)
    return np.stack(found)


def _by_arm(arms: Sequence[Arm], ranks: NDArray[np.int64], errors: list[str]) -> Accuracy:
    by_student = ranks.reshape(len(arms), len(STATISTICS), -1)
    top: list[dict[tuple[str, str], Hits]] = []
    for limit in (1, 5):
        hits: dict[tuple[str, str], Hits] = {}
        for name in dict.fromkeys(a.name for a in arms):
            rows = [n for n, a in enumerate(arms) if a.name == name]
            for column, statistics in enumerate(STATISTICS):
                hits[name, statistics] = by_student[rows, column] < limit
        top.append(hits)
    return Accuracy(top[0], top[1], images=ranks.shape[1], errors=errors)
