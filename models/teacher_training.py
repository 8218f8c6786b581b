"""Training of the teacher: one step, one score, and a state from which a killed run goes on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.metrics import correlation
from models.teacher import Teacher, TeacherConfig

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for a parameter
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TeacherBatch:
    """Pictures and where people looked in them.

    Attributes:
        image: uint8 [B, 3, S, S], RGB, squashed to a square.
        density: float32 [B, S, S], each map of sum 1.
    """

    image: Tensor
    density: Tensor


@dataclass(frozen=True)
class TeacherRecipe:
    """How a teacher is trained: AdamW, linear warm-up, cosine to zero, an average of the weights over time.

    Attributes:
        steps: steps of the whole training.
        learning_rate: its peak.
        weight_decay: on matrices and kernels alone, never on biases and batch normalisation.
        warmup: share of the steps with a rising learning rate.
        average: decay of the exponential average of the weights; 0 switches it off.
        dtype: arithmetic of the convolutions, "float32" or "bfloat16".
        channels_last: memory format of pictures and weights.
        seed: of the random start.
    """

    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    average: float = 0.99
    dtype: str = "bfloat16"
    channels_last: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"teacher dtype: expected one of {sorted(DTYPES)}, found {self.dtype!r}; no training was begun."
            )

    def rate(self, step: int) -> float:
        """Give the learning rate of a step, counted from 0."""
        rising = math.ceil(self.warmup * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class TeacherTrainer:
    """A teacher in training, on one device.

    Nothing in a step draws random numbers; the seed enters through the random start alone, so the whole state is
    weights, optimiser moments and the number of steps done.
    """

    def __init__(self, config: TeacherConfig, recipe: TeacherRecipe, device: str = "cpu") -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        self.format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.teacher = self._place(Teacher(config, recipe.seed))
        self.averaged = self._place(Teacher(config, recipe.seed))
        self.best: dict[str, Tensor] = {}
        self.best_score = -math.inf
        self.steps_done = 0
        self.optimizer = torch.optim.AdamW(_groups(self.teacher, recipe.weight_decay), lr=recipe.learning_rate)

    def step(self, batch: TeacherBatch) -> float:
        """Learn from one batch; give its loss, the mean Kullback-Leibler divergence of the targets from the output.

        Raises:
            FloatingPointError: the loss is not finite; the weights are left as they were.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.steps_done)
        self.teacher.train()
        dtype = DTYPES[self.recipe.dtype]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            logits = self.teacher(self._images(batch))
        loss = divergence(batch.density.to(self.device), logits)
        value = loss.item()
        self._check(value)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.steps_done += 1
        self._average()
        return value

    def evaluate(self, batches: Iterable[TeacherBatch]) -> float:
        """Give the mean correlation (CC) of the averaged teacher's densities with the batches' own.

        Images that nobody looked at, whose maps are uniform, are left out.

        Raises:
            ValueError: no image is left.
        """
        scores: list[NDArray[np.float64]] = []
        for batch in batches:
            predicted = self.averaged.density(self._images(batch), DTYPES[self.recipe.dtype])
            scores.append(correlation(predicted.cpu().numpy(), batch.density.cpu().numpy()))
        known = [score for batch_scores in scores for score in batch_scores if not math.isnan(score)]
        if not known:
            raise ValueError(
                "teacher validation: expected at least one image with fixations, found none; there is no score. Hold"
                " more images out, or leave the validation away."
            )
        return float(np.mean(known))

    def keep_if_best(self, score: float) -> bool:
        """Remember the averaged weights if the score beats every earlier one: early stopping without stopping."""
        if not score > self.best_score:
            return False
        self.best_score = score
        self.best = {name: _plain(value) for name, value in self.averaged.state_dict().items()}
        return True

    def result(self) -> dict[str, Tensor]:
        """Give the weights to publish: those of the best score, or the averaged ones where none was kept."""
        return {name: _plain(value) for name, value in (self.best or self.averaged.state_dict()).items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give all that a resumed run needs: tensors by flat name, and a value that JSON can hold."""
        named = {"teacher": self.teacher.state_dict(), "averaged": self.averaged.state_dict(), "best": self.best}
        tensors = {f"{part}.{name}": value for part, values in named.items() for name, value in values.items()}
        for name, parameter in self.teacher.named_parameters():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{moment}.{name}"] = value
        best = self.best_score if self.best else None
        meta = {"steps": self.steps_done, "best_score": best}
        return {name: _plain(value) for name, value in tensors.items()}, meta

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go back to a state that `state` gave, under the same config and recipe.

        Raises:
            RuntimeError: a tensor is missing, unknown or of another shape.
        """
        self.teacher.load_state_dict(_part(tensors, "teacher."))
        self.averaged.load_state_dict(_part(tensors, "averaged."))
        self.best = {name: value.to(self.device) for name, value in _part(tensors, "best.").items()}
        self.best_score = -math.inf if meta["best_score"] is None else float(meta["best_score"])
        self.steps_done = int(meta["steps"])
        self.optimizer.state.clear()
        for name, parameter in self.teacher.named_parameters():
            kept = {moment: tensors.get(f"optimizer.{moment}.{name}") for moment in MOMENTS}
            self.optimizer.state[parameter] = {m: _like(v, parameter, m) for m, v in kept.items() if v is not None}

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the present ones, faster at the start; batch statistics are copied."""
        decay = min(self.recipe.average, self.steps_done / (self.steps_done + 10)) if self.recipe.average else 0.0
        for old, new in zip(self.averaged.parameters(), self.teacher.parameters(), strict=True):
            old.lerp_(new, 1 - decay)
        for kept, fresh in zip(self.averaged.buffers(), self.teacher.buffers(), strict=True):
            kept.copy_(fresh)

    def _images(self, batch: TeacherBatch) -> Tensor:
        return batch.image.to(self.device, memory_format=self.format)

    def _place(self, teacher: Teacher) -> Teacher:
        return teacher.to(self.device).to(memory_format=self.format)

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"teacher loss: expected a finite number at step {self.steps_done}, found {loss}; the step was not"
                " taken. Lower the learning rate, or look for maps that do not sum to 1."
            )


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Give the mean over the batch of sum(t log(t / p)), p the spatial softmax of the logits; in float32, nats.

    Args:
        target: float32 [B, H, W], each map of sum 1; pixels of 0 contribute nothing.
        logits: float [B, H, W].
    """
    log_p = logits.float().flatten(1).log_softmax(1)
    t = target.flatten(1)
    return (torch.special.xlogy(t, t) - t * log_p).sum(1).mean()


def _groups(teacher: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = list(teacher.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _plain(value: Tensor) -> Tensor:
    """Copy a tensor into the plain memory format that checkpoint files hold."""
    return value.detach().clone(memory_format=torch.contiguous_format)


def _like(value: Tensor, parameter: Tensor, moment: str) -> Tensor:
    """Put a moment where AdamW keeps it: the step count on the CPU, the rest beside its parameter."""
    if moment == "step":
        return value.clone()
    return torch.empty_like(parameter).copy_(value)
