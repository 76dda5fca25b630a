"""The samples of MRNet's loaders, from their recorded random draws (loaders.npz, specification 3.9)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from golden_files import cases, load_json, load_npz

from data_loaders.dataset import PseudoLabels, pseudo_label_path
from data_loaders.decoding import map_label, write_label_png
from data_loaders.discovery import Item
from data_loaders.samples import planar
from data_loaders.transforms import TrainingTransform
from networks.normalization import caffe_normalization
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

ARCHIVE = "loaders.npz"
PILLOW_OF_THE_GOLDENS = "13"
CASES = cases("mrnet", ARCHIVE, "draws")


@dataclass(frozen=True)
class Loader:
    """What the specification fixes per loader; mirroring is an option of some and is seen from the draws."""

    table: str | None  # in label_luts.json, pseudo labels end in _pseudo; None: unlabelled
    jitter: bool = False
    attempts: int = 1
    threshold: int = 0

    @property
    def pseudo(self) -> bool:
        """Whether the label holds train ids that a network gave."""
        return self.table is not None and self.table.endswith("_pseudo")


LOADERS = {
    "gta5": Loader("gta5", jitter=True, attempts=10, threshold=10),
    "synthia": Loader("synthia", jitter=True, attempts=10, threshold=10),
    "cityscapes": Loader("cityscapes"),
    "cityscapes_source": Loader("cityscapes_to_robot"),
    "cityscapes_pseudo": Loader("cityscapes_pseudo", jitter=True, attempts=10, threshold=10),
    "robot_train": Loader(None),
    "robot_pseudo": Loader("robot_pseudo", jitter=True, attempts=10, threshold=4),
    "robot": Loader("robot"),
}
NUM_CLASSES = {"cityscapes_pseudo": 19, "robot_pseudo": 9}


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
    names = [name for name in LOADERS if f"{case}_".startswith(f"{name}_")]
    assert names, f"case {case} of {ARCHIVE} belongs to none of the loaders {', '.join(LOADERS)}"
    return LOADERS[max(names, key=len)]


def raw_label(archive: dict[str, np.ndarray], case: str) -> np.ndarray:
    """The case's input label, or the last one before it in the archive of the same dataset and kind."""
    names = [key.partition("/")[0] for key in archive if key.endswith("/draws")]
    for name in reversed(names[: names.index(case) + 1]):
        same = name.partition("_")[0] == case.partition("_")[0]
        if same and loader_of(name).pseudo == loader_of(case).pseudo and f"{name}/input_label" in archive:
            return archive[f"{name}/input_label"]
    raise AssertionError(f"no input label for {case}")


def train_ids(archive: dict[str, np.ndarray], case: str, folder: Path) -> np.ndarray | None:
    """The case's label before the transform; pseudo labels come through a file and its reader."""
    loader = loader_of(case)
    if loader.table is None:
        return None
    raw = raw_label(archive, case)
    if not loader.pseudo:
        return map_label(raw, np.array(load_json("mrnet", "label_luts.json")[loader.table], np.uint8))
    reader, item = PseudoLabels(folder, NUM_CLASSES[loader.table]), Item(f"{case}.png", Path(), None)
    path = pseudo_label_path(folder, item.name)
    unknown = (raw >= NUM_CLASSES[loader.table]) & (raw != IGNORE_LABEL)
    if unknown.any():  # ours refuses what the original's table for RobotCar drops (docs/quirks.md)
        write_label_png(path, raw)
        with pytest.raises(UserError, match="are not train ids"):
            reader(item)
    write_label_png(path, np.where(unknown, IGNORE_LABEL, raw).astype(np.uint8))
    return reader(item)


def replay(case: str, folder: Path) -> tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]:
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
    generator = ReplayGenerator(draws)
    image, label = transform(archive["input_image"], train_ids(archive, case, folder), generator)
    assert not generator.draws, "draws were left over"
    return image, label, golden


@pytest.mark.parametrize("case", CASES)
def test_the_image_has_the_golden_pixels_after_normalisation(case: str, tmp_path: Path) -> None:
    image, _, golden = replay(case, tmp_path)
    normalized = caffe_normalization()(planar(image)[None])[0].to(torch.float64).numpy()
    assert normalized.shape == tuple(golden["image_shape"])
    same_pillow = PIL.__version__.partition(".")[0] == PILLOW_OF_THE_GOLDENS
    tolerance = 1e-4 if same_pillow else 1.01  # 1e-4: one float32 subtraction
    np.testing.assert_allclose(normalized[:, ::2, ::2], golden["image"], rtol=0, atol=tolerance)
    share = 1.0 if same_pillow else 0.05  # another Pillow rounds few pixels otherwise
    assert abs(normalized.sum() - golden["image_sum"]) <= tolerance * share * normalized.size


@pytest.mark.parametrize("case", CASES)
def test_the_label_equals_the_golden(case: str, tmp_path: Path) -> None:
    _, label, golden = replay(case, tmp_path)
    if label is None:  # ours knows no label where theirs is 255 everywhere
        assert (golden["label"] == 255).all()
    else:
        np.testing.assert_array_equal(label, golden["label"])


@pytest.mark.parametrize("case", CASES)
def test_the_image_is_resized_to_the_golden_size(case: str, tmp_path: Path) -> None:
    archive = load_npz("mrnet", ARCHIVE)
    crop_height, crop_width = json.loads(str(archive["config"]))["crop_hw"]
    draws = json.loads(str(archive[f"{case}/draws"]))
    replay(case, tmp_path)  # insists on the bounds below
    top, left = [draw for draw in draws if draw[0] == "randint"][-2:]
    assert (top[2] + crop_height, left[2] + crop_width) == tuple(archive[f"{case}/size"][:2])
