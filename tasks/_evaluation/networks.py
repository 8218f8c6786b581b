"""Teacher and students of an evaluation, each as a predictor from squashed images to densities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.attention import CommonReadout, LinearReadout, apply_readout, readout_maps, spatial_softmax
from models.augment import squash
from models.batchnorm import Statistics, use_statistics
from models.teacher import Teacher
from models.teacher_training import DTYPES
from storage.errors import InvalidInput
from storage.manifest import Manifest
from storage.store import Store
from tasks.student import StudentParams, load_student

ROLES = {"guided": "student", "baseline": "baseline", "permuted": "permuted"}  # arm -> role of the stage
# Whole images reach this set of running statistics alone; all arms are read under the same one.
ATTENTION_STATISTICS: Statistics = "all"

Images = NDArray[np.uint8]  # [B, S, S, 3]
Densities = NDArray[np.float32]  # [B, S, S], each of sum 1


@dataclass(frozen=True)
class Arithmetic:
    """On what and in what a network is run."""

    device: str
    dtype: str

    def tensor(self, images: Images) -> torch.Tensor:
        """Images as networks take them: uint8 [B, 3, S, S] on the device."""
        return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1).contiguous().to(self.device)

    def cast(self) -> torch.autocast:
        return torch.autocast(self.device.split(":")[0], DTYPES[self.dtype], enabled=self.dtype != "float32")


@dataclass(frozen=True)
class Arm:
    """One trained student: which arm of the experiment, which seed."""

    name: str
    params: StudentParams
    student: Any
    manifest: Manifest

    @property
    def seed(self) -> int:
        return self.params.seed

    @property
    def size(self) -> int:
        return self.params.size


@dataclass(frozen=True)
class Predictor:
    """Something that looks at images.

    `predict` gives one or more densities, by name, for images squashed to `size`.
    """

    seed: int  # -1: there is one for all seeds
    size: int
    predict: Callable[[Images], Mapping[str, Densities]]


def load_arms(store: Store, inputs: Mapping[str, Sequence[Manifest]], device: str) -> list[Arm]:
    """All students, arm by arm, each arm's seeds in the order given.

    Raises InvalidInput unless every arm has the same seeds in the same order, none twice: arms are compared
    seed by seed.
    """
    arms = [_load(store, name, manifest, device) for name, role in ROLES.items() for manifest in inputs[role]]
    seeds = {name: [a.seed for a in arms if a.name == name] for name in ROLES}
    expected = seeds["guided"]
    if len(set(expected)) != len(expected) or any(found != expected for found in seeds.values()):
        raise InvalidInput(
            f"evaluation: expected the same seeds in the same order in every arm, each once; found {seeds}; nothing "
            "was scored. List the nodes of each role seed by seed"
        )
    return arms


def _load(store: Store, name: str, manifest: Manifest, device: str) -> Arm:
    student = load_student(store, manifest).to(device)
    use_statistics(student, ATTENTION_STATISTICS)
    return Arm(name, StudentParams.model_validate(manifest.key.params), student, manifest)


def teacher_predictor(teacher: Teacher, how: Arithmetic) -> Predictor:
    """The teacher at its own size."""
    return Predictor(-1, teacher.config.size, lambda images: {"teacher": teacher_density(teacher, images, how)})


def teacher_through(teacher: Teacher, size: int, how: Arithmetic) -> Predictor:
    """The teacher with only the pixels a student sees: the bound of a student of that size."""

    def predict(images: Images) -> dict[str, Densities]:
        seen = np.stack([squash(image, teacher.config.size) for image in images])
        return {"teacher_small": teacher_density(teacher, seen, how)}

    return Predictor(-1, size, predict)


def teacher_density(teacher: Teacher, images: Images, how: Arithmetic) -> Densities:
    """Densities of images squashed to the teacher's size."""
    density: Densities = teacher.density(how.tensor(images), DTYPES[how.dtype]).cpu().numpy()
    return density


def student_predictor(
    arm: Arm, how: Arithmetic, refitted: LinearReadout | None, common: CommonReadout, own: bool = True
) -> Predictor:
    """A student's own readout as `<arm>`, its refitted one as `<arm>.refit`, the common one as `<arm>.common`."""

    def predict(images: Images) -> dict[str, Densities]:
        pixels, found = how.tensor(images), {}
        with torch.no_grad(), how.cast():
            taps = arm.student.taps(pixels)
            if own:
                found[arm.name] = arm.student.readout(taps, arm.size)
            if refitted is not None:
                found[f"{arm.name}.refit"] = apply_readout(readout_maps(taps, arm.size), *refitted[:2])
            found[f"{arm.name}.common"] = common(taps, arm.size)
        return {name: spatial_softmax(logits).cpu().numpy() for name, logits in found.items()}

    return Predictor(arm.seed, arm.size, predict)
