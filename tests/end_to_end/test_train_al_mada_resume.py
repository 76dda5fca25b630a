"""MADA that is killed or stopped in any of its phases ends with the bits of the run that was not: weights,
anchors and queries; no image is described twice."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import train_al
from networks import NetworkSpec, build
from selection.store import AnnotationStore
from tests.forked_runs import Calls, Change, Signal, Value, assert_same, run_forked
from tests.official_formats import write_cityscapes, write_gta5
from tests.toy_cityscapes import write_snapshot
from utils import snapshots
from utils.class_spaces import class_space
from utils.runs import DONE, PREEMPTED

SIZE = (64, 48)
SOURCE_IMAGES, IMAGES = 4, 4
FIRST, LAST = 2, 4
KEEP = 20
DESCRIBED = SOURCE_IMAGES + 2 * IMAGES
WORDS = (
    "--method mada --network mada_v3plus --backbone resnet18_quarter --head-channels 8 --droprate 0.5 "
    "--input-size 64,48 --input-size-active 64,48 --input-size-target 64,48 --scaled-width 80 "
    "--scale-range 0.9,1.2 --crop-size 64,48 --batch-size 2 --num-workers 0 --num-steps 20 "
    "--stage-steps 2,2 --num-anchors 2 --budget 2images --learning-rate 0.001 --log-every 1 "
    f"--save-every 1 --evaluate-every 1 --keep-snapshots {KEEP} --device cpu --query-pictures 1 "
    "--no-tensorboard --allow-absent-classes"
).split()
KILLED = -signal.SIGKILL
SMALL_PARTS = (Value("trainers.description:PART_IMAGES", 2), Value("trainers.image_round:PART_IMAGES", 1))

DESCRIBE = "trainers.description:described"
WRITE_VECTORS = "selection.vector_folder:VectorFolder.write_part"
ASSEMBLE = "selection.vector_folder:VectorFolder.assemble"
PREDICT = "trainers.image_round:image_query"
WRITE_PREDICTIONS = "selection.rounds:RoundFolder.write_part"
ANSWER = "selection.oracles:GroundTruthOracle.answer_image"
TRAIN = "trainers.base:Trainer.run_iteration"
STAGES = "trainers.anchored_stages:StagedTrainer"
EVALUATE = "trainers.evaluation:evaluate"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source and target images, two to score, and the network that the runs start from."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, SOURCE_IMAGES, SIZE)
    write_cityscapes(root, IMAGES, SIZE)
    write_cityscapes(root, 2, SIZE, split="val")
    torch.manual_seed(0)
    space = class_space("cityscapes19")
    options = {"head_channels": 8}
    network = build(NetworkSpec("mada_v3plus", "resnet18_quarter", space.num_classes, space.name, options))
    write_snapshot(root / "warm-up.pth", network)
    return root


def command(data: Path, folder: Path, *words: str) -> list[str]:
    start = ["--restore-from", str(data / "warm-up.pth")]
    return [*WORDS, *start, "--data-root", str(data), "--snapshot-dir", str(folder), *words]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without an interruption."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train_al.main(command(data, folder)) == 0
    return folder


class Interrupted:
    """One run in many pieces; remembers how many images any of them describes."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.words = words
        self.folder = folder
        self.described = folder.with_name("described")

    def start(self, *changes: Change, processes: int = 1, rank: int = 0) -> list[int]:
        """Exit codes of the next piece."""
        changes = (*SMALL_PARTS, Calls(DESCRIBE, self.described), *changes)
        return run_forked("train_al", self.words, processes=processes, changes=changes, rank=rank)

    def killed_at(self, change: Signal, *, processes: int = 1, rank: int = 0) -> None:
        """The next piece ends there."""
        assert self.start(change, processes=processes, rank=rank)[rank] == KILLED
        assert not (self.folder / DONE).exists()

    def stopped_at(self, where: str, call: int) -> None:
        """The next piece gets SIGTERM there and ends in good order."""
        assert self.start(Signal(where, call=call, number=signal.SIGTERM)) == [0]
        assert "SIGTERM" in (self.folder / PREEMPTED).read_text()
        assert not (self.folder / DONE).exists()

    def newest(self) -> int:
        """Iteration of the snapshot that the next piece begins with."""
        return int(snapshots.resolve(self.folder).stem.removeprefix("iteration_"))

    def assert_ends_as(self, whole: Path) -> None:
        """The last piece, and what must be the same in the end."""
        assert self.start() == [0]
        assert_same(finished_state(self.folder), finished_state(whole))
        assert annotations(self.folder) == annotations(whole)
        for folder in ("anchors", "selection_list"):
            assert files(self.folder / folder) == files(whole / folder)
        assert (self.folder / "stage1").read_text() == (whole / "stage1").read_text()


@pytest.fixture
def interrupted(data: Path, tmp_path: Path) -> Interrupted:
    """A run in pieces."""
    return Interrupted(command(data, tmp_path / "run"), tmp_path / "run")


def finished_state(folder: Path) -> dict[str, Any]:
    assert (folder / DONE).exists()
    assert not (folder / PREEMPTED).exists()
    state = snapshots.read(snapshots.resolve(folder))
    assert state["iteration"] == LAST
    return {name: value for name, value in state.items() if name != "arguments"}


def files(folder: Path) -> dict[str, bytes]:
    """Contents by path; there is more than one."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(found) > 1
    return found


def annotations(folder: Path) -> tuple[str, str, list[str]]:
    """Digests of what was bought and asked, and the names of the images."""
    store = AnnotationStore(folder / "queries")
    queries = store.round(0).queries()
    return store.digest(1), queries.digest(), [query.name for query in queries.images]


def test_killed_before_anything_is_trained(interrupted: Interrupted, alone: Path) -> None:
    run = interrupted
    run.killed_at(Signal(f"{STAGES}._choose_and_buy", before=True))
    run.killed_at(Signal(WRITE_VECTORS))  # between the parts of the source
    run.killed_at(Signal(ASSEMBLE, before=True))
    run.killed_at(Signal("trainers.domain_anchors:write_centroids"))
    run.killed_at(Signal(WRITE_VECTORS))  # between the parts of the target, which is scored
    run.killed_at(Signal("trainers.image_round:write_choice"))
    run.killed_at(Signal(WRITE_PREDICTIONS))
    run.killed_at(Signal("selection.rounds:RoundFolder.write_queries"))
    run.killed_at(Signal("selection.rounds:RoundFolder.write_labels"))
    assert run.newest() == 0
    assert len(run.described.read_text().splitlines()) == SOURCE_IMAGES + IMAGES
    run.assert_ends_as(alone)
    assert len(run.described.read_text().splitlines()) == DESCRIBED


def test_killed_in_and_between_the_stages(interrupted: Interrupted, alone: Path) -> None:
    run = interrupted
    run.killed_at(Signal(TRAIN, call=2))
    assert run.newest() == 1
    run.killed_at(Signal(f"{STAGES}._begin_stage_2", before=True))
    run.killed_at(Signal("utils.snapshots:SnapshotFolder.mark"))  # as the result of stage 1, or as its best
    run.killed_at(Signal(WRITE_VECTORS))
    run.killed_at(Signal(f"{STAGES}._begin_stage_2"))  # its end is in no snapshot
    state = snapshots.read(snapshots.resolve(run.folder))
    assert (state["iteration"], int(state["method_state"]["stage"]["number"])) == (FIRST, 1)
    run.killed_at(Signal(TRAIN))
    state = snapshots.read(snapshots.resolve(run.folder))
    assert (state["iteration"], int(state["method_state"]["stage"]["number"])) == (FIRST, 2)
    run.killed_at(Signal(TRAIN, call=2))
    assert run.newest() == LAST - 1
    run.assert_ends_as(alone)
    assert len(run.described.read_text().splitlines()) == DESCRIBED


def test_stopped_in_every_phase(interrupted: Interrupted, alone: Path) -> None:
    run = interrupted
    run.stopped_at(DESCRIBE, 1)
    run.stopped_at(DESCRIBE, SOURCE_IMAGES)  # beginning with the second: the first of the target
    run.stopped_at(PREDICT, 1)
    run.stopped_at(ANSWER, 1)
    assert run.newest() == 0
    run.stopped_at(TRAIN, 1)
    assert run.newest() == 1
    run.stopped_at(TRAIN, 1)  # the last iteration of stage 1: its evaluation is not made
    assert run.newest() == FIRST
    run.stopped_at(DESCRIBE, 1)
    run.stopped_at(TRAIN, 1)
    assert run.newest() == FIRST + 1
    run.assert_ends_as(alone)
    assert len(run.described.read_text().splitlines()) == DESCRIBED


def test_killed_on_other_numbers_of_processes(interrupted: Interrupted, alone: Path) -> None:
    run = interrupted
    run.killed_at(Signal(WRITE_VECTORS), processes=2, rank=1)
    run.killed_at(Signal(WRITE_PREDICTIONS, before=True), processes=2)
    run.killed_at(Signal("selection.rounds:RoundFolder.write_labels"), processes=2)
    run.assert_ends_as(alone)


@pytest.mark.parametrize("phase", ["source-anchors", "target-anchors"])
def test_goes_on_after_the_end_of_a_phase(interrupted: Interrupted, alone: Path, phase: str) -> None:
    run = interrupted
    words = list(run.words)
    run.words = [*words, "--stop-after", phase]
    assert run.start() == [0]
    assert "anchors of the" in (run.folder / DONE).read_text()
    run.words = words
    run.assert_ends_as(alone)
    assert len(run.described.read_text().splitlines()) == DESCRIBED


def test_damaged_snapshots_of_the_second_stage(interrupted: Interrupted, alone: Path) -> None:
    run = interrupted
    assert run.start() == [0]
    (run.folder / DONE).unlink()
    for iteration in range(FIRST, LAST + 1):
        path = run.folder / f"iteration_{iteration:07d}.pth"
        path.write_bytes(path.read_bytes()[:-100])
    run.assert_ends_as(alone)
