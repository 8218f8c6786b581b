"""Batch normalisation that keeps two sets of running statistics.

A guided student sees two augmented views and, in a forward of its own, the whole un-augmented image.
Accuracy can only be compared between runs under the same statistics, so both are kept: one set over the
augmented views alone, one over all three views.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

View = Literal["contrastive", "whole"]
Statistics = Literal["contrastive", "all"]


class BatchNorm2d(nn.BatchNorm2d):
    """2-d batch normalisation with a set of running statistics per use.

    `running_mean`, `running_var` follow the augmented ("contrastive") views alone; `running_mean_all`,
    `running_var_all` follow every forward in training. A forward in training always normalises by its own
    batch; in evaluation by the set that `use_statistics` chose. Parameters and buffers are named as in
    torch, so that a torch state dict loads with only the two `_all` buffers missing
    (`num_batches_tracked` is kept for that alone and never counts).
    """

    running_mean: Tensor
    running_var: Tensor
    running_mean_all: Tensor
    running_var_all: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("running_mean_all", torch.zeros(channels))
        self.register_buffer("running_var_all", torch.ones(channels))
        self.view: View = "contrastive"
        self.statistics: Statistics = "contrastive"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [B, C, H, W]; the result has its shape and dtype."""
        if not self.training:
            mean, var = self._evaluation_set()
            return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)
        # With momentum 1 the call leaves this batch's mean and unbiased variance behind, in one pass.
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = F.batch_norm(x, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        self._follow(mean, var)
        return y

    def _evaluation_set(self) -> tuple[Tensor, Tensor]:
        if self.statistics == "all":
            return self.running_mean_all, self.running_var_all
        return self.running_mean, self.running_var

    def _follow(self, mean: Tensor, var: Tensor) -> None:
        momentum = self.momentum if self.momentum is not None else 0.1
        self.running_mean_all.lerp_(mean, momentum)
        self.running_var_all.lerp_(var, momentum)
        if self.view == "contrastive":
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var, momentum)


def set_view(model: nn.Module, view: View) -> None:
    """Say which view the next training forwards of `model` carry: it decides which statistics follow them.

    Raises ValueError for an unknown view.
    """
    _check("view", view, get_args(View))
    for layer in _layers(model):
        layer.view = view


def use_statistics(model: nn.Module, statistics: Statistics) -> None:
    """Choose the running statistics that `model` evaluates with.

    Raises ValueError for an unknown set.
    """
    _check("statistics", statistics, get_args(Statistics))
    for layer in _layers(model):
        layer.statistics = statistics


def _layers(model: nn.Module) -> list[BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, BatchNorm2d)]


def _check(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}: expected one of {', '.join(known)}; nothing was changed")
