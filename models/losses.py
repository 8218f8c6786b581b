"""Losses of a guided student: contrastive, and attention against a teacher's labels.

Everything is computed in float32, also under autocast, and by deterministic kernels alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Floor of the variance of a density whose mean is scaled to 1: a flat map then has NSS 0 and a finite
# gradient, and a map with contrast 1 an NSS that is off by 5e-7.
_FLAT = 1e-6
# Floor of a label's density under the reverse divergence, which takes the logarithm of its zeros.
_EMPTY = 1e-8


class AttentionLoss(NamedTuple):
    """Float32 scalars: `total` = lam * `kld` - beta * `nss`, each a mean over the labelled images."""

    total: Tensor
    kld: Tensor
    nss: Tensor


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Return the normalised-temperature cross entropy of two batches of projections (Chen et al. 2020).

    `z1`, `z2` [N, D] are the two views of the same N images. Every one of the 2N vectors is an anchor: its
    other view is the positive, the 2N - 2 others are negatives. The result is the mean over the 2N anchors,
    half of what the authors' code returns.
    """
    with torch.autocast(z1.device.type, enabled=False):
        z = F.normalize(torch.cat([z1, z2]).float(), dim=1)
        similarity = (z @ z.T) / temperature
        similarity.fill_diagonal_(-torch.inf)
        anchors = torch.arange(len(z), device=z.device)
        return F.cross_entropy(similarity, anchors.roll(len(z1)))


def attention_loss(
    logits: Tensor,
    density: Tensor,
    points: Tensor,
    points_mask: Tensor,
    labelled: Tensor,
    lam: float,
    beta: float,
    reverse: bool = False,
) -> AttentionLoss:
    """Return lam * KLD - beta * NSS between predicted and labelled attention (Yao et al. 2023).

    With m_p the spatial softmax of `logits` [B, S, S] and m_t the label `density` [B, S, S] (sum 1),
    KLD = sum m_t log(m_t / m_p), or sum m_p log(m_p / m_t) with `reverse`. NSS is m_p standardised per image
    and averaged over `points` [B, P, 2] (int64 column and row; those with `points_mask` [B, P] false are
    padding); repeated points count as often as they occur, and an image without points contributes 0. Both
    are means over the images with `labelled` [B] true, and 0 when there is none.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_p = F.log_softmax(logits.float().flatten(1), dim=1)
        target = density.float().flatten(1)
        kld = _mean_over(labelled, _reverse_kld(target, log_p) if reverse else _kld(target, log_p))
        counts = point_counts(points, points_mask, logits.shape[-1])
        nss = _mean_over(labelled, _nss(log_p.exp(), counts.flatten(1)))
        return AttentionLoss(lam * kld - beta * nss, kld, nss)


def point_counts(points: Tensor, points_mask: Tensor, size: int) -> Tensor:
    """Return how many of `points` fall on each pixel, float32 [B, size, size].

    Counts are small integers, exact in any order of addition, so that the sum is deterministic on a GPU.
    """
    x, y = points.unbind(-1)
    pixel = torch.where(points_mask, y * size + x, 0)
    counts = torch.zeros(len(points), size * size, device=points.device)
    return counts.scatter_add_(1, pixel, points_mask.float()).view(-1, size, size)


def _kld(target: Tensor, log_p: Tensor) -> Tensor:
    return (torch.xlogy(target, target) - target * log_p).sum(1)


def _reverse_kld(target: Tensor, log_p: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - target.clamp_min(_EMPTY).log())).sum(1)


def _nss(p: Tensor, counts: Tensor) -> Tensor:
    scaled = p * p.shape[1] - 1                      # mean 0, in units of the uniform density
    deviation = (scaled.square().mean(1) + _FLAT).sqrt()
    return (scaled * counts).sum(1) / counts.sum(1).clamp_min(1) / deviation


def _mean_over(chosen: Tensor, values: Tensor) -> Tensor:
    # where, not a product: an unlabelled row may hold anything, NaN included
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp_min(1)
