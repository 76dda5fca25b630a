"""Means over all ranks, and sums over bands of rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from losses.reduction import global_mean_in_bands, global_ratio
from utils import maths


def _next_row_product(part: Tensor, rows: slice, inner: slice) -> tuple[Tensor, Tensor]:
    """Each value times the one a row below, where there is one; so a band depends on the row after it."""
    below = torch.cat([part[:, :, 1:], torch.zeros_like(part[:, :, :1])], dim=2)
    product = (part * below)[:, :, inner]
    return product.sum(), torch.tensor(product.numel())


def _value_and_gradient(logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = global_mean_in_bands(logits, _next_row_product, halo=1)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def test_an_empty_denominator_gives_0_with_a_zero_gradient() -> None:
    numerator = torch.zeros((), requires_grad=True)
    ratio = global_ratio(numerator * 1, torch.tensor(0))
    ratio.backward()
    assert ratio.item() == 0
    assert numerator.grad.isfinite()


def test_two_ranks_get_their_numerator_over_the_mean_denominator(two_ranks: Any) -> None:
    values = two_ranks.run(lambda rank: global_ratio(torch.tensor([3.0, 5.0][rank]), torch.tensor(2 * rank)))
    assert [value.item() for value in values] == [3.0, 5.0]  # their mean is (3 + 5) / 2


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_bands_do_not_change_value_and_gradient(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (logits[:, :, :-1] * logits[:, :, 1:]).sum() / logits.numel()
    whole, whole_gradient = _value_and_gradient(logits)
    monkeypatch.setattr(maths, "BAND_ELEMENTS", rows * 2 * 3 * 5)
    value, gradient = _value_and_gradient(logits)
    torch.testing.assert_close((value, whole), (expected, expected))
    torch.testing.assert_close(gradient, whole_gradient)


def test_without_gradients_none_is_computed() -> None:
    logits = torch.ones(1, 1, 3, 2, requires_grad=True)
    with torch.no_grad():
        assert not global_mean_in_bands(logits, _next_row_product, halo=1).requires_grad
    value = global_mean_in_bands(logits.detach(), _next_row_product, halo=1)
    assert (value.requires_grad, value.item()) == (False, pytest.approx(4 / 6))


def test_the_gradient_may_be_asked_for_twice() -> None:
    logits = torch.rand(1, 2, 3, 2, requires_grad=True)
    value = 3 * global_mean_in_bands(logits, _next_row_product, halo=1)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    (second,) = torch.autograd.grad(value, logits)
    assert torch.equal(first, second)
