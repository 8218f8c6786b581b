"""What a student's features hold, whatever its own readout makes of them.

Readouts are refitted on frozen features against the teacher's labels of held-out images, never on images that
people looked at. Their floor is the same network before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from models.alignment import label_skill
from models.attention import CommonReadout, LinearReadout, readout_maps, refit_readout, spatial_softmax
from models.augment import squash
from models.batchnorm import BatchNorm2d, use_statistics
from models.teacher import Teacher, label_map
from storage.datasets.base import Image
from storage.errors import InvalidInput
from storage.images import decode_rgb
from storage.parallel import ordered_map
from tasks._data.images import key_hash, read_verified
from tasks._data.labels import density_at
from tasks._datasets import OpenDataset
from tasks._evaluation.networks import ATTENTION_STATISTICS, Arithmetic, Arm, teacher_density
from tasks.student import build_student


@dataclass(frozen=True)
class HeldOut:
    """Images no student was trained on, with the teacher's labels at every student's size.

    Attributes:
        images: uint8 [N, S, S, 3] by size.
        labels: float32 [N, S, S] of sum 1, by size, in 8 bits before as the labels of the training are.
        errors: "key: message" of images that could not be read.
    """

    images: Mapping[int, NDArray[np.uint8]]
    labels: Mapping[int, NDArray[np.float32]]
    errors: list[str]

    def __len__(self) -> int:
        return len(next(iter(self.images.values())))


@dataclass(frozen=True)
class Readouts:
    """A student's readouts fitted to the labels, and how well its own fits them."""

    refitted: LinearReadout
    common: CommonReadout
    common_kld: float  # mean over the images it was fitted on, nats
    skill: float  # of the student's own readout; 0: as good as the mean training label


def chosen_images(dataset: OpenDataset, count: int, seed: int) -> list[Image]:
    """So many images of a data set, chosen by the hash of seed and key."""
    images = [i for n in range(dataset.index.shards()) for i in dataset.index.shard(n)]
    return sorted(images, key=lambda i: key_hash(f"{seed}/{i.key}"))[:count]


def held_out(
    dataset: OpenDataset, chosen: Sequence[Image], teacher: Teacher, sizes: Sequence[int], how: Arithmetic,
    batch_size: int, threads: int,
) -> HeldOut:  # fmt: skip
    """Decode the chosen images and let the teacher label them. Raises InvalidInput when none can be read."""
    side, wanted = teacher.config.size, sorted(set(sizes))

    def load(image: Image) -> list[NDArray[np.uint8]] | str:
        try:
            pixels = decode_rgb(read_verified(dataset, image))
        except InvalidInput as error:
            return f"{image.key}: {error}"
        return [squash(pixels, size) for size in (side, *wanted)]

    loaded = list(ordered_map(load, chosen, threads, 4 * batch_size))
    good = [item for item in loaded if not isinstance(item, str)]
    errors = [item for item in loaded if isinstance(item, str)]
    if not good:
        raise InvalidInput(f"{dataset.name}: expected images to fit readouts on, found none readable: {errors[:3]}")
    labels: dict[int, list[NDArray[np.float32]]] = {size: [] for size in wanted}
    for first in range(0, len(good), batch_size):
        density = teacher_density(teacher, np.stack([g[0] for g in good[first : first + batch_size]]), how)
        for stored in label_map(torch.from_numpy(density)).numpy():
            for size in wanted:
                labels[size].append(density_at(stored, size))
    images = {size: np.stack([g[n + 1] for g in good]) for n, size in enumerate(wanted)}
    return HeldOut(images, {size: np.stack(found) for size, found in labels.items()}, errors)


def fit_readouts(
    arm: Arm, held: HeldOut, mean_label: NDArray[np.float32], how: Arithmetic, batch_size: int
) -> Readouts:
    """Fit both readouts on a student's frozen features, and score its own on the same labels."""
    images, labels = held.images[arm.size], held.labels[arm.size]
    chunks, maps, own = [], [], []
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        with torch.no_grad(), how.cast():
            taps = arm.student.taps(how.tensor(images[part]))
            maps.append(readout_maps(taps, arm.size))
            own.append(spatial_softmax(arm.student.readout(taps, arm.size)).cpu().numpy())
        chunks.append((taps, torch.from_numpy(labels[part]).to(how.device)))
    refitted = refit_readout(torch.cat(maps), torch.from_numpy(labels).to(how.device))
    common = CommonReadout([tap.shape[1] for tap in chunks[0][0]]).to(how.device)
    kld = common.fit(chunks)
    return Readouts(refitted, common, kld, label_skill(labels, np.concatenate(own), mean_label))


def untrained(arm: Arm, held: HeldOut, how: Arithmetic, batch_size: int) -> Arm:
    """The network an arm began as, its batch statistics averaged over the held-out images."""
    student = build_student(arm.params, arm.student.config.classes).to(how.device).train()
    norms = [m for m in student.modules() if isinstance(m, BatchNorm2d)]
    images = held.images[arm.size]
    for number, first in enumerate(range(0, len(images), batch_size)):
        for norm in norms:
            norm.momentum = 1 / (number + 1)  # a plain mean over the batches
        with torch.no_grad(), how.cast():
            student.backbone(how.tensor(images[first : first + batch_size]).float() / 255)
    use_statistics(student, ATTENTION_STATISTICS)
    return replace(arm, name="untrained", student=student.eval())
