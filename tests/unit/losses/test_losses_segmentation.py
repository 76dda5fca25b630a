"""Weighted cross entropy and the selection of hard pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from losses.segmentation import (
    hard_label_threshold,
    hard_pixel_cross_entropy,
    pixel_cross_entropy,
    weighted_cross_entropy,
)
from tests.unit.losses import plain_losses


def _case(
    n: int = 2, num_classes: int = 4, size: tuple[int, int] = (5, 7), *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 logits with gradient, uint8 labels with a fifth ignored, and class weights."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, num_classes, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes, (n, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    weight = 0.5 + 3 * torch.rand(num_classes, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), labels.to(torch.uint8), weight


def test_a_pixel_worked_by_hand() -> None:
    logits = torch.tensor([math.log(1.0), math.log(3.0)]).view(1, 2, 1, 1)
    loss = pixel_cross_entropy(logits, torch.tensor([[[0]]]))
    torch.testing.assert_close(loss, torch.tensor([[[math.log(4.0)]]]))


def test_cross_entropy_and_gradient_equal_torchs_own() -> None:
    logits, labels, weight = _case()
    own = weighted_cross_entropy(logits, labels, weight)
    (gradient,) = torch.autograd.grad(own, logits)
    torchs = F.cross_entropy(logits, labels.long(), weight, ignore_index=255)
    (expected,) = torch.autograd.grad(torchs, logits)
    torch.testing.assert_close(own, torchs)
    torch.testing.assert_close(gradient, expected)


def test_ignored_pixels_have_no_loss_and_no_gradient() -> None:
    logits, labels, weight = _case()
    ignored = labels == 255
    assert torch.all(pixel_cross_entropy(logits, labels)[ignored] == 0)
    weighted_cross_entropy(logits, labels, weight).backward()
    assert torch.all(logits.grad.movedim(1, -1)[ignored] == 0)


def test_unit_weights_are_the_plain_mean() -> None:
    logits, labels, weight = _case()
    ones = torch.ones_like(weight)
    torch.testing.assert_close(
        weighted_cross_entropy(logits, labels), weighted_cross_entropy(logits, labels, ones)
    )


@pytest.mark.parametrize("percentile", [None, 80.0])
def test_a_batch_without_labels_has_zero_loss_and_zero_gradient(percentile: float | None) -> None:
    logits, labels, weight = _case()
    nothing = torch.full_like(labels, 255)
    if percentile is None:
        loss = weighted_cross_entropy(logits, nothing, weight)
    else:
        loss = hard_pixel_cross_entropy(logits, nothing, weight, percentile).loss
    loss.backward()
    assert loss.item() == 0
    assert torch.all(logits.grad == 0)


def test_weighted_cross_entropy_has_the_right_gradient() -> None:
    logits, labels, weight = _case(1, 3, (2, 3))
    assert torch.autograd.gradcheck(lambda z: weighted_cross_entropy(z, labels, weight), logits)


def test_half_precision_logits_give_a_float32_loss() -> None:
    logits, labels, weight = _case()
    assert weighted_cross_entropy(logits.bfloat16(), labels, weight).dtype == torch.float32
    assert weighted_cross_entropy(logits, labels, weight.float()).dtype == torch.float64


@given(
    values=st.lists(st.floats(0, 50, width=32), min_size=1, max_size=60),
    percentile=st.floats(0, 100),
)
@settings(deadline=None, max_examples=100)
def test_threshold_equals_numpys_percentile(values: list[float], percentile: float) -> None:
    array = np.array(values, dtype=np.float64)
    threshold = hard_label_threshold(torch.from_numpy(array.copy()), percentile)
    np.testing.assert_allclose(threshold.item(), np.percentile(array, percentile), rtol=1e-9, atol=1e-9)


def test_threshold_leaves_the_losses_in_place() -> None:
    values = torch.tensor([3.0, 1.0, 2.0])
    assert hard_label_threshold(values, 50).item() == 2
    assert values.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("percentile", "expected"), [(0, 1.0), (50, 2.5), (75, 3.25), (99.999, 4.0), (100, 4.0)]
)
def test_threshold_worked_by_hand(percentile: float, expected: float) -> None:
    threshold = hard_label_threshold(torch.tensor([[4.0, 1.0], [3.0, 2.0]]), percentile)
    assert threshold.item() == pytest.approx(expected, abs=1e-3)
    assert threshold.dtype == torch.float32


def test_hard_labels_keep_the_hardest_share_and_what_was_ignored() -> None:
    logits, labels, weight = _case(2, 4, (20, 20))
    hard = hard_pixel_cross_entropy(logits, labels, weight, 80)
    chosen = hard.labels != 255
    assert chosen.sum().item() == 2 * 20 * 20 // 5
    assert torch.equal(hard.labels[chosen], labels.long()[chosen])
    loss = plain_losses.pixel_loss(logits, labels, weight)
    assert torch.equal(chosen, (loss >= hard.threshold) & (labels != 255))


def test_ties_at_the_threshold_are_kept() -> None:
    logits = torch.zeros(1, 2, 1, 10)
    labels = torch.zeros(1, 1, 10, dtype=torch.uint8)
    assert torch.all(hard_pixel_cross_entropy(logits, labels, None, 80).labels == 0)


def test_nothing_is_dropped_where_most_pixels_are_ignored() -> None:
    logits, labels, weight = _case()
    labels.view(-1)[: int(0.9 * labels.numel())] = 255
    hard = hard_pixel_cross_entropy(logits, labels, weight, 80)
    assert hard.threshold.item() == 0
    assert torch.equal(hard.labels, labels.long())


def test_one_pass_equals_selection_then_cross_entropy() -> None:
    logits, labels, weight = _case()
    hard = hard_pixel_cross_entropy(logits, labels, weight, 60)
    (gradient,) = torch.autograd.grad(hard.loss, logits)
    kept, threshold = plain_losses.hard_pixel_labels(logits, labels, weight, 60)
    expected = F.cross_entropy(logits, kept, weight, ignore_index=255)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert torch.equal(hard.labels, kept)
    assert hard.threshold.item() == pytest.approx(threshold, rel=1e-12)
    torch.testing.assert_close(hard.loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("percentile", [0.0, 70.0])
def test_two_ranks_share_one_loss_threshold_and_gradient(two_ranks: Any, percentile: float) -> None:
    logits, labels, weight = _case(4, 5, (6, 6), seed=3)
    labels[:2, :4] = 255  # the ranks hold unequal numbers of labelled pixels

    def part(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        own = logits.detach()[2 * rank : 2 * rank + 2].clone().requires_grad_()
        hard = hard_pixel_cross_entropy(own, labels[2 * rank : 2 * rank + 2], weight, percentile)
        hard.loss.backward()
        return hard.loss.detach(), hard.threshold, own.grad

    parts = two_ranks.run(part)
    two_ranks.size = 1
    whole = logits.detach().clone().requires_grad_()
    pixel_loss = pixel_cross_entropy(whole, labels) * F.pad(weight, (0, 251))[labels.long()]
    threshold = np.percentile(pixel_loss.detach().numpy(), percentile)
    chosen = (pixel_loss >= threshold) & (labels != 255)
    expected = pixel_loss[chosen].sum() / weight[labels[chosen].long()].sum()
    expected.backward()
    torch.testing.assert_close(torch.stack([p[0] for p in parts]).mean(), expected.detach())
    assert all(p[1].item() == pytest.approx(threshold, rel=1e-12) for p in parts)
    torch.testing.assert_close(torch.cat([p[2] for p in parts]) / 2, whole.grad)


@pytest.mark.gpu
def test_selection_on_a_gpu_equals_the_cpu_and_waits_for_nothing() -> None:
    logits, labels, weight = _case(2, 19, (64, 64))
    expected = hard_pixel_cross_entropy(logits, labels, weight, 80)
    inputs = (logits.detach().cuda().requires_grad_(), labels.cuda(), weight.cuda(), 80.0)
    hard_pixel_cross_entropy(*inputs)  # first calls may allocate and wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        hard = hard_pixel_cross_entropy(*inputs)
        hard.loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(hard.loss.cpu(), expected.loss)
    assert torch.equal(hard.labels.cpu(), expected.labels)


@pytest.mark.gpu
def test_cross_entropy_on_a_gpu_has_a_deterministic_form() -> None:
    logits, labels, weight = _case(2, 19, (64, 64))
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            on_gpu = logits.detach().cuda().requires_grad_()
            weighted_cross_entropy(on_gpu, labels.cuda(), weight.cuda()).backward()
            gradients.append(on_gpu.grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*gradients)
