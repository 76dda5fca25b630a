"""Weighted cross entropy over all pixels and the pixel accuracy (cross_entropy.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from torch import Tensor

from losses.self_training import pixel_accuracy, pixel_cross_entropy

ATOL = 1e-6  # the goldens README


def read() -> tuple[dict[str, np.ndarray], Tensor, Tensor]:
    """The archive, logits with gradient, and labels."""
    golden = load_npz("dida", "cross_entropy.npz")
    return golden, torch.from_numpy(golden["logits"]).requires_grad_(), torch.from_numpy(golden["label"])


@pytest.mark.parametrize("label_type", [torch.int64, torch.uint8], ids=["int64", "uint8"])
def test_weighted_loss_and_gradient_equal_the_reference(label_type: torch.dtype) -> None:
    golden, logits, labels = read()
    loss = pixel_cross_entropy(logits, labels.to(label_type), torch.from_numpy(golden["weight"]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden["loss_weighted"], rtol=0, atol=ATOL)
    np.testing.assert_allclose(logits.grad.numpy(), golden["grad_weighted"], rtol=0, atol=ATOL)


def test_unweighted_loss_equals_the_reference() -> None:
    golden, logits, labels = read()
    loss = pixel_cross_entropy(logits, labels)
    np.testing.assert_allclose(loss.item(), golden["loss_unweighted"], rtol=0, atol=ATOL)


def test_accuracy_divides_by_all_pixels_as_the_reference() -> None:
    golden, logits, labels = read()
    np.testing.assert_allclose(pixel_accuracy(logits, labels).item(), golden["acc"], rtol=0, atol=ATOL)


def test_a_batch_without_labels_costs_what_the_reference_says() -> None:
    golden, logits, labels = read()
    loss = pixel_cross_entropy(logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == golden["loss_all_ignored"]
    assert not logits.grad.any()
