"""Same seed, same global batch: MADA on 1, 2 and 4 processes makes the same source anchors, asks for the same
images, and ends both stages with the same weights and target anchors (float64, 1e-9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selection.anchor_files import centroids_name
from tests.distributed.train_anchored_in_float64 import ARCHITECTURES, main
from tests.forked_runs import run_forked
from tests.toy_anchored import ANCHORS, COUNT, STEPS

WORKER = "tests.distributed.train_anchored_in_float64"
Results = dict[int, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(folder: Path) -> Results:
    """Results by number of processes and kind of BatchNorm; one process is this one."""
    outputs = {processes: folder / f"{processes}.pth" for processes in (1, 2, 4)}
    main([str(outputs[1])])
    for processes in (2, 4):
        assert run_forked(WORKER, [str(outputs[processes])], processes=processes) == [0] * processes
    return {n: torch.load(output, weights_only=True) for n, output in outputs.items()}


def assert_close(ours: Tensor, theirs: Tensor, name: str) -> None:
    scale = theirs.abs().max().item()
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * scale + 1e-15, err_msg=name)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("batch_norm", ARCHITECTURES)
class TestProcessCounts:
    def test_choose_and_buy_the_same(self, runs: Results, batch_norm: str, processes: int) -> None:
        ours, theirs = runs[processes][batch_norm], runs[1][batch_norm]
        for name in ("images", "queries", "bought"):
            assert ours[name] == theirs[name]

    def test_write_the_same_source_anchors(
        self, runs: Results, folder: Path, batch_norm: str, processes: int
    ) -> None:
        name = Path(batch_norm) / "anchors" / centroids_name("source", ANCHORS)
        assert (folder / str(processes) / name).read_bytes() == (folder / "1" / name).read_bytes()

    def test_train_the_same_weights_and_anchors(self, runs: Results, batch_norm: str, processes: int) -> None:
        ours, theirs = runs[processes][batch_norm], runs[1][batch_norm]
        assert ours["state"].keys() == theirs["state"].keys()
        for name, value in theirs["state"].items():
            assert_close(ours["state"][name], value, name)
        assert_close(ours["anchors"], theirs["anchors"], "anchors")
        assert ours["stage"] == theirs["stage"] == 2

    def test_log_the_same(self, runs: Results, batch_norm: str, processes: int) -> None:
        for mine, other in zip(
            runs[processes][batch_norm]["losses"], runs[1][batch_norm]["losses"], strict=True
        ):
            assert mine == pytest.approx(other, rel=1e-9)


def test_runs_are_worth_comparing(runs: Results) -> None:
    """Both stages train on their terms, the second from the weights of another iteration."""
    for batch_norm in ARCHITECTURES:
        found = runs[1][batch_norm]
        assert len(found["images"]) == COUNT
        assert found["anchors"].dtype == torch.float64
        assert all(anchor.any() for anchor in found["anchors"])
        first, second = found["losses"][: STEPS[0]], found["losses"][STEPS[0] :]
        assert len(second) == STEPS[1]
        assert all("loss/alignment" not in terms for terms in first)
        assert all(terms["loss/alignment"] > 0 and terms["loss/pseudo"] > 0 for terms in second)
        weights = found["state"].values()
        assert all(torch.isfinite(value).all() for value in weights)
        assert found["stage_1"] == "iteration_0000001.pth"
