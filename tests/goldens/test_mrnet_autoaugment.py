"""The 18 colour policies and their operations (autoaugment_policies.json, autoaugment.npz, specification
3.9)."""

from __future__ import annotations

import numpy as np
import pytest
from golden_files import load_json, load_npz
from PIL import Image

from data_loaders.autoaugment import POLICIES, Operation, apply_policy

SIGNS = {"sign_minus": 0, "sign_plus": 1}  # field of the archive -> the draw that means it


class FixedSign:
    """Applies every operation that has a probability, with one sign."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def random(self) -> float:
        """Below every probability but 0."""
        return 0.0

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        """The fixed sign."""
        assert (low, high, endpoint) == (0, 1, True)
        return self.sign


def described(operation: Operation) -> tuple:
    """An operation as the manifest writes it."""
    return (operation.probability, operation.name, operation.level, pytest.approx(operation.magnitude))


def test_the_table_of_policies_equals_the_golden_one() -> None:
    manifest = load_json("mrnet", "autoaugment_policies.json")
    assert [tuple(row) for row in manifest["policies"]] == [
        (*described(first), *described(second)) for first, second in POLICIES
    ]


@pytest.mark.parametrize("field", SIGNS)
@pytest.mark.parametrize("number", range(len(POLICIES)))
def test_a_policy_gives_the_golden_picture(number: int, field: str) -> None:
    archive = load_npz("mrnet", "autoaugment.npz")
    picture = apply_policy(Image.fromarray(archive["input"]), POLICIES[number], FixedSign(SIGNS[field]))
    difference = np.asarray(picture).astype(int) - archive[field][number].astype(int)
    assert np.abs(difference).max() <= 1
