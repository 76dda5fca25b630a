"""networks.apex_group_norm, with a stand-in for apex's compiled layer."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from networks import NetworkSpec, build
from networks.apex_group_norm import use_apex_group_norm
from networks.segmentation import SegmentationNetwork
from utils.errors import UserError


class FakeKernel(nn.Module):
    """Takes the arguments of apex.contrib.group_norm.GroupNorm and computes with torch."""

    SUPPORTED_CHANNELS = frozenset([128, 256])
    SUPPORTED_GROUPS = frozenset([16, 32])

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, device: Any = None) -> None:
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.weight = nn.Parameter(torch.ones(num_channels, device=device))
        self.bias = nn.Parameter(torch.zeros(num_channels, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def network(norm_style: str = "gn") -> SegmentationNetwork:
    options = {"norm_style": norm_style, "head_channels": 128, "bottleneck_channels": 64}
    return build(NetworkSpec("deeplab_two_head", "resnet18_quarter", 3, "any3", options)).eval()


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("apex.contrib.group_norm")
    module.GroupNorm = FakeKernel
    monkeypatch.setitem(sys.modules, "apex", ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.contrib", ModuleType("apex.contrib"))
    monkeypatch.setitem(sys.modules, "apex.contrib.group_norm", module)
    monkeypatch.setattr("utils.apex_support.require", lambda feature: None)


@pytest.mark.usefixtures("apex")
def test_supported_layers_are_replaced_and_counted() -> None:
    net = network()
    x = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
    with torch.no_grad():
        before = net(x).logits
    names, parameters = list(net.state_dict()), dict(net.named_parameters())
    assert use_apex_group_norm(net) == "normalisation: apex NHWC GroupNorm on 10 of 12 layers"
    assert isinstance(net.layer6.conv2d_list[0][1], FakeKernel)
    assert list(net.state_dict()) == names
    assert all(parameters[name] is parameter for name, parameter in net.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(net(x).logits, before)


@pytest.mark.usefixtures("apex")
def test_a_network_without_group_norm_reports_none() -> None:
    assert use_apex_group_norm(network("bn")) == "normalisation: apex NHWC GroupNorm on 0 of 0 layers"


def test_without_apex_the_error_names_the_way_out() -> None:
    with pytest.raises(UserError, match="--group-norm-kernel torch"):
        use_apex_group_norm(network())
