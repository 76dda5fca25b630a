"""Parameter groups: every trainable tensor once, with the multiplicity of the published optimiser."""

from __future__ import annotations

import pytest
from torch import nn

from networks.normalization import set_batch_norm
from tests.toy_training import small_network
from trainers.parameter_groups import published_multiplicity, segmentation_parameter_groups


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("conv1.weight", 1),
        ("bn1.weight", 1),
        ("layer1.0.conv1.weight", 3),
        ("layer4.2.bn3.bias", 3),
        ("layer2.0.downsample.0.weight", 4),
        ("backbone.layer3.10.conv2.weight", 3),
        ("backbone.layer3.0.downsample.1.bias", 4),
        ("layer5.conv2d_list.0.0.weight", 1),
        ("features.28.weight", 1),
    ],
)
def test_multiplicity_by_place(name: str, times: int) -> None:
    assert published_multiplicity(name) == times


@pytest.mark.parametrize("quirks", ["published", "fixed"])
@pytest.mark.parametrize("train_affine", [False, True])
def test_every_trainable_parameter_is_in_exactly_one_group(quirks: str, train_affine: bool) -> None:
    network = small_network()
    set_batch_norm(network, "local", train_affine=train_affine)
    groups = segmentation_parameter_groups(network, quirks=quirks)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("quirks", "multiplicities"), [("published", [1, 3, 4, 1]), ("fixed", [1, 1])])
def test_groups_follow_the_quirks(quirks: str, multiplicities: list[int]) -> None:
    groups = segmentation_parameter_groups(small_network(), quirks=quirks)
    assert [group["multiplicity"] for group in groups] == multiplicities
    assert [group["lr_scale"] for group in groups] == [1.0] * (len(groups) - 1) + [10.0]
    assert len({group["name"] for group in groups}) == len(groups)
    assert groups[-1]["name"] == "heads"


def test_heads_learn_at_their_own_scale_and_frozen_parts_leave_no_empty_group() -> None:
    network = small_network()
    for _, parameter in network.backbone_parameters():
        parameter.requires_grad_(False)
    (group,) = segmentation_parameter_groups(network, quirks="published", head_scale=2.5)
    assert (group["name"], group["lr_scale"], group["multiplicity"]) == ("heads", 2.5, 1)
    assert {id(p) for p in group["params"]} == {id(p) for _, p in network.head_parameters()}


@pytest.mark.parametrize("quirks", ["published", "fixed"])
@pytest.mark.parametrize("batch_norm", ["local", "sync"])
def test_normalisation_of_the_backbone_may_go_without_decay(quirks: str, batch_norm: str) -> None:
    network = small_network()
    set_batch_norm(network, batch_norm, train_affine=True)
    groups = segmentation_parameter_groups(network, quirks=quirks, norm_decay=False)
    norms = {
        id(parameter)
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and network.is_backbone(name)
        for parameter in module.parameters()
    }
    without = {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    assert without == norms
    assert len({group["name"] for group in groups}) == len(groups)
    assert all(("weight_decay" in group) == group["name"].endswith("_norm") for group in groups)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in network.parameters() if p.requires_grad)


def test_multiplicities_stay_when_normalisation_goes_without_decay() -> None:
    network = small_network()
    set_batch_norm(network, "local", train_affine=True)
    found = [
        {id(p): group["multiplicity"] for group in groups for p in group["params"]}
        for groups in (
            segmentation_parameter_groups(network, quirks="published", norm_decay=norm_decay)
            for norm_decay in (True, False)
        )
    ]
    assert found[0] == found[1]


def test_frozen_normalisation_leaves_no_group_of_its_own() -> None:
    network = small_network()
    set_batch_norm(network, "local", train_affine=False)
    groups = segmentation_parameter_groups(network, quirks="fixed", norm_decay=False)
    assert [group["name"] for group in groups] == ["backbone_x1", "heads"]
