"""People label whole images for MADA: the run waits, and with answers from truth ends as with label files."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import annotate
import train_al
from selection.exchange.class_names import ClassNames
from selection.exchange.export import answer_from_truth, remembered
from selection.rounds import UNANSWERED, RoundFolder
from selection.store import AnnotationStore
from tests.forked_runs import assert_same
from tests.toy_mada_runs import BOUGHT, QUIET, command, draw_data, truth_of, warmed_up
from utils import snapshots
from utils.class_spaces import class_space
from utils.runs import DONE, WAITING_FOR_LABELS

PEOPLE = [*QUIET, "--oracle", "people"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data with the labels that the people know."""
    return draw_data(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def data(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without labels of the target."""
    root = tmp_path_factory.mktemp("data") / "root"
    shutil.copytree(labelled, root)
    shutil.rmtree(root / "cityscapes" / "gtFine")
    return root


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warmed_up(tmp_path_factory.mktemp("start") / "warm_up.pth")


@pytest.fixture(scope="module")
def by_truth(labelled: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the ground-truth oracle."""
    folder = tmp_path_factory.mktemp("truth") / "run"
    assert train_al.main(command(labelled, start, folder, *QUIET)) == 0
    return folder


@pytest.fixture(scope="module")
def asked_once(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that has asked, in a folder to copy, and what it said on the way."""
    folder = tmp_path_factory.mktemp("asked") / "run"
    assert train_al.main(command(data, start, folder, *PEOPLE)) == 0
    return folder, (folder / "log.txt").read_text()


@pytest.fixture
def run(asked_once: tuple[Path, str], tmp_path: Path) -> Path:
    """A run that waits."""
    folder = Path(shutil.copytree(asked_once[0], tmp_path / "run"))
    waiting_round(folder)
    return folder


def waiting_round(folder: Path) -> RoundFolder:
    """The round that the run waits for, after checks that it does."""
    assert (folder / WAITING_FOR_LABELS).exists()
    assert not (folder / DONE).exists()
    waiting = AnnotationStore(folder / "queries").round(0)
    assert waiting.queries() is not None
    assert not waiting.has_labels()
    return waiting


def message(folder: Path) -> str:
    return json.loads((folder / WAITING_FOR_LABELS).read_text())["text"]


def weights(folder: Path) -> object:
    return snapshots.read(snapshots.resolve(folder))["weights"]


def answers(labelled: Path, waiting: RoundFolder) -> list[np.ndarray]:
    """The truth about every image that is asked about, as the round wants it."""
    return [truth_of(labelled, query.name).reshape(-1) for query in waiting.queries().images]


def test_waiting_run_says_what_to_do_and_what_it_costs(asked_once: tuple[Path, str]) -> None:
    folder, log = asked_once
    waiting = waiting_round(folder)
    assert len(waiting.queries().images) == BOUGHT
    text = message(folder)
    assert text in log
    for part in (
        f"people are to label {BOUGHT} whole images",
        "about 3.0 h at an assumed 1.5 h per image",
        "nothing is answered yet",
        f"python annotate.py export {folder} --to labelme --out DIR",
        f"python annotate.py import {folder} DIR",
    ):
        assert part in text
    assert "people are the oracle" in log
    assert (folder / "selection_list" / "stage1_cac_list_0.4.txt").exists()


@pytest.mark.parametrize("tool", ["png", "labelme"])
def test_files_of_annotation_tools_end_in_the_run_of_the_truth(
    tool: str,
    run: Path,
    data: Path,
    labelled: Path,
    start: Path,
    by_truth: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "work"
    words = [
        "--to",
        tool,
        "--out",
        str(out),
        "--no-previews",
        "--num-workers",
        "0",
        "--annotators",
        "ann,bob",
    ]
    assert annotate.main(["export", str(run), *words]) == 0
    packages = remembered(waiting_round(run))
    assert sorted(package.annotator for package in packages) == ["ann", "bob"]
    for package in packages:
        names = ClassNames(class_space("cityscapes19"))
        answer_from_truth(out / package.annotator, package, names, partial(truth_of, labelled))
    assert annotate.main(["import", str(run), str(out / "ann"), "--accept-unchanged"]) == 0
    assert train_al.main(command(data, start, run, *PEOPLE)) == 0  # half is not enough
    assert "(50.0 % are; " in message(run)
    waiting_round(run)
    assert annotate.main(["import", str(run), str(out / "bob"), "--accept-unchanged"]) == 0
    capsys.readouterr()
    assert annotate.main(["status", str(run)]) == 0
    assert "complete" in capsys.readouterr().out
    assert train_al.main(command(data, start, run, *PEOPLE)) == 0
    assert (run / DONE).exists()
    assert not (run / WAITING_FOR_LABELS).exists()
    assert_same(weights(run), weights(by_truth))
    stores = [AnnotationStore(folder / "queries").digest(1) for folder in (run, by_truth)]
    assert stores[0] == stores[1]


def test_images_without_an_answer_wait_or_are_left_out_on_request(
    run: Path, data: Path, labelled: Path, start: Path, by_truth: Path, tmp_path: Path
) -> None:
    waiting = waiting_round(run)
    first, second = answers(labelled, waiting)
    name, _ = (query.name for query in waiting.queries().images)
    waiting.write_answers(np.concatenate([first, np.full_like(second, UNANSWERED)]))
    assert train_al.main(command(data, start, run, *PEOPLE)) == 0
    waiting_round(run)
    assert f"{len(second)} of {len(first) + len(second)} pixels are not answered" in message(run)
    assert "--accept-partial" in message(run)
    assert train_al.main(command(data, start, run, *PEOPLE, "--accept-partial")) == 0
    assert (run / DONE).exists()
    assert AnnotationStore(run / "queries").load(1).names_with_labels() == (name,)
    # The run of one that was asked about the first image alone: the other one takes part in nothing.
    (tmp_path / "list.txt").write_text(f"{name}\n")
    words = [*QUIET, "--image-list", tmp_path / "list.txt"]
    assert train_al.main(command(labelled, start, tmp_path / "alone", *words)) == 0
    assert_same(weights(run), weights(tmp_path / "alone"))


def test_nothing_answered_is_never_enough(run: Path, data: Path, start: Path) -> None:
    assert train_al.main(command(data, start, run, *PEOPLE, "--accept-partial")) == 0
    waiting_round(run)
    assert "nothing is answered yet" in message(run)


def test_labels_that_nobody_could_give_train_nothing(
    run: Path, data: Path, labelled: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = waiting_round(run)
    waiting.write_answers(np.full(waiting.queries().pixels, 255, np.uint8))
    capsys.readouterr()
    assert train_al.main(command(data, start, run, *PEOPLE)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "so there is nothing to train on; label some" in errors[0]


def test_oracle_of_a_run_does_not_change(
    run: Path, labelled: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_al.main(command(labelled, start, run, *QUIET)) == 2
    assert "--oracle people -> truth" in capsys.readouterr().err


def test_labels_of_another_run_leave_nothing_to_wait_for(
    data: Path, start: Path, by_truth: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert train_al.main(command(data, start, folder, *PEOPLE, "--labels-from", by_truth)) == 0
    assert (folder / DONE).exists()
    assert_same(weights(folder), weights(by_truth))
    log = (folder / "log.txt").read_text()
    assert f"--labels-from {by_truth} labels {BOUGHT} of {BOUGHT} images" in log


def test_second_stage_alone_takes_the_labels_of_the_first(
    data: Path, labelled: Path, by_truth: Path, tmp_path: Path
) -> None:
    (names,) = (by_truth / "selection_list").glob("stage1_cac_list_*.txt")
    words = [*QUIET, "--start-at", "target-anchors", "--image-list", names]
    by_people = ["--oracle", "people", "--labels-from", by_truth]
    first = by_truth / "stage1"
    assert train_al.main(command(data, first, tmp_path / "people", *words, *by_people)) == 0
    assert (tmp_path / "people" / DONE).exists()
    assert train_al.main(command(labelled, first, tmp_path / "truth", *words)) == 0
    assert_same(weights(tmp_path / "people"), weights(tmp_path / "truth"))


def test_images_that_another_run_lacks_are_waited_for(
    run: Path, data: Path, start: Path, labelled: Path, tmp_path: Path
) -> None:
    there = waiting_round(run)
    first, second = answers(labelled, there)
    there.write_answers(np.concatenate([first, np.full_like(second, UNANSWERED)]))
    folder, words = tmp_path / "other", [*PEOPLE, "--seed", 7, "--labels-from", run]
    assert train_al.main(command(data, start, folder, *words)) == 0
    here = waiting_round(folder)
    assert f"people are to label 1 of {BOUGHT} whole images" in message(folder)
    assert "--out DIR --unanswered`" in message(folder)
    here.write_answers(np.concatenate(answers(labelled, here)))
    there.write_answers(np.zeros_like(np.concatenate([first, second])))  # is not looked at any more
    assert train_al.main(command(data, start, folder, *words)) == 0
    assert (folder / DONE).exists()
    np.testing.assert_array_equal(here.labels(), np.concatenate(answers(labelled, here)))
