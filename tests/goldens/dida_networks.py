"""DAFormer networks at golden weights, and the network files of the goldens, for all tests that need them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_files import DEFAULT_FOLDER, NO_CASES, golden_state

from networks import NetworkSpec, build
from networks.segmentation import SegmentationNetwork


def files(beginning: str, suffix: str = ".npz") -> list[str]:
    """What the files `<beginning><label><suffix>` have for a label; runs at collection time, as `cases`."""
    asked = os.environ.get("GOLDENS")
    folder = (Path(asked) if asked else DEFAULT_FOLDER) / "dida"
    if not folder.is_dir():
        return ["missing-goldens"]
    found = sorted(path.stem.removeprefix(beginning) for path in folder.glob(f"{beginning}*{suffix}"))
    return found or [NO_CASES]


def backbone_of(label: str) -> str:
    """Our name of the backbone that a label begins with: `mitb0_wide` is about `mit_b0`."""
    match = re.match(r"mit_?(b[0-5])(?![0-9])", label)
    assert match, f"{label} does not begin with a Mix Transformer"
    return f"mit_{match[1]}"


def network(backbone: str, num_classes: int = 19, **options: Any) -> SegmentationNetwork:
    """A DAFormer network without memory for its weights."""
    with torch.device("meta"):
        return build(NetworkSpec("daformer", backbone, num_classes, "any", options))


def golden_network(
    backbone: str, prefix: str = "", *, num_classes: int = 19, **options: Any
) -> SegmentationNetwork:
    """A DAFormer network in eval mode, weights by segmentor names behind `prefix` (goldens README)."""
    made = network(backbone, num_classes, **options)
    shapes = {name: list(value.shape) for name, value in made.state_dict().items()}
    made.load_state_dict(golden_state(shapes, prefix), assign=True)
    made.normalize.to_empty(device="cpu")
    return made.eval()


def golden_noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal noise, float32."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
