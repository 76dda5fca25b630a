"""Distances to the anchors, and the images that the authors' released script selects (selection.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import cases, load_npz

from losses.objective import class_means_of
from selection.anchor_files import list_name, positions_name
from selection.budget import Budget
from selection.image_choice import choose_images, write_choice
from selection.image_distance import anchor_distances, image_scores
from utils.errors import UserError

ARCHIVE = "selection.npz"
CLASSES, CHANNELS, ANCHORS = 19, 256, 10  # of the reference's script
ATOL = {torch.float64: 1e-12, torch.float32: 1e-6}  # the goldens README
SCORE_ATOL = 1e-6
PUBLISHED_BUDGET = Budget.parse("5%")


def read(case: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    archive = load_npz("mada", ARCHIVE)
    return {key.partition("/")[2]: array for key, array in archive.items() if key.startswith(f"{case}/")}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", cases("mada", ARCHIVE, "NV"))
def test_distances_to_the_anchors(case: str, dtype: torch.dtype) -> None:
    golden = read(case)
    seed, (count, num_anchors) = int(golden["seed"]), golden["NV"].tolist()
    present = golden["present"]
    shape = (present.shape[1], CHANNELS)
    anchors = torch.from_numpy(normal(seed, num_anchors, *shape).astype(np.float32))
    vectors = torch.from_numpy(normal(seed + 1, count, *shape) * present[:, :, None]).to(dtype)
    distances = anchor_distances(vectors, anchors)
    assert distances.dtype is torch.float64
    np.testing.assert_allclose(distances.numpy(), golden["distances"], rtol=0, atol=ATOL[dtype])
    np.testing.assert_array_equal(distances.argmin(dim=1).numpy(), golden["argmin"])
    scores = image_scores(vectors.numpy(), anchors)
    np.testing.assert_allclose(scores.values, golden["min"], rtol=0, atol=ATOL[dtype])
    np.testing.assert_array_equal(scores.nearest, golden["argmin"])


def image_vector(golden: dict[str, np.ndarray], index: int) -> np.ndarray:
    """(C, D) of the image, from its features and logits."""
    source = int(golden["source_of"][index])
    classes = torch.from_numpy(golden["pred_blocks"][index]).long()[None]
    logits = 6 * F.one_hot(classes, CLASSES).movedim(-1, 1).float()
    features = normal(int(golden["seed"]) + 100 + source, 1, CHANNELS, *classes.shape[1:]).astype(np.float32)
    features *= np.float32(1 + 0.05 * (source % 9))
    return class_means_of(torch.from_numpy(features), logits, None).vectors[0].numpy()


@pytest.mark.parametrize("case", cases("mada", ARCHIVE, "pred_blocks"))
def test_the_selected_images_and_their_lists(case: str, tmp_path: Path) -> None:
    golden = read(case)
    count = len(golden["pred_blocks"])
    anchors = 0.5 * normal(int(golden["seed"]), ANCHORS * CLASSES * CHANNELS).astype(np.float32)
    anchors = torch.from_numpy(anchors).view(ANCHORS, CLASSES, CHANNELS)
    vectors = np.stack([image_vector(golden, index) for index in range(count)])
    scores = image_scores(vectors, anchors)
    np.testing.assert_allclose(scores.values, golden["distance"], rtol=0, atol=SCORE_ATOL)
    if len(golden["unique_index"]) == 0:  # the reference writes empty files
        with pytest.raises(UserError, match="is less than one image"):
            PUBLISHED_BUDGET.whole_images(count)
        return
    choice = choose_images(scores, np.zeros(0, np.int64), PUBLISHED_BUDGET.whole_images(count))
    np.testing.assert_array_equal(choice.asked, golden["unique_index"])
    if not np.array_equal(golden["unique_index"], golden["orig_index"]):
        return  # its files name an image twice
    cities = [f"city{index // 7:02d}" for index in range(count)]
    names = [f"{city}/{city}_{index:06d}_000019_leftImg8bit.png" for index, city in enumerate(cities)]
    write_choice(tmp_path, choice, names, PUBLISHED_BUDGET)
    assert (tmp_path / list_name("0.05")).read_text() == str(golden["list_txt"])
    assert (tmp_path / positions_name("0.05")).read_text() == str(golden["index_txt"])
