"""Which test module reads which golden file of DIDA and DAFormer: every file of the folder has its line
here."""

from __future__ import annotations

import pytest
from file_table import names_the_file, unread_and_absent

READ_BY = {
    "backbone_forward": "test_dida_networks",
    "classmix": "test_dida_classmix",
    "cross_entropy": "test_dida_cross_entropy",
    "ema_sequence": "test_dida_ema",
    "feature_distance": "test_dida_feature_distance",
    "inference": "test_dida_inference",
    "instance_bank_ema": "test_dida_instance_bank",
    "instance_bank_fill": "test_dida_instance_bank",
    "instance_loss": "test_dida_instance_loss",
    "label_conversion": "test_dida_label_conversion",
    "lr_schedule": "test_dida_lr_schedule",
    "metrics": "test_dida_metrics",
    "network_forward_*": "test_dida_networks",
    "network_zero_image_*": "test_dida_networks",
    "optimizer_groups_*": "test_dida_optimizer_groups",
    "preprocessing": "test_dida_preprocessing",
    "pseudo_label": "test_dida_pseudo_label",
    "published_banks": "test_dida_published_banks",
    "rcs_probabilities": "test_dida_rcs",
    "rcs_retry": "test_dida_rcs",
    "state_dict_backbones_mit_b0_b5": "test_dida_state_dicts",
    "state_dict_checkpoint_dida_mitb5": "test_dida_state_dicts",
    "state_dict_segmentor_mitb0": "test_dida_state_dicts",
    "state_dict_segmentor_mitb5": "test_dida_state_dicts",
    "strong_augmentation": "test_dida_strong_augmentation",
    "train_forward_*": "test_dida_train_forward",
    "train_step": "test_dida_train_step",
    "train_step_daformer_baseline_float64": "test_dida_train_step",
    "train_step_float64": "test_dida_train_step",
    "train_step_raw_fusion_float64": "test_dida_train_step",
}


def test_every_golden_file_has_a_line_and_every_line_a_file() -> None:
    assert unread_and_absent("dida", "cross_entropy.npz", READ_BY) == (set(), set())


@pytest.mark.parametrize("stem", READ_BY)
def test_the_named_module_opens_the_file(stem: str) -> None:
    assert names_the_file(READ_BY[stem], stem), stem
