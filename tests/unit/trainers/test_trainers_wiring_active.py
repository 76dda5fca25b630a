"""From the arguments of active learning to its parts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train_al
from selection.budget import Budget
from selection.store import AnnotationStore
from tests.official_formats import write_cityscapes, write_gta5
from tests.toy_training import WORLD
from tests.unit.selection.toy_rounds import fill_store
from trainers import wiring, wiring_active
from trainers.active import ActiveTrainer
from trainers.oracles import PeopleOracle, TruthOracle
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError
from utils.precision import Precision

SIZE = (64, 48)
SMALL = [
    *("--network", "deeplab_v3plus", "--backbone", "resnet18_quarter", "--head-channels", "8"),
    *("--backbone-weights", "none", "--input-size", "64,48", "--input-size-target", "64,48"),
    *("--num-workers", "0", "--device", "cpu", "--num-steps", "20", "--select-iterations", "2,4"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve source images with all classes, three target images, one to score."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 12, SIZE)
    write_cityscapes(root, 3, SIZE)
    write_cityscapes(root, 1, SIZE, split="val")
    return root


class Wired:
    """Parts and trainer of a command line, in a run folder that does not exist yet."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data = data
        self.folder = folder

    def args(self, *words: object) -> argparse.Namespace:
        places = ["--data-root", str(self.data), "--snapshot-dir", str(self.folder)]
        return train_al.parse_args([*SMALL, *places, *map(str, words)])

    def parts(self, *words: object) -> wiring_active.ActiveParts:
        return wiring_active.prepare(self.args(*words))

    def trainer(self, *words: object) -> ActiveTrainer:
        args = self.args(*words)
        parts = wiring_active.prepare(args)
        network = wiring.build_network(args, parts.domains.space, WORLD)
        return wiring_active.make_trainer(args, parts, network, WORLD, Precision("fp32"))


@pytest.fixture
def wired(data: Path, tmp_path: Path) -> Wired:
    return Wired(data, tmp_path / "run")


def test_query_settings(wired: Wired) -> None:
    found = wired.parts("--radius", 2, "--budget", "6%", "--score", "entropy", "--seed", 4).query
    assert (found.setting, found.radius, found.rounds, found.score, found.seed) == (
        "region",
        2,
        2,
        "entropy",
        4,
    )
    assert (found.budget, found.training_size) == (Budget(6.0, "percent"), SIZE)


def test_nothing_is_written(wired: Wired) -> None:
    wired.trainer()
    assert not wired.folder.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (64, 48)),
        (["--input-size-query", "32,24"], (32, 24)),
        (["--protocol", "ripu-cityscapes"], (1280, 640)),
        (["--protocol", "ripu-cityscapes", "--input-size-query", "32,24"], (32, 24)),
    ],
)
def test_size_of_the_images_that_are_scored(
    wired: Wired, words: list[str], expected: tuple[int, int]
) -> None:
    image, size = wired.trainer(*words).rounds.query.images.network_input(
        "aachen/aachen_000000_000019_leftImg8bit.png"
    )
    assert tuple(image.shape) == (3, *expected[::-1])
    assert size == SIZE[::-1]


class TestOracle:
    def test_truth_reads_the_labels_of_the_target(self, wired: Wired) -> None:
        oracle = wired.trainer().rounds.oracle
        assert isinstance(oracle, TruthOracle)
        label = oracle.oracle.read_label("aachen/aachen_000000_000019_leftImg8bit.png")
        assert label.shape == SIZE[::-1]
        assert set(np.unique(label)) <= {*range(19), IGNORE_LABEL}

    def test_people_are_told_the_price_before_the_run_begins(
        self, wired: Wired, caplog: pytest.LogCaptureFixture
    ) -> None:
        words = ["--oracle", "people", "--setting", "pixel", "--budget", "40px", "--radius", 1]
        with caplog.at_level("INFO"):
            trainer = wired.trainer(*words, "--seconds-per-decision", 36)
        assert isinstance(trainer.rounds.oracle, PeopleOracle)
        assert "40 decisions per image, 120 for 3 images" in caplog.text
        assert "1.2 h" in caplog.text
        assert trainer.rounds.oracle.price in caplog.text
        assert trainer.rounds.oracle.run == str(wired.folder)
        assert not trainer.rounds.oracle.accept_partial


class TestClassEvaluator:
    def test_leak_of_the_validation_labels_is_warned_about(
        self, wired: Wired, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        trainer = wired.trainer("--method", "dwaca")
        said = capsys.readouterr().err + caplog.text
        assert "labels of the very validation images that measure the result" in said
        assert trainer.class_evaluator is None
        assert trainer.evaluator is not None

    @pytest.mark.parametrize("chosen", ["labelled", "source", "none"])
    def test_other_choices_leak_nothing(
        self, wired: Wired, chosen: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        trainer = wired.trainer("--method", "dwaca", "--class-weights-from", chosen)
        assert "validation images" not in capsys.readouterr().err + caplog.text
        assert (trainer.class_evaluator is None) is (chosen == "none")

    def test_on_the_source_it_scores_so_many_images(
        self, wired: Wired, caplog: pytest.LogCaptureFixture
    ) -> None:
        words = ["--method", "dwaca", "--class-weights-from", "source", "--class-weight-images", 5]
        trainer = wired.trainer(*words)
        with caplog.at_level("INFO"):
            assert "val/miou" in trainer.class_evaluator(trainer.network)
        assert "gta5 train: mIoU" in caplog.text
        assert "of 5 images" in caplog.text

    def test_on_what_was_bought_it_reads_no_label_file(
        self, wired: Wired, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = wired.trainer("--method", "dwaca", "--class-weights-from", "labelled")
        read = []

        class Noted:
            def __call__(self, item: Any) -> np.ndarray:
                read.append(item.name)
                return np.full(SIZE[::-1], 3, np.uint8)

        monkeypatch.setattr(type(trainer.rounds.reader), "__call__", lambda reader, item: Noted()(item))
        scored = trainer.class_evaluator(trainer.network)
        assert len(read) == 3
        assert set(scored) >= {"val/miou", "val/iou/wall"}

    def test_spread_takes_images_from_the_whole_list(self, wired: Wired) -> None:
        files = wired.parts().domains.source
        assert len(wiring_active.spread(files, 100).items) == 12
        few = wiring_active.spread(files, 3)
        assert [files.items.index(item) for item in few.items] in ([0, 5, 11], [0, 6, 11])
        assert len(wiring_active.spread(files, 1).items) == 1


class TestRunFolder:
    def test_rounds_of_another_run_are_refused(self, wired: Wired) -> None:
        fill_store(AnnotationStore(wired.folder / "queries"), 1)
        with pytest.raises(UserError, match=r"run/queries/round_00 belongs to another run"):
            wired.trainer()

    def test_file_in_the_place_of_the_queries(self, wired: Wired) -> None:
        wired.folder.mkdir()
        (wired.folder / "queries").write_text("notes")
        with pytest.raises(UserError, match=r"run/queries is no folder that can be written"):
            wired.parts()


def test_stop_signals_reach_the_rounds(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = wired.trainer()
    assert not trainer.rounds.query.stop()
    assert not trainer.rounds.oracle.stop()
    monkeypatch.setattr("utils.stopping.requested", lambda: "SIGTERM")
    assert trainer.rounds.query.stop()
    assert trainer.rounds.oracle.stop()


def test_streams_of_both_domains_or_of_the_target_alone(wired: Wired, tmp_path: Path) -> None:
    trainer = wired.trainer()
    assert set(trainer.streams) == {"source", "target"}
    snapshot = tmp_path / "start.pth"
    torch.save(trainer.network.state_dict(), snapshot)
    parts = wired.parts("--source-free", "--restore-from", snapshot, "--select-iterations", "0,2")
    assert set(parts.datasets) == {"target"}
    assert parts.domains.source is None
