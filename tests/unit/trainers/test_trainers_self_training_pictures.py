from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_self_trainers import drawn_batches, drawn_streams, forward, make_trainer, small_network
from tests.toy_training import assert_same, copied_state, run_in
from utils.precision import Precision

SHEETS = {"train/domains", "train/mixture"}


@pytest.mark.parametrize("kind", ["plus", "two_head", "mit"])
@pytest.mark.parametrize("masked", [0.0, 1.0])
def test_sheets(kind: str, masked: float) -> None:
    trainer = make_trainer(network=small_network(kind), settings={"masked_consistency": masked})
    forward(trainer).loss.backward()
    before = copied_state(trainer.network)
    pictures = trainer.pictures(drawn_batches())
    assert set(pictures) == (SHEETS | {"train/masked"} if masked else SHEETS)
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.std() > 0
    assert_same(copied_state(trainer.network), before)
    trainer.run_iteration(1, [drawn_batches()])
    assert all(module.training for module in trainer.network.modules())


def test_mean_confidence_and_float64_are_drawn_too() -> None:
    trainer = make_trainer("dida", network=small_network(double=True), settings={"smooth": 0.01})
    forward(trainer)
    assert trainer.step.shown.confidence.max() > 0.1
    assert set(trainer.pictures(drawn_batches())) == SHEETS


def test_half_precision_is_drawn_too() -> None:
    trainer = make_trainer("dida", loop={"precision": Precision("bf16")})
    trainer.run_iteration(0, [drawn_batches()])
    assert set(trainer.pictures(drawn_batches())) == SHEETS


def test_drawing_does_not_change_the_training(tmp_path: Path) -> None:
    finals = []
    for every in (0, 2):
        with run_in(tmp_path / str(every)) as run:
            network = small_network(drop_rate=0.5)
            torch.manual_seed(0)
            trainer = make_trainer(
                network=network, run=run, streams=drawn_streams(), loop={"pictures_every": every}
            )
            assert trainer.fit() == 0
        finals.append(copied_state(trainer.network))
    assert_same(*finals)
    drawn = {path.name for path in (tmp_path / "2").rglob("*.png")}
    assert len(drawn) == 2 * len(SHEETS)
    assert not list((tmp_path / "0").rglob("*.png"))
