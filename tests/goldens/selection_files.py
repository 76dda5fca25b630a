"""Cases of the goldens of RIPU and DWACA, and their recipes for labels and blocked maps."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from golden_files import NO_CASES, golden_path, has_golden

IGNORED = 255
CITYSCAPES_SIZE = (1024, 2048)  # (H, W): the reference's budget in pixels knows no other
TRAINING_SIZE = (1280, 640)  # (W, H)


def json_entries(method: str, name: str) -> list[Any]:
    """Entries of a JSON golden that is one list, as test parameters with their position and content as id."""
    if not has_golden(method, name):
        return ["missing-goldens"]
    return json.loads(golden_path(method, name).read_text()) or [NO_CASES]


def entry_id(entry: Any) -> str:
    """A readable test id of one entry."""
    return "-".join(map(str, entry.values())) if isinstance(entry, dict) else str(entry)


def suffix_cases(method: str, name: str, field: str) -> list[str]:
    """Names of the cases of a `<case>_<field>` archive, found by a field that every case has."""
    if not has_golden(method, name):
        return ["missing-goldens"]
    with np.load(golden_path(method, name), allow_pickle=False) as archive:
        found = sorted(key[: -len(field) - 1] for key in archive.files if key.endswith("_" + field))
    return found or [NO_CASES]


def unpacked(bits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of a packed map."""
    return np.unpackbits(bits)[: size[0] * size[1]].reshape(size).astype(bool)


def sha256(array: np.ndarray) -> str:
    """Digest of a bool map's packed bits or of a uint8 map's bytes, as the goldens store it."""
    packed = np.packbits(array) if array.dtype == bool else array
    return hashlib.sha256(packed.tobytes()).hexdigest()


def drawn_truth(case: dict[str, Any]) -> np.ndarray:
    """(H, W) uint8 labels of a RIPU selection case: 7 x 7 cells, a tenth of them ignored."""
    height, width = case["H"], case["W"]
    generator = np.random.default_rng(case["seed"] + 1000)
    cells = generator.integers(0, case["num_classes"], (-(-height // 7), -(-width // 7))).astype(np.uint8)
    cells[generator.random(cells.shape) < 0.1] = IGNORED
    return cells.repeat(7, 0).repeat(7, 1)[:height, :width]


def drawn_blocked(case: dict[str, Any]) -> np.ndarray:
    """(H, W) bool: what a RIPU selection case blocks before its first round."""
    height, width = case["H"], case["W"]
    blocked = np.zeros((height, width), bool)
    generator = np.random.default_rng(case["seed"] + 2000)
    for _ in range(case.get("initial_active_rects", 0)):
        top, left = generator.integers(0, height), generator.integers(0, width)
        tall, wide = generator.integers(1, max(2, height // 3)), generator.integers(1, max(2, width // 3))
        blocked[top : top + tall, left : left + wide] = True
    return blocked


def drawn_score(kind: str, seed: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 score map of a RIPU selection case."""
    generator = np.random.default_rng(seed)
    if kind == "continuous":
        return generator.random(size).astype(np.float32)
    if kind == "signed":
        return generator.standard_normal(size).astype(np.float32)
    if kind == "constant":
        return np.zeros(size, np.float32)
    assert kind.startswith("levels"), f"unknown kind of score {kind}"
    return generator.integers(0, int(kind.removeprefix("levels")), size).astype(np.float32)
