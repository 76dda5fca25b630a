"""Facts about the published instance banks (published_banks.json), on the two that the data folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_files import REPOSITORY, load_json

from losses.instance_bank import InstanceBank
from trainers.bank_files import read_bank, write_bank
from utils.class_spaces import class_space

BANKS = REPOSITORY.parent / "shared" / "data" / "seed_outputs"  # re-saved with arrays features and labels
FILES = {
    "balanced avg cache 300": "dida_memory_gta_300.npz",
    "Synthia2cs cache 300": "dida_memory_synthia_300.npz",
    "synthia": "dida_memory_synthia_300.npz",
}
RTOL = 1e-5  # norms and cosines are float32 on both sides


def _read(path: Path, facts: dict) -> tuple[torch.Tensor, torch.Tensor]:
    space = class_space("cityscapes19")
    return read_bank(
        path,
        num_classes=space.num_classes,
        channels=facts["features_shape"][1],
        class_names=space.class_names,
    )


@pytest.mark.parametrize("name", FILES)
def test_a_published_bank_reads_with_its_facts(name: str, tmp_path: Path) -> None:
    facts = load_json("dida", "published_banks.json")[name]
    if not BANKS.is_dir():
        pytest.skip(f"no published banks: {BANKS} does not exist")
    features, labels = _read(BANKS / FILES[name], facts)
    assert [list(features.shape), list(labels.shape)] == [facts["features_shape"], facts["labels_shape"]]
    assert features.dtype is getattr(torch, facts["features_dtype"])
    assert labels.dtype is getattr(torch, facts["labels_dtype"])
    assert labels[: len(facts["first_labels"])].tolist() == facts["first_labels"]
    assert [features.min().item(), features.max().item()] == [facts["value_min"], facts["value_max"]]
    assert features.double().sum().item() == pytest.approx(facts["sum_float64"], rel=1e-12)
    norm = features.norm(dim=1)
    found = [norm.min().item(), norm.mean().item(), norm.max().item()]
    assert found == pytest.approx(facts["l2_norm_min_mean_max"], rel=RTOL)

    bank = InstanceBank(*features.shape, num_classes=len(facts["class_histogram"]))
    bank.set(features, labels)
    assert bank.is_full
    assert bank.histogram().tolist() == facts["class_histogram"]
    cosine = bank.scalars()["bank/cosine_within_class"].item()
    assert cosine == pytest.approx(facts["mean_cosine_within_class"], rel=RTOL)

    write_bank(tmp_path, features, labels)
    for ours, theirs in zip(_read(tmp_path, facts), (features, labels), strict=True):
        assert torch.equal(ours, theirs)
