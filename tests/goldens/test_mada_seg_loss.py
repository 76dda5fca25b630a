"""Cross entropy of logits that are resized to the labels (seg_loss.npz); the authors ignore 250, we 255."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import cases, load_npz
from torch import Tensor

from losses.segmentation import weighted_cross_entropy
from utils.class_spaces import IGNORE_LABEL
from utils.maths import upsample

ARCHIVE = "seg_loss.npz"
CASES = cases("mada", ARCHIVE, "shape")
PUBLISHED_IGNORE = 250
LOSS_ATOL, GRADIENT_ATOL = 1e-6, 1e-8


def read(case: str) -> tuple[dict[str, np.ndarray], Tensor, Tensor]:
    """The arrays of a case, its logits with gradient, and our labels."""
    archive = load_npz("mada", ARCHIVE)
    golden = {key.partition("/")[2]: array for key, array in archive.items() if key.startswith(f"{case}/")}
    count, height, width = golden["shape"][:3].tolist()
    shape = (count, golden["grad"].shape[1], height, width)
    logits = np.random.default_rng(int(golden["seed"])).standard_normal(shape).astype(np.float32)
    labels = golden["label"].copy()
    labels[labels == PUBLISHED_IGNORE] = IGNORE_LABEL
    return golden, torch.from_numpy(logits * np.float32(2)).requires_grad_(), torch.from_numpy(labels)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_resized_as_the_reference_s(case: str) -> None:
    golden, logits, labels = read(case)
    assert tuple(labels.shape[1:]) == tuple(golden["shape"][3:])
    found = upsample(logits.detach(), tuple(labels.shape[1:]))[:, ::6, ::8, ::8].numpy()
    np.testing.assert_allclose(found, golden["upsampled"], rtol=0, atol=LOSS_ATOL)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_the_reference_and_are_0_where_it_divides_by_zero(case: str) -> None:
    golden, logits, labels = read(case)
    loss = weighted_cross_entropy(upsample(logits, tuple(labels.shape[1:])), labels)
    loss.backward()
    if np.isfinite(golden["loss"]):
        np.testing.assert_allclose(loss.item(), golden["loss"], rtol=0, atol=LOSS_ATOL)
        gradient = logits.grad[:, :, ::3, ::3].numpy()
        np.testing.assert_allclose(gradient, golden["grad"], rtol=0, atol=GRADIENT_ATOL)
    else:
        assert loss.item() == 0
        assert not logits.grad.any()


@pytest.mark.parametrize("case", CASES)
def test_logits_that_were_not_resized_are_refused_as_by_the_reference(case: str) -> None:
    _, logits, labels = read(case)
    if labels.shape[1:] != logits.shape[2:]:
        with pytest.raises(RuntimeError, match="Size does not match"):
            weighted_cross_entropy(logits, labels)
