"""Local consistency and the boundary pixels at which it counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from losses.consistency import boundary_mask, local_consistency
from utils import maths

KINDS = ("l1", "kl")
IDS = st.one_of(st.integers(0, 18), st.just(255), st.integers(0, 2))


def _case(
    n: int = 2, num_classes: int = 5, size: tuple[int, int] = (9, 7), *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Float64 logits with gradient, and uint8 labels of 3 x 3 cells, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, num_classes, *size, generator=generator, dtype=torch.float64)
    cells = torch.randint(0, num_classes, (n, 4, 4), generator=generator)
    cells[torch.rand(cells.shape, generator=generator) < 0.2] = 255
    labels = cells.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, : size[0], : size[1]]
    return logits.requires_grad_(), labels.to(torch.uint8)


def _plain_mask(labels: np.ndarray) -> np.ndarray:
    """The Laplacian on label numbers, pixel by pixel."""
    padded = np.pad(labels.astype(np.int64), ((0, 0), (1, 1), (1, 1)))
    mask = np.zeros(labels.shape, bool)
    for n, i, j in np.ndindex(labels.shape):
        window = padded[n, i : i + 3, j : j + 3]
        mask[n, i, j] = 9 * window[1, 1] != window.sum() and window[1, 1] != 255
    return mask


def _plain(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """The loss by a dense convolution of the padded probabilities."""
    probability = torch.softmax(logits, 1)
    classes = logits.shape[1]
    kernel = torch.full((classes, 1, 3, 3), 1 / 9, dtype=logits.dtype)
    mean = F.conv2d(F.pad(probability, (1, 1, 1, 1), "replicate"), kernel, groups=classes)
    if kind == "l1":
        distance = (probability - mean).abs().sum(1)
    else:
        distance = (probability * torch.log(probability / (mean + 1e-6) + 1e-6)).sum(1)
    return distance[torch.from_numpy(_plain_mask(labels.numpy()))].mean()


@given(
    labels=arrays(
        np.uint8,
        array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=IDS.map(np.uint8),
        fill=st.just(3),
    )
)
@settings(deadline=None, max_examples=60)
def test_boundaries_equal_the_laplacian_pixel_by_pixel(labels: np.ndarray) -> None:
    for dtype in (torch.uint8, torch.int64):
        mask = boundary_mask(torch.from_numpy(labels.copy()).to(dtype))
        np.testing.assert_array_equal(mask.numpy(), _plain_mask(labels))


def test_at_the_border_of_the_image_every_label_but_0_is_a_boundary() -> None:
    frame = torch.ones(1, 4, 5, dtype=torch.bool)
    frame[:, 1:-1, 1:-1] = False
    assert torch.equal(boundary_mask(torch.full((1, 4, 5), 7)), frame)
    assert not boundary_mask(torch.zeros(1, 4, 5, dtype=torch.uint8)).any()


def test_ignored_pixels_are_no_boundaries_but_make_their_neighbours_ones() -> None:
    labels = torch.zeros(1, 5, 5, dtype=torch.uint8)
    labels[0, 2, 2] = 255
    beside = torch.zeros(1, 5, 5, dtype=torch.bool)
    beside[:, 1:4, 1:4] = True
    beside[0, 2, 2] = False
    assert torch.equal(boundary_mask(labels), beside)


def test_neighbours_that_cancel_are_missed() -> None:
    columns = torch.tensor([3, 4, 5]).expand(1, 5, 3)
    assert boundary_mask(columns)[0, 1:-1].tolist() == [[True, False, True]] * 3


def test_two_pixels_worked_by_hand() -> None:
    # q = (0.9, 0.1) beside (0.3, 0.7); with the border repeated the means are (0.7, 0.3) and (0.5, 0.5)
    probability = torch.tensor([[0.9, 0.3], [0.1, 0.7]], dtype=torch.float64)
    loss = local_consistency(probability.log().view(1, 2, 1, 2), torch.tensor([[[1, 1]]]))
    assert loss.item() == pytest.approx((0.4 + 0.4) / 2)
    only_left = local_consistency(probability.log().view(1, 2, 1, 2), torch.tensor([[[1, 255]]]), kind="kl")
    expected = 0.9 * np.log(0.9 / (0.7 + 1e-6) + 1e-6) + 0.1 * np.log(0.1 / (0.3 + 1e-6) + 1e-6)
    assert only_left.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(9, 7), (1, 6), (6, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("band", [1, 1 << 20])
def test_value_and_gradient_equal_the_plain_form(
    kind: str, size: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maths, "BAND_ELEMENTS", band)
    logits, labels = _case(size=size)
    labels[:, 0, 0] = 1  # at the border: one boundary at least
    plain, ours = _plain(logits, labels, kind), local_consistency(logits, labels, kind=kind)
    torch.testing.assert_close(ours, plain)
    ours_gradient, plain_gradient = (torch.autograd.grad(loss, logits)[0] for loss in (ours, plain))
    if size != (1, 1):  # there q - m is rounding, whose sign decides
        torch.testing.assert_close(ours_gradient, plain_gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_right(kind: str) -> None:
    logits, labels = _case(1, 3, (4, 3))
    assert torch.autograd.gradcheck(lambda z: local_consistency(z, labels, kind=kind), logits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", [0, 255])
def test_without_boundaries_loss_and_gradient_are_zero(kind: str, label: int) -> None:
    logits, labels = _case()
    loss = local_consistency(logits, torch.full_like(labels, label), kind=kind)
    loss.backward()
    assert loss.item() == 0
    assert torch.all(logits.grad == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_certain_predictions_cost_no_nan(kind: str) -> None:
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0]]).view(1, 2, 1, 2).requires_grad_()
    loss = local_consistency(logits, torch.tensor([[[0, 1]]]), kind=kind)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_half_precision_logits_give_a_float32_loss_and_a_gradient_of_their_own_type() -> None:
    logits, labels = _case()
    half = logits.detach().bfloat16().requires_grad_()
    loss = local_consistency(half, labels)
    loss.backward()
    assert (loss.dtype, half.grad.dtype) == (torch.float32, torch.bfloat16)
    assert local_consistency(logits, labels).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("silent", [False, True])
def test_two_ranks_share_one_loss_and_gradient(two_ranks: Any, kind: str, silent: bool) -> None:
    logits, labels = _case(4)
    labels[:2, 4:] = 0  # the ranks hold unequal numbers of boundary pixels
    if silent:
        labels[:2] = 255

    def part(rank: int) -> tuple[Tensor, Tensor]:
        images = slice(2 * rank, 2 * rank + 2)
        own = logits.detach()[images].clone().requires_grad_()
        loss = local_consistency(own, labels[images], kind=kind)
        loss.backward()
        return loss.detach(), own.grad

    parts = two_ranks.run(part)
    expected = _plain(logits, labels, kind)
    expected.backward()
    torch.testing.assert_close(torch.stack([loss for loss, _ in parts]).mean(), expected.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]) / 2, logits.grad)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_agrees_with_the_cpu_waits_for_nothing_and_repeats_itself(kind: str) -> None:
    logits, labels = _case(2, 19, (12, 12))
    expected = local_consistency(logits, labels, kind=kind)
    on_gpu, labels = logits.detach().cuda().requires_grad_(), labels.cuda()
    local_consistency(on_gpu, labels, kind=kind).backward()  # first calls may allocate and wait
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = local_consistency(on_gpu, labels, kind=kind)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(loss.cpu(), expected)
