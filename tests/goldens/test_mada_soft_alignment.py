"""Soft alignment: distances, harmonic mean, gradient and one step of the anchors (soft_alignment.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import cases, load_npz
from torch import Tensor

from losses.alignment import soft_alignment, updated_anchors

ARCHIVE = "soft_alignment.npz"
CASES = cases("mada", ARCHIVE, "loss")
LOSS_RTOL, GRADIENT_RTOL = 1e-6, 1e-5  # the goldens README
NEGLIGIBLE = 1e-10  # of gradients, whose entries are about 1e-4
DTYPES = [torch.float32, torch.float64]


def read(case: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    archive = load_npz("mada", ARCHIVE)
    return {key.partition("/")[2]: array for key, array in archive.items() if key.startswith(f"{case}/")}


def inputs(golden: dict[str, np.ndarray], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Vector with gradient, and anchors."""
    seed, shape = int(golden["seed"]), golden["grad"].shape
    number = len(golden["distances"])
    anchors = np.random.default_rng(seed).standard_normal((number, *shape)).astype(np.float32)
    vector = np.random.default_rng(seed + 1).standard_normal(shape).astype(np.float32)
    vector = vector * np.float32(golden["scale"])
    vector[golden["absent"]] = 0
    first, second = golden["dup"].tolist()
    if first != -1:
        anchors[second] = anchors[first]
        vector = anchors[first] + np.float32(0.1) * vector
    if golden["exact"] >= 0:
        vector = anchors[int(golden["exact"])].copy()
    return torch.from_numpy(vector).to(dtype).requires_grad_(), torch.from_numpy(anchors).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_distances_and_loss_equal_the_reference_and_are_finite_where_it_is_not(
    case: str, dtype: torch.dtype
) -> None:
    golden = read(case)
    loss, distances = soft_alignment(*inputs(golden, dtype))
    assert loss.dtype == distances.dtype == dtype
    np.testing.assert_allclose(distances.numpy(), golden["distances"], rtol=LOSS_RTOL)
    if np.isfinite(golden["loss"]):
        np.testing.assert_allclose(loss.item(), golden["loss"], rtol=LOSS_RTOL)
    else:
        assert 0 <= loss.item() < 1e-9  # the harmonic mean with a distance of 0 is 0


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_reference_and_are_finite_where_it_is_not(case: str, dtype: torch.dtype) -> None:
    golden = read(case)
    vector, anchors = inputs(golden, dtype)
    soft_alignment(vector, anchors)[0].backward()
    if np.isfinite(golden["grad"]).all():
        tolerance = {"rtol": GRADIENT_RTOL, "atol": NEGLIGIBLE}
        np.testing.assert_allclose(vector.grad.numpy(), golden["grad"], **tolerance)
    assert vector.grad.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_the_nearest_anchor_alone_follows_the_vector_as_the_reference_s(case: str) -> None:
    golden = read(case)
    vector, anchors = inputs(golden)
    moved = updated_anchors(anchors, vector, soft_alignment(vector, anchors)[1])
    index = int(golden["index"])
    np.testing.assert_allclose(moved[index].numpy(), golden["anchor_updated_row"], rtol=1e-6, atol=1e-7)
    others = torch.arange(len(anchors)) != index
    assert torch.equal(moved[others], anchors[others])
    assert str(moved.numpy().dtype) == golden["anchor_dtype"]
    assert not moved.requires_grad
