"""People as the oracle: the run waits for them; answers from truth end in the run of the ground truth."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import annotate
import train_al
from data_loaders.decoding import map_label, read_raw_label
from data_loaders.description import load_description
from selection.exchange.class_names import ClassNames
from selection.exchange.export import answer_from_truth, remembered
from selection.oracles import GroundTruthOracle
from selection.rounds import UNANSWERED, RoundFolder
from selection.store import AnnotationStore
from tests.official_formats import write_cityscapes, write_gta5
from utils import snapshots
from utils.class_spaces import IGNORE_LABEL, class_space
from utils.runs import DONE, WAITING_FOR_LABELS

SIZE = (64, 48)
SPACE = class_space("cityscapes19")
ROUNDS = (1, 2)
WORDS = shlex.split(
    "--network deeplab_v3plus --backbone resnet18_quarter --backbone-weights none --head-channels 8 "
    "--input-size 64,48 --input-size-target 64,48 --batch-size 2 --num-steps 20 --num-steps-stop 4 "
    "--num-workers 0 --select-iterations 1,2 --budget 5% --query-pictures 0 --learning-rate 0.001 "
    "--source-order shuffled --log-every 1 --device cpu --no-tensorboard"
)
PEOPLE = ["--oracle", "people"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source images, and a target whose labels lie elsewhere: see `truth`."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 6, SIZE)
    write_cityscapes(root, 3, SIZE, labelled=False)
    return root


@pytest.fixture(scope="module")
def labelled(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data with the target's labels."""
    root = tmp_path_factory.mktemp("labelled") / "data"
    shutil.copytree(data, root)
    write_cityscapes(root, 3, SIZE)
    return root


@pytest.fixture(scope="module")
def by_truth(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the ground-truth oracle."""
    folder = tmp_path_factory.mktemp("truth") / "run"
    assert train_al.main(command(labelled, folder)) == 0
    return folder


def command(data: Path, folder: Path, *words: str) -> list[str]:
    return [*WORDS, "--data-root", str(data), "--snapshot-dir", str(folder), *words]


class Labels:
    """The truth that stands for people's knowledge."""

    def __init__(self, data: Path) -> None:
        self.folder = data / "cityscapes" / "gtFine" / "train"
        self.table = load_description("cityscapes").label_table(SPACE.name)

    def __call__(self, name: str) -> np.ndarray:
        """(H, W) train ids of an image."""
        path = self.folder / name.replace("leftImg8bit", "gtFine_labelIds")
        return map_label(read_raw_label(path, "index"), self.table)

    def answers(self, folder: RoundFolder) -> np.ndarray:
        """All answers to a round."""
        return GroundTruthOracle(self).answer_round(folder.queries())


def waiting_round(folder: Path, number: int) -> RoundFolder:
    """The round the run waits for, after checks that it does."""
    assert (folder / WAITING_FOR_LABELS).exists()
    assert not (folder / DONE).exists()
    waiting = AnnotationStore(folder / "queries").round(number)
    assert waiting.queries() is not None
    assert not waiting.has_labels()
    return waiting


def assert_same_run(folder: Path, other: Path) -> None:
    """Equal annotations, and equal weights bit for bit."""
    assert (folder / DONE).exists()
    assert not (folder / WAITING_FOR_LABELS).exists()
    digests = [AnnotationStore(run / "queries").digest(len(ROUNDS)) for run in (folder, other)]
    assert digests[0] == digests[1]
    ours, theirs = (snapshots.read(snapshots.resolve(run))["weights"] for run in (folder, other))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_answers_from_truth_make_the_run_of_the_truth(
    data: Path, labelled: Path, by_truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    truth = Labels(labelled)
    for number in range(len(ROUNDS)):
        with caplog.at_level("INFO"):
            assert train_al.main(command(data, folder, *PEOPLE)) == 0
        waiting = waiting_round(folder, number)
        message = json.loads((folder / WAITING_FOR_LABELS).read_text())["text"]
        assert message in caplog.text
        for text in (
            f"round {number + 1} of 2",
            "decisions",
            f"python annotate.py export {folder} --to labelme --out DIR",
            f"python annotate.py import {folder} DIR",
        ):
            assert text in message
        waiting.write_answers(truth.answers(waiting))
    assert train_al.main(command(data, folder, *PEOPLE)) == 0
    assert_same_run(folder, by_truth)


@pytest.mark.parametrize("tool", ["labelme", "coco", "png"])
def test_files_of_annotation_tools_do_too(
    data: Path, labelled: Path, by_truth: Path, tmp_path: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    truth = Labels(labelled)
    for number in range(len(ROUNDS)):
        assert train_al.main(command(data, folder, *PEOPLE)) == 0
        waiting = waiting_round(folder, number)
        out = tmp_path / f"work{number}"
        words = ["--to", tool, "--out", str(out), "--no-previews", "--num-workers", "0"]
        assert annotate.main(["export", str(folder), *words]) == 0
        for package in remembered(waiting):
            answer_from_truth(out / package.annotator, package, ClassNames(SPACE), truth)
        assert annotate.main(["import", str(folder), str(out), "--accept-unchanged"]) == 0
        assert waiting.has_labels()
    assert train_al.main(command(data, folder, *PEOPLE)) == 0
    assert_same_run(folder, by_truth)


class TestHalfAnsweredRound:
    @pytest.fixture
    def half(self, data: Path, labelled: Path, tmp_path: Path) -> Iterator[tuple[Path, RoundFolder]]:
        """A run that waits for round 1, of which the last image is not answered."""
        folder = tmp_path / "run"
        assert train_al.main(command(data, folder, *PEOPLE)) == 0
        waiting = waiting_round(folder, 0)
        answers = Labels(labelled).answers(waiting)
        answers[waiting.queries().offsets[2] :] = UNANSWERED
        waiting.write_answers(answers)
        yield folder, waiting
        assert np.array_equal(waiting.answers(), answers)  # nothing is lost

    def test_waits_again_and_says_how_much_is_missing(
        self, data: Path, half: tuple[Path, RoundFolder]
    ) -> None:
        folder, waiting = half
        assert train_al.main(command(data, folder, *PEOPLE)) == 0
        waiting_round(folder, 0)
        message = json.loads((folder / WAITING_FOR_LABELS).read_text())["text"]
        answers = waiting.answers()
        left = int((answers == UNANSWERED).sum())
        assert f"{left} of {len(answers)} pixels are not answered" in message
        assert "--accept-partial" in message
        assert f"annotate.py status {folder}" in message

    def test_is_accepted_on_request_and_what_is_missing_is_said(
        self, data: Path, half: tuple[Path, RoundFolder], caplog: pytest.LogCaptureFixture
    ) -> None:
        folder, waiting = half
        with caplog.at_level("WARNING"):
            assert train_al.main(command(data, folder, *PEOPLE, "--accept-partial")) == 0
        answers, labels = waiting.answers(), waiting.labels()
        left = answers == UNANSWERED
        assert f"{left.sum()} of {len(answers)} queried pixels are not answered" in caplog.text
        assert "1 images lack some, the first aachen/aachen_000002_000019_leftImg8bit.png" in caplog.text
        assert (labels[left] == IGNORE_LABEL).all()
        assert np.array_equal(labels[~left], answers[~left])
        waiting_round(folder, 1)


def test_whole_round_without_an_answer_is_not_accepted(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for words in ([], ["--accept-partial"]):
        assert train_al.main(command(data, folder, *PEOPLE, *words)) == 0
        waiting_round(folder, 0)


def test_oracle_of_a_run_does_not_change(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train_al.main(command(labelled, folder, *PEOPLE)) == 0
    waiting_round(folder, 0)
    assert train_al.main(command(labelled, folder)) == 2
    assert "--oracle people -> truth" in capsys.readouterr().err
