"""Readouts: from a student's feature maps to a map of where it attends.

The max-channel readout (Yao et al. 2023) is part of the student. The common readout is fitted after
training on frozen features and asks what the features hold, whatever the student's own readout made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gradient = Literal["backbone", "readout"]
_CHUNK = 512  # images per pass of a fit: bounds memory, and changes nothing but rounding


class LinearReadout(NamedTuple):
    """What `refit_readout` found: `weights` [3] and `bias` [], float32, and the `kld` reached (nats)."""

    weights: Tensor
    bias: Tensor
    kld: float


class MaxChannelReadout(nn.Module):
    """One map of each of three taps, resized, and a 1x1 convolution 3 -> 1.

    The three weights start equal and positive, so that attention starts where features are strong. The bias
    belongs to the published linear layer; it cancels in the spatial softmax.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 1 / 3))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, taps: Sequence[Tensor], size: int) -> Tensor:
        """Return logits [B, size, size], float32, for three taps [B, C, s, s]."""
        return apply_readout(readout_maps(taps, size), self.weight, self.bias)


def apply_readout(maps: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Return logits [B, S, S] = bias + sum over k of weights[k] * maps[:, k], for `maps` [B, 3, S, S]."""
    first, second, third = maps.unbind(1)
    return first * weights[0] + second * weights[1] + third * weights[2] + bias


def readout_maps(taps: Sequence[Tensor], size: int) -> Tensor:
    """Return the chosen map of every tap, resized to the input's size: [B, len(taps), size, size], float32.

    The gradient reaches the chosen channels alone; detach the taps to stop it.
    """
    chosen = [tap[torch.arange(len(tap), device=tap.device), chosen_channels(tap)] for tap in taps]
    return torch.stack([resize_bilinear(maps, size) for maps in chosen], dim=1)


def chosen_channels(tap: Tensor) -> Tensor:
    """Return per sample the channel of `tap` [B, C, s, s] with the largest spatial mean, int64 [B].

    Of equal ones the lowest index wins. Means are taken in float32; nothing is differentiated.
    """
    return tap.detach().mean((2, 3), dtype=torch.float32).argmax(1)


def resize_bilinear(maps: Tensor, size: int) -> Tensor:
    """Resize square maps [..., s, s] bilinearly (corners not aligned, not antialiased); float32.

    Equals torch's `interpolate`, written as R @ maps @ R.T: its backward is then deterministic on a GPU.
    """
    with torch.autocast(maps.device.type, enabled=False):
        matrix = _resize_matrix(maps.shape[-1], size, maps.device)
        return matrix @ maps.float() @ matrix.T


def spatial_softmax(logits: Tensor) -> Tensor:
    """Turn logits [B, S, S] into densities that sum to 1 over each image, float32."""
    return logits.float().flatten(1).softmax(1).view_as(logits)


def refit_readout(maps: Tensor, targets: Tensor, iterations: int = 200) -> LinearReadout:
    """Fit the three weights of the max-channel readout on frozen maps, to convergence.

    `maps` [N, 3, S, S] come from `readout_maps`, `targets` [N, S, S] are label densities (sum 1). Minimises
    the mean KLD (target first), a convex function, by L-BFGS from zero: the same input gives the same
    weights. The bias cannot be identified and is 0.
    """
    _expect_densities(targets, len(maps))
    scale = _scale(maps.float().std((0, 2, 3)))
    chunks = range(0, len(maps), _CHUNK)

    def losses(theta: Tensor) -> Iterable[Tensor]:
        for start in chunks:
            part = slice(start, start + _CHUNK)
            logits = apply_readout(maps[part].float(), theta.float() / scale, theta.new_zeros(()).float())
            yield _kld_sum(logits, targets[part]) / len(maps)

    theta, kld = _minimise(losses, maps.shape[1], maps.device, iterations)
    return LinearReadout(theta.float() / scale, torch.zeros((), device=maps.device), kld)


class CommonReadout(nn.Module):
    """A 1x1 convolution over all channels of the taps, each resized and summed, with one bias.

    `channels` are those of the taps; `fit` sets the weights, which no other training touches.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        self.register_buffer("weight", torch.zeros(sum(channels)))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, taps: Sequence[Tensor], size: int) -> Tensor:
        """Return logits [B, size, size], float32, for taps [B, C_k, s_k, s_k]."""
        return self._logits(taps, self.weight, size) + self.bias

    def _logits(self, taps: Sequence[Tensor], weight: Tensor, size: int) -> Tensor:
        # Both operations are linear: weighting first costs one resize per tap instead of one per channel.
        parts = zip(taps, weight.split(self.channels), strict=True)
        mixed = (torch.einsum("bchw,c->bhw", tap.float(), w) for tap, w in parts)
        return torch.stack([resize_bilinear(maps, size) for maps in mixed]).sum(0)

    def fit(self, chunks: Sequence[tuple[Sequence[Tensor], Tensor]], iterations: int = 200) -> float:
        """Fit on frozen features, to convergence; return the mean KLD reached (nats).

        Each of `chunks` is (taps, targets [b, S, S] with sum 1); all are read at every iteration. Minimises
        the mean KLD, a convex function, by L-BFGS from zero. The bias cancels in the softmax and stays 0.
        """
        images = sum(len(targets) for _, targets in chunks)
        scale = self._channel_scale(chunks)

        def losses(theta: Tensor) -> Iterable[Tensor]:
            for taps, targets in chunks:
                _expect_densities(targets, len(taps[0]))
                logits = self._logits(taps, theta.float() / scale, targets.shape[-1])
                yield _kld_sum(logits, targets) / images

        theta, kld = _minimise(losses, len(self.weight), self.weight.device, iterations)
        self.weight.copy_(theta.float() / scale)
        return kld

    def _channel_scale(self, chunks: Sequence[tuple[Sequence[Tensor], Tensor]]) -> Tensor:
        squares = [
            torch.cat([tap.float().square().mean((2, 3)) for tap in taps], dim=1).sum(0) for taps, _ in chunks
        ]
        images = sum(len(targets) for _, targets in chunks)
        return _scale((torch.stack(squares).sum(0) / images).sqrt())


def _resize_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """Return R [target, source]: the resized unit vectors are its columns."""
    unit = torch.eye(source, device=device)[None, :, :, None]
    resized = F.interpolate(unit, size=(target, 1), mode="bilinear", align_corners=False)
    return resized[0, :, :, 0].T


def _kld_sum(logits: Tensor, targets: Tensor) -> Tensor:
    log_p = F.log_softmax(logits.flatten(1), dim=1)
    target = targets.to(log_p).flatten(1)
    return (torch.xlogy(target, target) - target * log_p).sum(dtype=torch.float64)


def _minimise(
    losses: Callable[[Tensor], Iterable[Tensor]], count: int, device: torch.device, iterations: int
) -> tuple[Tensor, float]:
    """Minimise the sum of `losses(theta)` over `theta` [count] (float64) by L-BFGS from zero."""
    theta = torch.zeros(count, dtype=torch.float64, device=device, requires_grad=True)
    search = torch.optim.LBFGS(
        [theta], max_iter=iterations, history_size=20, tolerance_grad=1e-6, tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        search.zero_grad()
        total = 0.0
        for loss in losses(theta):
            loss.backward()
            total += loss.item()
        return total

    with torch.enable_grad():
        search.step(closure)
    with torch.no_grad():
        return theta.detach(), sum(loss.item() for loss in losses(theta))


def _scale(spread: Tensor) -> Tensor:
    """Divisors that bring features to a common scale; 1 for a dead one, whose weight then stays 0."""
    return torch.where(spread > 0, spread, 1.0)


def _expect_densities(targets: Tensor, images: int) -> None:
    if targets.ndim != 3 or len(targets) != images:
        raise ValueError(
            f"targets: expected {images} densities [N, S, S], found shape {tuple(targets.shape)}; "
            "nothing was fitted"
        )
