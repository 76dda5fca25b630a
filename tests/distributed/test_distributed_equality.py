"""Same seed, same global batch: 1 process x 4 images, 2 x 2 and 4 x 1 end with the same weights (float64,
1e-9)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from launching import run_processes

SCRIPT = Path(__file__).with_name("train_in_float64.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    """Results of every run by number of processes; one launch each, because starting costs more than
    training."""
    folder = tmp_path_factory.mktemp("runs")
    results = {}
    for processes in (1, 2, 4):
        output = folder / f"{processes}.pth"
        run_processes(processes, [str(SCRIPT), str(output)], timeout=300)
        results[processes] = torch.load(output, weights_only=True)
    return results


def assert_equal_runs(ours: dict, reference: dict) -> None:
    assert ours["state"].keys() == reference["state"].keys()
    for name, value in reference["state"].items():
        if value.is_floating_point():
            scale = value.abs().max().item()
            # entries whose true value is 0 (a bias before instance-wise normalisation) hold rounding errors
            # alone
            np.testing.assert_allclose(
                ours["state"][name], value, rtol=1e-9, atol=1e-9 * scale + 1e-15, err_msg=name
            )
        else:
            assert torch.equal(ours["state"][name], value), name
    for mine, theirs in zip(ours["losses"], reference["losses"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("batch_norm", ["sync", "frozen"])
@pytest.mark.parametrize("method", ["source", "mrnet", "plain", "rectified"])
def test_process_counts_train_the_same_weights(
    runs: dict[int, dict], method: str, batch_norm: str, processes: int
) -> None:
    run = f"{method}-{batch_norm}"
    assert_equal_runs(runs[processes][run], runs[1][run])
