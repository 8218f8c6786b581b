"""SimCLR (Chen et al. 2020) with the attention branch of Yao et al. (2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Gradient, MaxChannelReadout, spatial_softmax
from models.batchnorm import set_view
from models.losses import nt_xent
from models.resnet import Arch, ResNet, Stem


@dataclass(frozen=True)
class SimclrConfig:
    """Shape of a SimCLR student; the defaults are the published ResNet-50 at 224 pixels.

    `size` is the side of the square input in pixels. `hidden_dim` (hidden width of the projection head) is
    the backbone's feature dimension when None. `zero_init` starts every residual branch at zero.
    """

    arch: Arch = "resnet50"
    width: int = 64
    stem: Stem = "imagenet"
    size: int = 224
    classes: int = 1000
    projection_layers: int = 2
    projection_dim: int = 128
    hidden_dim: int | None = None
    zero_init: bool = True

    def __post_init__(self) -> None:
        if self.projection_layers not in (2, 3):
            raise ValueError(f"projection_layers: expected 2 or 3, found {self.projection_layers}")


class Contrast(NamedTuple):
    """Projections `z1`, `z2` [B, D] of two views and backbone `features` [2B, F], view after view."""

    z1: Tensor
    z2: Tensor
    features: Tensor


class Student(nn.Module):
    """Backbone, projection head, linear probe and attention readout.

    The same `config` and `seed` give the same weights, whatever the global random state. Pixels are in
    [0, 1], without further normalisation. The probe sees the two augmented views alone, behind a
    stop-gradient. In evaluation, `use_statistics` chooses the running statistics.
    """

    Config = SimclrConfig

    def __init__(self, config: SimclrConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.arch, config.width, config.stem)
        self.projection = _projection(config, self.backbone.features)
        self.probe = nn.Linear(self.backbone.features, config.classes)
        self.readout = MaxChannelReadout()
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        self.backbone.initialise(generator, self.config.zero_init)
        for layer in self.projection:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
        nn.init.normal_(self.probe.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.probe.bias)

    def contrastive_forward(self, views: Tensor) -> Contrast:
        """Embed two augmented views, `views` float [2, B, 3, S, S] in [0, 1], as one batch of 2B."""
        set_view(self, "contrastive")
        features = self.backbone(views.flatten(0, 1))
        z1, z2 = self.projection(features).chunk(2)
        return Contrast(z1, z2, features)

    def attention_forward(self, whole: Tensor, gradient: Gradient) -> Tensor:
        """Return readout logits [B, S, S], float32, for whole images float [B, 3, S, S] in [0, 1].

        With `gradient` "backbone" the loss trains readout and backbone; with "readout" the backbone runs
        without gradients and the readout alone is trained. In training mode the batch has statistics of its
        own, which only the running set over all views follows.
        """
        set_view(self, "whole")
        with torch.set_grad_enabled(gradient == "backbone" and torch.is_grad_enabled()):
            taps = self.backbone.stages(whole)[2:]
        return self.readout(taps, whole.shape[-1])

    def view_losses(self, views: Tensor, labels: Tensor, temperature: float) -> dict[str, Tensor]:
        """Return the losses of two augmented views: `contrastive`, and `probe` with its `probe_top1`.

        `labels` int64 [B] are classes, -1 for none: such images are left out of the probe's mean.
        """
        z1, z2, features = self.contrastive_forward(views)
        logits = self.probe(features.detach()).float()
        both = labels.repeat(2)
        known = (both >= 0).sum().clamp_min(1)
        return {
            "contrastive": nt_xent(z1, z2, temperature),
            "probe": F.cross_entropy(logits, both, ignore_index=-1, reduction="sum") / known,
            "probe_top1": (logits.argmax(1) == both).sum() / known,
        }

    @torch.no_grad()
    def probe_logits(self, images: Tensor) -> Tensor:
        """Return class logits [B, classes], float32, for `images` uint8 [B, 3, S, S].

        Raises RuntimeError in training mode, where a prediction would change the running statistics.
        """
        return self.probe(self.backbone(self._pixels(images))).float()

    @torch.no_grad()
    def predict_density(self, images: Tensor) -> Tensor:
        """Return where the student attends, float32 [B, S, S] with sum 1, for `images` uint8 [B, 3, S, S].

        Raises RuntimeError in training mode, where a prediction would change the running statistics.
        """
        return spatial_softmax(self.readout(self.taps(images), images.shape[-1]))

    @torch.no_grad()
    def taps(self, images: Tensor) -> list[Tensor]:
        """Return the frozen taps [B, C, s, s] that a readout is refitted on, for uint8 [B, 3, S, S]."""
        return self.backbone.stages(self._pixels(images))[2:]

    def _pixels(self, images: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("the student is in training mode: nothing was predicted; call eval() first")
        return images.float() / 255


def _projection(config: SimclrConfig, features: int) -> nn.Sequential:
    """Linear layers, each batch-normalised; the last has neither ReLU nor offset, as in the authors' code."""
    hidden = config.hidden_dim or features
    widths = [features] + [hidden] * (config.projection_layers - 1)
    layers: list[nn.Module] = []
    for inputs in widths[:-1]:
        layers += [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    last = nn.BatchNorm1d(config.projection_dim)
    last.bias.requires_grad_(False)
    return nn.Sequential(*layers, nn.Linear(widths[-1], config.projection_dim, bias=False), last)
