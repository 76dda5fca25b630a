"""MobileNetV2 as a segmentation backbone: torchvision's layers with strides replaced by dilation."""

from __future__ import annotations

from torch import nn
from torchvision.models import mobilenet_v2 as torchvision_mobilenet_v2

from networks.normalization import torchvision_normalization
from networks.segmentation import Backbone

# torchvision's `features.<i>` of every stage. The 1280-channel expansion (features.18) is left out: it feeds
# the ImageNet classifier, and the heads' 3x3 convolutions would cost more than three times as much on it.
STAGES = (range(0, 2), range(2, 4), range(4, 7), range(7, 14), range(14, 18))
CHANNELS = (16, 24, 32, 96, 320)
STRIDED = (0, 2, 4, 7, 14)


def mobilenet_v2(*, output_stride: int = 8) -> Backbone:
    """MobileNetV2; strides beyond `output_stride` (8, 16, 32) become dilation of the depthwise convolutions.

    Stages: 16 channels at stride 2, 24 at 4, 32 at 8, 96 and 320. Keys are torchvision's.
    """
    features = torchvision_mobilenet_v2(weights=None).features[: STAGES[-1].stop]
    stride, dilation = 1, 1
    for index, block in enumerate(features):
        block_dilation = dilation  # a block whose stride is removed keeps the dilation before it
        if index in STRIDED:
            if stride * 2 > output_stride:
                dilation *= 2
                _set_stride(block)
            else:
                stride *= 2
        _set_dilation(block, block_dilation)
    stages = tuple(tuple((f"features.{index}",) for index in stage) for stage in STAGES)
    return Backbone({"features": features}, stages, CHANNELS, torchvision_normalization)


def _set_stride(block: nn.Module) -> None:
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)


def _set_dilation(block: nn.Module, dilation: int) -> None:
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.dilation = layer.padding = (dilation, dilation)
