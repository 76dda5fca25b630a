"""DeepLab's VGG-16: three pools, a dilated last block, dilated convolutions for fully connected layers."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from networks.normalization import caffe_normalization
from networks.resnet import initialize_convolutions
from networks.segmentation import Backbone

# (channels, dilation) of every 3x3 convolution; "pool" halves the map. With a ReLU after each convolution the
# layers have the numbers of the released code.
LAYERS = (
    *((64, 1), (64, 1), "pool"),
    *((128, 1), (128, 1), "pool"),
    *((256, 1), (256, 1), (256, 1), "pool"),
    *((512, 1), (512, 1), (512, 1)),
    *((512, 2), (512, 2), (512, 2)),
    *((1024, 4), (1024, 4)),
)


def vgg16() -> Backbone:
    """VGG-16 at output stride 8 with 1024 output channels, as one stage.

    Source: the DeepLab-VGG16 that the MRNet authors' inference scripts can build.
    """
    layers: list[nn.Module] = []
    starts = [0]  # of the units that activation checkpointing recomputes: a block up to its pool
    in_channels = 3
    for layer in LAYERS:
        if layer == "pool":
            layers.append(nn.MaxPool2d(2, stride=2))
            starts.append(len(layers))
            continue
        channels, dilation = layer
        layers.append(nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation))
        layers.append(nn.ReLU(inplace=True))
        in_channels = channels
    features = nn.Sequential(*layers)
    initialize_convolutions(features)
    stage = tuple(
        tuple(f"features.{index}" for index in range(start, end))
        for start, end in pairwise([*starts, len(features)])
    )
    return Backbone({"features": features}, (stage,), (in_channels,), caffe_normalization)
