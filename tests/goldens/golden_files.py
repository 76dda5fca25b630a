"""Where the goldens lie, how their cases are found and how reference weights are filled."""

from __future__ import annotations

import json
import math
import os
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_FOLDER = REPOSITORY.parent / "shared" / "goldens"
NO_CASES = "no-cases"  # stands for the cases of a file in which none was recognised: its tests fail


def golden_path(method: str, name: str) -> Path:
    """Path of one golden file; skips when no goldens are here, fails when GOLDENS is set but the file is
    missing."""
    asked = os.environ.get("GOLDENS")
    folder = Path(asked) if asked else DEFAULT_FOLDER
    if not asked and not folder.is_dir():
        pytest.skip(f"no goldens: {folder} does not exist and GOLDENS is not set", allow_module_level=True)
    path = folder / method / name
    if not path.is_file():
        pytest.fail(f"golden file {path} is missing", pytrace=False)
    return path


def has_golden(method: str, name: str) -> bool:
    """Whether an optional golden file (named so in its README) is there."""
    asked = os.environ.get("GOLDENS")
    return ((Path(asked) if asked else DEFAULT_FOLDER) / method / name).is_file()


@lru_cache(maxsize=8)
def load_npz(method: str, name: str) -> dict[str, np.ndarray]:
    """All arrays of one archive."""
    with np.load(golden_path(method, name), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def load_json(method: str, name: str) -> Any:
    """Content of one JSON golden."""
    return json.loads(golden_path(method, name).read_text())


def cases(method: str, name: str, field: str) -> list[str]:
    """Names of the cases of a `<case>/<field>` archive, found by a field that every case has.

    Runs at collection time: where the goldens are missing it returns one placeholder case, whose test then
    skips or fails through `golden_path`; an archive without any such case gives `NO_CASES`.
    """
    asked = os.environ.get("GOLDENS")
    path = (Path(asked) if asked else DEFAULT_FOLDER) / method / name
    if not path.is_file():
        return ["missing-goldens"]
    with np.load(path, allow_pickle=False) as archive:
        found = sorted(key.rsplit("/", 1)[0] for key in archive.files if key.endswith("/" + field))
    return found or [NO_CASES]


def golden_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Deterministic value for one state-dict entry of a reference network (goldens README)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    noise = rng.standard_normal(shape).astype(np.float32)
    if last == "running_var":
        return (0.5 + rng.random(shape)).astype(np.float32)
    if last == "running_mean":
        return 0.1 * noise
    if len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        return noise * np.float32(0.7 * math.sqrt(2.0 / fan_in))
    return (1.0 if last == "weight" else 0.0) + np.float32(0.1) * noise


def golden_state(shapes: dict[str, list[int]], prefix: str = "") -> dict[str, torch.Tensor]:
    """A whole state dict at golden weights: `shapes` maps entry name to shape, `prefix` goes before the name
    for the draw."""
    return {
        name: torch.from_numpy(np.asarray(golden_tensor(prefix + name, tuple(shape))))
        for name, shape in shapes.items()
    }
