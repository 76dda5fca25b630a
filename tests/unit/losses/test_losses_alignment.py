"""Soft alignment: the harmonic mean of the distances, its gradient, and anchors that follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from losses.alignment import soft_alignment, updated_anchors

ANCHORS, CLASSES, CHANNELS = 5, 4, 3


def _drawn(anchors: int = ANCHORS) -> tuple[Tensor, Tensor]:
    """A float64 vector with gradient and an absent class, and anchors."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(CLASSES, CHANNELS, generator=generator, dtype=torch.float64)
    vector[1] = 0
    drawn = torch.randn(anchors, CLASSES, CHANNELS, generator=generator, dtype=torch.float64)
    return vector.requires_grad_(), drawn


def _weighted_mean(vector: Tensor, anchors: Tensor, *, detached: bool) -> Tensor:
    """The published form: a mean of the distances with their reciprocals as weights."""
    distances = (vector - anchors).square().mean((1, 2))
    weights = 1 / (distances.detach() if detached else distances)
    return (weights * distances).sum() / weights.sum()


class TestSoftAlignment:
    def test_two_anchors_worked_by_hand(self) -> None:
        anchors = torch.tensor([1.0, -2.0]).view(2, 1, 1).expand(2, CLASSES, CHANNELS)
        vector = torch.zeros(CLASSES, CHANNELS, requires_grad=True)
        loss, distances = soft_alignment(vector, anchors)
        assert distances.tolist() == [1, 4]
        assert loss.item() == pytest.approx(2 / (1 + 1 / 4))
        loss.backward()
        # dL/dd_i = L^2 / V / d_i^2 = 1.28 and 0.08; dd_i/dv = 2 (v - a_i) / 12
        assert vector.grad[0, 0].item() == pytest.approx((1.28 * -1 + 0.08 * 2) * 2 / 12)

    def test_value_and_gradient_are_those_of_weights_that_are_not_detached(self) -> None:
        vector, anchors = _drawn()
        loss, _ = soft_alignment(vector, anchors)
        (gradient,) = torch.autograd.grad(loss, vector)
        expected = _weighted_mean(vector, anchors, detached=False)
        (expected_gradient,) = torch.autograd.grad(expected, vector)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)
        detached = _weighted_mean(vector, anchors, detached=True)
        torch.testing.assert_close(loss, detached, rtol=1e-12, atol=0)
        (other,) = torch.autograd.grad(detached, vector)
        assert (gradient - other).norm() > 0.01 * gradient.norm()

    def test_the_gradient_is_that_of_the_value(self) -> None:
        vector, anchors = _drawn()
        assert torch.autograd.gradcheck(lambda v: soft_alignment(v, anchors)[0], vector)

    def test_the_gradient_is_scaled_by_what_follows(self) -> None:
        vector, anchors = _drawn()
        (gradient,) = torch.autograd.grad(soft_alignment(vector, anchors)[0], vector)
        (weighted,) = torch.autograd.grad(0.7 * soft_alignment(vector, anchors)[0], vector)
        torch.testing.assert_close(weighted, 0.7 * gradient)

    def test_one_anchor_has_the_mean_square_distance(self) -> None:
        vector, anchors = _drawn(1)
        loss, distances = soft_alignment(vector, anchors)
        torch.testing.assert_close(loss, (vector - anchors[0]).square().mean())
        torch.testing.assert_close(loss, distances[0])

    def test_distances_have_no_gradient(self) -> None:
        vector, anchors = _drawn()
        loss, distances = soft_alignment(vector, anchors.requires_grad_())
        assert not distances.requires_grad
        loss.backward()
        assert anchors.grad is None

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("equal", [1, ANCHORS])
    def test_a_vector_that_is_an_anchor_costs_nothing(self, equal: int, dtype: torch.dtype) -> None:
        _, anchors = _drawn()
        anchors = anchors.to(dtype)
        anchors[:equal] = anchors[0]
        vector = anchors[0].clone().requires_grad_()
        loss, distances = soft_alignment(vector, anchors)
        loss.backward()
        assert distances[0].item() == 0
        assert 0 <= loss.item() < 1e-11
        assert vector.grad.abs().max() < 1e-9

    def test_half_precision_under_autocast_is_computed_in_single_precision(self) -> None:
        vector, anchors = (tensor.detach().to(torch.bfloat16) for tensor in _drawn())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, distances = soft_alignment(vector.requires_grad_(), anchors)
        loss.backward()
        expected, expected_distances = soft_alignment(vector.detach().double(), anchors.double())
        assert loss.dtype == distances.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        torch.testing.assert_close(distances.double(), expected_distances, rtol=1e-6, atol=0)
        assert vector.grad.dtype == torch.bfloat16

    def test_no_value_is_read_by_the_host(self) -> None:
        vector, anchors = (tensor.detach().to("meta") for tensor in _drawn())
        loss, distances = soft_alignment(vector.requires_grad_(), anchors)
        loss.backward()
        assert updated_anchors(anchors, vector, distances).shape == anchors.shape


class TestUpdatedAnchors:
    def test_the_nearest_anchor_alone_moves_towards_the_vector(self) -> None:
        vector, anchors = _drawn()
        distances = torch.tensor([3.0, 1.0, 0.5, 2.0, 4.0])
        before = anchors.clone()
        moved = updated_anchors(anchors, vector, distances)
        torch.testing.assert_close(moved[2], 0.999 * before[2] + 0.001 * vector.detach(), rtol=1e-14, atol=0)
        assert torch.equal(moved[[0, 1, 3, 4]], before[[0, 1, 3, 4]])
        assert torch.equal(anchors, before)
        assert not moved.requires_grad

    def test_the_first_of_equally_near_anchors_moves(self) -> None:
        vector, anchors = _drawn()
        moved = updated_anchors(anchors, vector, torch.tensor([2.0, 1.0, 1.0, 1.0, 3.0]))
        assert (moved != anchors).flatten(1).any(1).tolist() == [False, True, False, False, False]

    def test_the_rows_of_absent_classes_shrink(self) -> None:
        vector, anchors = _drawn(1)
        moved = updated_anchors(anchors, vector, torch.ones(1), momentum=0.75)
        torch.testing.assert_close(moved[0, 1], 0.75 * anchors[0, 1])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_anchors_keep_their_type(self, dtype: torch.dtype) -> None:
        vector, anchors = _drawn()
        assert updated_anchors(anchors.to(dtype), vector, torch.ones(ANCHORS)).dtype == dtype

    @pytest.mark.gpu
    def test_alignment_on_cuda_equals_the_cpu_s_without_waiting_for_the_device(self) -> None:
        vector, anchors = _drawn()
        on_gpu = vector.detach().cuda().requires_grad_(), anchors.cuda()
        soft_alignment(*on_gpu)[0].backward()  # first calls may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss, distances = soft_alignment(*on_gpu)
            (gradient,) = torch.autograd.grad(loss, on_gpu[0])
            moved = updated_anchors(on_gpu[1], on_gpu[0], distances)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        expected, expected_distances = soft_alignment(vector, anchors)
        (expected_gradient,) = torch.autograd.grad(expected, vector)
        torch.testing.assert_close(loss.cpu(), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient.cpu(), expected_gradient, rtol=1e-12, atol=1e-15)
        expected_anchors = updated_anchors(anchors, vector, expected_distances)
        torch.testing.assert_close(moved.cpu(), expected_anchors, rtol=1e-12, atol=0)
