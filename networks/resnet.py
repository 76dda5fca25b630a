"""Dilated ResNets: Caffe and torchvision stride variants, output stride 8, 16 or 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from networks.normalization import caffe_normalization, torchvision_normalization
from networks.segmentation import Backbone, Stage


@dataclass(frozen=True, slots=True)
class ResNetVariant:
    """What tells the published ResNets apart."""

    blocks: tuple[int, int, int, int]  # residual blocks per layer
    bottleneck: bool  # three convolutions with expansion 4, else two 3x3 convolutions
    width: int = 64  # channels of the stem and of the first layer
    stride_in_3x3: bool = True  # False: a bottleneck's first 1x1 convolution carries the stride (Caffe)
    ceil_pool: bool = False  # rounding of the stem's max-pool
    first_block_dilated: bool = (
        False  # False: a layer whose stride became dilation starts with the previous dilation
    )
    caffe_input: bool = False  # BGR minus mean instead of torchvision's normalisation


VARIANTS = {
    "resnet101_caffe": ResNetVariant(
        (3, 4, 23, 3),
        bottleneck=True,
        stride_in_3x3=False,
        ceil_pool=True,
        first_block_dilated=True,
        caffe_input=True,
    ),
    "resnet101": ResNetVariant((3, 4, 23, 3), bottleneck=True),
    "resnet50": ResNetVariant((3, 4, 6, 3), bottleneck=True),
    "resnet18": ResNetVariant((2, 2, 2, 2), bottleneck=False),
    "resnet18_quarter": ResNetVariant((2, 2, 2, 2), bottleneck=False, width=16),
}


@dataclass(frozen=True, slots=True)
class BlockShape:
    """Sizes of one residual block; `stride` and `dilation` act on its 3x3 convolutions."""

    in_channels: int
    planes: int
    stride: int
    dilation: int


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity or a projected shortcut."""

    expansion = 1

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        planes, dilation = shape.planes, shape.dilation
        self.conv1 = _conv3x3(shape.in_channels, planes, shape.stride, dilation)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, 1, dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(shape, planes * self.expansion)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around an identity or a projected shortcut."""

    expansion = 4

    def __init__(self, shape: BlockShape, *, stride_in_3x3: bool) -> None:
        super().__init__()
        planes, out_channels = shape.planes, shape.planes * self.expansion
        first_stride, second_stride = (1, shape.stride) if stride_in_3x3 else (shape.stride, 1)
        self.conv1 = nn.Conv2d(shape.in_channels, planes, 1, stride=first_stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, second_stride, shape.dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(shape, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def resnet(name: str, *, output_stride: int = 8, multi_grid: Sequence[int] = ()) -> Backbone:
    """The ResNet of this name in VARIANTS; strides beyond `output_stride` (8, 16, 32) become dilation.

    Stages: stem (stride 4), layer1 (4), layer2 (8), layer3 and layer4.

    Args:
        multi_grid: factors of the dilation in layer4, block by block from the first; empty: 1 for all, and
            the first block as the variant has it.
    """
    variant = VARIANTS[name]
    modules: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, variant.width, 7, stride=2, padding=3, bias=False),
        "bn1": nn.BatchNorm2d(variant.width),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=variant.ceil_pool),
    }
    stages: list[Stage] = [(tuple(modules),)]
    channels, stride, dilation = [variant.width], 4, 1
    for index, count in enumerate(variant.blocks):
        own_stride, first_dilation = 1 if index == 0 else 2, dilation
        if stride * own_stride > output_stride:
            dilation, own_stride = dilation * own_stride, 1
        stride *= own_stride
        if variant.first_block_dilated:
            first_dilation = dilation
        dilations = [first_dilation, *[dilation] * (count - 1)]
        if multi_grid and index == len(variant.blocks) - 1:
            dilations = [dilation * factor for factor in multi_grid[:count]]
            assert len(dilations) == count, "a factor for every block"
        first = BlockShape(channels[-1], variant.width * 2**index, own_stride, dilations[0])
        layer = _layer(variant, first, dilations)
        modules[f"layer{index + 1}"] = layer
        stages.append(tuple((f"layer{index + 1}.{block}",) for block in range(count)))
        channels.append(first.planes * layer[0].expansion)
    for module in modules.values():
        initialize_convolutions(module)
    normalization = caffe_normalization if variant.caffe_input else torchvision_normalization
    return Backbone(modules, tuple(stages), tuple(channels), normalization)


def initialize_convolutions(module: nn.Module) -> None:
    """Kaiming normal (fan-out, ReLU) for every convolution inside, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _layer(variant: ResNetVariant, first: BlockShape, dilations: Sequence[int]) -> nn.Sequential:
    """The layer that begins with the block `first`; `dilations` of all its blocks."""

    def block(shape: BlockShape) -> BasicBlock | Bottleneck:
        return (
            Bottleneck(shape, stride_in_3x3=variant.stride_in_3x3)
            if variant.bottleneck
            else BasicBlock(shape)
        )

    blocks = [block(first)]
    channels = first.planes * blocks[0].expansion
    inner = (BlockShape(channels, first.planes, 1, dilation) for dilation in dilations[1:])
    return nn.Sequential(*blocks, *map(block, inner))


def _conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
    )


def _shortcut(shape: BlockShape, out_channels: int) -> nn.Sequential | None:
    """A 1x1 convolution with BatchNorm where the block changes size or channels."""
    if shape.stride == 1 and shape.in_channels == out_channels:
        return None
    convolution = nn.Conv2d(shape.in_channels, out_channels, 1, stride=shape.stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
