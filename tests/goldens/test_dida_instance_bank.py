"""The instance bank as the authors' released code fills and updates it (instance_bank_*.npz)."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from golden_files import NO_CASES, has_golden, load_npz
from torch import Tensor

from losses.instance_bank import CITYSCAPES_RARE_FIRST, InstanceBank
from utils.class_spaces import IGNORE_LABEL

UPDATES = "instance_bank_ema.npz"
FILLING = "instance_bank_fill.npz"
TOLERANCE = {"rtol": 0, "atol": 2e-6}  # the goldens README
MOMENTUM = 0.999


def _numbers(archive: str, pattern: str) -> list[str]:
    """What `pattern` captures in the names of an archive's arrays; placeholders as `golden_files.cases`."""
    if not has_golden("dida", archive):
        return ["missing-goldens"]
    found = {match[1] for name in load_npz("dida", archive) if (match := re.fullmatch(pattern, name))}
    return sorted(found, key=int) or [NO_CASES]


def _batch(golden: dict[str, np.ndarray], key: str) -> tuple[Tensor, Tensor]:
    """Features (N, D, H, W) and labels (N, H, W) of one step."""
    features, labels = golden[f"feat_{key}"], golden[f"labels_{key}"]
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels).squeeze(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", _numbers(UPDATES, r"bank0_(\d+)"))
def test_momentum_updates_follow_the_reference(case: str, dtype: torch.dtype) -> None:
    golden = load_npz("dida", UPDATES)
    features, labels = (
        torch.from_numpy(golden[f"bank0_{case}"]),
        torch.from_numpy(golden[f"bank_labels_{case}"]),
    )
    bank = InstanceBank(*features.shape, num_classes=IGNORE_LABEL).to(dtype)  # however many there are
    bank.set(features, labels)
    steps = _numbers(UPDATES, rf"bank_after_{case}_(\d+)")
    for step in steps:
        source, source_labels = _batch(golden, f"{case}_{step}")
        bank.update(source.to(dtype), source_labels, iteration=int(step), momentum=MOMENTUM)
        expected = torch.from_numpy(golden[f"bank_after_{case}_{step}"]).to(dtype)
        torch.testing.assert_close(bank.features, expected, **TOLERANCE)
        assert torch.equal(bank.labels, labels)
    assert steps


def test_the_bank_fills_in_rare_first_order_over_batches() -> None:
    golden = load_npz("dida", FILLING)
    order = golden["rare_order"].tolist()
    bank = InstanceBank(int(golden["K"]), golden["feat_0"].shape[1], num_classes=len(order))
    for step in _numbers(FILLING, r"feat_(\d+)"):
        bank.fill(*_batch(golden, step), order)
        filled = int(golden[f"fill_index_{step}"])
        assert int(bank.pointer) == filled
        assert bank.is_full == (filled == len(bank.labels))
        labels, expected = golden[f"bank_labels_after_{step}"], golden[f"bank_after_{step}_sub"]
        assert bank.labels[:filled].tolist() == labels[:filled].tolist()
        stride = bank.features.shape[1] // expected.shape[1]
        torch.testing.assert_close(bank.features[:, ::stride], torch.from_numpy(expected), **TOLERANCE)


def test_the_published_class_order_is_ours() -> None:
    assert load_npz("dida", FILLING)["rare_order"].tolist() == list(CITYSCAPES_RARE_FIRST)


@pytest.mark.parametrize("case", _numbers(FILLING, r"dist_labels_(\d+)"))
def test_under_represented_and_missing_classes_are_the_reference_s(case: str) -> None:
    golden = load_npz("dida", FILLING)
    order, labels = golden["rare_order"].tolist(), torch.from_numpy(golden[f"dist_labels_{case}"])
    bank = InstanceBank(len(labels), 1, num_classes=len(order))
    bank.set(torch.ones(len(labels), 1), labels)
    assert bank.under_represented(order) == golden[f"under_represented_{case}"].tolist()
    missing = set(golden[f"missing_{case}"].tolist())
    # The reference was asked about the bank without these classes' entries.
    without = labels[[label not in missing for label in labels.tolist()]]
    rest = InstanceBank(len(without), 1, num_classes=len(order))
    rest.set(torch.ones(len(without), 1), without)
    assert set(rest.missing_classes()) == missing | (set(order) - set(labels.tolist()))


def test_the_pointer_goes_round_and_loses_a_write_at_each_turn() -> None:
    trace = load_npz("dida", FILLING)["rotating_pointer_trace"]
    bank = InstanceBank(trace.shape[1] - 1, 1, num_classes=len(trace) + 1)
    for value, (pointer, *entries) in enumerate(trace.tolist(), start=1):
        bank.write(torch.tensor([float(value)]), value)
        assert int(bank.pointer) == pointer
        assert bank.features[:, 0].tolist() == entries
    assert len(trace)
