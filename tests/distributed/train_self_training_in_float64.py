"""Worker of test_distributed_self_training.py: short runs of self-training in float64.

Usage: train_self_training_in_float64.py OUTPUT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.toy_self_trainers import drawn_streams, make_trainer, small_network
from trainers.self_training import SelfTrainingTrainer
from utils import distributed
from utils.distributed import World

GLOBAL_BATCH = 4
ITERATIONS = 3  # the bank moves in two of them
MASKED = {"masked_consistency": 1.0}
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {  # method, network, BatchNorm, settings
    "daformer-sync": ("daformer", "mit", "sync", MASKED),
    "daformer-frozen": (
        *("daformer", "two_head", "frozen"),
        {**MASKED, "pseudo_threshold": 0.3, "lambda_seg": 0.5, "teacher_augmentation": True},
    ),
    "dida-sync": ("dida", "plus", "sync", {"pseudo_threshold": 0.2, "smooth": 0.5}),
    "dida-frozen": (
        *("dida", "two_head", "frozen"),
        {**MASKED, "pseudo_threshold": 0.3, "calibrate": "teacher", "bank_labels": "own"},
    ),
}


def make_case(case: str, world: World) -> SelfTrainingTrainer:
    """The trainer of a case, the same on any number of processes: jitter and blur on, dropout off."""
    method, network, batch_norm, settings = CASES[case]
    return make_trainer(
        method,
        network=small_network(network, double=True),
        settings=settings,
        loop={"batch_norm": batch_norm, "train_batch_norm_affine": True, "num_steps_stop": ITERATIONS},
        world=world,
        streams=drawn_streams(world, GLOBAL_BATCH),
    )


def train(case: str, world: World) -> dict[str, Any]:
    """What must be equal after a short run: networks with their statistics, bank, logged means."""
    trainer = make_case(case, world)
    losses = []
    for iteration in range(ITERATIONS):
        trainer.run_iteration(iteration, trainer.next_batches())
        losses.append(trainer.meter.read())
    modules = {"network": trainer.network, "teacher": trainer.teacher.network, **trainer.method_modules()}
    state = {
        f"{part}/{name}": value
        for part, module in modules.items()
        for name, value in module.state_dict().items()
    }
    return {"state": state, "losses": losses}


def main(argv: Sequence[str]) -> int:
    """Runs every case and saves the results."""
    torch.set_num_threads(1)
    with distributed.session("cpu", timeout_s=120) as world:
        results = {case: train(case, world) for case in CASES}
        if world.is_main:
            torch.save(results, argv[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
