"""Worker of test_distributed_anchored_stages.py: all of MADA's run in float64, anchors, choice, both stages.

Usage: train_anchored_in_float64.py OUTPUT

OUTPUT gets the results; anchors, lists and annotations are written beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.toy_anchored import lively_network, run_of, staged_trainer
from trainers.anchored_stages import StagedTrainer
from utils import distributed
from utils.distributed import World
from utils.runs import Run

GLOBAL_BATCH = 4
# With frozen BatchNorm the heads of mada_v3plus keep one of their process; deeplab_v3plus has none.
ARCHITECTURES = {"frozen": "deeplab_v3plus", "sync": "mada_v3plus"}


def train(batch_norm: str, folder: Path, world: World) -> dict[str, Any]:
    """What must be equal after a run: weights, anchors, logged means, what was asked and bought."""
    with run_of(folder, world=world) as run:
        trainer = make_trainer(batch_norm, folder, run, world)
        losses = means_of(trainer)
        assert trainer.fit() == 0
    queries = trainer.rounds.store.round(0).queries()
    assert queries is not None
    return {
        "state": trainer.network.state_dict(),
        "anchors": trainer.anchors.values,
        "stage": int(trainer.stage.number),
        "stage_1": run.snapshots.path_of("stage1").name,
        "losses": losses,
        "queries": queries.digest(),
        "images": [query.name for query in queries.images],
        "bought": trainer.rounds.store.digest(1),
    }


def make_trainer(batch_norm: str, folder: Path, run: Run, world: World) -> StagedTrainer:
    """The trainer of a case, the same on any number of processes; scores fall from iteration to iteration."""

    def evaluator(network: nn.Module) -> Mapping[str, float]:
        return {"val/miou": 50.0 - trainer.iteration}

    trainer = staged_trainer(
        folder,
        run=run,
        network=lively_network(architecture=ARCHITECTURES[batch_norm], double=True),
        settings={"learning_rate": 1e-2},
        loop={"batch_norm": batch_norm, "train_batch_norm_affine": True, "evaluate_every": 1},
        evaluator=evaluator,
        world=world,
        global_batch=GLOBAL_BATCH,
    )
    return trainer


def means_of(trainer: StagedTrainer) -> list[dict[str, float]]:
    """A list to which every logged mean will be added."""
    losses: list[dict[str, float]] = []
    read = trainer.meter.read

    def remembered() -> dict[str, float]:
        means = read()
        losses.append(dict(means))
        return means

    trainer.meter.read = remembered
    return losses


def main(argv: Sequence[str]) -> int:
    """Runs every case and saves the results."""
    torch.set_num_threads(1)
    output = Path(argv[0])
    with distributed.session("cpu", timeout_s=120) as world:
        results = {name: train(name, output.with_suffix("") / name, world) for name in ARCHITECTURES}
        if world.is_main:
            torch.save(results, output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
