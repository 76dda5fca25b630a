"""Trajectories of parameters that the authors' optimizer listed k times (sgd_repeated.npz, in float64)."""

from __future__ import annotations

import re

import pytest
import torch
from golden_files import NO_CASES, golden_path, has_golden, load_npz

from utils.optimizers import build_sgd

ARCHIVE = "sgd_repeated.npz"
RTOL = 1e-10


def _multiplicities() -> list[int | str]:
    if not has_golden("mrnet", ARCHIVE):
        return ["missing-goldens"]
    found = (re.fullmatch(r"legacy_k(\d+)", name) for name in load_npz("mrnet", ARCHIVE))
    return sorted(int(match[1]) for match in found if match) or [NO_CASES]


@pytest.mark.parametrize("multiplicity", _multiplicities())
def test_repeated_steps_follow_the_legacy_trajectory(multiplicity: int) -> None:
    golden_path("mrnet", ARCHIVE)
    golden = load_npz("mrnet", ARCHIVE)
    parameter = torch.nn.Parameter(torch.from_numpy(golden["p0"].copy()))
    optimizer = build_sgd(
        [{"params": [parameter], "multiplicity": multiplicity}],
        lr=float(golden["lr"][0]),
        momentum=float(golden["momentum"]),
        weight_decay=float(golden["weight_decay"]),
        nesterov=True,
    )
    expected = torch.from_numpy(golden[f"legacy_k{multiplicity}"])
    for gradient, lr, after in zip(golden["grads"], golden["lr"], expected, strict=True):
        optimizer.param_groups[0]["lr"] = float(lr)
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), after, rtol=RTOL, atol=0)
