"""Input normalisation, and how the BatchNorm layers of a network behave in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import distributed

if TYPE_CHECKING:
    from networks.segmentation import SegmentationNetwork

ChannelOrder = Literal["rgb", "bgr"]
BatchNormMode = Literal["local", "sync", "frozen"]

CAFFE_MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)


class InputNormalization(nn.Module):
    """Turns RGB images in [0, 255] into what a backbone was trained on: (x / scale - mean) / std.

    Its constants are no state-dict entries: they belong to the network spec, not to the weights.
    """

    offset: Tensor
    factor: Tensor
    reference: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float] | None = None,
        *,
        order: ChannelOrder = "rgb",
        scale: float = 1.0,
    ) -> None:
        """`mean` and `std` are in the given channel order, in units of image value / scale; no `std` is 1."""
        super().__init__()
        self.mean = tuple(mean)
        self.std = None if std is None else tuple(std)
        self.order = order
        self.scale = scale
        self.register_buffer(
            "reference", torch.empty(0), persistent=False
        )  # knows the module's dtype and device
        self._set_constants()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images of the module's floating dtype.

        Args:
            images: (N, 3, H, W) RGB, uint8 or floating in [0, 255].
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
        if self.order == "bgr":
            images = images.flip(1)
        x = images.to(self.offset.dtype) - self.offset
        if self.std is not None or self.scale != 1.0:
            x = x * self.factor
        return x.to(self.reference.dtype)

    def neutral_color(self) -> Tensor:
        """(1, 3, 1, 1) RGB in [0, 255] that becomes 0, the mean colour, in the module's type and device."""
        color = self.offset.flip(1) if self.order == "bgr" else self.offset
        return color.to(self.reference.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InputNormalization:
        """Follows .to() and .double() with constants computed anew, so that float64 has all their digits."""
        super()._apply(fn, recurse)
        self._set_constants()
        return self

    def _set_constants(self) -> None:
        dtype = torch.promote_types(self.reference.dtype, torch.float32)
        std = self.std or (1.0,) * len(self.mean)
        for name, values in (
            ("offset", [mean * self.scale for mean in self.mean]),
            ("factor", [1.0 / (self.scale * value) for value in std]),
        ):
            constant = torch.tensor(values, dtype=dtype, device=self.reference.device).view(1, -1, 1, 1)
            self.register_buffer(name, constant, persistent=False)


def caffe_normalization() -> InputNormalization:
    """BGR minus the Caffe mean, no division (MRNet's ResNet-101 and VGG-16)."""
    return InputNormalization(CAFFE_MEAN_BGR, order="bgr")


def torchvision_normalization() -> InputNormalization:
    """RGB / 255 with the ImageNet mean and standard deviation."""
    return InputNormalization(IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, order="rgb", scale=255.0)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that always normalises with its running statistics and never updates them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class FrozenAffine(nn.Module):
    """Frozen normalisation without epsilon: a fixed scale and shift for each channel of (N, C, H, W).

    y = x * s + (bias - running_mean * s), s = weight / sqrt(running_var). Its four buffers have BatchNorm's
    names; there are no parameters, no batch counter and no training mode. It is part of an architecture:
    `set_batch_norm` leaves it alone. Backward keeps no activation, unlike `FrozenBatchNorm2d`'s.

    Source: the authors' released code of RIPU (Xie et al., CVPR 2022); its published weights need it so.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        """The identity."""
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (value.view(-1, 1, 1) for value in self._scale_and_shift(x.dtype))
        if x.device.type == "cpu":  # whose addcmul is several times slower where operands are broadcast
            return (x * scale).add_(shift)
        return torch.addcmul(shift, x, scale)

    def beyond(self, largest: float | None = None) -> Tensor:
        """(C,) bool: channels whose scale is no number or exceeds `largest` (None: its type's limit)."""
        scale = self.weight.double() * self.running_var.double().rsqrt()
        return ~(scale.abs() <= (largest or torch.finfo(self.weight.dtype).max))

    def _scale_and_shift(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Computed in at least float32, returned in the type of the activations (autocast)."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        scale = self.weight.to(wide) * self.running_var.to(wide).rsqrt()
        if dtype == torch.float16:  # the scale of a nearly dead channel exceeds its range
            largest = torch.finfo(dtype).max
            scale = scale.clamp(-largest, largest)
        shift = torch.addcmul(self.bias.to(wide), self.running_mean.to(wide), scale, value=-1)
        return scale.to(dtype), shift.to(dtype)


class AllReduceBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the joined batch of all ranks, for devices where torch's SyncBatchNorm refuses to run.

    Statistics are differentiable sums over ranks in at least float32; results equal those of one process on
    the joined batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            value = x.to(dtype)
            channel_count = x.new_full((1,), x.numel() // x.shape[1], dtype=dtype)
            total = distributed.all_reduce_sum_differentiable(
                torch.cat([value.sum((0, 2, 3)), channel_count])
            )
            count = total[-1].detach()
            mean = total[:-1] / count
            centred = value - mean.view(1, -1, 1, 1)
            squares = distributed.all_reduce_sum_differentiable(centred.square().sum((0, 2, 3)))
            self._track(mean.detach(), squares.detach() / (count - 1))
            scale = (squares / count + self.eps).rsqrt()
            if self.affine:
                scale = scale * self.weight.to(dtype)
            normalized = centred * scale.view(1, -1, 1, 1)
            if self.affine:
                normalized = normalized + self.bias.to(dtype).view(1, -1, 1, 1)
        return normalized.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased_variance)):
            momentum = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
            running.mul_(1 - momentum).add_(value.to(running.dtype) * momentum)


def set_batch_norm(network: SegmentationNetwork, mode: BatchNormMode, *, train_affine: bool) -> None:
    """Chooses which statistics BatchNorm uses in training; parameters, buffers and their names stay the same.

    local: every process normalises with its own batch and tracks it (the published MRNet runs).
    sync: the statistics of the joined batch of all processes, in the heads too.
    frozen: the backbone's running statistics, never updated, even under `network.train()`; heads stay local.

    `FrozenAffine` is no BatchNorm: architectures with it stay as they are in every mode.

    Move the network to its device first: torch's SyncBatchNorm serves CUDA, our all-reduce version the CPU.

    Args:
        train_affine: whether the backbone's BatchNorm scale and shift get gradients. Head norms always train.
    """
    if mode not in ("local", "sync", "frozen"):
        raise ValueError(f"BatchNorm mode {mode!r} is none of local, sync, frozen")
    for name, layer in list(network.named_modules()):
        if not isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
            continue
        in_backbone = network.is_backbone(name)
        kind = _layer_class(mode if in_backbone or mode == "sync" else "local", layer)
        if type(layer) is not kind:
            parent, _, child = name.rpartition(".")
            layer = _with_same_tensors(kind, layer)
            setattr(network.get_submodule(parent), child, layer)
        if in_backbone and layer.affine:
            layer.weight.requires_grad_(train_affine)
            layer.bias.requires_grad_(train_affine)


def freeze_normalization(network: nn.Module) -> None:
    """Puts a `FrozenAffine`, the identity for now, in the place of every BatchNorm, backbone and heads."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, FrozenAffine(layer.num_features))


def frozen_layers(network: nn.Module) -> dict[str, FrozenAffine]:
    """All layers of frozen normalisation by name; none in most architectures."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, FrozenAffine)}


def tracks_statistics(network: nn.Module) -> bool:
    """Whether a forward in training mode changes running statistics."""
    return any(
        isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm)
        and not isinstance(layer, FrozenBatchNorm2d)
        and layer.track_running_stats
        for layer in network.modules()
    )


def mixes_images(network: SegmentationNetwork) -> bool:
    """Whether the backbone treats an image differently in training when others are in its batch."""
    return any(
        isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm) and not isinstance(layer, FrozenBatchNorm2d)
        for name, layer in network.named_modules()
        if network.is_backbone(name)
    )


def _layer_class(mode: BatchNormMode, layer: nn.Module) -> type[nn.Module]:
    if mode == "local":
        return nn.BatchNorm2d
    if mode == "frozen":
        return FrozenBatchNorm2d
    return nn.SyncBatchNorm if layer.running_mean.is_cuda else AllReduceBatchNorm2d


def _with_same_tensors(kind: type[nn.Module], layer: Any) -> nn.Module:
    """A `kind` layer that holds the very parameters and buffers of `layer`."""
    new = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(new, name, parameter)
    for name, buffer in layer.named_buffers(recurse=False):
        setattr(new, name, buffer)
    return new.train(layer.training)
