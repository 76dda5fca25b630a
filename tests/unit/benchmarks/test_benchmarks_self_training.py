"""The benchmarks of self-training: both ways are the same training; rows come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import self_training_step, training_step
from benchmarks.drawn import CLASSES, drawn_batches
from benchmarks.self_training_step import DAFORMER, DIDA, Method, ReleasedOrder, ReleasedTrainer
from networks.spec import NetworkSpec
from trainers.self_training import Losses

CPU = torch.device("cpu")
SIDE = 64


def small_spec(architecture: str, backbone: str, options: Mapping[str, Any]) -> NetworkSpec:
    return NetworkSpec(architecture, backbone, CLASSES, "cityscapes19", options)


TRANSFORMER = small_spec(
    "daformer", "mit_b0", {"head_channels": 16, "drop_rate": 0.0, "drop_path_rate": 0.0, "dilations": [1, 2]}
)
DEEPLAB = small_spec("deeplab_v2", "resnet18_quarter", {"norm_style": "frozen", "dilations": [1, 2]})


class ForgetsTheDistance(ReleasedOrder):
    def _feature_distance(self, *_: object) -> Losses:
        return {}


class ForgetfulTrainer(ReleasedTrainer):
    def make_step(self) -> ForgetsTheDistance:
        return ForgetsTheDistance(self.network, self.settings, teacher=self.teacher, reference=self.reference)


@pytest.mark.parametrize(
    ("method", "spec"),
    [(DAFORMER, TRANSFORMER), (DIDA, TRANSFORMER), (DAFORMER, DEEPLAB)],
    ids=["daformer", "dida", "deeplab"],
)
def test_one_backward_gives_what_the_released_order_gives(method: Method, spec: NetworkSpec) -> None:
    self_training_step.check(method, spec, CPU, side=SIDE)


def test_a_backward_that_is_left_out_is_noticed() -> None:
    with pytest.raises(AssertionError):
        self_training_step.check(replace(DAFORMER, plain=ForgetfulTrainer), TRANSFORMER, CPU, side=SIDE)


@pytest.mark.parametrize("method", training_step.METHODS)
def test_iterations_of_self_training_are_measured_in_every_precision(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_step, "configure_backends", lambda **_: None)
    monkeypatch.setattr(training_step, "WARM_UP", 1)
    monkeypatch.setattr(training_step, "MEASURED", 1)
    ways = (training_step.Way("fp32"), training_step.Way("bf16", "bf16"))
    rows = training_step.compare_ways(
        method,
        ways,
        lambda way: training_step.self_training(method, TRANSFORMER, way, CPU),
        drawn_batches(2, SIDE, SIDE, CPU, block=training_step.BLOCK),
        note="context",
    )
    assert [row.name for row in rows] == [f"{method} iteration, fp32", f"{method} iteration, bf16"]
    assert rows[0].plain_s == rows[0].fast_s == rows[1].plain_s
    assert all(row.note.startswith(f"2 + 2 x {SIDE}x{SIDE} on CPU: ") for row in rows)
    assert all(row.note.endswith("; context") for row in rows)
