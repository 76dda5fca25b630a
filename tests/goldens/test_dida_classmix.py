"""ClassMix masks, mixtures and the number of classes drawn (classmix.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import matching_cases

from data_loaders.class_mix import LABEL_VALUES, choose_classes, class_keys, class_mask, mix, present_values

ARCHIVE = "classmix.npz"
MIXED = {  # result -> what is mixed: source and target; the source's labels are `labels`, its weights are 1
    "mixed_image": ("source", "target"),
    "mixed_label": ("labels", "pseudo_label"),
    "mixed_weight": (None, "pseudo_weight"),
}
IMAGES = matching_cases("dida", ARCHIVE, r"chosen_classes_(\d+)")


def _image(number: str) -> dict[str, torch.Tensor]:
    """Labels, chosen values and mask of one image of the batch, with a batch axis."""
    golden = load_npz("dida", ARCHIVE)
    chosen = torch.zeros(1, LABEL_VALUES, dtype=torch.bool)
    chosen[0, torch.from_numpy(golden[f"chosen_classes_{number}"])] = True
    labels = torch.from_numpy(golden["labels"])[int(number)]  # (1, H, W)
    return {"labels": labels, "chosen": chosen}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=["int64", "uint8"])
@pytest.mark.parametrize("number", IMAGES)
def test_the_mask_covers_the_chosen_values(number: str, dtype: torch.dtype) -> None:
    image = _image(number)
    mask = class_mask(image["labels"].to(dtype), image["chosen"])
    np.testing.assert_array_equal(mask.numpy(), load_npz("dida", ARCHIVE)["masks"][int(number)])


@pytest.mark.parametrize("result", MIXED)
@pytest.mark.parametrize("number", IMAGES)
def test_the_mixture_takes_the_source_where_the_mask_is_set(number: str, result: str) -> None:
    golden = load_npz("dida", ARCHIVE)
    image, chosen = int(number), _image(number)
    mask = class_mask(chosen["labels"], chosen["chosen"])
    source_name, target_name = MIXED[result]
    target = torch.from_numpy(golden[target_name])[image : image + 1]
    source = (
        torch.ones_like(target)
        if source_name is None
        else torch.from_numpy(golden[source_name])[image : image + 1].reshape(target.shape)
    )
    mixed = mix(mask, source, target)
    np.testing.assert_array_equal(mixed.numpy().reshape(golden[result][image].shape), golden[result][image])


def test_the_set_is_that_of_the_whole_batch() -> None:
    golden = load_npz("dida", ARCHIVE)
    present = present_values(torch.from_numpy(golden["labels"])[:, 0])
    np.testing.assert_array_equal(present.nonzero()[:, 0].numpy(), golden["unique_classes"])


def test_half_of_the_set_is_drawn_for_every_image() -> None:
    golden = load_npz("dida", ARCHIVE)
    present = torch.zeros(LABEL_VALUES, dtype=torch.bool)
    present[torch.from_numpy(golden["unique_classes"])] = True
    chosen = choose_classes(present, class_keys(0, range(len(golden["n_and_k"]))))
    members = [[int(present.sum()), int(row.sum())] for row in chosen]
    np.testing.assert_array_equal(members, golden["n_and_k"])


def test_the_number_drawn_is_the_reference_table() -> None:
    table = load_npz("dida", ARCHIVE)["half_table"]
    assert len(table)
    for values, expected in table.tolist():
        present = torch.arange(LABEL_VALUES) < values
        chosen = choose_classes(present, class_keys(0, [0, 1]))
        assert chosen.sum(1).tolist() == [expected, expected]
        assert not (chosen & ~present).any()
