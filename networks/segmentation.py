"""The base class of all segmentation networks, and the backbones they are built on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from networks.checkpointing import recomputed_in_backward, run_in_turn
from networks.normalization import InputNormalization
from networks.spec import HeadOutput, NetworkSpec, SegmentationOutput

Unit = tuple[
    str, ...
]  # module paths that run one after the other; what activation checkpointing stores and recomputes
Stage = tuple[Unit, ...]


@dataclass(slots=True)
class Backbone:
    """Modules that a network adopts as its own children, and the order in which they run.

    A network registers `modules` under their own names, so that published checkpoints fit without renaming.
    Paths, not references, say what runs: replaced modules (synchronised BatchNorm) and deep copies (an EMA
    teacher) stay right.
    """

    modules: dict[str, nn.Module]
    stages: tuple[Stage, ...]
    channels: tuple[int, ...]  # output channels of every stage
    normalization: Callable[[], InputNormalization]


class SegmentationNetwork(nn.Module):
    """Images in, logits at network stride out; the first layer brings images to what the weights expect."""

    has_auxiliary_head = False
    backbone_prefix = ""  # of this network's names before those that the backbone has alone
    feature_channels: int  # of SegmentationOutput.features

    def __init__(self, spec: NetworkSpec, backbone: Backbone) -> None:
        super().__init__()
        self.spec = spec
        self.normalize = backbone.normalization()
        self.stages = backbone.stages
        self.backbone_children = tuple(backbone.modules)
        self.activation_checkpointing = False
        for name, module in backbone.modules.items():
            self.add_module(name, module)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Logits of RGB images (N, 3, H, W), uint8 or floating in [0, 255]."""
        return self.forward_normalized(self.normalize(images))

    def forward_normalized(self, x: Tensor) -> SegmentationOutput:
        """Logits of what `self.normalize` returns: (N, 3, H, W) floating."""
        return self.decode(self.backbone_features(x))

    def encode(self, images: Tensor) -> list[Tensor]:
        """Output of every backbone stage, first to last, for RGB images as `forward` takes them."""
        return self.backbone_features(self.normalize(images))

    def decode(self, features: Sequence[Tensor]) -> SegmentationOutput:
        """What the heads make of the output of `encode` or `backbone_features`, or of a part of its batch."""
        raise NotImplementedError

    def backbone_features(self, x: Tensor) -> list[Tensor]:
        """Output of every backbone stage, first to last, for normalised images."""
        outputs = []
        for stage in self.stages:
            for unit in stage:
                x = self._run_unit(unit, x)
            outputs.append(x)
        return outputs

    def run_head(self, name: str, *features: Tensor) -> HeadOutput:
        """Output of the head registered under `name`, which takes these features."""
        return self._run_unit((name,), *features)

    def is_backbone(self, name: str) -> bool:
        """Whether the parameter, buffer or module of this name belongs to the backbone."""
        return name.split(".", 1)[0] in self.backbone_children

    def backbone_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of the backbone, in registration order, frozen ones included."""
        return [(name, value) for name, value in self.named_parameters() if self.is_backbone(name)]

    def head_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of everything after the backbone, in registration order."""
        return [(name, value) for name, value in self.named_parameters() if not self.is_backbone(name)]

    def enable_activation_checkpointing(self) -> None:
        """From now on stores only the inputs of backbone blocks and heads; the backward recomputes the rest.

        Gradients and BatchNorm buffers are those of the plain network.
        """
        self.activation_checkpointing = True

    def _run_unit(self, unit: Unit, *inputs: Tensor) -> Any:
        modules = [self.get_submodule(path) for path in unit]
        if self.activation_checkpointing and torch.is_grad_enabled():
            return recomputed_in_backward(modules, *inputs)
        return run_in_turn(modules, *inputs)
