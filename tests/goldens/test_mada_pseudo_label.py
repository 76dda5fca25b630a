"""Pseudo labels from the current network and the cross entropy on them (pseudo_label.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import cases, load_npz
from torch import Tensor

from losses.objective import predicted_classes
from losses.segmentation import weighted_cross_entropy

ARCHIVE = "pseudo_label.npz"
CASES = cases("mada", ARCHIVE, "shape")
LOSS_ATOL, GRADIENT_ATOL = 1e-6, 1e-8


def read(case: str) -> tuple[dict[str, np.ndarray], Tensor]:
    """The arrays of a case, and its logits with gradient."""
    archive = load_npz("mada", ARCHIVE)
    golden = {key.partition("/")[2]: array for key, array in archive.items() if key.startswith(f"{case}/")}
    count, height, width = golden["shape"].tolist()
    shape = (count, golden["grad"].shape[1], height, width)
    logits = np.random.default_rng(int(golden["seed"])).standard_normal(shape).astype(np.float32)
    logits *= np.float32(3)
    logits[0, :, 0, 0] = 1
    logits[0, :, 0, 1] = -1
    logits[0, [5, 11], 0, 1] = 4
    return golden, torch.from_numpy(logits).requires_grad_()


@pytest.mark.parametrize("case", CASES)
def test_every_pixel_gets_the_reference_s_label(case: str) -> None:
    golden, logits = read(case)
    np.testing.assert_array_equal(predicted_classes(logits).numpy(), golden["argmax"])


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_the_reference(case: str) -> None:
    golden, logits = read(case)
    loss = weighted_cross_entropy(logits, predicted_classes(logits))
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden["loss"], rtol=0, atol=LOSS_ATOL)
    gradient = logits.grad[:, :, ::2, ::2].numpy()
    np.testing.assert_allclose(gradient, golden["grad"], rtol=0, atol=GRADIENT_ATOL)
