"""Cross entropy over all pixels, and the teacher's labels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.self_training import TeacherLabels, pixel_accuracy, pixel_cross_entropy, teacher_labels
from utils import maths


def _case(n: int = 2, classes: int = 4, size: tuple[int, int] = (5, 7)) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 logits with gradient, uint8 labels with a fifth ignored, and a weight per pixel."""
    generator = torch.Generator().manual_seed(n)
    logits = torch.randn(n, classes, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (n, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    weight = torch.rand(n, *size, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), labels.to(torch.uint8), weight


def _taught(logits: Tensor, **options: Any) -> TeacherLabels:
    return teacher_labels(logits, **{"threshold": 0.7, "ignore_top": 0, "ignore_bottom": 0, **options})


def _logits_of(probability: list[list[float]]) -> Tensor:
    """(1, 2, rows, columns) logits whose softmax gives class 0 these probabilities."""
    first = torch.tensor(probability, dtype=torch.float64)
    return torch.stack([first, 1 - first]).log().unsqueeze(0)


class TestCrossEntropy:
    def test_worked_by_hand_the_ignored_pixel_counts_in_the_divisor(self) -> None:
        logits = torch.tensor([math.log(1.0), math.log(3.0)]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
        labels = torch.tensor([[[0, 1, 255, 0]]])
        weight = torch.tensor([[[1.0, 3.0, 1.0, 0.0]]])
        expected = (math.log(4) + 3 * math.log(4 / 3)) / 4
        assert pixel_cross_entropy(logits, labels, weight).item() == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("rows", [1, 2, 100])
    def test_value_and_gradient_equal_torchs_own_for_any_bands(
        self, rows: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logits, labels, weight = _case()
        monkeypatch.setattr(maths, "BAND_ELEMENTS", rows * logits[:, :, 0].numel())
        own = pixel_cross_entropy(logits, labels, weight)
        torchs = (weight * F.cross_entropy(logits, labels.long(), ignore_index=255, reduction="none")).mean()
        torch.testing.assert_close(own, torchs)
        torch.testing.assert_close(torch.autograd.grad(own, logits), torch.autograd.grad(torchs, logits))

    def test_gradcheck(self) -> None:
        logits, labels, weight = _case(1, 3, (2, 3))
        assert torch.autograd.gradcheck(lambda x: 2 * pixel_cross_entropy(x, labels, weight), logits)

    def test_no_weight_is_a_weight_of_one(self) -> None:
        logits, labels, weight = _case()
        ones = pixel_cross_entropy(logits, labels, torch.ones_like(weight))
        torch.testing.assert_close(pixel_cross_entropy(logits, labels), ones)

    def test_labels_of_either_type_and_weights_of_any_precision_give_the_same(self) -> None:
        logits, labels, weight = _case()
        weight = weight.to(torch.bfloat16)
        loss = pixel_cross_entropy(logits, labels, weight)
        assert torch.equal(loss, pixel_cross_entropy(logits, labels.long(), weight.double()))
        assert loss.dtype == torch.float64

    def test_half_precision_logits_under_autocast_lose_nothing(self) -> None:
        logits, labels, weight = _case()
        half = logits.detach().to(torch.bfloat16).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = pixel_cross_entropy(half, labels, weight)
        loss.backward()
        assert loss.dtype == torch.float32
        exact = pixel_cross_entropy(half.detach().double(), labels, weight)
        assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
        assert half.grad.dtype == torch.bfloat16

    def test_the_mean_over_ranks_is_the_global_loss(self, two_ranks: Any) -> None:
        logits, labels, weight = (part.detach() for part in _case())
        labels[0] = 255
        labels[0, 0, :2] = 1  # the ranks hold unequally many labelled pixels
        expected = (
            weight * F.cross_entropy(logits, labels.long(), ignore_index=255, reduction="none")
        ).mean()

        def on_rank(rank: int) -> Tensor:
            mine = slice(rank, rank + 1)
            return pixel_cross_entropy(logits[mine], labels[mine], weight[mine])

        torch.testing.assert_close(torch.stack(two_ranks.run(on_rank)).mean(), expected)

    @pytest.mark.parametrize("ignored", [False, True])
    @pytest.mark.parametrize("classes", [1, 2])
    @pytest.mark.parametrize("pixel_weight", [0.0, 1.0])
    @pytest.mark.parametrize("scale", [0.0, 1e4])
    def test_extreme_batches_have_finite_losses_and_gradients(
        self, ignored: bool, classes: int, pixel_weight: float, scale: float
    ) -> None:
        """All ignored, a single class, no confident pixel, logits from all-zero features, certain logits."""
        generator = torch.Generator().manual_seed(0)
        logits = (scale * torch.randn(2, classes, 3, 4, generator=generator)).requires_grad_()
        labels = torch.full((2, 3, 4), 255 if ignored else classes - 1, dtype=torch.uint8)
        loss = pixel_cross_entropy(logits, labels, torch.full((2, 3, 4), pixel_weight))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()
        if ignored or pixel_weight == 0:
            assert loss.item() == 0
            assert not logits.grad.any()


class TestAccuracy:
    def test_ignored_pixels_are_wrong_and_the_lower_class_wins_a_tie(self) -> None:
        logits = torch.tensor([[0.0, 1.0, 2.0, 2.0], [3.0, 0.0, 0.0, 2.0]]).view(1, 2, 1, 4)
        labels = torch.tensor([[[1, 1, 255, 0]]], dtype=torch.uint8)
        assert pixel_accuracy(logits.requires_grad_(), labels).item() == 50
        assert not pixel_accuracy(logits, labels).requires_grad

    def test_equals_a_comparison_with_the_arg_max(self) -> None:
        logits, labels, _ = _case(classes=19)
        expected = 100 * (logits.argmax(1) == labels).double().mean()
        torch.testing.assert_close(pixel_accuracy(logits, labels), expected)


class TestTeacherLabels:
    def test_every_pixel_has_the_share_of_confident_pixels_as_weight(self) -> None:
        found = _taught(_logits_of([[0.9, 0.6], [0.2, 0.45]]))
        assert found.label.tolist() == [[[0, 0], [1, 1]]]
        assert found.label.dtype == torch.uint8
        torch.testing.assert_close(
            found.confidence, torch.tensor([[[0.9, 0.6], [0.8, 0.55]]], dtype=torch.float64)
        )
        assert found.ratio.item() == 0.5
        assert found.weight.tolist() == [[[0.5, 0.5], [0.5, 0.5]]]

    def test_a_probability_at_the_threshold_is_confident(self) -> None:
        assert _taught(torch.zeros(1, 2, 1, 1), threshold=0.5).ratio.item() == 1

    @pytest.mark.parametrize(
        ("top", "bottom", "kept"),
        [
            (0, 0, [0, 1, 2, 3]),
            (1, 0, [1, 2, 3]),
            (0, 3, [0]),
            (1, 1, [1, 2]),
            (2, 2, []),
            (9, 0, []),
            (0, 9, []),
        ],
    )
    def test_rows_at_the_borders_lose_their_weight_but_count_in_the_share(
        self, top: int, bottom: int, kept: list[int]
    ) -> None:
        found = _taught(_logits_of([[0.9], [0.6], [0.6], [0.9]]), ignore_top=top, ignore_bottom=bottom)
        assert found.ratio.item() == 0.5
        assert found.weight.flatten().nonzero().flatten().tolist() == kept
        assert found.label.tolist() == [[[0], [0], [0], [0]]]

    @pytest.mark.parametrize("classes", [1, 2, 19, 255])
    @pytest.mark.parametrize("rows", [1, 3])
    def test_likeliest_class_is_torchs_and_the_first_of_equals(
        self, classes: int, rows: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logits = torch.randn(2, classes, 6, 9, generator=torch.Generator().manual_seed(0)).round()
        expected, label = torch.softmax(logits, 1).max(1)
        monkeypatch.setattr(maths, "BAND_ELEMENTS", rows * 2 * classes * 9)
        found = _taught(logits)
        assert torch.equal(found.label.long(), label)
        torch.testing.assert_close(found.confidence, expected)

    def test_the_share_is_that_of_all_ranks(self, two_ranks: Any) -> None:
        logits = [_logits_of([[0.9, 0.9]]), _logits_of([[0.9, 0.6]])]
        found = two_ranks.run(lambda rank: _taught(logits[rank]))
        assert [part.ratio.item() for part in found] == [0.75, 0.75]
        assert [part.weight.tolist() for part in found] == [[[[0.75, 0.75]]]] * 2

    def test_a_bonus_takes_part_in_the_choice_and_in_the_confidence(self) -> None:
        bonus = torch.tensor([0.0, 0.3]).view(1, 2, 1, 1)
        found = _taught(_logits_of([[0.6]]), bonus=bonus)
        assert (found.label.item(), found.ratio.item()) == (1, 1)
        assert found.confidence.item() == pytest.approx(0.7, rel=1e-6)

    @pytest.mark.parametrize("value", [0.0, math.nan])
    def test_without_a_confident_pixel_all_weights_are_0(self, value: float) -> None:
        found = _taught(torch.full((1, 3, 2, 2), value))
        assert not found.weight.any()
        assert int(found.label.max()) < 3  # logits that are no numbers are reported by the loop, not here

    @pytest.mark.parametrize(
        ("given", "kept"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
    )
    def test_weights_have_at_least_single_precision_and_no_gradient(
        self, given: torch.dtype, kept: torch.dtype
    ) -> None:
        found = _taught(torch.randn(1, 3, 2, 2).to(given).requires_grad_())
        assert found.weight.dtype == found.confidence.dtype == kept
        assert found.ratio.dtype == torch.float64
        assert not found.confidence.requires_grad


def test_padding_is_no_part_of_an_image() -> None:
    logits = torch.zeros(2, 3, 6, 8)
    logits[:, 1] = 9.0  # all pixels confident, class 1
    logits[0, :, 4:] = 0.0  # but for the padding of the first image
    logits[0, :, :, 5:] = 0.0
    found = _taught(logits, ignore_top=1, ignore_bottom=2, content=torch.tensor([[4, 5], [6, 8]]))
    assert float(found.ratio) == 1.0
    assert (found.label[0, :4, :5] == 1).all()
    assert (found.label[0, 4:] == 255).all()
    assert (found.label[0, :, 5:] == 255).all()
    weighted = torch.zeros(2, 6, 8)
    weighted[0, 1:2, :5] = 1  # rows 0, and 2 and 3 above the padding, are ignored
    weighted[1, 1:4] = 1
    assert torch.equal(found.weight, weighted)
