"""SimCLR's augmentation (Chen et al. 2020) in two halves.

Geometry (crop, flip, squash) runs per image on uint8 in numpy, where images are decoded. Colour and blur
run per batch on the training device. Every draw comes from a generator that the caller hands in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]

_GREY = torch.tensor([0.299, 0.587, 0.114])
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ.double()).float()


def contrastive_view(
    image: Image,
    rng: np.random.Generator,
    size: int,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image:
    """Return a random resized crop of `image`, mirrored in half of the cases: uint8 [size, size, 3]."""
    crop = random_resized_crop(image, rng, size, area, aspect)
    return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop


def random_resized_crop(
    image: Image,
    rng: np.random.Generator,
    size: int,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image:
    """Cut a random box out of `image` (uint8 [H, W, 3]) and resize it to [size, size, 3].

    The box's share of the image is uniform in `area`, its width / height log-uniform in `aspect`.
    """
    top, left, height, width = crop_box(image.shape[0], image.shape[1], rng, area, aspect)
    return squash(image[top : top + height, left : left + width], size)


def crop_box(
    height: int, width: int, rng: np.random.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw a box (top, left, height, width) in pixels that lies inside an image of height x width.

    Ten draws are tried; an image too narrow for all of them gives its central box of the nearest aspect.
    """
    shares = rng.uniform(*area, size=10)
    ratios = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), size=10))
    widths = np.rint(np.sqrt(shares * ratios * height * width)).astype(int)
    heights = np.rint(np.sqrt(shares / ratios * height * width)).astype(int)
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    if fits.any():
        first = int(fits.argmax())
        h, w = int(heights[first]), int(widths[first])
        return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = max(1, min(width, round(height * aspect[1])))
    h = max(1, min(height, round(width / aspect[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def squash(image: Image, size: int) -> Image:
    """Resize `image` (uint8 [H, W, 3]) to [size, size, 3], whatever its aspect.

    Bilinear when it grows, the mean over each pixel's area (so without aliasing) when it shrinks.
    """
    height, width = image.shape[:2]
    method = cv2.INTER_AREA if height * width > size * size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), dtype=np.uint8)


@dataclass(frozen=True)
class ColourAugment:
    """Colour jitter, grey and blur, each image by its own draw; the defaults are SimCLR's.

    `brightness`, `contrast` and `saturation` s multiply by U(max(0, 1 - s), 1 + s); `hue` h turns the
    chroma plane (YIQ) by U(-h, h) full turns. The four come in random order, to a share `jitter_p` of the
    images; being affine in colour they are composed and clamped once. Then `gray_p` become grey, and
    `blur_p` are blurred by a Gaussian of sigma U(`sigma`) pixels cut at a twentieth of the side. Contrast is
    taken about the image's mean grey; at the border the blur is renormalised.
    """

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __call__(self, views: Tensor, generator: torch.Generator) -> Tensor:
        """Return float32 [N, 3, S, S] in [0, 1], channels last, for uint8 `views` [N, 3, S, S].

        Draws are made on the CPU by `generator`, whatever the device, and nothing waits for the device.
        """
        draws = torch.rand(len(views), 12, generator=generator)
        pixels = views.permute(0, 2, 3, 1).flatten(1, 2).float()
        matrix = self._colour(draws.to(views.device, non_blocking=True), pixels.mean(1) / 255)
        matrix[:, :, :3] /= 255
        flat = torch.baddbmm(matrix[:, None, :, 3], pixels, matrix[:, :, :3].transpose(1, 2))
        images = flat.clamp_(0, 1).view(len(views), *views.shape[2:], 3)
        return self._blur(images, draws[:, 10], draws[:, 11]).permute(0, 3, 1, 2)

    def _colour(self, draws: Tensor, mean: Tensor) -> Tensor:
        """Compose each image's colour transform: [N, 3, 4] for columns (r, g, b, 1) in [0, 1].

        `draws` [N, 12] are uniform in [0, 1), `mean` [N, 3] the images' mean colours.
        """
        linear, offset = self._operations(draws[:, 4:8])
        rows = torch.arange(len(draws), device=draws.device)
        grey = _GREY.to(draws.device)
        eye = torch.eye(3, device=draws.device).expand(len(draws), 3, 3)
        matrix, bias = eye, torch.zeros_like(mean)
        for operation in draws[:, :4].argsort(1).unbind(1):
            step = linear[rows, operation]
            level = ((matrix @ mean[..., None])[..., 0] + bias) @ grey
            bias = (step @ bias[..., None])[..., 0] + (offset[rows, operation] * level)[:, None]
            matrix = step @ matrix
        affine = torch.cat([matrix, bias[..., None]], dim=2)
        same = torch.cat([eye, torch.zeros_like(mean)[..., None]], dim=2)
        affine = torch.where((draws[:, 8] < self.jitter_p)[:, None, None], affine, same)
        desaturated = (grey @ affine)[:, None].expand_as(affine)
        return torch.where((draws[:, 9] < self.gray_p)[:, None, None], desaturated, affine)

    def _operations(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return per image brightness, contrast, saturation and hue as linear maps [N, 4, 3, 3].

        The second result [N, 4] is the share of the mean grey level that each adds to every channel.
        """
        spread = torch.tensor([self.brightness, self.contrast, self.saturation], device=draws.device)
        low = (1 - spread).clamp_min(0)
        factors = low + (1 + spread - low) * draws[:, :3]
        eye = torch.eye(3, device=draws.device)
        scaled = factors[:, :, None, None] * eye
        to_grey = _GREY.to(draws.device).expand(3, 3)
        saturation = scaled[:, 2] + (1 - factors[:, 2])[:, None, None] * to_grey
        hue = _hue_rotation((2 * draws[:, 3] - 1) * self.hue)
        offset = torch.zeros(len(draws), 4, device=draws.device)
        offset[:, 1] = 1 - factors[:, 1]
        return torch.stack([scaled[:, 0], scaled[:, 1], saturation, hue], dim=1), offset

    def _blur(self, images: Tensor, chance: Tensor, spread: Tensor) -> Tensor:
        """Blur the chosen of `images` [N, S, S, 3] in place, along columns and then along rows."""
        chosen = (chance < self.blur_p).nonzero()[:, 0]
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * spread[chosen]
        rows = chosen.to(images.device, non_blocking=True)
        kernel = _blur_matrix(sigma.to(images.device, non_blocking=True), images.shape[1])
        for _ in range(2):
            blurred = torch.bmm(kernel, images[rows].flatten(2)).view(len(chosen), *images.shape[1:])
            images[rows] = blurred
            images = images.transpose(1, 2)
        return images


def _hue_rotation(turns: Tensor) -> Tensor:
    """Return the RGB maps [N, 3, 3] that turn the chroma plane of YIQ by `turns` [N]."""
    angle = 2 * math.pi * turns
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    return _FROM_YIQ.to(turns.device) @ turn @ _TO_YIQ.to(turns.device)


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Return G [n, size, size]: G @ column blurs it by a Gaussian cut at size // 20 pixels (at least one)."""
    place = torch.arange(size, device=sigma.device)
    distance = (place[:, None] - place).abs()
    weights = torch.exp(-0.5 * (distance / sigma[:, None, None]).square())
    weights = weights * (distance <= max(1, size // 20))
    return weights / weights.sum(2, keepdim=True)
