"""Which test module reads which golden file of MRNet: every file of the folder has its line here."""

from __future__ import annotations

import pytest
from file_table import names_the_file, unread_and_absent

READ_BY = {  # file stem, * stands for any member of a family: test module
    "autoaugment": "test_mrnet_autoaugment",
    "autoaugment_policies": "test_mrnet_autoaugment",
    "class_weights": "test_mrnet_class_weights",
    "deeplab_forward": "test_mrnet_networks",
    "discriminator": "test_mrnet_discriminator",
    "end_to_end_*": "test_mrnet_end_to_end",
    "hard_label": "test_mrnet_hard_label",
    "inference_fusion": "test_mrnet_inference_fusion",
    "iou": "test_mrnet_iou",
    "label_luts": "test_mrnet_label_tables",
    "loaders": "test_mrnet_loaders",
    "lr_schedule": "test_mrnet_lr_schedule",
    "param_groups_se_gn_19": "test_mrnet_param_groups",
    "sgd_repeated": "test_mrnet_sgd_repeated",
    "state_dict_deeplab_bn_19": "test_mrnet_networks",
    "state_dict_deeplab_gn_19": "test_mrnet_networks",
    "state_dict_deeplab_se_gn_19": "test_mrnet_networks",
    "state_dict_deeplab_se_gn_9": "test_mrnet_networks",
    "state_dict_deeplab_variants_diff": "test_mrnet_networks",
    "state_dict_deeplab_vgg_19": "test_mrnet_networks",
    "state_dict_ms_discriminator_19": "test_mrnet_networks",
    "state_dict_oracle_deeplab_19": "test_mrnet_networks",
    "train_steps": "test_mrnet_train_steps",
    "trainer_losses": "test_mrnet_losses",
}


def test_every_golden_file_has_a_line_and_every_line_a_file() -> None:
    assert unread_and_absent("mrnet", "label_luts.json", READ_BY) == (set(), set())


@pytest.mark.parametrize("stem", READ_BY)
def test_the_named_module_opens_the_file(stem: str) -> None:
    assert names_the_file(READ_BY[stem], stem), stem
