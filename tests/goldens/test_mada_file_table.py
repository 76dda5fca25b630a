"""Which test module reads which golden file of MADA: every file of the folder has its line here."""

from __future__ import annotations

import pytest
from file_table import names_the_file, unread_and_absent

READ_BY = {
    "anchor_ema_sequence": "test_mada_anchor_ema",
    "checkpoint_layout_*": "mada_networks",  # finds them for test_mada_checkpoints
    "dataset_listing": "test_mada_dataset_listing",
    "kmeans": "test_mada_kmeans",
    "lr_schedule": "test_mada_lr_schedule",
    "metrics": "test_mada_metrics",
    "network_forward": "test_mada_networks",
    "objective_vectors": "test_mada_objective_vectors",
    "param_order_deeplabv3plus_r101": "test_mada_state_dicts",
    "preprocess": "test_mada_preprocess",
    "pseudo_label": "test_mada_pseudo_label",
    "published_cluster_centroids_full*": "test_mada_published_files",
    "published_files": "test_mada_published_files",
    "published_stage1_cac_list_0.05": "test_mada_published_files",
    "seg_loss": "test_mada_seg_loss",
    "selection": "test_mada_selection",
    "soft_alignment": "test_mada_soft_alignment",
    "stage1_steps": "test_mada_train_steps",
    "stage2_steps": "test_mada_train_steps",
    "state_dict_deeplabv3plus_r101": "test_mada_state_dicts",
}
# Its README says so: manifests that are the same everywhere, and the list, which belongs to the source side.
ANOTHER_SET_MAY_LACK = {
    "param_order_deeplabv3plus_r101",
    "published_stage1_cac_list_0.05",
    "state_dict_deeplabv3plus_r101",
}


def test_every_golden_file_has_a_line_and_every_line_a_file() -> None:
    unread, absent = unread_and_absent("mada", "lr_schedule.npz", READ_BY)
    assert (unread, absent - ANOTHER_SET_MAY_LACK) == (set(), set())


@pytest.mark.parametrize("stem", READ_BY)
def test_the_named_module_opens_the_file(stem: str) -> None:
    assert names_the_file(READ_BY[stem], stem), stem
