"""The timing harness."""

from __future__ import annotations

import pytest
import torch

from benchmarks import training_step
from benchmarks.harness import Result, compare, format_results


def test_the_table_has_a_line_per_result_with_its_ratio() -> None:
    lines = format_results([Result("mapping", 0.02, 0.001, "aim 20x")]).splitlines()
    assert lines[0] == "| name | plain ms | ours ms | ratio | note |"
    assert lines[2] == "| mapping | 20.00 | 1.00 | 20.0 | aim 20x |"


def test_both_ways_are_measured_in_turn() -> None:
    order: list[str] = []
    result = compare("x", lambda: order.append("plain"), lambda: order.append("fast"), repeats=2)
    turns = [name for name, before in zip(order, ["", *order], strict=False) if name != before]
    assert turns[-4:] == ["plain", "fast", "plain", "fast"]
    assert result.ratio == pytest.approx(result.plain_s / result.fast_s)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it takes minutes where there is a GPU to measure")
def test_the_training_step_says_that_it_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert training_step.run() == []
    assert "no CUDA device" in capsys.readouterr().err
