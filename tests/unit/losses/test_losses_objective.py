"""Objective vectors: which pixels count, the scaled gradient, and the vector of a batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.objective import batch_vector, class_means_of, nearest_labels, predicted_classes

CLASSES, CHANNELS = 4, 3


def _logits_of(classes: Tensor, num_classes: int = CLASSES) -> Tensor:
    """(N, C, h, w) float64 logits that predict (N, h, w) ids."""
    return 5 * F.one_hot(classes.long(), num_classes).movedim(-1, 1).double()


def _row(*counts: int) -> Tensor:
    """One image, one row: so many pixels of class 0, 1, ..."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).view(1, 1, -1)


def _drawn(images: int = 2, size: tuple[int, int] = (9, 11)) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 features with gradient, logits that predict 0 to 2 only, uint8 labels with ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, CHANNELS, *size, generator=generator, dtype=torch.float64)
    logits = torch.randn(images, CLASSES, *size, generator=generator, dtype=torch.float64)
    logits[:, 3] = -9
    labels = torch.randint(0, CLASSES + 1, (images, *size), generator=generator, dtype=torch.uint8)
    return features.requires_grad_(), logits, labels.masked_fill(labels == CLASSES, 255)


def _plain_means(features: Tensor, logits: Tensor, labels: Tensor | None, min_pixels: int) -> Tensor:
    """Vectors class by class, written out."""
    prediction = logits.argmax(1)
    vectors = torch.zeros(len(features), CLASSES, CHANNELS, dtype=features.dtype)
    for number, (image, predicted) in enumerate(zip(features, prediction, strict=True)):
        for index in range(CLASSES):
            mask = predicted == index
            if labels is not None:
                mask = mask & (labels[number] == index)
            if mask.sum() >= min_pixels:
                vectors[number, index] = image[:, mask].mean(1)
    return vectors


class TestClassMeans:
    def test_two_classes_worked_by_hand(self) -> None:
        classes = torch.tensor([[[0, 1, 1, 0]]])
        features = torch.tensor([1.0, 2.0, 6.0, 3.0]).view(1, 1, 1, 4)
        found = class_means_of(features, _logits_of(classes, 3), None, min_pixels=2)
        assert found.vectors.flatten().tolist() == [2.0, 4.0, 0.0]
        assert found.present.tolist() == [[True, True, False]]
        assert found.counts.tolist() == [[2, 2, 0]]

    @pytest.mark.parametrize("labelled", [True, False], ids=["source", "target"])
    def test_equal_masking_class_by_class(self, labelled: bool) -> None:
        features, logits, labels = _drawn()
        chosen = labels if labelled else None
        found = class_means_of(features, logits, chosen, min_pixels=3)
        expected = _plain_means(features, logits, chosen, 3)
        torch.testing.assert_close(found.vectors, expected, rtol=1e-12, atol=1e-14)
        assert torch.equal(found.present, expected.any(2))

    @pytest.mark.parametrize(("pixels", "present"), [(9, False), (10, True), (11, True)])
    def test_a_class_is_present_from_ten_pixels_on(self, pixels: int, present: bool) -> None:
        classes = _row(30, pixels)
        features = torch.ones(1, CHANNELS, 1, 30 + pixels, requires_grad=True)
        found = class_means_of(features, _logits_of(classes), None)
        assert found.present.tolist() == [[True, present, False, False]]
        assert found.counts.tolist() == [[30, pixels, 0, 0]]
        assert found.vectors[0, 1].tolist() == [float(present)] * CHANNELS
        found.vectors.sum().backward()
        assert features.grad[..., :30].all()
        assert bool(features.grad[..., 30:].any()) == present

    def test_only_pixels_that_are_labelled_and_predicted_alike_count(self) -> None:
        classes, labels = _row(12, 12), _row(12, 12).roll(1, dims=2)
        found = class_means_of(torch.rand(1, CHANNELS, 1, 24), _logits_of(classes), labels)
        assert found.counts.tolist() == [[11, 11, 0, 0]]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
    @pytest.mark.parametrize("value", [CLASSES, 19, 250, 255])
    def test_labels_that_are_no_class_match_nothing(self, value: int, dtype: torch.dtype) -> None:
        features, logits, labels = _drawn()
        found = class_means_of(features, logits, torch.full_like(labels, value, dtype=dtype))
        assert not found.counts.any()
        assert not found.present.any()
        assert not found.vectors.any()
        found.vectors.sum().backward()
        assert not features.grad.any()

    def test_the_lowest_class_wins_a_tie(self) -> None:
        logits = torch.tensor([0.0, 7.0, 7.0, 1.0]).view(1, 4, 1, 1).expand(1, 4, 3, 5)
        assert predicted_classes(logits).unique().tolist() == [1]

    def test_every_pixel_gets_the_same_share_of_its_class_s_gradient(self) -> None:
        features, logits, _ = _drawn(1)
        found = class_means_of(features, logits, None)
        outer = torch.randn(found.vectors.shape, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(found.vectors, features, outer)
        pixels = logits[0, 0].numel()
        assert found.present.tolist() == [[True, True, True, False]]
        expected = 2 / pixels * outer[0, logits.argmax(1)[0]].movedim(-1, 0)
        torch.testing.assert_close(gradient[0], expected, rtol=1e-12, atol=0)

    def test_without_rescaling_it_is_the_gradient_of_the_means(self) -> None:
        features, logits, labels = _drawn(2, (4, 5))

        def vectors(features: Tensor) -> Tensor:
            return class_means_of(features, logits, labels, min_pixels=2, rescale=False).vectors

        assert torch.autograd.gradcheck(vectors, features)

    def test_rescaling_leaves_the_values_as_they_are(self) -> None:
        inputs = _drawn()
        published, plain = (class_means_of(*inputs, rescale=rescale) for rescale in (True, False))
        assert torch.equal(published.vectors, plain.vectors)

    def test_the_choice_of_pixels_has_no_gradient(self) -> None:
        features, logits, labels = _drawn()
        found = class_means_of(features.detach(), logits.requires_grad_(), labels)
        assert not found.vectors.requires_grad

    def test_half_precision_under_autocast_is_averaged_in_single_precision(self) -> None:
        features, logits, labels = _drawn()
        half = features.detach().to(torch.bfloat16).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = class_means_of(half, logits, labels, min_pixels=3)
        assert found.vectors.dtype == torch.float32
        expected = class_means_of(half.detach().double(), logits, labels, min_pixels=3)
        torch.testing.assert_close(found.vectors.double(), expected.vectors, rtol=1e-6, atol=1e-7)
        found.vectors.sum().backward()
        assert half.grad.dtype == torch.bfloat16

    @pytest.mark.gpu
    def test_on_cuda_they_equal_the_cpu_s_without_waiting_for_the_device(self) -> None:
        features, logits, labels = _drawn()
        expected = class_means_of(features, logits, labels)
        (expected_gradient,) = torch.autograd.grad(expected.vectors.square().sum(), features)
        inputs = features.detach().cuda().requires_grad_(), logits.cuda(), labels.cuda()
        class_means_of(*inputs).vectors.square().sum().backward()  # first calls may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = class_means_of(*inputs)
            vector = batch_vector(found.vectors, found.present)
            (gradient,) = torch.autograd.grad(found.vectors.square().sum(), inputs[0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(found.vectors.cpu(), expected.vectors, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient.cpu(), expected_gradient, rtol=1e-12, atol=1e-14)
        assert torch.equal(vector.cpu(), batch_vector(found.vectors.cpu(), found.present.cpu()))


class TestNearestLabels:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
    @pytest.mark.parametrize(
        ("full", "size"), [((65, 129), (17, 33)), ((512, 896), (128, 224)), ((1052, 1914), (263, 479))]
    )
    def test_takes_the_row_and_column_at_the_floor(
        self, full: tuple[int, int], size: tuple[int, int], dtype: torch.dtype
    ) -> None:
        labels = torch.randint(0, 256, (2, *full), generator=torch.Generator().manual_seed(0)).to(dtype)
        rows, columns = (
            torch.arange(count) * length // count for length, count in zip(full, size, strict=True)
        )
        found = nearest_labels(labels, size)
        assert found.dtype == torch.uint8
        assert torch.equal(found, labels[:, rows][:, :, columns].to(torch.uint8))


def _vectors() -> tuple[Tensor, Tensor]:
    """Vectors of three images; class 0 is in all, 1 in the first two, 2 in the first and last, 3 in none."""
    present = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, CLASSES, CHANNELS, generator=generator, dtype=torch.float64)
    return drawn.masked_fill(~present.unsqueeze(2), 0).requires_grad_(), present


class TestBatchVector:
    def test_the_last_image_with_the_class_supplies_it(self) -> None:
        vectors, present = _vectors()
        found = batch_vector(vectors, present)
        absent = torch.zeros(CHANNELS, dtype=torch.float64)
        assert torch.equal(found, torch.stack([vectors[2, 0], vectors[1, 1], vectors[2, 2], absent]))

    def test_only_the_image_that_supplies_a_class_has_a_gradient(self) -> None:
        vectors, present = _vectors()
        batch_vector(vectors, present).sum().backward()
        assert vectors.grad[..., 0].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]]

    def test_the_mean_is_over_the_images_that_have_the_class(self) -> None:
        vectors, present = _vectors()
        found = batch_vector(vectors, present, rule="mean")
        expected = torch.stack(
            [
                vectors[:, 0].mean(0),
                (vectors[0, 1] + vectors[1, 1]) / 2,
                (vectors[0, 2] + vectors[2, 2]) / 2,
                torch.zeros(CHANNELS, dtype=torch.float64),
            ]
        )
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-16)
        found.sum().backward()
        assert vectors.grad[:, 1, 0].tolist() == [0.5, 0.5, 0]

    @pytest.mark.parametrize("rule", ["last", "mean"])
    def test_an_image_by_itself_keeps_its_vectors(self, rule: str) -> None:
        vectors, present = _vectors()
        assert torch.equal(batch_vector(vectors[:1], present[:1], rule=rule), vectors[0])

    def test_other_rules_are_refused(self) -> None:
        with pytest.raises(AssertionError, match="first"):
            batch_vector(*_vectors(), rule="first")

    @pytest.mark.parametrize("rule", ["last", "mean"])
    def test_no_value_is_read_by_the_host(self, rule: str) -> None:
        vectors, present = (tensor.detach().to("meta") for tensor in _vectors())
        assert batch_vector(vectors, present, rule=rule).shape == (CLASSES, CHANNELS)
