"""The saliency teacher: a small SimpleNet, from an image to a density of where people look.

An encoder with the shape of ResNet-18 and a narrow decoder that climbs back through its five taps, both from a
random start, so that no class label leaks into the labels the teacher makes (Reddy et al., "Tidying deep saliency
prediction architectures", IROS 2020; Yao et al., CVPR 2023, who shrank it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.resnet import ResNet

STRIDE = 32  # of the deepest tap
BATCH = 16  # images in every forward pass of an inference


@dataclass(frozen=True)
class TeacherConfig:
    """The shape of a teacher.

    Attributes:
        size: side of its square input and output in pixels, a positive multiple of 32.
        width: channels of the first tap, a positive even number; 64 is ResNet-18's own.
    """

    size: int = 256
    width: int = 64

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % STRIDE:
            raise ValueError(
                f"teacher size: expected a positive multiple of {STRIDE}, found {self.size}; no network was built."
                f" Use {max(1, round(self.size / STRIDE)) * STRIDE}."
            )
        if self.width <= 0 or self.width % 2:
            raise ValueError(
                f"teacher width: expected a positive even number, found {self.width}; no network was built."
                " Use 64 for the full width, 32 for half of it."
            )


class Decoder(nn.Module):
    """From the deepest tap up: 3x3 convolution, ReLU, twice the size, join the next tap; one channel at the end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        steps = [(8 * w, 4 * w), (8 * w, 2 * w), (4 * w, w), (2 * w, w // 2), (w + w // 2, w // 2), (w // 2, w // 2)]
        self.steps = nn.ModuleList(nn.Conv2d(before, after, 3, 1, 1) for before, after in steps)
        self.out = nn.Conv2d(w // 2, 1, 3, 1, 1)

    def forward(self, taps: list[Tensor]) -> Tensor:
        x, *shallower = reversed(taps)
        *climbing, last = self.steps
        for step, tap in zip(climbing, [*shallower, None], strict=True):
            x = F.interpolate(F.relu(step(x)), scale_factor=2, mode="bilinear", align_corners=False)
            x = x if tap is None else torch.cat([x, tap], 1)
        return self.out(F.relu(last(x)))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew: Kaiming normal by fan-in, biases and the last layer at zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.out.weight)


class Teacher(nn.Module):
    """A network from images to logits whose spatial softmax is the density of fixations.

    Weights start at random (Kaiming), drawn from the seed; the last layer starts at zero, so that the first density
    is uniform.
    """

    def __init__(self, config: TeacherConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.encoder = ResNet("resnet18", config.width, stem="imagenet")
        self.decoder = Decoder(config.width)
        generator = torch.Generator().manual_seed(seed)
        self.encoder.initialise(generator, zero_last_gamma=True)
        self.decoder.initialise(generator)

    def forward(self, images: Tensor) -> Tensor:
        """Give logits for images.

        Args:
            images: uint8 [B, 3, S, S], RGB, the whole picture squashed to a square.

        Returns:
            float32 [B, S, S]; their softmax over all pixels is a density.

        Raises:
            ValueError: the images have another type or size.
        """
        self._check(images)
        x = images.float().div_(255).sub_(0.5).div_(0.5)
        return self.decoder(self.encoder.stages(x)).squeeze(1).float()

    @torch.inference_mode()
    def density(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Give the density of fixations, with the batch statistics frozen, whatever mode the teacher is in.

        Forward passes hold 16 images always, the last one filled up with black: the arithmetic, and so the last bit
        of a map, would otherwise depend on how many images came together.

        Args:
            images: uint8 [B, 3, S, S], RGB, the whole picture squashed to a square.
            dtype: the arithmetic of the convolutions: torch.float32 or torch.bfloat16.

        Returns:
            float32 [B, S, S], never negative, each map of sum 1.

        Raises:
            ValueError: the images have another type or size.
        """
        self._check(images)
        training = self.training
        self.eval()
        try:
            with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
                logits = [self(_filled(chunk))[: len(chunk)] for chunk in images.split(BATCH)]
        finally:
            self.train(training)
        return spatial_softmax(torch.cat(logits))

    def _check(self, images: Tensor) -> None:
        size = self.config.size
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"teacher input: expected uint8 [B, 3, {size}, {size}], found {images.dtype} {list(images.shape)};"
                " nothing was computed. Squash the images to the teacher's size first."
            )


def _filled(images: Tensor) -> Tensor:
    """Fill a batch up with black images, and fix its memory format."""
    padded = F.pad(images, (0, 0, 0, 0, 0, 0, 0, BATCH - len(images)))
    return padded.contiguous(memory_format=torch.channels_last)


def spatial_softmax(logits: Tensor) -> Tensor:
    """Turn logits [B, H, W] into densities [B, H, W], each of sum 1."""
    return logits.flatten(1).softmax(1).view_as(logits)


def label_map(density: Tensor) -> Tensor:
    """Turn densities into stored labels: density / maximum x 255, rounded to the nearest grey level.

    Args:
        density: float [..., H, W], never negative.

    Returns:
        uint8 of the same shape; the maximum of every map is 255. An all-zero map stays zero.
    """
    peak = density.amax((-2, -1), keepdim=True)
    scaled = density / torch.where(peak > 0, peak, torch.ones_like(peak))
    return (scaled * 255).round().to(torch.uint8)
