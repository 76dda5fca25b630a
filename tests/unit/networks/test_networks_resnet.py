"""networks.resnet"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from networks.resnet import resnet


def convolutions(backbone_layer: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in backbone_layer.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_state_dict_is_torchvisions_without_the_classifier(name: str) -> None:
    with torch.device("meta"):
        theirs = models.get_model(name).state_dict()
        ours = nn.ModuleDict(resnet(name).modules).state_dict()
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == expected


def test_at_stride_32_the_maps_are_torchvisions() -> None:
    reference = models.resnet18().eval()
    backbone = resnet("resnet18", output_stride=32)
    ours = nn.Sequential(*backbone.modules.values()).eval()
    names = list(backbone.modules)
    entries = {
        f"{names.index(key.split('.')[0])}.{key.split('.', 1)[1]}": value
        for key, value in reference.state_dict().items()
        if not key.startswith("fc.")
    }
    ours.load_state_dict(entries)
    x = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        expected = nn.Sequential(*list(reference.children())[:-2])(x)
        torch.testing.assert_close(ours(x), expected)


def test_caffe_variant_strides_in_the_1x1_and_dilates_whole_layers() -> None:
    with torch.device("meta"):
        modules = resnet("resnet101_caffe").modules
    first = modules["layer2"][0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    assert modules["maxpool"].ceil_mode
    assert {block.conv2.dilation for block in modules["layer3"]} == {(2, 2)}
    assert {block.conv2.dilation for block in modules["layer4"]} == {(4, 4)}


def test_torchvision_variant_strides_in_the_3x3_and_starts_layers_with_the_previous_dilation() -> None:
    with torch.device("meta"):
        modules = resnet("resnet101").modules
    first = modules["layer2"][0]
    assert (first.conv1.stride, first.conv2.stride) == ((1, 1), (2, 2))
    assert not modules["maxpool"].ceil_mode
    assert [block.conv2.dilation[0] for block in modules["layer4"]] == [2, 4, 4]
    assert [block.conv2.dilation[0] for block in modules["layer3"]][:3] == [1, 2, 2]


def test_a_quarter_network_has_a_quarter_of_the_channels() -> None:
    whole, quarter = resnet("resnet18"), resnet("resnet18_quarter")
    assert [4 * channels for channels in quarter.channels] == list(whole.channels)
    pairs = zip(convolutions(whole.modules["layer1"]), convolutions(quarter.modules["layer1"]), strict=True)
    assert all(large.out_channels == 4 * small.out_channels for large, small in pairs)
