"""Parameter groups of the segmentation network, with the multiplicities of the published optimiser."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from networks.segmentation import SegmentationNetwork

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
    network: SegmentationNetwork, *, quirks: str, head_scale: float = 10.0
) -> list[dict[str, Any]]:
    """Disjoint groups: the backbone by multiplicity, then the heads at `head_scale` times the learning rate.

    Args:
        network: only parameters with requires_grad are listed.
        quirks: "published" repeats backbone updates as the authors' optimiser did, "fixed" updates
            everything once.
        head_scale: learning rate of the heads relative to the backbone.

    Returns:
        Groups with "params", "lr_scale", "multiplicity" and "name", in a fixed order; empty groups are left
        out.
    """
    by_multiplicity: dict[int, list[nn.Parameter]] = {}
    for name, parameter in network.backbone_parameters():
        if parameter.requires_grad:
            multiplicity = published_multiplicity(name) if quirks == "published" else 1
            by_multiplicity.setdefault(multiplicity, []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "name": f"backbone_x{multiplicity}",
            "params": by_multiplicity[multiplicity],
            "lr_scale": 1.0,
            "multiplicity": multiplicity,
        }
        for multiplicity in sorted(by_multiplicity)
    ]
    heads = [parameter for _, parameter in network.head_parameters() if parameter.requires_grad]
    groups.append({"name": "heads", "params": heads, "lr_scale": head_scale, "multiplicity": 1})
    return [group for group in groups if group["params"]]
