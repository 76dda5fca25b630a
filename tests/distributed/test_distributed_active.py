"""Same seed, same global batch: active learning on 1, 2 and 4 processes asks for the same pixels, takes the
same class weights, and ends with the same weights (float64, 1e-9)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed.train_active_in_float64 import CASES, main
from tests.forked_runs import run_forked
from tests.official_formats import write_cityscapes

WORKER = "tests.distributed.train_active_in_float64"
Results = dict[int, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of every case by number of processes, in one launch each; one process is this one."""
    folder = tmp_path_factory.mktemp("runs")
    write_cityscapes(folder, 3, (64, 48), split="val")  # neither 2 nor 4 processes divide them
    outputs = {processes: folder / f"{processes}.pth" for processes in (1, 2, 4)}
    main([str(folder), str(outputs[1])])
    for processes in (2, 4):
        words = [str(folder), str(outputs[processes])]
        assert run_forked(WORKER, words, processes=processes) == [0] * processes
    return {n: torch.load(output, weights_only=True) for n, output in outputs.items()}


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", CASES)
class TestProcessCounts:
    def test_ask_for_the_same_pixels(self, runs: Results, case: str, processes: int) -> None:
        ours, theirs = runs[processes][case], runs[1][case]
        assert len(theirs["picks"]) == 2 * 8
        assert all(theirs["picks"].values())
        assert ours["picks"] == theirs["picks"]

    def test_buy_the_same_labels(self, runs: Results, case: str, processes: int) -> None:
        ours, theirs = runs[processes][case], runs[1][case]
        assert ours["digest"] == theirs["digest"] == theirs["digest_of_the_snapshot"]
        assert ours["digest_of_the_snapshot"] == ours["digest"]

    def test_take_the_same_class_weights(self, runs: Results, case: str, processes: int) -> None:
        ours, theirs = runs[processes][case]["class_weights"], runs[1][case]["class_weights"]
        assert ours == theirs
        assert (theirs == [None, None]) is (case != "dwaca")

    def test_train_the_same_weights(self, runs: Results, case: str, processes: int) -> None:
        ours, theirs = runs[processes][case], runs[1][case]
        assert ours["state"].keys() == theirs["state"].keys()
        for name, value in theirs["state"].items():
            scale = value.abs().max().item()
            np.testing.assert_allclose(
                ours["state"][name], value, rtol=1e-9, atol=1e-9 * scale + 1e-15, err_msg=name
            )
        for mine, other in zip(ours["losses"], theirs["losses"], strict=True):
            assert mine == pytest.approx(other, rel=1e-9)

    def test_score_the_same(self, runs: Results, case: str, processes: int) -> None:
        ours, theirs = runs[processes][case]["scores"], runs[1][case]["scores"]
        assert ours == theirs
        assert ("val/miou" in theirs) is (case == "region")


def test_runs_are_worth_comparing(runs: Results) -> None:
    """Both domains train, rounds change what comes after them, and the cases differ."""
    for case in CASES:
        losses = runs[1][case]["losses"]
        assert len(losses) == 5
        assert any(line["loss/target"] > 0 for line in losses)
    assert {line["loss/target"] > 0 for line in runs[1]["one-labelled-image"]["losses"]} == {True, False}
    assert runs[1]["region"]["picks"] != runs[1]["dwaca"]["picks"]
    weights = runs[1]["dwaca"]["class_weights"]
    assert all(max(found) == 1 > min(found) for found in weights)
