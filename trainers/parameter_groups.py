"""Parameter groups of the segmentation network, with the multiplicities of the published optimiser."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from networks.segmentation import SegmentationNetwork

_NORMALIZATION_LAYERS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.LayerNorm)
_INSIDE_BLOCK = re.compile(r"^(backbone\.)?layer[1-4]\.\d+\.")


def published_multiplicity(name: str) -> int:
    """How often the authors' optimiser listed a backbone tensor, and hence updated it per iteration.

    Their parameter list walks nested modules recursively: the stem is listed once, a tensor inside a
    residual block three times,
    one inside a shortcut four times (Zheng & Yang's released code; `docs/quirks.md`).
    """
    if not _INSIDE_BLOCK.match(name):
        return 1
    return 4 if ".downsample." in name else 3


def segmentation_parameter_groups(
    network: SegmentationNetwork, *, quirks: str, head_scale: float = 10.0, norm_decay: bool = True
) -> list[dict[str, Any]]:
    """Disjoint groups: the backbone by multiplicity, then the heads at `head_scale` times the learning rate.

    Args:
        network: only parameters with requires_grad are listed.
        quirks: "published" repeats backbone updates as the authors' optimiser did, "fixed" updates
            everything once.
        head_scale: learning rate of the heads relative to the backbone.
        norm_decay: False gives weights and biases of the backbone's normalisation layers groups of their own,
            named "..._norm", without weight decay. Those of the heads always decay with the rest, as in
            DAFormer's released code.

    Returns:
        Groups with "params", "lr_scale", "multiplicity" and "name", in a fixed order; those without decay
        also have "weight_decay" 0. Empty groups are left out.
    """
    norms = set() if norm_decay else _normalization_parameters(network)
    by_kind: dict[tuple[bool, int], list[nn.Parameter]] = {}
    for name, parameter in network.backbone_parameters():
        if parameter.requires_grad:
            multiplicity = published_multiplicity(name) if quirks == "published" else 1
            by_kind.setdefault((parameter in norms, multiplicity), []).append(parameter)
    groups = [_backbone_group(by_kind[kind], *kind) for kind in sorted(by_kind)]
    heads = [parameter for _, parameter in network.head_parameters() if parameter.requires_grad]
    groups.append({"name": "heads", "params": heads, "lr_scale": head_scale, "multiplicity": 1})
    return [group for group in groups if group["params"]]


def _backbone_group(parameters: list[nn.Parameter], is_norm: bool, multiplicity: int) -> dict[str, Any]:
    name = f"backbone_x{multiplicity}"
    group = {"name": name, "params": parameters, "lr_scale": 1.0, "multiplicity": multiplicity}
    return group | {"name": f"{name}_norm", "weight_decay": 0.0} if is_norm else group


def _normalization_parameters(network: nn.Module) -> set[nn.Parameter]:
    """Weights and biases of all normalisation layers, found by the layers' types."""
    return {
        parameter
        for module in network.modules()
        if isinstance(module, _NORMALIZATION_LAYERS)
        for parameter in module.parameters(recurse=False)
    }
