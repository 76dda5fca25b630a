"""Random numbers depend on what they are for, and on nothing else."""

from __future__ import annotations

import pytest
import torch

from utils import seeding


def test_equal_keys_give_equal_draws_whatever_was_drawn_before() -> None:
    first = seeding.generator(3, "source", 7).random(4)
    seeding.generator(3, "target", 7).random(9)
    assert (seeding.generator(3, "source", 7).random(4) == first).all()


@pytest.mark.parametrize("key", [(4, "source", 7), (3, "target", 7), (3, "source", 8), (37, "source", 7)])
def test_another_seed_stream_or_number_gives_other_draws(key: tuple[int, str, int]) -> None:
    assert seeding.generator(*key).random() != seeding.generator(3, "source", 7).random()


def test_dropout_differs_between_ranks_and_weights_do_not() -> None:
    seeding.seed_everything(1)
    weights = torch.rand(3)
    seeding.seed_dropout(1, rank=0)
    rank_0 = torch.rand(3)
    seeding.seed_dropout(1, rank=1)
    assert not torch.equal(torch.rand(3), rank_0)
    seeding.seed_everything(1)
    assert torch.equal(torch.rand(3), weights)


def test_a_restored_state_continues_the_draws() -> None:
    seeding.seed_dropout(1, rank=0)
    state = seeding.rng_state()
    first = torch.rand(3)
    seeding.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
