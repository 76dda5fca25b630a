"""The samples of MRNet's loaders, from their recorded random draws (loaders.npz, specification 3.9)."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import PIL
import pytest
import torch
from golden_files import cases, load_json, load_npz

from data_loaders.decoding import map_label
from data_loaders.samples import planar
from data_loaders.transforms import TrainingTransform
from networks.normalization import InputNormalization

ARCHIVE = "loaders.npz"
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
PILLOW_OF_THE_GOLDENS = "13"
CASES = cases("mrnet", ARCHIVE, "draws")


@dataclass(frozen=True)
class Loader:
    """What the specification fixes per loader; mirroring is an option of some and is seen from the draws."""

    table: str | None  # in label_luts.json; None: unlabelled
    jitter: bool = False
    attempts: int = 1
    threshold: int = 0


LOADERS = {
    "gta5": Loader("gta5", jitter=True, attempts=10, threshold=10),
    "synthia": Loader("synthia", jitter=True, attempts=10, threshold=10),
    "cityscapes_target": Loader("cityscapes"),
    "cityscapes_source_for_robot": Loader("cityscapes_to_robot"),
    "cityscapes_pseudo": Loader("cityscapes_pseudo", jitter=True, attempts=10, threshold=10),
    "robot_train_unlabelled": Loader(None),
    "robot_pseudo": Loader("robot_pseudo", jitter=True, attempts=10, threshold=4),
    "robot_val": Loader("robot"),
}


class ReplayGenerator:
    """Answers with recorded draws and insists on being asked for them."""

    def __init__(self, draws: list[list]) -> None:
        self.draws = list(draws)

    def random(self) -> float:
        """The next draw, which must be a uniform one."""
        kind, value = self.draws.pop(0)
        assert kind == "random"
        return value

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        """The next draw, which must be an integer one with these bounds."""
        assert endpoint
        kind, recorded_low, recorded_high, value = self.draws.pop(0)
        assert (kind, recorded_low, recorded_high) == ("randint", low, high)
        return value


def loader_of(case: str) -> Loader:
    """The loader whose name begins the case's, the longest if several do."""
    return LOADERS[max((name for name in LOADERS if case.startswith(name)), key=len)]


def raw_label(archive: dict[str, np.ndarray], case: str) -> np.ndarray:
    """The case's input label, or that of the case before it in the archive that reads the same dataset."""
    names = list(dict.fromkeys(key.partition("/")[0] for key in archive))
    for name in reversed(names[: names.index(case) + 1]):
        if name.partition("_")[0] == case.partition("_")[0] and f"{name}/input_label" in archive:
            return archive[f"{name}/input_label"]
    raise AssertionError(f"no input label for {case}")


def replay(case: str) -> tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]:
    """Image, label and the case's golden fields."""
    archive = load_npz("mrnet", ARCHIVE)
    config = json.loads(str(archive["config"]))
    loader = loader_of(case)
    golden = {key.partition("/")[2]: value for key, value in archive.items() if key.startswith(f"{case}/")}
    draws = json.loads(str(golden["draws"]))
    transform = TrainingTransform(
        size=tuple(config["resize_wh"]),
        crop=tuple(config["crop_hw"]),
        scale_range=(0.8, 1.2) if loader.jitter else None,
        crop_attempts=loader.attempts,
        crop_min_classes=loader.threshold,
        mirror=draws[-1][0] == "random",
    )
    label = None
    if loader.table is not None:
        table = np.array(load_json("mrnet", "label_luts.json")[loader.table], np.uint8)
        label = map_label(raw_label(archive, case), table)
    generator = ReplayGenerator(draws)
    image, label = transform(archive["input_image"], label, generator)
    assert not generator.draws, "draws were left over"
    return image, label, golden


@pytest.mark.parametrize("case", CASES)
def test_the_image_has_the_golden_pixels_after_normalisation(case: str) -> None:
    image, _, golden = replay(case)
    normalize = InputNormalization(mean=MEAN_BGR, std=(1.0, 1.0, 1.0), order="bgr")
    normalized = normalize(planar(image)[None])[0].to(torch.float64).numpy()
    assert normalized.shape == tuple(golden["image_shape"])
    same_pillow = PIL.__version__.partition(".")[0] == PILLOW_OF_THE_GOLDENS
    tolerance = 1e-4 if same_pillow else 1.01  # 1e-4: one float32 subtraction
    np.testing.assert_allclose(normalized[:, ::2, ::2], golden["image"], rtol=0, atol=tolerance)
    share = 1.0 if same_pillow else 0.05  # another Pillow rounds few pixels otherwise
    assert abs(normalized.sum() - golden["image_sum"]) <= tolerance * share * normalized.size


@pytest.mark.parametrize("case", CASES)
def test_the_label_equals_the_golden(case: str) -> None:
    _, label, golden = replay(case)
    if label is None:  # ours knows no label where theirs is 255 everywhere
        assert (golden["label"] == 255).all()
    else:
        np.testing.assert_array_equal(label, golden["label"])


@pytest.mark.parametrize("case", CASES)
def test_the_image_is_resized_to_the_golden_size(case: str) -> None:
    archive = load_npz("mrnet", ARCHIVE)
    crop_height, crop_width = json.loads(str(archive["config"]))["crop_hw"]
    draws = json.loads(str(archive[f"{case}/draws"]))
    replay(case)  # insists on the bounds below
    top, left = [draw for draw in draws if draw[0] == "randint"][-2:]
    assert (top[2] + crop_height, left[2] + crop_width) == tuple(archive[f"{case}/size"][:2])
