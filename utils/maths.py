"""Probability arithmetic that every method shares.

All functions work in at least float32 and keep float64: half-precision logits are promoted, never the
reverse. Everything starts from log-probabilities, so that a class whose probability underflows to 0 costs no
NaN, neither in the value nor in the gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself, or its float32 copy if it is float16 or bfloat16."""
    return x.to(_promoted(x))


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities over dimension 1."""
    return F.log_softmax(logits, dim=1, dtype=_promoted(logits))


def softmax(logits: Tensor) -> Tensor:
    """Probabilities over dimension 1."""
    return F.softmax(logits, dim=1, dtype=_promoted(logits))


def entropy(log_probability: Tensor) -> Tensor:
    """Entropy over dimension 1 in nats, in [0, log C]; (N, C, ...) log-probabilities give (N, ...)."""
    return -(log_probability.exp() * log_probability).sum(1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over dimension 1 in nats, at least 0; (N, C, ...) log-probabilities give (N, ...).

    Differentiable in both arguments: where p underflows to 0, its term and its gradient are 0.
    """
    return (log_p.exp() * (log_p - log_q)).sum(1)


def upsample(x: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """Bilinear resize of (N, C, h, w) to `size` = (H, W), in the type of `x`; `x` itself if it fits."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def _promoted(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
