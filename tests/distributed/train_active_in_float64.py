"""Worker of test_distributed_active.py: short active learning runs in float64, with their query rounds.

Usage: train_active_in_float64.py DATA OUTPUT

DATA is a data root with a Cityscapes copy whose split val has labels. OUTPUT gets the results; annotations
are written beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_loaders.description import load_description
from data_loaders.discovery import find_files
from selection.budget import Budget
from tests.toy_active import SPACE, DrawnImages, active_trainer, picks_of, small_network
from trainers.active import ActiveTrainer
from trainers.base import Evaluator
from trainers.evaluation import evaluate
from trainers.oracles import TruthOracle
from trainers.protocols import protocol_named
from utils import distributed
from utils.class_spaces import IGNORE_LABEL
from utils.distributed import World

GLOBAL_BATCH = 4
ITERATIONS = 5
ROUNDS = (1, 3)
CASES = ("region", "pixel", "dwaca", "one-labelled-image")


def evaluator(data: Path, world: World) -> Evaluator:
    """Scores a network on the validation images."""
    files = find_files(load_description("cityscapes"), split="val", data_root=data, labels="required")

    def score(network: nn.Module) -> Mapping[str, float] | None:
        result = evaluate(network, files, protocol_named("ripu"), SPACE, world=world, num_workers=0)
        return None if result is None else result.scalars()

    return score


def one_labelled_image() -> TruthOracle:
    """Answers "ignore" for all drawn images but one: most ranks' parts of a batch have no labelled pixel."""
    drawn = DrawnImages(seed=1)
    drawn.labels[1:] = IGNORE_LABEL
    return TruthOracle(drawn.truth, num_workers=0)


def make_trainer(case: str, data: Path, folder: Path, world: World) -> ActiveTrainer:
    """The trainer of a case, the same on any number of processes."""
    settings: dict[str, Any] = {"select_iterations": ROUNDS}
    options: dict[str, Any] = {}
    if case == "region":
        options |= {"evaluator": evaluator(data, world)}
    elif case == "pixel":
        options["query"] = {"setting": "pixel", "budget": Budget.parse("24px"), "radius": 3}
    elif case == "dwaca":
        options |= {"method": "dwaca", "class_evaluator": evaluator(data, world)}
        settings |= {"class_weights_from": "source", "dropout_schedule": "reference", "dropout_period": 2}
    else:
        options |= {"source": False, "oracle": one_labelled_image()}
        settings["select_iterations"] = (0, 2)
    return active_trainer(
        folder / case,
        network=small_network(double=True),
        settings=settings,
        loop={"num_steps_stop": ITERATIONS, "batch_norm": "frozen"},
        world=world,
        global_batch=GLOBAL_BATCH,
        **options,
    )


def train(case: str, data: Path, folder: Path, world: World) -> dict[str, Any]:
    """What must be equal after a run: weights, logged means, scores, what was asked and bought."""
    trainer = make_trainer(case, data, folder, world)
    losses: list[dict[str, float]] = []
    read = trainer.meter.read

    def remembered() -> dict[str, float]:
        means = read()
        losses.append(dict(means))
        return means

    trainer.meter.read = remembered
    assert trainer.fit() == 0
    rounds = range(len(trainer.settings.select_iterations))
    infos = [trainer.rounds.store.round(number).info() for number in rounds]
    return {
        "state": trainer.network.state_dict(),
        "losses": losses,
        "scores": dict(trainer.metrics),
        "picks": picks_of(trainer, rounds),
        "class_weights": [info.class_weights for info in infos],
        "digest": trainer.rounds.store.digest(len(rounds)),
        "digest_of_the_snapshot": bytes(trainer.rounds.state.digest.tolist()).hex(),
    }


def main(argv: Sequence[str]) -> int:
    """Runs every case and saves the results."""
    torch.set_num_threads(1)
    data, output = map(Path, argv)
    with distributed.session("cpu", timeout_s=120) as world:
        results = {case: train(case, data, output.with_suffix(""), world) for case in CASES}
        if world.is_main:
            torch.save(results, output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
