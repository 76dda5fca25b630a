"""Active learning that is killed or stopped anywhere ends with the bits of the run that was not: no image is
selected twice, nothing that was bought is lost."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train_al
from selection.store import AnnotationStore
from tests.forked_runs import Change, Selections, Signal, Value, assert_same, run_forked
from tests.official_formats import write_cityscapes, write_gta5
from trainers import query_round
from utils import snapshots
from utils.runs import DONE, PREEMPTED

SIZE = (64, 48)
IMAGES = 5  # of the target
ITERATIONS = 5
ROUNDS = (2, 4)
WORDS = (
    "--network deeplab_v3plus --backbone resnet18_quarter --backbone-weights none --head-channels 8 "
    "--droprate 0.5 --input-size 64,48 --input-size-target 64,48 --batch-size 4 --num-workers 0 "
    f"--num-steps 20 --num-steps-stop {ITERATIONS} --select-iterations {','.join(map(str, ROUNDS))} "
    "--budget 10% --learning-rate 0.001 --log-every 1 --save-every 1 --keep-snapshots 20 --device cpu "
    "--output-stride 16 --query-pictures 1 --no-tensorboard --source-order shuffled"
).split()
DWACA = ["--method", "dwaca", "--dropout-period", "3"]
KILLED = -signal.SIGKILL
SMALL_PARTS = Value("trainers.query_round:PART_IMAGES", 2)

WRITE_PART = "selection.rounds:RoundFolder.write_part"
WRITE_QUERIES = "selection.rounds:RoundFolder.write_queries"
WRITE_LABELS = "selection.rounds:RoundFolder.write_labels"
SELECT_IMAGE = "trainers.query_round:select_image"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six source images, five target images, two to score."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 6, SIZE)
    write_cityscapes(root, IMAGES, SIZE)
    write_cityscapes(root, 2, SIZE, split="val")
    return root


def command(data: Path, folder: Path, *words: str) -> list[str]:
    return [*WORDS, "--data-root", str(data), "--snapshot-dir", str(folder), *words]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RIPU without an interruption."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train_al.main(command(data, folder)) == 0
    return folder


@pytest.fixture(scope="module")
def alone_dwaca(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DWACA without an interruption, its weights from validation labels."""
    folder = tmp_path_factory.mktemp("alone") / "dwaca"
    assert train_al.main(command(data, folder, *DWACA)) == 0
    return folder


class Interrupted:
    """One run in many pieces; remembers every image that any of them selects."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.words = words
        self.folder = folder
        self.selections = folder.with_name("selections")

    def start(self, *changes: Change, processes: int = 1, rank: int = 0) -> list[int]:
        """Exit codes of the next piece."""
        changes = (SMALL_PARTS, Selections(self.selections), *changes)
        return run_forked("train_al", self.words, processes=processes, changes=changes, rank=rank)

    def killed_at(self, change: Signal, *, processes: int = 1, rank: int = 0) -> None:
        """The next piece ends there."""
        assert self.start(change, processes=processes, rank=rank)[rank] == KILLED
        assert not (self.folder / DONE).exists()

    def assert_ends_as(self, whole: Path, *, in_flight: int = 0) -> None:
        """The last piece, and what must be the same in the end; no image was selected twice, but for so many
        that a process had not written when another one's death ended it."""
        assert self.start() == [0]
        assert_same(finished_state(self.folder), finished_state(whole))
        assert annotations(self.folder) == annotations(whole)
        names = {query.name for query in AnnotationStore(whole / "queries").round(0).queries().images}
        selected = Counter(self.selections.read_text().splitlines())
        once = Counter(f"{number} {name}" for number in range(len(ROUNDS)) for name in names)
        assert set(selected) == set(once)
        assert (selected - once).total() <= in_flight


@pytest.fixture
def interrupted(data: Path, tmp_path: Path) -> Callable[..., Interrupted]:
    """Makes a run in pieces, with further arguments."""

    def make(*words: str) -> Interrupted:
        return Interrupted(command(data, tmp_path / "run", *words), tmp_path / "run")

    return make


def finished_state(folder: Path) -> dict[str, Any]:
    assert (folder / DONE).exists()
    assert not (folder / PREEMPTED).exists()
    state = snapshots.read(snapshots.resolve(folder))
    assert state["iteration"] == ITERATIONS
    return {name: value for name, value in state.items() if name != "arguments"}


def annotations(folder: Path) -> dict[str, Any]:
    """What was asked and answered, by round, and the digest of everything."""
    store = AnnotationStore(folder / "queries")
    found: dict[str, Any] = {"digest": store.digest(len(ROUNDS))}
    for number in range(len(ROUNDS)):
        queries = store.round(number).queries()
        found[f"round {number}"] = [(query.name, query.picks.tolist()) for query in queries.images]
    return found


def test_killed_at_every_stage_of_its_rounds(interrupted: Callable[..., Interrupted], alone: Path) -> None:
    run = interrupted()
    run.killed_at(Signal("trainers.active:ActiveTrainer.run_round", before=True))
    assert snapshots.resolve(run.folder).name == "iteration_0000002.pth"
    run.killed_at(Signal(WRITE_PART, call=1))
    run.killed_at(Signal(WRITE_PART, call=2))  # the last: everything is selected, nothing assembled
    run.killed_at(Signal(WRITE_QUERIES))
    asked = (run.folder / "queries" / "round_00" / "queries.npz").read_bytes()
    run.killed_at(Signal(WRITE_LABELS, before=True))
    run.killed_at(Signal(WRITE_LABELS))
    bought = (run.folder / "queries" / "round_00" / "labels.npz").read_bytes()
    run.killed_at(Signal("trainers.query_rounds:report_round"))
    run.killed_at(Signal(WRITE_PART, call=1))
    assert (run.folder / "queries" / "round_01" / "parts").is_dir()
    run.assert_ends_as(alone)
    assert (run.folder / "queries" / "round_00" / "queries.npz").read_bytes() == asked
    assert (run.folder / "queries" / "round_00" / "labels.npz").read_bytes() == bought


def test_round_is_continued_by_other_numbers_of_processes(
    interrupted: Callable[..., Interrupted], alone: Path
) -> None:
    run = interrupted()
    run.killed_at(Signal(WRITE_PART, call=1))
    run.killed_at(Signal(SELECT_IMAGE, call=1, before=True), processes=2, rank=1)
    run.killed_at(Signal(WRITE_QUERIES), processes=2)
    run.killed_at(Signal(WRITE_LABELS), processes=4)
    run.assert_ends_as(alone, in_flight=1)  # rank 0's image, when rank 1 was killed before its own


def test_class_weights_of_a_killed_round_stay(
    interrupted: Callable[..., Interrupted], alone_dwaca: Path
) -> None:
    run = interrupted(*DWACA)
    run.killed_at(Signal("selection.rounds:RoundFolder.begin", before=True))  # scored, nothing on disk of it
    run.killed_at(Signal(WRITE_PART))
    run.assert_ends_as(alone_dwaca)


@pytest.mark.parametrize(
    "where", [SELECT_IMAGE, "selection.oracles:GroundTruthOracle.answer_image"], ids=["selecting", "answers"]
)
def test_stop_signal_in_a_round(interrupted: Callable[..., Interrupted], alone: Path, where: str) -> None:
    run = interrupted()
    assert run.start(Signal(where, call=3, number=signal.SIGTERM)) == [0]
    assert "SIGTERM" in (run.folder / PREEMPTED).read_text()
    assert not (run.folder / DONE).exists()
    assert not (run.folder / "queries" / "round_00" / "labels.npz").exists()
    run.assert_ends_as(alone)


def test_older_snapshot_takes_over_the_rounds_that_were_bought_after_it(
    data: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    (folder / DONE).unlink()
    for path in folder.glob("iteration_*.pth"):
        if path.name != "iteration_0000001.pth":
            path.unlink()
    monkeypatch.setattr(query_round, "select_image", lambda *args, **options: pytest.fail("selected again"))
    assert train_al.main(command(data, folder)) == 0
    assert_same(finished_state(folder), finished_state(alone))
    assert annotations(folder) == annotations(alone)


def delete_labels(queries: Path) -> None:
    (queries / "round_00" / "labels.npz").unlink()


def delete_everything(queries: Path) -> None:
    shutil.rmtree(queries)


def change_labels(queries: Path) -> None:
    folder = AnnotationStore(queries).round(1)
    labels = folder.labels()
    (folder.folder / "labels.npz").unlink()
    folder.write_labels(
        np.where(labels == 0, 1, labels).astype(np.uint8) if (labels == 0).any() else labels * 0
    )


def cut_off_queries(queries: Path) -> None:
    path = queries / "round_01" / "queries.npz"
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (delete_labels, ["round_00", "annotations were deleted", "restore the folder"]),
        (delete_everything, ["round_00", "annotations were deleted"]),
        (change_labels, ["queries", "not those that trained the snapshot", "another --snapshot-dir"]),
        (cut_off_queries, ["round_01/queries.npz", "damaged"]),
    ],
)
def test_annotations_behind_a_snapshot_that_are_gone_or_changed(
    data: Path,
    alone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    named: list[str],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    (folder / DONE).unlink()
    damage(folder / "queries")
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".npz", ".pth")}
    assert train_al.main(command(data, folder)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    for text in named:
        assert text in errors[0]
    assert {path: path.read_bytes() for path in kept} == kept
