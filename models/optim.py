"""Optimisers, their parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Role = Literal["decay", "plain", "probe", "readout"]


@dataclass(frozen=True)
class Rates:
    """Learning rates at the top of the schedule, and the weight decay of the decayed group."""

    backbone: float
    probe: float
    readout: float
    weight_decay: float


def learning_rate(step: int, total: int, warmup: int, base: float) -> float:
    """Return the rate of a step: linear warm-up to `base`, then a half cosine to 0.

    `step` counts from 0; step `warmup` is the first at `base`, and from step `total` on the rate is 0.
    """
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return base * 0.5 * (1 + math.cos(math.pi * progress))


def role(name: str, parameter: Tensor) -> Role:
    """Return the group that a student's parameter belongs to.

    The heads `readout` and `probe` have groups of their own; of the rest, biases and normalisation (one
    dimension) are plain, all else decays.
    """
    if name.startswith("readout."):
        return "readout"
    if name.startswith("probe."):
        return "probe"
    return "plain" if parameter.ndim <= 1 else "decay"


def parameter_groups(student: nn.Module, rates: Rates) -> list[dict[str, Any]]:
    """Return optimiser groups of the trainable parameters of `student`.

    Each holds `role`, `names`, `params`, `base_lr`, `lr`, `weight_decay` and `adapt` (LARS adaptation).
    Weight decay and adaptation touch the weights of backbone and projection alone: no normalisation, bias,
    probe or readout. A role without parameters has no group.
    """
    base = {"decay": rates.backbone, "plain": rates.backbone, "probe": rates.probe, "readout": rates.readout}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = role(name, parameter)
        group = groups.setdefault(kind, _group(kind, base[kind], rates.weight_decay))
        group["names"].append(name)
        group["params"].append(parameter)
    return list(groups.values())


def _group(kind: Role, rate: float, weight_decay: float) -> dict[str, Any]:
    decays = kind == "decay"
    return {
        "role": kind,
        "names": [],
        "params": [],
        "lr": rate,
        "base_lr": rate,
        "weight_decay": weight_decay if decays else 0.0,
        "adapt": decays,
    }


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017) as SimCLR uses it.

    g <- grad + weight_decay * w; in groups with `adapt`, g <- g * trust * |w| / |g|, unscaled when either
    norm is 0; v <- momentum * v + lr * g; w <- w - v. The rate stands inside the momentum buffer, so that a
    change of the rate does not rescale past steps. Nothing waits for the device.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float = 0.0, momentum: float = 0.9, trust: float = 0.001
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0, "adapt": True}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        if group["weight_decay"]:
            grad = grad.add(weight, alpha=group["weight_decay"])
        if group["adapt"]:
            grad = grad * _trust_ratio(weight, grad, group["trust"])
        state["momentum"].mul_(group["momentum"]).add_(grad, alpha=group["lr"])
        weight.sub_(state["momentum"])


def _trust_ratio(weight: Tensor, grad: Tensor, trust: float) -> Tensor:
    w, g = weight.norm(), grad.norm()
    return torch.where((w > 0) & (g > 0), trust * w / g, 1.0)
