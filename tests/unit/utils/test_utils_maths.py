"""Shared probability arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from utils import maths


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_precision_is_raised_to_float32_and_never_lowered(given: torch.dtype, expected: torch.dtype) -> None:
    x = torch.randn(1, 3, 2, 2).to(given)
    for function in (maths.at_least_float32, maths.log_softmax, maths.softmax):
        assert function(x).dtype == expected


def test_softmax_is_over_classes() -> None:
    logits = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(maths.softmax(logits).sum(1), torch.ones(2, 3, 4))
    torch.testing.assert_close(maths.log_softmax(logits).exp(), maths.softmax(logits))


def test_entropy_of_a_fair_and_of_a_certain_choice() -> None:
    fair = maths.log_softmax(torch.zeros(1, 8, 2, 2))
    certain = maths.log_softmax(torch.tensor([500.0, -500.0]).view(1, 2, 1, 1))
    torch.testing.assert_close(maths.entropy(fair), torch.full((1, 2, 2), math.log(8)))
    assert maths.entropy(certain).item() == 0


def test_kl_divergence_worked_by_hand() -> None:
    p, q = (torch.tensor(values).log().view(1, 2) for values in ([0.5, 0.5], [0.25, 0.75]))
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(maths.kl_divergence(p, q), torch.tensor([expected]))


def test_kl_divergence_has_the_right_gradient_in_both_arguments() -> None:
    p, q = torch.randn(2, 1, 3, 2, 2, dtype=torch.float64).unbind()
    inputs = (p.clone().requires_grad_(), q.clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: maths.kl_divergence(maths.log_softmax(a), maths.log_softmax(b)), inputs
    )


def test_an_underflowing_probability_has_a_finite_divergence_and_gradient() -> None:
    logits = torch.tensor([0.0, -1000.0]).view(1, 2, 1, 1).requires_grad_()
    divergence = maths.kl_divergence(maths.log_softmax(logits), maths.log_softmax(torch.zeros(1, 2, 1, 1)))
    divergence.sum().backward()
    assert divergence.item() == pytest.approx(math.log(2))
    assert torch.isfinite(logits.grad).all()


def test_upsampling_keeps_corners_type_and_linear_ramps() -> None:
    ramp = torch.linspace(0, 1, 5, dtype=torch.float64).view(1, 1, 1, 5).expand(1, 2, 3, 5)
    larger = maths.upsample(ramp, (7, 9))
    expected = torch.linspace(0, 1, 9, dtype=torch.float64).expand(1, 2, 7, 9)
    torch.testing.assert_close(larger, expected)
    assert maths.upsample(ramp, (3, 5)) is ramp
    assert maths.upsample(ramp.bfloat16(), (6, 6)).dtype == torch.bfloat16
