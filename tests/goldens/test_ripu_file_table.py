"""Which test module reads which golden file of RIPU: every file of the folder has its line here."""

from __future__ import annotations

import pytest
from file_table import names_the_file, unread_and_absent

READ_BY = {
    "budgets": "test_ripu_budgets",
    "datasets": "test_ripu_datasets",
    "evaluation": "test_ripu_evaluation",
    "formats": "test_ripu_formats",
    "losses": "test_ripu_losses",
    "lr": "test_ripu_lr",
    "networks": "test_ripu_networks",
    "resize_index": "test_ripu_resize_index",
    "scores": "test_ripu_scores",
    "selection_pipeline": "test_ripu_selection",
    "selection_scores": "test_ripu_selection",
    "source_sampling": "test_ripu_source_sampling",
    "state_dict_classifier_*": "test_ripu_networks",
    "state_dict_feature_extractor": "test_ripu_networks",
    "train_steps": "test_ripu_train_steps",
}


def test_every_golden_file_has_a_line_and_every_line_a_file() -> None:
    assert unread_and_absent("ripu", "budgets.json", READ_BY) == (set(), set())


@pytest.mark.parametrize("stem", READ_BY)
def test_the_named_module_opens_the_file(stem: str) -> None:
    assert names_the_file(READ_BY[stem], stem), stem
