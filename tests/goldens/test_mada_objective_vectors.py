"""Objective vectors, their gradients and the downsampled labels (objective_vectors.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import load_npz
from matching_cases import matching_cases
from torch import Tensor

from losses.objective import (
    ObjectiveVectors,
    batch_vector,
    class_means_of,
    nearest_labels,
    predicted_classes,
)
from utils.class_spaces import IGNORE_LABEL

ARCHIVE = "objective_vectors.npz"
CASES = matching_cases("mada", ARCHIVE, r"(.+)/(?:meta|argmax_softmax|src_count)")  # drawn, edge, all ignored
KINDS = ("src", "tgt")  # pixels labelled and predicted as the class, and predicted pixels
VECTOR_ATOL, GRADIENT_ATOL = 1e-6, 1e-7  # the goldens README, float32
PUBLISHED_IGNORE = 250


def read(case: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    archive = load_npz("mada", ARCHIVE)
    return {key.partition("/")[2]: array for key, array in archive.items() if key.startswith(f"{case}/")}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def inputs(golden: dict[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    """Features, logits and labels on their grid."""
    if "src_count" in golden:
        labels = torch.full((2, 12, 16), PUBLISHED_IGNORE, dtype=torch.uint8)
        return normal(0, 2, 8, 12, 16), normal(1, 2, 19, 12, 16), labels
    seed, (num_classes, channels) = int(golden["seed"]), golden["src_objective"].shape
    if "logits" in golden:
        logits, labels = torch.from_numpy(golden["logits"]), torch.from_numpy(golden["label_down"])
        return normal(seed, len(logits), channels, *logits.shape[2:]), logits, labels
    wanted = torch.from_numpy(golden["pred_blocks"]).long()
    count, height, width = golden["meta"][:3].tolist()
    one_hot = F.one_hot(wanted, num_classes).movedim(-1, 1)
    logits = normal(seed + 2, count, num_classes, height, width) + 4 * one_hot.float()
    labels = nearest_labels(torch.from_numpy(golden["label_full"]), (height, width))
    return normal(seed, count, channels, height, width), logits, labels


def means(
    kind: str, golden: dict[str, np.ndarray], features: Tensor, logits: Tensor, labels: Tensor
) -> ObjectiveVectors:
    if "argmax_softmax" in golden:  # here the reference's choice among equal probabilities matters
        logits = torch.softmax(logits, 1)
    return class_means_of(features, logits, labels if kind == "src" else None)


@pytest.mark.parametrize("case", CASES)
def test_downsampled_labels_and_predictions_are_the_reference_s(case: str) -> None:
    golden = read(case)
    _, logits, labels = inputs(golden)
    np.testing.assert_array_equal(labels.numpy(), golden.get("label_down", labels.numpy()))
    found = predicted_classes(logits).numpy()
    if "argmax_softmax" in golden:  # of equal probabilities the lowest, or the one with the largest logit
        assert ((found == golden["argmax_softmax"]) | (found == golden["argmax_logits"])).all()
    np.testing.assert_array_equal(found, golden.get("argmax", found))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_present_classes_and_vectors_equal_the_reference(case: str, kind: str) -> None:
    golden = read(case)
    found = means(kind, golden, *inputs(golden))
    if f"{kind}_count" in golden:
        assert found.present.sum().item() == golden[f"{kind}_count"]
    if f"{kind}_ids" in golden:
        assert found.present.nonzero()[:, 1].tolist() == golden[f"{kind}_ids"].tolist()
    vectors = golden.get(f"{kind}_vectors", np.empty(0))
    if vectors.size:
        np.testing.assert_allclose(found.vectors[found.present], vectors, rtol=0, atol=VECTOR_ATOL)
    objective = batch_vector(found.vectors, found.present)
    if f"{kind}_objective" in golden:
        np.testing.assert_allclose(objective, golden[f"{kind}_objective"], rtol=0, atol=VECTOR_ATOL)
    assert not objective[~found.present.any(0)].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_with_their_scaling_equal_the_reference(case: str, kind: str) -> None:
    golden = read(case)
    features, logits, labels = inputs(golden)
    found = means(kind, golden, features.requires_grad_(), logits, labels)
    objective = batch_vector(found.vectors, found.present)
    (objective * normal(int(golden.get("seed", 0)) + 1, *objective.shape)).sum().backward()
    if f"{kind}_grad" in golden:
        gradient = features.grad[:, ::32, ::3, ::3].numpy()
        np.testing.assert_allclose(gradient, golden[f"{kind}_grad"], rtol=0, atol=GRADIENT_ATOL)
    assert features.grad.any() == found.present.any()


@pytest.mark.parametrize("case", CASES)
def test_the_published_ignore_value_and_ours_match_no_class_alike(case: str) -> None:
    golden = read(case)
    features, logits, labels = inputs(golden)
    ours = labels.masked_fill(labels == PUBLISHED_IGNORE, IGNORE_LABEL)
    assert torch.equal(
        means("src", golden, features, logits, ours).vectors,
        means("src", golden, features, logits, labels).vectors,
    )
