"""networks.mobilenet"""

from __future__ import annotations

import torch
from torch import nn
from torchvision import models

from networks.mobilenet import mobilenet_v2


def outputs(features: nn.Module, x: torch.Tensor, count: int) -> list[torch.Tensor]:
    maps = []
    with torch.no_grad():
        for layer in list(features)[:count]:
            x = layer(x)
            maps.append(x)
    return maps


def test_without_dilation_the_maps_are_torchvisions() -> None:
    reference = models.mobilenet_v2().features.eval()
    ours = mobilenet_v2(output_stride=32).modules["features"].eval()
    ours.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("18.")})
    x = torch.randn(1, 3, 64, 64)
    for left, right in zip(outputs(ours, x, 18), outputs(reference, x, 18), strict=True):
        torch.testing.assert_close(left, right)


def test_dilated_maps_at_the_strided_positions_are_the_undilated_ones_inside() -> None:
    """Dilation for a stride computes the strided map at every second position, border effects aside."""
    torch.manual_seed(0)
    strided = mobilenet_v2(output_stride=32).modules["features"].eval()
    dilated = mobilenet_v2(output_stride=16).modules["features"].eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 512, 512, dtype=torch.float32)
    small, large = outputs(strided, x, 18)[-1], outputs(dilated, x, 18)[-1]
    assert small.shape[-1] * 2 == large.shape[-1]
    torch.testing.assert_close(large[..., ::2, ::2][..., 6:-6, 6:-6], small[..., 6:-6, 6:-6])


def test_stages_end_where_channels_say() -> None:
    backbone = mobilenet_v2(output_stride=16)
    maps = outputs(backbone.modules["features"].eval(), torch.randn(1, 3, 32, 32), 18)
    ends = [int(stage[-1][0].split(".")[1]) for stage in backbone.stages]
    assert [maps[end].shape[1] for end in ends] == list(backbone.channels)
