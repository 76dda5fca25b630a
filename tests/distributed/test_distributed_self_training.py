"""Same seed, same global batch: self-training on 1, 2 and 4 processes ends with the same student, teacher and
instance bank (float64, 1e-9)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from data_loaders.photometric import StrongAugmentation
from tests.distributed.train_self_training_in_float64 import CASES, ITERATIONS, main
from tests.forked_runs import run_forked

WORKER = "tests.distributed.train_self_training_in_float64"
Results = dict[int, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of every case by number of processes, in one launch each; one process is this one."""
    folder = tmp_path_factory.mktemp("runs")
    outputs = {processes: folder / f"{processes}.pth" for processes in (1, 2, 4)}
    main([str(outputs[1])])
    for processes in (2, 4):
        assert run_forked(WORKER, [str(outputs[processes])], processes=processes) == [0] * processes
    return {n: torch.load(output, weights_only=True) for n, output in outputs.items()}


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", CASES)
class TestProcessCounts:
    def test_train_the_same_state(self, runs: Results, case: str, processes: int) -> None:
        ours, theirs = runs[processes][case]["state"], runs[1][case]["state"]
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if value.is_floating_point():
                scale = value.abs().max().item()
                np.testing.assert_allclose(
                    ours[name], value, rtol=1e-9, atol=1e-9 * scale + 1e-15, err_msg=name
                )
            else:
                assert torch.equal(ours[name], value), name

    def test_log_the_same_means(self, runs: Results, case: str, processes: int) -> None:
        ours, theirs = runs[processes][case]["losses"], runs[1][case]["losses"]
        assert len(ours) == len(theirs) == ITERATIONS
        for mine, other in zip(ours, theirs, strict=True):
            assert mine == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_runs_are_worth_comparing(runs: Results, case: str) -> None:
    """Every term takes part, some pixels are confident and some are not, and bank and teacher move."""
    losses, state = runs[1][case]["losses"], runs[1][case]["state"]
    assert all(0 < line["pseudo/confident_share"] < 1 for line in losses)
    total = {name: sum(line.get(name, 0) for line in losses) for name in losses[0]}
    assert {"loss/source", "loss/mixed", "loss/feature_distance"} <= total.keys()
    assert all(value > 0 for value in total.values())
    assert ("loss/instance" in total) == case.startswith("dida")
    if case.startswith("dida"):
        assert int(state["instance_bank/updated_at"]) == ITERATIONS - 1
    weights = [name for name in state if name.startswith("teacher/") and name.endswith("weight")]
    assert any(not torch.equal(state[name], state[name.replace("teacher", "network", 1)]) for name in weights)


def test_iterations_jitter_and_blur() -> None:
    gates = map(StrongAugmentation(seed=0).gates, range(ITERATIONS))
    assert all(any(opened) for opened in zip(*gates, strict=True))
