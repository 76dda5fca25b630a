"""NVIDIA apex's NHWC GroupNorm in the heads, where it is built and fits."""

from __future__ import annotations

import importlib

from torch import nn

from networks.segmentation import SegmentationNetwork
from utils import apex_support


def use_apex_group_norm(network: SegmentationNetwork) -> str:
    """Replaces the GroupNorm layers that apex's kernel serves; says how many.

    The new layers hold the same parameters under the same names, so snapshots stay interchangeable. The
    kernel takes channels-last maps; apex computes any other with torch.

    Raises:
        UserError: apex is absent, another package, or built without this kernel.
    """
    apex_support.require("group_norm")
    kernel = importlib.import_module("apex.contrib.group_norm").GroupNorm
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.GroupNorm)]
    replaced = 0
    for name, layer in layers:
        if layer.num_groups in kernel.SUPPORTED_GROUPS and layer.num_channels in kernel.SUPPORTED_CHANNELS:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _with_same_parameters(kernel, layer))
            replaced += 1
    return f"normalisation: apex NHWC GroupNorm on {replaced} of {len(layers)} layers"


def _with_same_parameters(kernel: type[nn.Module], layer: nn.GroupNorm) -> nn.Module:
    new = kernel(layer.num_groups, layer.num_channels, eps=layer.eps, device=layer.weight.device)
    new.weight, new.bias = layer.weight, layer.bias
    return new.train(layer.training)
