"""Which parameters have which learning rate and weight decay (optimizer_groups_<variant>.json)."""

from __future__ import annotations

import re

import pytest
from dida_networks import backbone_of, files, network
from golden_files import load_json

from trainers.optimization import OptimizerSettings
from utils.optimizers import set_learning_rate

BEGINNING = "optimizer_groups_"


def parsed(key: str) -> tuple[float, float]:
    """Learning rate and weight decay of `lr=6e-05,wd=0.01`."""
    match = re.fullmatch(r"lr=(.+),wd=(.+)", key)
    return float(match[1]), float(match[2])


@pytest.mark.parametrize("variant", files(BEGINNING, ".json"))
def test_every_parameter_is_in_the_group_of_the_reference(variant: str) -> None:
    golden = load_json("dida", f"{BEGINNING}{variant}.json")
    expected = {
        name.removeprefix("model."): parsed(key)
        for key, names in golden.items()
        if not key.startswith("_")
        for name in names
    }
    base, decay = min(rate for rate, _ in expected.values()), max(decay for _, decay in expected.values())
    settings = OptimizerSettings(
        optimizer="adamw", learning_rate=base, weight_decay=decay, backbone_norm_decay=False
    )
    student = network(backbone_of(variant))
    optimizer = settings.build(student)
    set_learning_rate(optimizer, base)
    names = {parameter: name for name, parameter in student.named_parameters()}
    found = {
        names[parameter]: (pytest.approx(group["lr"], rel=1e-12), group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == expected
    assert [(group["betas"], group["eps"]) for group in optimizer.param_groups] == [((0.9, 0.999), 1e-8)] * 3
