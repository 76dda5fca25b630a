"""Negative learning."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from losses.negative import negative_learning
from utils import maths

PUBLISHED_THRESHOLD = 0.05


def _logits(n: int = 2, num_classes: int = 6, size: tuple[int, int] = (5, 7), *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(n, num_classes, *size, generator=generator, dtype=torch.float64)).requires_grad_()


def _plain(logits: Tensor, threshold: float) -> Tensor:
    probability = torch.softmax(logits, 1)
    return -torch.log(1 - probability[probability < threshold] + 1e-6).mean()


def _of_probabilities(*values: float) -> Tensor:
    return torch.tensor([math.log(value) for value in values], dtype=torch.float64).view(1, -1, 1, 1)


def test_a_pixel_worked_by_hand() -> None:
    loss = negative_learning(_of_probabilities(0.01, 0.04, 0.95))
    assert loss.item() == pytest.approx(-(math.log(0.99 + 1e-6) + math.log(0.96 + 1e-6)) / 2, rel=1e-12)


def test_the_threshold_itself_does_not_count() -> None:
    logits = _of_probabilities(0.25, 0.25, 0.5)
    assert negative_learning(logits, threshold=0.25).item() == 0
    assert negative_learning(logits, threshold=0.26).item() == pytest.approx(-math.log(0.75 + 1e-6))


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("band", [1, 1 << 20])
def test_value_and_gradient_equal_the_plain_form(
    threshold: float, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maths, "BAND_ELEMENTS", band)
    logits = _logits()
    plain, ours = _plain(logits, threshold), negative_learning(logits, threshold=threshold)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(plain, logits))


@pytest.mark.parametrize("num_classes", [16, 19])
def test_equal_probabilities_have_zero_loss_and_zero_gradient(num_classes: int) -> None:
    logits = torch.zeros(1, num_classes, 3, 4, requires_grad=True)
    loss = negative_learning(logits, threshold=PUBLISHED_THRESHOLD)
    loss.backward()
    assert loss.item() == 0
    assert torch.all(logits.grad == 0)


def test_more_classes_fall_below_the_published_threshold() -> None:
    loss = negative_learning(torch.zeros(1, 21, 1, 1), threshold=PUBLISHED_THRESHOLD)
    assert loss.item() == pytest.approx(-math.log(20 / 21 + 1e-6), rel=1e-5)


def test_the_gradient_is_right() -> None:
    assert torch.autograd.gradcheck(lambda z: negative_learning(z, threshold=0.2), _logits(1, 4, (2, 3)))


def test_certain_predictions_cost_no_nan() -> None:
    logits = torch.tensor([300.0, -300.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss = negative_learning(logits, threshold=1.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_half_precision_logits_give_a_float32_loss_and_a_gradient_of_their_own_type() -> None:
    logits = _logits().detach().bfloat16().requires_grad_()
    loss = negative_learning(logits)
    loss.backward()
    assert (loss.dtype, logits.grad.dtype) == (torch.float32, torch.bfloat16)
    assert negative_learning(_logits()).dtype == torch.float64


@pytest.mark.parametrize("silent", [False, True])
def test_two_ranks_share_one_loss_and_gradient(two_ranks: Any, silent: bool) -> None:
    logits = _logits(4).detach()
    if silent:  # nothing counts on the first rank
        logits[:2] = 0

    def part(rank: int) -> tuple[Tensor, Tensor]:
        own = logits[2 * rank : 2 * rank + 2].clone().requires_grad_()
        loss = negative_learning(own, threshold=0.1)
        loss.backward()
        return loss.detach(), own.grad

    parts = two_ranks.run(part)
    whole = logits.clone().requires_grad_()
    expected = _plain(whole, 0.1)
    expected.backward()
    torch.testing.assert_close(torch.stack([loss for loss, _ in parts]).mean(), expected.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]) / 2, whole.grad)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu_and_waits_for_nothing() -> None:
    logits = _logits(2, 19, (64, 64))
    expected = negative_learning(logits)
    on_gpu = logits.detach().cuda().requires_grad_()
    negative_learning(on_gpu).backward()  # first calls may allocate and wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = negative_learning(on_gpu)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), expected)
