"""Downscaled labels, masks, and the feature distance with its gradient (feature_distance.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import matching_cases
from torch import Tensor

from losses.feature_distance import downscaled_labels, feature_distance, feature_mask
from utils.class_spaces import class_space

ARCHIVE = "feature_distance.npz"
WEIGHT = 0.005  # the stored losses and gradients hold it
MIN_SHARE = 0.75
ATOL = 1e-6
SPACE = class_space("cityscapes19")


def tensor(key: str) -> Tensor:
    return torch.from_numpy(load_npz("dida", ARCHIVE)[key])


def majority(labels: Tensor, size: tuple[int, int], min_share: float = MIN_SHARE) -> Tensor:
    return downscaled_labels(labels, size, num_classes=SPACE.num_classes, min_share=min_share)


@pytest.mark.parametrize("case", matching_cases("dida", ARCHIVE, r"scale_(.+)"))
def test_downscaled_labels_and_masks_equal_the_reference(case: str) -> None:
    labels, expected = tensor(f"gt_{case}").squeeze(1), tensor(f"downscaled_{case}").squeeze(1)
    scale = int(tensor(f"scale_{case}"))
    size = (labels.shape[1] // scale, labels.shape[2] // scale)
    assert torch.equal(majority(labels, size), expected)
    mask = feature_mask(labels, size, classes=SPACE.things, num_classes=SPACE.num_classes)
    assert torch.equal(mask, tensor(f"mask_{case}").squeeze(1))


@pytest.mark.parametrize("case", matching_cases("dida", ARCHIVE, r"scale_(.+)"))
def test_distances_and_gradients_equal_the_reference(case: str) -> None:
    features, reference = tensor(f"f1_{case}").requires_grad_(), tensor(f"f2_{case}")
    mask = tensor(f"mask_{case}").squeeze(1)
    loss = WEIGHT * feature_distance(features, reference, mask)
    loss.backward()
    np.testing.assert_allclose(loss.item(), tensor(f"loss_{case}").item(), rtol=0, atol=ATOL)
    np.testing.assert_allclose(features.grad.numpy(), tensor(f"grad_{case}").numpy(), rtol=0, atol=ATOL)
    everywhere = WEIGHT * feature_distance(features, reference, torch.ones_like(mask))
    np.testing.assert_allclose(everywhere.item(), tensor(f"loss_unmasked_{case}").item(), rtol=0, atol=ATOL)


@pytest.mark.parametrize("case", matching_cases("dida", ARCHIVE, r"(edge.*)_gt"))
def test_exactly_the_least_share_is_enough(case: str) -> None:
    expected = tensor(f"{case}_downscaled").squeeze(1)
    found = majority(tensor(f"{case}_gt").squeeze(1), tuple(expected.shape[1:]))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("case", matching_cases("dida", ARCHIVE, r"(tie.*)_gt"))
def test_the_lowest_class_wins_a_tie(case: str) -> None:
    expected = tensor(f"{case}_downscaled").squeeze(1)
    size = tuple(expected.shape[1:])
    found = majority(tensor(f"{case}_gt").squeeze(1), size, min_share=0.0)  # no share reaches 0.75 here
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("case", "masked"), [("empty_mask", False), ("identical", True)])
def test_without_a_distance_the_loss_is_0_and_so_is_the_gradient(case: str, masked: bool) -> None:
    expected = tensor(f"{case}_grad")
    reference = torch.linspace(-1, 1, expected.numel()).view(expected.shape)
    features = (reference if masked else reference + 1).clone().requires_grad_()
    mask = torch.full((len(expected), *expected.shape[-2:]), masked)
    loss = feature_distance(features, reference, mask)
    loss.backward()
    assert loss.item() == np.nan_to_num(tensor(f"{case}_loss").item())  # the reference divides by no position
    assert torch.equal(features.grad, expected)
