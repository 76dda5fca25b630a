"""RIPU's and DWACA's networks at golden weights, for all tests that run them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from golden_files import golden_tensor
from torch import Tensor

from networks import NetworkSpec, build
from networks.segmentation import SegmentationNetwork

ARCHITECTURES = {"deeplabv2_resnet101": "deeplab_v2", "deeplabv3plus_resnet101": "deeplab_v3plus"}


def published_name(name: str, network: SegmentationNetwork) -> tuple[str, str]:
    """Part of the published file and name in it of one of our state-dict entries."""
    if network.is_backbone(name):
        return "feature_extractor", f"backbone.{name}"
    return "classifier", name.removeprefix("classifier.")


def published_shapes(network: SegmentationNetwork) -> dict[str, dict[str, list[int]]]:
    """What a published checkpoint of this network holds: part -> name -> shape."""
    parts: dict[str, dict[str, list[int]]] = {"feature_extractor": {}, "classifier": {}}
    for name, value in network.state_dict().items():
        part, published = published_name(name, network)
        parts[part][published] = list(value.shape)
    return parts


def empty_network(architecture: str, num_classes: int) -> SegmentationNetwork:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return build(NetworkSpec(architecture, "resnet101", num_classes, "any"))


@lru_cache(maxsize=2048)
def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Drawn once: all networks have the same backbone, and most of the head does not know the classes."""
    return torch.from_numpy(np.asarray(golden_tensor(name, shape)))


def golden_network(architecture: str, num_classes: int) -> SegmentationNetwork:
    """A network in eval mode with golden weights, which it shares with the other networks made here."""
    network = empty_network(architecture, num_classes)
    state = {
        name: _weight(published_name(name, network)[1], tuple(value.shape))
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    return network.eval()


class StageMaps:
    """Remembers what `layer1` and `layer4` gave in the last forward."""

    def __init__(self, network: SegmentationNetwork) -> None:
        self.maps: dict[str, Tensor] = {}
        for name in ("layer1", "layer4"):
            # A layer runs block by block: its last block gives the stage's output.
            network.get_submodule(name)[-1].register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> object:
        def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.maps[name] = output

        return hook


def forget_weights() -> None:
    """Frees the drawn weights."""
    _weight.cache_clear()
