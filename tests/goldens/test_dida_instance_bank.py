"""The instance bank as the authors' released code fills and updates it (instance_bank_*.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import matching_cases
from torch import Tensor

from losses.instance_bank import CITYSCAPES_RARE_FIRST, InstanceBank, class_means, label_weights
from utils.class_spaces import IGNORE_LABEL

UPDATES = "instance_bank_ema.npz"
FILLING = "instance_bank_fill.npz"
TOLERANCE = {"rtol": 0, "atol": 2e-6}  # the goldens README
MOMENTUM = 0.999


def _batch(golden: dict[str, np.ndarray], key: str) -> tuple[Tensor, Tensor]:
    """Features (N, D, H, W) and labels (N, H, W) of one step."""
    features, labels = golden[f"feat_{key}"], golden[f"labels_{key}"]
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels).squeeze(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", matching_cases("dida", UPDATES, r"bank0_(\d+)"))
def test_momentum_updates_follow_the_reference(case: str, dtype: torch.dtype) -> None:
    golden = load_npz("dida", UPDATES)
    features, labels = (
        torch.from_numpy(golden[f"bank0_{case}"]),
        torch.from_numpy(golden[f"bank_labels_{case}"]),
    )
    bank = InstanceBank(*features.shape, num_classes=IGNORE_LABEL).to(dtype)  # however many there are
    bank.set(features, labels)
    steps = matching_cases("dida", UPDATES, rf"bank_after_{case}_(\d+)")
    for step in steps:
        source, source_labels = _batch(golden, f"{case}_{step}")
        bank.update(source.to(dtype), source_labels, iteration=int(step), momentum=MOMENTUM)
        expected = torch.from_numpy(golden[f"bank_after_{case}_{step}"]).to(dtype)
        torch.testing.assert_close(bank.features, expected, **TOLERANCE)
        assert torch.equal(bank.labels, labels)
    assert steps


def _add_as_published(bank: InstanceBank, features: Tensor, labels: Tensor, order: list[int]) -> None:
    """Image after image, the classes of the batch: the mean of the image's features where any image of the
    batch has the class. Ours take the image's own positions, which is the same for a batch of one."""
    weights = label_weights(labels, tuple(features.shape[2:]), bank.num_classes, features.dtype)
    classes = [index for index in order if weights[index].any()]
    for means in class_means(weights, features):
        bank.add(means[classes], classes)


def test_the_bank_fills_in_rare_first_order_over_batches() -> None:
    golden = load_npz("dida", FILLING)
    order = golden["rare_order"].tolist()
    bank = InstanceBank(int(golden["K"]), golden["feat_0"].shape[1], num_classes=len(order))
    for step in matching_cases("dida", FILLING, r"feat_(\d+)"):
        _add_as_published(bank, *_batch(golden, step), order)
        filled = int(golden[f"fill_index_{step}"])
        assert int(bank.pointer) == filled
        assert bank.is_full == (filled == len(bank.labels))
        labels, expected = golden[f"bank_labels_after_{step}"], golden[f"bank_after_{step}_sub"]
        assert bank.labels[:filled].tolist() == labels[:filled].tolist()
        stride = bank.features.shape[1] // expected.shape[1]
        torch.testing.assert_close(bank.features[:, ::stride], torch.from_numpy(expected), **TOLERANCE)


def test_the_published_class_order_is_ours() -> None:
    assert load_npz("dida", FILLING)["rare_order"].tolist() == list(CITYSCAPES_RARE_FIRST)


@pytest.mark.parametrize("case", matching_cases("dida", FILLING, r"dist_labels_(\d+)"))
def test_under_represented_and_missing_classes_are_the_reference_s(case: str) -> None:
    golden = load_npz("dida", FILLING)
    order, labels = golden["rare_order"].tolist(), torch.from_numpy(golden[f"dist_labels_{case}"])
    bank = InstanceBank(len(labels), 1, num_classes=len(order))
    bank.set(torch.ones(len(labels), 1), labels)
    counts, enough = bank.histogram(), len(labels) / len(order) - 1
    found = [index for index in order if counts[index] < enough]
    assert found == golden[f"under_represented_{case}"].tolist()
    missing = set(golden[f"missing_{case}"].tolist())
    # The reference was asked about the bank without these classes' entries.
    without = labels[[label not in missing for label in labels.tolist()]]
    rest = InstanceBank(len(without), 1, num_classes=len(order))
    rest.set(torch.ones(len(without), 1), without)
    absent = (rest.histogram() == 0).nonzero().flatten().tolist()
    assert set(absent) == missing | (set(order) - set(labels.tolist()))


def test_the_pointer_goes_round_and_loses_a_write_at_each_turn() -> None:
    trace = load_npz("dida", FILLING)["rotating_pointer_trace"]
    bank = InstanceBank(trace.shape[1] - 1, 1, num_classes=len(trace) + 1)
    for value, (pointer, *entries) in enumerate(trace.tolist(), start=1):
        bank.write(torch.tensor([float(value)]), value)
        assert int(bank.pointer) == pointer
        assert bank.features[:, 0].tolist() == entries
    assert len(trace)
