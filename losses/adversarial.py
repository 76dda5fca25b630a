"""Least-squares adversarial losses on multi-scale discriminators, with a gradient penalty on real samples.

A discriminator maps class probabilities (N, C, H, W) to one score map per scale; 1 means source, 0 means
target. All terms are plain means: with equally many images per rank, the mean over ranks is the value of the
global batch.

Source: the authors' released code of Zheng & Yang, IJCAI 2020, with the least-squares form of Mao et al.,
ICCV 2017 (the paper's Eq. 2 has the log loss), and a penalty in the manner of Mescheder et al., ICML 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from utils import maths

GENERATOR_FACTOR = 2  # per scale, in the authors' code


def generator_loss(outputs: Sequence[Tensor]) -> Tensor:
    """Sum over scales of 2 * mean((o - 1)^2): how far the score maps are from calling the target source."""
    return sum(GENERATOR_FACTOR * _squared_distance(output, 1) for output in outputs)


def discriminator_loss(
    discriminator: Callable[[Tensor], Sequence[Tensor]],
    fake: Tensor,
    real: Tensor,
    *,
    penalty_weight: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Sum over scales of mean(o(fake)^2) + mean((o(real) - 1)^2), plus the gradient penalty on `real`.

    Args:
        discriminator: maps (N, C, H, W) to a sequence of score maps. Must allow second derivatives.
        fake: target probabilities (N, C, H, W); receives no gradient.
        real: source probabilities (N, C, H, W); receives no gradient.
        penalty_weight: factor of the penalty, sum over scales of mean_n ||d sum(o(real)) / d real||^2, where
            the norm runs over all C * H * W entries of a sample.

    Returns:
        The loss, penalty included, and the weighted penalty. Autocast is off inside: second derivatives need
        float32.
    """
    with torch.autocast(device_type=real.device.type, enabled=False):
        fake = maths.at_least_float32(fake.detach())
        real = maths.at_least_float32(real.detach()).requires_grad_()
        fake_outputs, real_outputs = discriminator(fake), discriminator(real)
        penalty = penalty_weight * _gradient_penalty(real_outputs, real)
        loss = sum(
            _squared_distance(on_fake, 0) + _squared_distance(on_real, 1)
            for on_fake, on_real in zip(fake_outputs, real_outputs, strict=True)
        )
    return loss + penalty, penalty


def _gradient_penalty(outputs: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Sum over scales of the mean over samples of the squared norm of d sum(o) / d input; differentiable."""
    total = inputs.new_zeros(())
    for output in outputs:
        (gradient,) = torch.autograd.grad(output.sum(), inputs, create_graph=True)
        total = total + gradient.square().flatten(1).sum(1).mean()
    return total


def _squared_distance(output: Tensor, aim: float) -> Tensor:
    return (maths.at_least_float32(output) - aim).square().mean()
