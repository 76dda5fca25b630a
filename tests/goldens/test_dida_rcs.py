"""DIDA's rare class sampling: probabilities, and which crop is kept (rcs_probabilities, rcs_retry)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import load_json
from json_cases import json_cases
from matching_cases import row_cases

from data_loaders.aspect_crops import AspectCropTransform
from data_loaders.dataset import SegmentationDataset
from data_loaders.description import load_description
from data_loaders.discovery import FileList, Item
from data_loaders.rare_classes import RareClassSampler, RareClassSamples
from data_loaders.statistics import read_class_statistics
from data_loaders.transforms import Pair, RandomSource

PROBABILITIES, RETRY = "rcs_probabilities.json", "rcs_retry.json"
CASES = json_cases("dida", PROBABILITIES, ["stats", "result"])
NAMES = [f"class {train}" for train in range(256)]


@pytest.mark.parametrize("case", CASES)
def test_classes_are_drawn_with_the_probabilities_of_the_reference(case: str, tmp_path: Path) -> None:
    content = load_json("dida", PROBABILITIES)[case]
    path = tmp_path / "sample_class_stats.json"
    path.write_text(json.dumps(content["stats"]))
    counts = [*read_class_statistics(path).values()]
    assert content["result"]
    for temperature, expected in content["result"].items():
        sampler = RareClassSampler(
            counts, temperature=float(temperature), min_pixels=0, class_names=NAMES, origin=str(path)
        )
        assert sampler.distribution.classes.tolist() == expected["classes"]
        np.testing.assert_allclose(sampler.distribution.probability, expected["probs"], rtol=1e-5)


class ScriptedCrops(AspectCropTransform):
    """Its crops hold as many pixels of class 7 as the script says, and are numbered in the image."""

    def __init__(self, pixels: list[int]) -> None:
        super().__init__(limit=(1, 1), crop=(1, 1))
        self.pixels = pixels
        self.drawn = 0

    def draw(self, image: np.ndarray, label: np.ndarray | None, generator: RandomSource | None) -> Pair:
        """The next crop."""
        crop = np.zeros((max(self.pixels) + 1, 1), np.uint8)
        crop[: self.pixels[self.drawn]] = 7
        self.drawn += 1
        return np.full((1, 1, 3), self.drawn - 1, np.uint8), crop


@pytest.mark.parametrize("case", row_cases("dida", RETRY))
def test_the_crop_of_the_reference_is_kept(case: int) -> None:
    recipe: dict[str, Any] = load_json("dida", RETRY)[case]
    transform = ScriptedCrops(recipe["class_pixels_per_attempt"])
    files = FileList(load_description("gta5"), Path(), "", "train", (Item("a", Path("a"), None),))
    sampler = RareClassSampler(
        [{7: recipe["min_pixels"] + 1}], min_pixels=recipe["min_pixels"], class_names=NAMES, origin="x"
    )
    samples = RareClassSamples(
        SegmentationDataset(files, transform=transform), sampler, min_crop_share=recipe["min_crop_ratio"]
    )
    nothing = np.zeros((1, 1, 3), np.uint8)
    image, _ = samples.crop(nothing, nothing[..., 0], 7, np.random.default_rng(0))
    assert image[0, 0, 0] == recipe["kept_attempt_index"]
    assert transform.drawn == recipe["crops_drawn"]
