"""MADA's network at golden weights, and the checkpoints of the goldens, for all tests that need them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_files import DEFAULT_FOLDER, NO_CASES, golden_state
from torch import Tensor, nn

from networks import NetworkSpec, build
from networks.segmentation import SegmentationNetwork

NO_DROPOUT = {"drop_rate": 0.0, "inner_drop_rate": 0.0}


def checkpoints() -> list[str]:
    """Names of the checkpoint files; runs at collection time, as `cases`."""
    asked = os.environ.get("GOLDENS")
    folder = (Path(asked) if asked else DEFAULT_FOLDER) / "mada"
    if not folder.is_dir():
        return ["missing-goldens"]
    return sorted(path.name for path in folder.glob("checkpoint_layout_*.pkl")) or [NO_CASES]


def empty_network(num_classes: int = 19, **options: Any) -> SegmentationNetwork:
    """MADA's network without memory for its weights."""
    with torch.device("meta"):
        return build(NetworkSpec("mada_v3plus", "resnet101", num_classes, "any", options))


def shapes(network: nn.Module) -> dict[str, list[int]]:
    """Name and shape of every state-dict entry."""
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def golden_network(num_classes: int = 19, **options: Any) -> SegmentationNetwork:
    """MADA's network in eval mode with golden weights of its own, float32."""
    network = empty_network(num_classes, **options)
    state = {name: value.clone() for name, value in _weights(num_classes).items()}
    network.load_state_dict(state, assign=True)
    network.normalize.to_empty(device="cpu")
    return network.eval()


def golden_images(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Noise in [0, 1), float32: what the network sees of RGB images."""
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


@lru_cache(maxsize=1)
def _weights(num_classes: int) -> dict[str, Tensor]:
    return golden_state(shapes(empty_network(num_classes)))


def forget_weights() -> None:
    """Frees the drawn weights."""
    _weights.cache_clear()
