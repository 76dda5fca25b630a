"""Mix Transformer (MiT) backbones b0 to b5: hierarchical transformers with overlapping patches.

Source: Xie et al., NeurIPS 2021 (SegFormer), in the form that DAFormer (Hoyer et al., CVPR 2022) trains;
modules have the names of the released ImageNet files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from networks.normalization import torchvision_normalization
from networks.segmentation import Backbone, Stage
from utils.errors import UserError

HEADS = (1, 2, 5, 8)  # attention heads per stage
REDUCTIONS = (8, 4, 2, 1)  # side of the squares that become one key and one value
MLP_RATIO = 4
PATCH_EPS = 1e-5  # of the LayerNorms after the patch embedding and after the reduction of keys and values
TOKEN_EPS = 1e-6  # of all others
LINEAR_STD = 0.02
SMALLEST_SIDE = 29  # of an image: below it the first map has fewer rows than its reduction squares


@dataclass(frozen=True, slots=True)
class MiTVariant:
    """What tells the six sizes apart: channels and blocks of every stage."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
MIT_VARIANTS = {
    "mit_b0": MiTVariant(_NARROW, (2, 2, 2, 2)),
    "mit_b1": MiTVariant(_WIDE, (2, 2, 2, 2)),
    "mit_b2": MiTVariant(_WIDE, (3, 4, 6, 3)),
    "mit_b3": MiTVariant(_WIDE, (3, 4, 18, 3)),
    "mit_b4": MiTVariant(_WIDE, (3, 8, 27, 3)),
    "mit_b5": MiTVariant(_WIDE, (3, 6, 40, 3)),
}


class DropPath(nn.Module):
    """Drops the whole branch of an image with probability `rate` in training, and scales the others up.

    Draws from torch's global generator, as Dropout does. Source: Huang et al., ECCV 2016 (stochastic depth).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        if not self.training or self.rate == 0.0:
            return x
        kept = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class PatchEmbedding(nn.Module):
    """Strided convolution over overlapping patches, then LayerNorm: a map becomes tokens (N, H, W, C)."""

    def __init__(self, in_channels: int, channels: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels, eps=PATCH_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(_tokens(self.proj(x)))


class ReducedAttention(nn.Module):
    """Multi-head attention of every token to keys and values at 1 / reduction of the map's sides."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction)  # drops the remainder
            self.norm = nn.LayerNorm(channels, eps=PATCH_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        count, channels = len(x), x.shape[-1]
        query = self.q(x).reshape(count, -1, self.heads, channels // self.heads).transpose(1, 2)
        context = self.norm(_tokens(self.sr(_map(x)))) if self.reduction > 1 else x
        key_value = self.kv(context).reshape(count, -1, 2, self.heads, channels // self.heads)
        key, value = key_value.permute(2, 0, 3, 1, 4)  # each (N, heads, tokens, C / heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(x.shape))


class DepthwiseConvolution(nn.Module):
    """3x3 convolution of every channel alone, on tokens (N, H, W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return _tokens(self.dwconv(_map(x)))


class MixMLP(nn.Module):
    """Two linear layers with a depth-wise convolution, which tells tokens where they are, between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.dwconv = DepthwiseConvolution(MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class MixBlock(nn.Module):
    """Attention and MLP, each on normalised tokens (N, H, W, C) and added to them."""

    def __init__(self, channels: int, *, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=TOKEN_EPS)
        self.attn = ReducedAttention(channels, heads, reduction)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels, eps=TOKEN_EPS)
        self.mlp = MixMLP(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class StageNorm(nn.LayerNorm):
    """LayerNorm that ends a stage: tokens (N, H, W, C) become a map (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return _map(super().forward(x))


class FirstPatchEmbedding(PatchEmbedding):
    """The patch embedding of images, which says so where they are too small for the first stage."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        check_size(
            (width, height), f"an image of {width}x{height} pixels", "--crop-size, --base-size or --window"
        )
        return super().forward(x)


def check_size(size: tuple[int, int], given: str, option: str) -> None:
    """Refuses images that a Mix Transformer cannot see.

    Args:
        size: (W, H) in pixels.
        given: what has this size, as the message calls it.
        option: what makes it larger.

    Raises:
        UserError: a side is shorter than SMALLEST_SIDE.
    """
    if min(size) < SMALLEST_SIDE:
        raise UserError(
            f"{given} is too small for the Mix Transformer, which needs at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE}; give a larger {option}"
        )


def mix_transformer(name: str, *, drop_path_rate: float = 0.1) -> Backbone:
    """The Mix Transformer of this name in MIT_VARIANTS; maps at strides 4, 8, 16 and 32.

    All of it lies under the child `backbone`, as in the released segmentors.

    Args:
        drop_path_rate: of the last block; rates rise linearly from 0 at the first.
    """
    variant = MIT_VARIANTS[name]
    modules = _modules(variant, drop_path_rate)
    initialize_transformer(modules)
    return Backbone(
        {"backbone": modules},
        tuple(_stage(index, depth) for index, depth in enumerate(variant.depths, start=1)),
        variant.widths,
        torchvision_normalization,
    )


def initialize_transformer(module: nn.Module) -> None:
    """Linear: truncated normal, std 0.02; convolutions: normal by their fan-out; biases 0 (SegFormer)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=LINEAR_STD)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
            nn.init.zeros_(layer.bias)


def _modules(variant: MiTVariant, drop_path_rate: float) -> nn.ModuleDict:
    """Everything by its released name: all patch embeddings, then the blocks and the norm of each stage."""
    modules = nn.ModuleDict()
    for stage, (before, width) in enumerate(zip((3, *variant.widths), variant.widths, strict=False), 1):
        modules[f"patch_embed{stage}"] = (
            FirstPatchEmbedding(before, width, kernel=7, stride=4)
            if stage == 1
            else PatchEmbedding(before, width, kernel=3, stride=2)
        )
    last = sum(variant.depths) - 1
    first_block = 0
    for stage, (width, depth) in enumerate(zip(variant.widths, variant.depths, strict=True), 1):
        modules[f"block{stage}"] = nn.ModuleList(
            MixBlock(
                width,
                heads=HEADS[stage - 1],
                reduction=REDUCTIONS[stage - 1],
                drop_path=drop_path_rate * index / last,
            )
            for index in range(first_block, first_block + depth)
        )
        modules[f"norm{stage}"] = StageNorm(width, eps=TOKEN_EPS)
        first_block += depth
    return modules


def _stage(stage: int, depth: int) -> Stage:
    """One unit per block; the patch embedding runs with the first, the norm with the last."""
    units = [[f"backbone.block{stage}.{block}"] for block in range(depth)]
    units[0].insert(0, f"backbone.patch_embed{stage}")
    units[-1].append(f"backbone.norm{stage}")
    return tuple(tuple(unit) for unit in units)


def _tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def _map(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)
