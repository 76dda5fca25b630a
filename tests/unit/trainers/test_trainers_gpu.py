"""On a CUDA device: the host never waits for it between two logging steps, and query rounds choose what they
choose on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import toy_active
from tests.toy_training import drawn_batches, make_trainer, small_network
from trainers.base import Trainer
from utils.distributed import World
from utils.precision import Precision

pytestmark = pytest.mark.gpu
BALANCED = {"class_balance": True, "often_balance": True, "max_grad_norm": 10.0}


@pytest.fixture
def _sync_debug_mode_ends() -> Iterator[None]:
    """Undoes what the test sets after its first iteration, which may wait while it allocates."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def trainer_on_the_gpu(method: str, settings: dict[str, Any], precision: str) -> Trainer:
    """A small trainer on the GPU."""
    device = torch.device("cuda")
    return make_trainer(
        method,
        network=small_network(drop_rate=0.1).to(device),
        settings={**BALANCED, **settings},
        loop={"precision": Precision(precision, "cuda"), "ema_decay": 0.9},
        world=World(rank=0, size=1, local_rank=0, device=device),
    )


@pytest.mark.usefixtures("_sync_debug_mode_ends")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("source", {"only_hard_label": 80}),
        ("mrnet", {"only_hard_label": 80, "lambda_me_target": 0.1}),
        ("rectified", {"lambda_adv_target1": 0.0, "lambda_adv_target2": 0.0, "lambda_kl_target": 0.0}),
    ],
)
def test_iterations_between_two_logging_steps_never_wait_for_the_device(
    method: str, settings: dict[str, Any], precision: str
) -> None:
    trainer = trainer_on_the_gpu(method, settings, precision)
    batches = {name: batch.to("cuda") for name, batch in drawn_batches().items()}
    trainer.run_iteration(0, [batches])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for iteration in range(1, 4):
        trainer.run_iteration(iteration, [batches])
    torch.cuda.set_sync_debug_mode("default")
    assert all(math.isfinite(value) for value in trainer.meter.read().values())


@pytest.mark.parametrize("setting", ["region", "pixel"])
def test_query_rounds_choose_on_the_device_what_they_choose_on_the_cpu(setting: str, tmp_path: Path) -> None:
    picks = {}
    for name in ("cpu", "cuda"):
        trainer = toy_active.active_trainer(
            tmp_path / name,
            network=toy_active.small_network(double=True).to(name),
            settings={"select_iterations": (0, 2)},
            query={"setting": setting},
            loop={"num_steps_stop": 3},
            world=World(rank=0, size=1, local_rank=0, device=torch.device(name)),
        )
        assert trainer.fit() == 0
        picks[name] = toy_active.picks_of(trainer, (0, 1))
    assert picks["cuda"] == picks["cpu"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_active_learning_trains_on_the_device_in_every_precision(precision: str, tmp_path: Path) -> None:
    network = toy_active.small_network().to("cuda", memory_format=torch.channels_last)
    trainer = toy_active.active_trainer(
        tmp_path,
        network=network,
        settings={"select_iterations": (1,), "dropout_schedule": "reference", "dropout_period": 2},
        loop={"num_steps_stop": 4, "precision": Precision(precision, "cuda")},
        world=World(rank=0, size=1, local_rank=0, device=torch.device("cuda")),
    )
    assert trainer.fit() == 0
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
