"""Which test module reads which golden file of DWACA: every file of the folder has its line here."""

from __future__ import annotations

import pytest
from file_table import names_the_file, unread_and_absent

READ_BY = {
    "budget_counts": "test_dwaca_budgets",
    "iou_accumulation": "test_dwaca_weights",
    "lr_schedule": "test_dwaca_lr_schedule",
    "mode_schedule": "test_dwaca_mode_schedule",
    "network": "test_dwaca_network",
    "scores": "test_dwaca_scores",
    "selection_given_scores": "test_dwaca_selection",
    "selection_rounds": "test_dwaca_selection",
    "state_dict_deeplabv3plus_r101_c16": "test_dwaca_network",
    "state_dict_deeplabv3plus_r101_c19": "test_dwaca_network",
    "synthia_label": "test_dwaca_synthia_label",
    "synthia_label_16bit": "test_dwaca_synthia_label",
    "toy_training": "test_dwaca_toy_training",
    "weights": "test_dwaca_weights",
}


def test_every_golden_file_has_a_line_and_every_line_a_file() -> None:
    assert unread_and_absent("dwaca", "budget_counts.json", READ_BY) == (set(), set())


@pytest.mark.parametrize("stem", READ_BY)
def test_the_named_module_opens_the_file(stem: str) -> None:
    assert names_the_file(READ_BY[stem], stem), stem
