"""The frozen copy of a backbone that self-training compares features with (DAFormer's ImageNet network)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from networks.segmentation import SegmentationNetwork
from trainers.labelling import weights_digest
from utils.errors import UserError


@dataclass(frozen=True, slots=True)
class _OutsideTheModuleTree:
    """Hides a network from the module that uses it, which neither trains nor saves it then."""

    network: SegmentationNetwork


class BackboneReference(nn.Module):
    """A backbone as it was before training, always in evaluation mode.

    Snapshots keep a digest of its weights in place of the weights, which the next start reads again from
    where they came.

    Args:
        network: whose backbone is copied; its heads are not.

    Source: the feature distance of Hoyer et al., CVPR 2022 (DAFormer), section 3.3.
    """

    digest: Tensor

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        frozen = copy.deepcopy(network).requires_grad_(False)
        for name, _ in list(frozen.named_children()):
            if name not in frozen.backbone_children and name != "normalize":
                delattr(frozen, name)
        self._hidden = _OutsideTheModuleTree(frozen.eval())
        digest = bytes.fromhex(weights_digest(frozen))
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))

    @property
    def network(self) -> SegmentationNetwork:
        """The frozen copy, without heads."""
        return self._hidden.network

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, C, h, w) output of the last stage for RGB images (N, 3, H, W) in [0, 255]."""
        return self.network.encode(images)[-1]

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Compares the digest of a snapshot with the weights that were read.

        Raises:
            UserError: the run began with other weights.
        """
        if not torch.equal(state_dict["digest"].cpu(), self.digest.cpu()):
            raise UserError(
                "--backbone-weights holds other weights than those this run began with (or --restore-from, "
                "where that is an ImageNet file), and the feature distance compares with them; give the "
                "run's own file again, or another --snapshot-dir",
                everywhere=True,
            )
