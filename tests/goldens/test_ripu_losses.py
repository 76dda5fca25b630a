"""Values and gradients of RIPU's losses, and the boundary pixels (losses.npz, losses.json)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_files import load_json, load_npz
from json_cases import json_cases
from ripu_labels import drawn_labels
from torch import Tensor

from losses.consistency import boundary_mask, local_consistency
from losses.negative import negative_learning
from losses.segmentation import weighted_cross_entropy
from utils.class_spaces import IGNORE_LABEL

ARCHIVE, RECIPES = "losses.npz", "losses.json"
CASES = json_cases("ripu", RECIPES)
LABELLED = json_cases("ripu", RECIPES, ["label"])
LOSS = {"rtol": 1e-5, "atol": 1e-7}
GRADIENT = {"rtol": 1e-4, "atol": 1e-7}


def read(case: str) -> tuple[dict[str, Any], Tensor, Tensor | None, dict[str, np.ndarray]]:
    """Recipe, logits with gradient, labels where it has any, and the arrays of a case."""
    recipe, archive = load_json("ripu", RECIPES)[case], load_npz("ripu", ARCHIVE)
    shape = tuple(recipe["shape"])
    drawn = np.random.default_rng(recipe["seed"]).standard_normal(shape) * recipe["scale"]
    logits = torch.from_numpy(drawn.astype(np.float32)).requires_grad_()
    labels = None
    if "label" in recipe:
        count, num_classes, height, width = shape
        numbers = drawn_labels(recipe["label"], recipe.get("label_seed"), (count, height, width), num_classes)
        labels = torch.from_numpy(numbers)
    arrays = {key.partition("/")[2]: array for key, array in archive.items() if key.startswith(f"{case}/")}
    return recipe, logits, labels, arrays


def loss_of(recipe: dict[str, Any], logits: Tensor, labels: Tensor | None) -> Tensor:
    """What our code gives for a recipe."""
    if recipe["loss_kind"] == "local_consistency":
        return local_consistency(logits, labels, kind=recipe["type"])
    if recipe["loss_kind"] == "negative_learning":
        return negative_learning(logits, threshold=recipe["threshold"])
    assert recipe["loss_kind"] == "cross_entropy"
    return weighted_cross_entropy(logits, labels)


@pytest.mark.parametrize("case", CASES)
def test_losses_equal_the_reference_and_are_0_where_it_divides_by_zero(case: str) -> None:
    recipe, logits, labels, _ = read(case)
    loss = loss_of(recipe, logits, labels)
    np.testing.assert_allclose(loss.item(), recipe["loss"] or 0, **LOSS)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_reference(case: str) -> None:
    recipe, logits, labels, arrays = read(case)
    loss_of(recipe, logits, labels).backward()
    assert logits.grad.isfinite().all()
    if recipe["loss"] is None:
        assert not logits.grad.any()
    if "grad" in arrays:
        np.testing.assert_allclose(logits.grad.numpy(), arrays["grad"], **GRADIENT)


@pytest.mark.parametrize("case", LABELLED)
def test_the_pixels_that_count_are_those_of_the_reference(case: str) -> None:
    recipe, _, labels, arrays = read(case)
    counted = labels != IGNORE_LABEL
    if recipe["loss_kind"] == "local_consistency":
        counted = boundary_mask(labels)
        expected = np.unpackbits(arrays["mask"], count=labels.numel()).astype(bool).reshape(labels.shape)
        np.testing.assert_array_equal(counted.numpy(), expected)
        assert torch.equal(boundary_mask(labels.to(torch.uint8)), counted)
    assert counted.sum().item() == recipe.get("mask_count", recipe.get("valid"))


@pytest.mark.parametrize("case", CASES)
def test_the_mean_is_that_of_the_reference_distances(case: str) -> None:
    recipe, logits, labels, arrays = read(case)
    if "discrepancy" in arrays:
        counted = boundary_mask(labels).numpy()
        mean = arrays["discrepancy"][counted].mean(dtype=np.float64)
        np.testing.assert_allclose(loss_of(recipe, logits, labels).item(), mean, **LOSS)
    if "count" in recipe:
        below = torch.softmax(logits.detach(), 1) < recipe["threshold"]
        assert below.sum().item() == recipe["count"]
