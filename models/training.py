"""Training of a student over batches that someone else reads.

The trainer holds the student, its optimiser and the number of the next step. Whatever is random in a step
is seeded from (seed, view, step), so that those three are all there is to save.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from models.attention import Gradient
from models.augment import ColourAugment
from models.losses import attention_loss
from models.optim import Lars, Rates, learning_rate, parameter_groups

Optimizer = Literal["adamw", "lars"]
Attention = Literal["backbone", "readout", "none"]
Dtype = Literal["float32", "bfloat16"]


class TrainableStudent(Protocol):
    """What the trainer asks of a student module; its parameters follow `models.optim.role`."""

    def view_losses(self, views: Tensor, labels: Tensor, temperature: float) -> dict[str, Tensor]:
        """Return `contrastive` (the main loss), `probe` and whatever else is worth logging."""

    def attention_forward(self, whole: Tensor, gradient: Gradient) -> Tensor:
        """Return attention logits [B, S, S] of whole images."""


@dataclass(frozen=True)
class StudentBatch:
    """B images as the trainer takes them, cropped and flipped already; P is the batch's largest count.

    views uint8 [2, B, 3, S, S]; whole uint8 [B, 3, S, S]; labels int64 [B], -1 for none; density float32
    [B, S, S], sum 1; points int64 [B, P, 2] (column, row) in the S frame; points_mask bool [B, P], false on
    padding; labelled bool [B], true where density and points hold attention labels.
    """

    views: Tensor
    whole: Tensor
    labels: Tensor
    density: Tensor
    points: Tensor
    points_mask: Tensor
    labelled: Tensor

    def to(self, device: torch.device) -> StudentBatch:
        """Return the batch on `device`; copies from pinned memory do not block."""
        return StudentBatch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


@dataclass(frozen=True)
class Recipe:
    """How a student is trained; every field changes the result.

    The loss is NT-Xent + lam * KLD - beta * NSS (`reverse_kld` turns the divergence round), the attention
    terms reaching the "backbone", the "readout" alone, or nothing ("none": the third forward is left out).
    `warmup` is a share of all steps. Readout and probe have learning rates of their own. Raises ValueError
    for an unknown choice or an empty schedule.
    """

    epochs: int
    steps_per_epoch: int
    optimizer: Optimizer = "lars"
    learning_rate: float = 4.8
    readout_learning_rate: float = 0.1
    probe_learning_rate: float = 0.1
    weight_decay: float = 1e-6
    warmup: float = 0.1
    temperature: float = 0.1
    attention: Attention = "backbone"
    lam: float = 1.0
    beta: float = 0.1
    reverse_kld: bool = False
    dtype: Dtype = "float32"
    channels_last: bool = True
    colour: ColourAugment = field(default_factory=ColourAugment)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("optimizer", Optimizer), ("attention", Attention), ("dtype", Dtype)):
            if (value := getattr(self, name)) not in get_args(known):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(known))}, found {value!r}")
        if self.steps < 1 or not 0 <= self.warmup < 1:
            raise ValueError(
                f"schedule: expected at least one step and warmup in [0, 1), found {self.epochs} epochs of "
                f"{self.steps_per_epoch} steps and warmup {self.warmup}"
            )

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        return round(self.warmup * self.steps)


class StudentTrainer:
    """Trains `student` by `recipe` on `device`, a step at a time; `step_number` counts steps taken."""

    def __init__(self, student: nn.Module, recipe: Recipe, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.recipe = recipe
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        # Any: torch's stubs lack the overload of device and memory format together
        self.student: Any = student.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = _optimizer(student, recipe)
        self.step_number = 0

    def step(self, batch: StudentBatch) -> dict[str, Tensor]:
        """Train on one batch; return its losses as detached scalars on the device (reading one waits).

        Keys: contrastive, probe, probe_top1 and, unless attention is "none", kld and nss.
        """
        batch = batch.to(self.device)
        self.student.train()
        self.optimizer.zero_grad(set_to_none=True)
        # Deterministic convolutions, so that a resumed run ends as an uninterrupted one would.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            losses = self._learn_views(batch)
            if self.recipe.attention != "none":
                losses |= self._learn_attention(batch, self.recipe.attention)
        self._set_rates()
        self.optimizer.step()
        self.step_number += 1
        return {name: value.detach() for name, value in losses.items()}

    def _learn_views(self, batch: StudentBatch) -> dict[str, Tensor]:
        # cat keeps the memory layout, which stack would not
        views = torch.cat([self._colour(view, number) for number, view in enumerate(batch.views)])
        with self._autocast():
            losses = self.student.view_losses(
                views.unflatten(0, (2, -1)), batch.labels, self.recipe.temperature
            )
        (losses["contrastive"] + losses["probe"]).backward()
        return losses

    def _learn_attention(self, batch: StudentBatch, gradient: Gradient) -> dict[str, Tensor]:
        recipe = self.recipe
        whole = self._layout(batch.whole.float() / 255)
        with self._autocast():
            logits = self.student.attention_forward(whole, gradient)
        labels = (batch.density, batch.points, batch.points_mask, batch.labelled)
        loss = attention_loss(logits, *labels, recipe.lam, recipe.beta, recipe.reverse_kld)
        loss.total.backward()
        return {"kld": loss.kld, "nss": loss.nss}

    def _colour(self, view: Tensor, number: int) -> Tensor:
        """Augment view `number` by the random stream of that view and step."""
        words = np.random.SeedSequence((self.recipe.seed, number, self.step_number)).generate_state(2)
        generator = torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        return self._layout(self.recipe.colour(view, generator))

    def _layout(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.dtype == "bfloat16")

    def _set_rates(self) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.step_number, recipe.steps, recipe.warmup_steps, group["base_lr"]
            )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a resumed run needs: named contiguous tensors on the CPU, and a JSON object.

        Names are `student/<name>` and `optimizer/<parameter>/<key>`. Later steps do not change them.
        """
        tensors = {f"student/{name}": _frozen(value) for name, value in self.student.state_dict().items()}
        for name, parameter in self._trained().items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = _frozen(torch.as_tensor(value))
        return tensors, {"step": self.step_number, "seed": self.recipe.seed}

    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Continue from what `state` returned, bit for bit.

        Raises ValueError, with nothing changed, when the seed is another or a tensor is missing, unknown or
        of another shape.
        """
        if record["seed"] != self.recipe.seed:
            raise ValueError(
                f"checkpoint: expected one of seed {self.recipe.seed}, found seed {record['seed']}; nothing "
                "was restored; resume with the recipe that wrote it"
            )
        own = self.student.state_dict()
        self._expect_fitting(own, tensors)
        for name, value in own.items():
            value.copy_(tensors[f"student/{name}"])
        self._restore_optimizer(tensors)
        self.step_number = int(record["step"])

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        self.optimizer.state.clear()
        trained = self._trained()
        for path, value in tensors.items():
            if path.startswith("optimizer/"):
                _, name, key = path.split("/")
                # A moment takes its parameter's memory layout, which the fused kernels rely on.
                like = value if key == "step" else trained[name]
                moment = torch.empty_like(like, dtype=value.dtype, device=self.device, requires_grad=False)
                self.optimizer.state[trained[name]][key] = moment.copy_(value)

    def _expect_fitting(self, own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        expected = {f"student/{name}": tuple(value.shape) for name, value in own.items()}
        trained = self._trained()
        for path in tensors:
            head, _, rest = path.partition("/")
            name, _, key = rest.partition("/")
            if head == "optimizer" and name in trained:
                expected[path] = () if key == "step" else tuple(trained[name].shape)
        found = {path: tuple(value.shape) for path, value in tensors.items()}
        wrong = sorted(
            path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)
        )
        if wrong:
            raise ValueError(
                f"checkpoint: {len(wrong)} tensors do not fit the student, first {wrong[0]}: expected shape "
                f"{expected.get(wrong[0], 'none')}, found {found.get(wrong[0], 'none')}; nothing was "
                "restored; resume with the config that wrote it"
            )

    def _trained(self) -> dict[str, nn.Parameter]:
        return {
            name: parameter
            for group in self.optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }


def _optimizer(student: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    rates = Rates(
        recipe.learning_rate, recipe.probe_learning_rate, recipe.readout_learning_rate, recipe.weight_decay
    )
    groups = parameter_groups(student, rates)
    return Lars(groups) if recipe.optimizer == "lars" else torch.optim.AdamW(groups, fused=True)


def _frozen(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()

