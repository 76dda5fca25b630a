"""Rectified losses of the two heads, and the variance between them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from losses.rectified import rectified_losses
from tests.unit.losses.plain_losses import kl_variance, pixel_loss, rectified_cross_entropy


def _case(
    n: int = 2, num_classes: int = 4, size: tuple[int, int] = (3, 5)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Float64 logits of two heads, uint8 labels with some ignored, class weights."""
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, n, num_classes, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes, (n, *size), generator=generator).to(torch.uint8)
    labels[:, 0] = 255
    weight = 0.5 + 3 * torch.rand(num_classes, generator=generator, dtype=torch.float64)
    return first.clone().requires_grad_(), second.clone().requires_grad_(), labels, weight


def _logits(*probability: float) -> Tensor:
    return torch.tensor(probability, dtype=torch.float64).log().view(1, -1, 1, 1)


def test_losses_worked_by_hand() -> None:
    main, auxiliary, label = _logits(0.5, 0.5), _logits(0.25, 0.75), torch.tensor([[[1]]])
    losses = rectified_losses(auxiliary, main, label, torch.tensor([1.0, 4.0]))
    main_variance = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)  # KL(auxiliary || main)
    assert losses[1].item() == pytest.approx(4 * math.log(2) * math.exp(-main_variance) + main_variance)
    variance = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)  # KL(main || auxiliary)
    assert losses[0].item() == pytest.approx(4 * math.log(4 / 3) * math.exp(-variance) + variance)


def test_ignored_pixels_count_in_the_mean_and_still_pull_the_heads_together() -> None:
    first, second, labels, weight = _case()
    losses = rectified_losses(first, second, torch.full_like(labels, 255), weight)
    for loss, heads in zip(losses, ((first, second), (second, first)), strict=True):
        torch.testing.assert_close(loss, kl_variance(*heads).mean())
        gradients = torch.autograd.grad(loss, heads, retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_class_weights_are_not_normalised() -> None:
    first, second, labels, weight = _case()
    single = rectified_losses(first, second, labels, weight)[0]
    double = rectified_losses(first, second, labels, 2 * weight)[0]
    variance = kl_variance(first, second).mean()
    torch.testing.assert_close(double - variance, 2 * (single - variance))


def test_both_heads_at_once_equal_the_plain_form_of_each() -> None:
    auxiliary, main, labels, weight = _case()
    both = rectified_losses(auxiliary, main, labels, weight)
    single = (
        rectified_cross_entropy(auxiliary, main, labels, weight),
        rectified_cross_entropy(main, auxiliary, labels, weight),
    )
    for one, other in zip(both, single, strict=True):
        torch.testing.assert_close(one, other)
        actual = torch.autograd.grad(one, (auxiliary, main), retain_graph=True)
        expected = torch.autograd.grad(other, (auxiliary, main), retain_graph=True)
        torch.testing.assert_close(actual, expected)


def test_gradients_flow_through_both_heads_and_are_right() -> None:
    first, second, labels, weight = _case(1, 3, (2, 2))

    def losses(auxiliary: Tensor, main: Tensor) -> tuple[Tensor, ...]:
        return rectified_losses(auxiliary, main, labels, weight)

    assert torch.autograd.gradcheck(losses, (first, second))


def test_probabilities_that_underflow_cost_no_nan() -> None:
    certain = torch.tensor([200.0, -200.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
    opposite = (-certain).detach().requires_grad_()
    for loss in rectified_losses(certain, opposite, torch.tensor([[[0]]])):
        gradients = torch.autograd.grad(loss, (certain, opposite), retain_graph=True)
        assert torch.isfinite(loss)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_agreeing_heads_give_the_plain_mean_over_all_pixels() -> None:
    first, _, labels, _ = _case()
    for loss in rectified_losses(first, first + 3, labels):
        torch.testing.assert_close(loss, pixel_loss(first, labels).mean())


def test_two_ranks_average_to_the_global_loss_and_gradient(two_ranks: Any) -> None:
    first, second, labels, weight = _case(4)

    def part(rank: int) -> tuple[Tensor, Tensor]:
        rows = slice(2 * rank, 2 * rank + 2)
        own = first.detach()[rows].clone().requires_grad_()
        loss = sum(rectified_losses(own, second.detach()[rows], labels[rows], weight))
        loss.backward()
        return loss.detach(), own.grad

    parts = two_ranks.run(part)
    whole = sum(rectified_losses(first, second.detach(), labels, weight))
    whole.backward()
    torch.testing.assert_close(torch.stack([p[0] for p in parts]).mean(), whole.detach())
    torch.testing.assert_close(torch.cat([p[1] for p in parts]) / 2, first.grad)
