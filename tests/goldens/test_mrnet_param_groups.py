"""Optimiser groups and multiplicities of the published generator (param_groups_se_gn_19.json)."""

from __future__ import annotations

import pytest
from golden_files import load_json

from networks import build
from networks.normalization import set_batch_norm
from networks.spec import NetworkSpec
from trainers.parameter_groups import segmentation_parameter_groups


@pytest.mark.parametrize("setting", ["frozen_bn", "train_bn"])
def test_groups_and_multiplicities_are_the_published_ones(setting: str) -> None:
    golden = load_json("mrnet", "param_groups_se_gn_19.json")[setting]
    spec = NetworkSpec(
        architecture="deeplab_two_head",
        backbone="resnet101_caffe",
        num_classes=19,
        class_space="cityscapes19",
        options={"norm_style": "gn", "use_se": True, "drop_rate": 0.0},
    )
    network = build(spec)
    set_batch_norm(network, "local", train_affine=setting == "train_bn")
    ours = {
        id(parameter): (0 if group["lr_scale"] == 1.0 else 1, group["multiplicity"])
        for group in segmentation_parameter_groups(network, quirks="published")
        for parameter in group["params"]
    }
    found = {
        name: [*ours.get(id(parameter), (None, 0)), parameter.requires_grad]
        for name, parameter in network.named_parameters()
    }
    assert found == golden


def test_fixed_quirks_update_every_parameter_once() -> None:
    spec = NetworkSpec("deeplab_two_head", "resnet18_quarter", 19, "cityscapes19", {})
    groups = segmentation_parameter_groups(build(spec), quirks="fixed")
    assert [group["multiplicity"] for group in groups] == [1, 1]
