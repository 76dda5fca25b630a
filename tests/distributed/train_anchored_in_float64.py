"""Worker of test_distributed_anchored_stages.py: MADA's run in float64, from its anchors to its second stage.

Usage: train_anchored_in_float64.py OUTPUT

OUTPUT gets the results; anchors and annotations are written beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from selection.rounds import RoundQueries
from tests.toy_anchored import lively_network, staged_trainer
from trainers.anchored_stages import StagedTrainer
from utils import distributed
from utils.distributed import World

GLOBAL_BATCH = 4
CASES = ("frozen", "sync", "accumulated")  # BatchNorm; the last: in two micro-batches where ranks allow it
ANCHOR_FILES = ("cluster_centroids_full_2.pkl", "cluster_centroids_full_target_2.pkl")


def make_trainer(case: str, folder: Path, world: World) -> StagedTrainer:
    """The trainer of a case, the same on any number of processes."""
    batch_norm = "sync" if case == "sync" else "frozen"
    return staged_trainer(
        folder / case,
        network=lively_network(double=True),
        loop={"batch_norm": batch_norm, "train_batch_norm_affine": True},
        world=world,
        global_batch=GLOBAL_BATCH,
    )
