"""MADA's training steps on small networks: which terms there are, what moves, what snapshots hold."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from data_loaders.samples import Batch
from tests.toy_training import NUM_CLASSES, WORLD, drawn_batch, small_network
from trainers.anchored import AnchoredSettings, AnchoredTrainer
from trainers.loop_settings import LoopSettings

WIDTH = 16  # of the small network's features


def drawn_anchors(count: int = 4) -> Tensor:
    """Anchors as large as the features of the small network."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, NUM_CLASSES, WIDTH, generator=generator, dtype=torch.float64)


def make_trainer(anchors: Tensor, **settings: Any) -> AnchoredTrainer:
    chosen = {"learning_rate": 1e-3, "num_steps": 1000, **settings}
    return AnchoredTrainer(
        network=small_network().double(),
        settings=AnchoredSettings(**chosen),
        anchors=anchors,
        world=WORLD,
        loop=LoopSettings(num_steps_stop=4, batch_norm="frozen"),
    )


def batches(iteration: int = 0) -> dict[str, Batch]:
    """Bought and source images with labels, target images without."""
    target = drawn_batch(2, 3 * iteration + 2, labelled=False)
    enlarged = target.image.repeat_interleave(4, 2).repeat_interleave(4, 3)  # classes of 10 pixels and more
    return {
        "active": drawn_batch(2, 3 * iteration),
        "source": drawn_batch(2, 3 * iteration + 1),
        "target": replace(target, image=enlarged),
    }


def test_the_first_stage_looks_at_labels_alone() -> None:
    trainer = make_trainer(drawn_anchors())
    trainer.run_iteration(0, [{name: batch for name, batch in batches().items() if name != "target"}])
    heads = {"loss/active", "loss/source", "loss/active_aux", "loss/source_aux"}
    assert set(trainer.meter.read()) == heads
    assert all(value.grad is not None for _, value in trainer.network.head_parameters())
    assert torch.equal(trainer.anchors.values, drawn_anchors())


def test_the_second_stage_adds_pseudo_labels_and_alignment_and_moves_one_anchor() -> None:
    start = drawn_anchors()
    trainer = make_trainer(start)
    trainer.run_iteration(0, [batches()])
    terms = trainer.meter.read()
    assert {"loss/active", "loss/source", "loss/pseudo", "loss/alignment"} < set(terms)
    moved = (trainer.anchors.values - start).flatten(1).norm(dim=1) > 0
    assert int(moved.sum()) == 1


@pytest.mark.parametrize("name", ["lambda_alignment", "lambda_pseudo"])
def test_a_term_of_weight_zero_trains_nothing(name: str) -> None:
    def weights(**settings: Any) -> Tensor:
        trainer = make_trainer(drawn_anchors(), **settings)
        trainer.run_iteration(0, [batches()])
        return torch.cat([value.detach().flatten() for value in trainer.network.parameters()])

    assert not torch.equal(weights(), weights(**{name: 0.0}))
    off = {"lambda_alignment": 0.0, "lambda_pseudo": 0.0}
    labelled = make_trainer(drawn_anchors())
    labelled.run_iteration(0, [{key: batch for key, batch in batches().items() if key != "target"}])
    alone = torch.cat([value.detach().flatten() for value in labelled.network.parameters()])
    assert torch.allclose(weights(**off), alone, rtol=0, atol=1e-15)


def test_a_target_without_a_class_of_enough_pixels_is_finite() -> None:
    trainer = make_trainer(drawn_anchors())
    tiny = {name: Batch(
        batch.image[:, :, :9, :9].contiguous(),
        None if batch.label is None else batch.label[:, :9, :9].contiguous(),
        batch.names,
        torch.tensor([[9, 9]] * 2),
    ) for name, batch in batches().items()}  # fmt: skip
    trainer.run_iteration(0, [tiny])
    assert all(torch.isfinite(torch.tensor(value)) for value in trainer.meter.read().values())


def test_anchors_go_on_where_a_snapshot_left_them() -> None:
    trainer = make_trainer(drawn_anchors())
    trainer.run_iteration(0, [batches()])
    state = copy.deepcopy(trainer.state())
    continued = make_trainer(drawn_anchors() + 1.0)
    continued.load_state(state)
    assert torch.equal(continued.anchors.values, trainer.anchors.values)
    for trained in (trainer, continued):
        trained.run_iteration(1, [batches(1)])
    assert torch.equal(continued.anchors.values, trainer.anchors.values)
    mine, theirs = trainer.network.state_dict(), continued.network.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_rate_is_that_of_the_step_after() -> None:
    settings = AnchoredSettings()
    assert settings.rate(0) == pytest.approx(1e-4 * (1 - 1 / 90_000) ** 0.9, rel=1e-12)
    assert settings.rate(90_000) == 0
    groups = settings.build(small_network()).param_groups
    assert {group["lr_scale"] for group in groups} == {1.0}
