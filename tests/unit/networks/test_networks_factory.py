"""networks.factory"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from networks import NetworkSpec, build
from networks.factory import option_names
from utils.errors import UserError

SMALL: dict[str, Any] = {"head_channels": 8, "bottleneck_channels": 8}
PUBLISHED_SIZES = [((65, 129), (9, 17)), ((97, 161), (13, 21)), ((33, 40), (5, 6))]


def spec(
    backbone: str = "resnet18_quarter", architecture: str = "deeplab_two_head", **options: Any
) -> NetworkSpec:
    small = SMALL if architecture == "deeplab_two_head" else {}
    return NetworkSpec(architecture, backbone, 5, "any5", {**small, **options})


@pytest.mark.parametrize(("image", "map_size"), PUBLISHED_SIZES)
def test_published_network_sizes(image: tuple[int, int], map_size: tuple[int, int]) -> None:
    network = build(spec("resnet101_caffe")).eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 3, *image, dtype=torch.uint8))
    assert output.logits.shape == output.auxiliary_logits.shape == (1, 5, *map_size)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet18_quarter", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize(("stride", "map_size"), [(8, (5, 5)), (16, (3, 3))])
def test_output_stride_is_kept_by_dilation(backbone: str, stride: int, map_size: tuple[int, int]) -> None:
    network = build(spec(backbone, output_stride=stride)).eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 3, 33, 40, dtype=torch.uint8))
    assert output.logits.shape[2:] == output.auxiliary_logits.shape[2:] == map_size


@pytest.mark.parametrize(
    ("architecture", "backbone"), [("deeplab_oracle", "resnet18"), ("deeplab_vgg", "vgg16")]
)
def test_single_head_networks_have_no_auxiliary_logits(architecture: str, backbone: str) -> None:
    network = build(spec(backbone, architecture)).eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 3, 32, 48, dtype=torch.uint8))
    assert output.logits.shape[:2] == (1, 5)
    assert output.auxiliary_logits is None
    assert not network.has_auxiliary_head


def test_only_the_summed_branches_of_the_single_head_train() -> None:
    trained = [
        branch.weight.requires_grad for branch in build(spec("resnet18", "deeplab_oracle")).layer5.conv2d_list
    ]
    assert trained == [True, True, False, False]


def test_parameters_split_into_backbone_and_heads() -> None:
    network = build(spec())
    backbone, heads = network.backbone_parameters(), network.head_parameters()
    assert len(backbone) + len(heads) == len(list(network.parameters()))
    assert {name.split(".")[0] for name, _ in heads} == {"layer5", "layer6"}
    assert backbone[0][0] == "conv1.weight"


def test_the_same_generator_state_gives_the_same_weights() -> None:
    torch.manual_seed(3)
    first = build(spec()).state_dict()
    torch.manual_seed(3)
    assert all(torch.equal(first[name], value) for name, value in build(spec()).state_dict().items())


def test_option_names_tell_what_an_architecture_takes() -> None:
    assert "use_se" in option_names("deeplab_two_head")
    assert "use_se" not in option_names("deeplab_oracle")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (spec(architecture="deeplab_two_heads"), "did you mean deeplab_two_head"),
        (spec("resnet110"), "unknown backbone of deeplab_two_head 'resnet110'"),
        (spec(norm_stile="gn"), "did you mean norm_style"),
        (spec(norm_style="ln"), "fails unless width equals channels"),
        (spec(norm_style="xx"), "unknown norm style"),
        (spec("resnet18", "deeplab_v2", norm_style="gn"), "norm style of deeplab_v2 'gn'.*known: frozen, bn"),
        (spec(norm_style="frozen"), "norm style of deeplab_two_head 'frozen'"),
        (spec("resnet18", "deeplab_v3plus", low_channels=0), "low_channels 0"),
        (spec("resnet18", "deeplab_v3plus", bottleneck_channels=8), "unknown option of deeplab_v3plus"),
        (spec("vgg16", "deeplab_v3plus"), "unknown backbone of deeplab_v3plus"),
        (spec(output_stride=4), "output stride 4"),
        (spec(drop_rate=1.0), "drop rate 1.0"),
        (spec(dilations=[]), "dilations"),
        (spec(head_channels=0), "head_channels 0"),
        (spec("resnet18", "deeplab_oracle", summed_branches=5), "summed branches 5"),
        (NetworkSpec("deeplab_two_head", "resnet18", 1, "one"), "at least 2 classes"),
    ],
)
def test_what_cannot_be_built_is_named(wrong: NetworkSpec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(wrong)
