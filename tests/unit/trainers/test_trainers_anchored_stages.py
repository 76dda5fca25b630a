"""MADA's stages as one run: their order, what the second begins with, going on after any end of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loaders.samples import Sample
from selection.anchor_files import centroids_name, read_centroids
from tests import toy_anchored
from tests.forked_runs import assert_same
from tests.toy_active import SPACE, DrawnImages
from tests.toy_anchored import (
    ANCHORS,
    COUNT,
    IMAGES,
    STEPS,
    Part,
    ScriptedScores,
    after_calls,
    fit,
    outcome_of,
    run_of,
    staged_trainer,
)
from trainers import domain_anchors, image_round
from trainers.anchored_stages import StagedTrainer, StagePlan
from trainers.oracles import PeopleOracle, TruthOracle
from utils import snapshots
from utils.errors import UserError
from utils.phases import PHASES
from utils.runs import DONE, PREEMPTED, WAITING_FOR_LABELS

FIRST, LAST = STEPS[0], sum(STEPS)
BEST_IS_FIRST = {1: 30.0, 2: 20.0, 3: 25.0, 4: 40.0}
DONE_TEXTS = {
    "source-anchors": "anchors of the source",
    "selection": "selection of 3 images",
    "labels": "labels of 3 images",
    "stage-1": "stage 1",
    "target-anchors": "anchors of the target",
}


def scored(scores: dict[int, float | None] = BEST_IS_FIRST) -> dict[str, Any]:
    """Options of a run that is evaluated after every iteration."""
    return {"evaluator": ScriptedScores(scores), "loop": {"evaluate_every": 1}}


def snapshot(folder: Path, iteration: int) -> dict[str, Any]:
    return snapshots.read(folder / f"iteration_{iteration:07d}.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that nothing interrupted, and what it came to."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, outcome_of(fit(folder, **scored()))


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is described, in order."""
    order: list[str] = []

    def noted(module: Any) -> None:
        describe = module.describe

        def describing(*args: Any, **options: Any) -> bool:
            order.append(f"{options['what']} for {module.__name__.rpartition('.')[2]}")
            return describe(*args, **options)

        monkeypatch.setattr(module, "describe", describing)

    noted(domain_anchors)
    noted(image_round)
    return order


class TestOrder:
    def test_of_everything(
        self, tmp_path: Path, described: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = staged_trainer(tmp_path)
        train, answer = trainer.run_iteration, trainer.rounds.oracle.answer
        monkeypatch.setattr(
            trainer, "run_iteration", lambda i, given: (described.append(f"update {i}"), train(i, given))[1]
        )
        monkeypatch.setattr(
            trainer.rounds.oracle, "answer", lambda *given: (described.append("answers"), answer(*given))[1]
        )
        assert trainer.fit() == 0
        assert described == [
            "source images for domain_anchors",
            "target images for image_round",
            "answers",
            "update 0",
            "update 1",
            "target images for domain_anchors",
            "update 2",
            "update 3",
        ]

    def test_first_stage_opens_no_unlabelled_image(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = staged_trainer(tmp_path)
        opened: list[tuple[int, bool, str]] = []
        load = Part.sample

        def noted(part: Part, *given: Any) -> Sample:
            sample = load(part, *given)
            opened.append((trainer.iteration, part.labelled, sample.name))
            return sample

        monkeypatch.setattr(toy_anchored.Part, "sample", noted)
        names, next_batches = [], trainer.next_batches
        monkeypatch.setattr(
            trainer, "next_batches", lambda: (names.append(sorted(trainer.streams)), next_batches())[1]
        )
        trainer.fit()
        assert names == [["active", "source"]] * FIRST + [["active", "source", "target"]] * STEPS[1]
        assert {iteration for iteration, labelled, _ in opened if not labelled} == {2, 3}
        assert {iteration for iteration, labelled, _ in opened if labelled} == {0, 1, 2, 3}

    def test_streams_of_the_first_stage_go_on_in_the_second(self, whole: tuple[Path, dict[str, Any]]) -> None:
        assert whole[1]["streams"] == {"active": 8, "source": 8, "target": 4}

    def test_bought_images_alone_are_active(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = staged_trainer(tmp_path)
        seen: dict[str, np.ndarray] = {}
        train = trainer.run_iteration

        def noted(iteration: int, given: Any) -> bool:
            for batches in given:
                batch = batches["active"]
                seen.update(zip(batch.names, batch.label.numpy(), strict=True))
            return train(iteration, given)

        monkeypatch.setattr(trainer, "run_iteration", noted)
        trainer.fit()
        queries = trainer.rounds.store.round(0).queries()
        assert queries is not None
        assert set(seen) <= {query.name for query in queries.images}
        assert len(queries.images) == COUNT
        truth = DrawnImages(IMAGES, seed=1).truth
        assert all(np.array_equal(label, truth(name)) for name, label in seen.items())

    def test_learning_rate_begins_anew(self, tmp_path: Path) -> None:
        trainer = staged_trainer(tmp_path)
        rates, prepare = [], trainer._prepare

        def noted(iteration: int) -> None:
            prepare(iteration)
            rates.append(trainer.optimizers["segmentation"].param_groups[0]["lr"])

        trainer._prepare = noted
        trainer.fit()
        expected = [1e-3 * (1 - step / 10) ** 0.9 for step in (1, 2)]
        assert rates == pytest.approx(expected * 2, rel=1e-12)

    def test_optimizer_begins_anew(self, tmp_path: Path) -> None:
        trainer = fit(tmp_path)
        states = [snapshot(tmp_path, number)["optimizers"]["segmentation"]["state"] for number in range(5)]
        assert [bool(state) for state in states] == [False, True, False, True, True]
        momenta = [value["momentum_buffer"] for value in states[3].values()]
        assert sum(float(value.abs().sum()) for value in momenta) > 0
        assert int(trainer.stage.number) == 2

    def test_anchors_are_those_of_the_file_and_then_move(self, tmp_path: Path) -> None:
        trainer = fit(tmp_path)
        path = tmp_path / "anchors" / centroids_name("target", ANCHORS)
        width = trainer.network.feature_channels
        kept = read_centroids(path, num_anchors=ANCHORS, num_classes=SPACE.num_classes, channels=width)
        begun = snapshot(tmp_path, FIRST)["method_state"]["anchors"]["values"]
        assert torch.equal(begun, torch.from_numpy(kept))
        assert begun.abs().sum() > 0
        assert not torch.equal(trainer.anchors.values, begun)
        assert not snapshot(tmp_path, 1)["method_state"]["anchors"]["values"].any()

    def test_anchors_are_as_exact_as_the_network(self, tmp_path: Path) -> None:
        double = staged_trainer(tmp_path, network=toy_anchored.lively_network(double=True))
        assert double.anchors.values.dtype == torch.float64
        assert staged_trainer(tmp_path).anchors.values.dtype == torch.float32

    def test_source_anchors_are_made_where_the_score_needs_them(
        self, tmp_path: Path, described: list[str]
    ) -> None:
        fit(tmp_path, score="random", stop_after="selection")
        assert described == []
        fit(tmp_path / "entropy", score="entropy", stop_after="selection")
        assert described == ["target images for image_round"]


class TestBeginningOfTheSecondStage:
    def test_takes_the_best_weights(self, whole: tuple[Path, dict[str, Any]]) -> None:
        folder, _ = whole
        assert_same(snapshot(folder, FIRST)["weights"], snapshot(folder, 1)["weights"])
        assert (folder / "stage1").read_text() == ("iteration_0000001.pth\nbest on target val: mIoU 30.00\n")
        assert snapshot(folder, FIRST)["metrics"] == {"val/miou": 30.0}
        assert (folder / "best").read_text().startswith("iteration_0000004.pth\n")

    def test_takes_the_last_weights_where_they_are_wanted_or_nothing_is_scored(
        self, whole: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        fit(tmp_path / "unscored", stop_after="stage-1")
        last = snapshot(tmp_path / "unscored", FIRST)["weights"]
        assert (tmp_path / "unscored" / "stage1").read_text().startswith("iteration_0000002.pth\n")
        fit(tmp_path / "wanted", plan={"second_from": "last"}, **scored())
        assert_same(snapshot(tmp_path / "wanted", FIRST)["weights"], last)
        assert (tmp_path / "wanted" / "stage1").read_text() == "iteration_0000002.pth\nlast\n"
        assert not torch.equal(
            torch.cat([value.flatten().double() for value in last.values()]),
            torch.cat([value.flatten().double() for value in snapshot(whole[0], 1)["weights"].values()]),
        )

    def test_scores_the_last_weights_that_no_rhythm_does(self, tmp_path: Path) -> None:
        evaluator = ScriptedScores({2: 50.0, 4: 45.0})
        fit(tmp_path, evaluator=evaluator)
        assert evaluator.asked == [2, 4]
        assert (tmp_path / "stage1").read_text().startswith("iteration_0000002.pth\nbest on")
        assert (tmp_path / "best").read_text().startswith("iteration_0000002.pth\n")

    def test_first_of_equals_is_the_best(self, tmp_path: Path) -> None:
        fit(tmp_path, stop_after="stage-1", **scored({1: 30.0, 2: 30.0}))
        assert (tmp_path / "stage1").read_text().startswith("iteration_0000001.pth\n")

    def test_best_snapshot_outlives_rotation(self, tmp_path: Path) -> None:
        fit(tmp_path, keep=1, **scored())
        assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
            "iteration_0000001.pth",
            "iteration_0000004.pth",
        ]

    def test_without_a_run_folder_the_weights_stay(self, tmp_path: Path) -> None:
        trainer = staged_trainer(tmp_path)
        assert trainer.fit() == 0
        assert trainer.iteration == LAST
        assert int(trainer.stage.number) == 2

    def test_without_alignment_the_target_is_not_described(self, tmp_path: Path) -> None:
        trainer = fit(tmp_path, settings={"lambda_alignment": 0.0})
        assert trainer.iteration == LAST
        assert not (tmp_path / "anchors" / "target_vectors").exists()
        assert not (tmp_path / "anchors" / centroids_name("target", ANCHORS)).exists()
        assert all(torch.isfinite(value).all() for value in trainer.network.parameters())


def done_text(folder: Path) -> str:
    return (folder / DONE).read_text()


class TestGoingOn:
    @pytest.mark.parametrize("phase", PHASES[:-1])
    def test_after_the_end_of_a_phase(
        self, whole: tuple[Path, dict[str, Any]], tmp_path: Path, phase: str
    ) -> None:
        fit(tmp_path, stop_after=phase, **scored())
        assert DONE_TEXTS[phase] in done_text(tmp_path)
        trained = phase in ("stage-1", "target-anchors")
        assert snapshots.resolve(tmp_path).name == f"iteration_{FIRST if trained else 0:07d}.pth"
        assert (tmp_path / "anchors" / centroids_name("source", ANCHORS)).exists()
        target = tmp_path / "anchors" / centroids_name("target", ANCHORS)
        assert target.exists() is (phase == "target-anchors")
        assert (tmp_path / "queries" / "round_00" / "queries.npz").exists() is (phase != "source-anchors")
        bought = tmp_path / "queries" / "round_00" / "labels.npz"
        assert bought.exists() is (phase in ("labels", "stage-1", "target-anchors"))
        assert_same(outcome_of(fit(tmp_path, **scored())), whole[1])

    def test_phase_after_phase(self, whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        for phase in PHASES:
            found = fit(tmp_path, stop_after=phase, **scored())
            if phase == PHASES[-1]:
                assert_same(outcome_of(found), whole[1])
            again = fit(tmp_path, stop_after=phase, **scored())
            assert again.iteration == 0, "the phase is done"

    def test_end_of_a_phase_calls_nobody_to_work(self, tmp_path: Path) -> None:
        fit(tmp_path, stop_after="selection", oracle=PeopleOracle("run", "1 h"))
        assert "selection of 3 images" in done_text(tmp_path)
        assert not (tmp_path / WAITING_FOR_LABELS).exists()

    @pytest.mark.parametrize(
        ("where", "calls"),
        [("source", 2), ("choice", 2), ("choice", IMAGES + 1), ("answers", 1), ("target", 2)],
    )
    def test_after_a_stop_signal_in_an_event(
        self,
        whole: tuple[Path, dict[str, Any]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        where: str,
        calls: int,
    ) -> None:
        for module in ("description", "image_round"):
            monkeypatch.setattr(f"trainers.{module}.PART_IMAGES", 1)
        stopped = fit(tmp_path, stops={where: after_calls(calls)}, **scored())
        assert (tmp_path / PREEMPTED).exists()
        assert not (tmp_path / DONE).exists()
        assert stopped.iteration == (FIRST if where == "target" else 0)
        assert_same(outcome_of(fit(tmp_path, **scored())), whole[1])
        assert not (tmp_path / PREEMPTED).exists()

    def test_after_a_stop_signal_in_the_evaluation_of_the_last_weights(
        self, whole: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        fit(tmp_path, **scored({**BEST_IS_FIRST, 2: None}))
        assert (tmp_path / PREEMPTED).exists()
        assert not (tmp_path / "stage1").exists()
        assert_same(outcome_of(fit(tmp_path, **scored())), whole[1])

    def test_after_a_stop_signal_in_an_iteration(
        self, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(LAST - 1):
            with run_of(tmp_path) as run:
                trainer = staged_trainer(tmp_path, run=run, **scored())
                train = trainer.run_iteration
                monkeypatch.setattr(trainer, "run_iteration", stopping_after(train))
                assert trainer.fit() == 0
        assert (tmp_path / PREEMPTED).exists()
        assert_same(outcome_of(fit(tmp_path, **scored())), whole[1])

    def test_after_people_have_worked(self, whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        people = PeopleOracle("the-run", "3 images, 4.5 h")
        trainer = fit(tmp_path, oracle=people, **scored())
        assert trainer.iteration == 0
        assert "people are to label 3 whole images" in (tmp_path / WAITING_FOR_LABELS).read_text()
        assert not (tmp_path / DONE).exists()
        answer_truthfully(trainer)
        assert_same(outcome_of(fit(tmp_path, oracle=people, **scored())), whole[1])
        assert not (tmp_path / WAITING_FOR_LABELS).exists()

    def test_labels_of_people_are_a_phase_to_stop_after(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"oracle": PeopleOracle("the-run", "3 images"), "stop_after": "labels"}
        trainer = fit(tmp_path, score="random", **options)
        assert (tmp_path / WAITING_FOR_LABELS).exists()
        assert not (tmp_path / DONE).exists()
        answer_truthfully(trainer)
        fit(tmp_path, score="random", **options)
        assert "labels of 3 images" in done_text(tmp_path)
        assert not (tmp_path / WAITING_FOR_LABELS).exists()

    @pytest.mark.parametrize("keep", [2, 10])
    def test_where_the_newest_snapshots_are_damaged(
        self, whole: tuple[Path, dict[str, Any]], tmp_path: Path, keep: int
    ) -> None:
        """It goes on in the first stage, whose best weights are no longer those of `best`."""
        fit(tmp_path, keep=keep, **scored())
        (tmp_path / DONE).unlink()
        for iteration in range(FIRST, LAST + 1):
            path = tmp_path / f"iteration_{iteration:07d}.pth"
            if path.exists():
                path.write_bytes(path.read_bytes()[:-100])
        evaluator = ScriptedScores(BEST_IS_FIRST)
        again = fit(tmp_path, keep=keep, evaluator=evaluator, loop={"evaluate_every": 1})
        assert evaluator.asked == [2, 3, 4]
        assert_same(outcome_of(again), whole[1])
        assert (tmp_path / "stage1").read_text().startswith("iteration_0000001.pth\n")

    def test_where_the_second_stage_is_all_there_is(self, tmp_path: Path) -> None:
        """Stage 1 was another run's: the anchors alone first, then the images and the second stage."""
        plan = {"steps": (0, 2)}
        expected = fit(tmp_path / "whole", plan=plan, score="random")
        folder = tmp_path / "parts"
        first = fit(folder, plan=plan, score="random", stop_after="target-anchors")
        assert "anchors of the target" in done_text(folder)
        assert first.rounds.store.round(0).queries() is None
        assert_same(outcome_of(fit(folder, plan=plan, score="random")), outcome_of(expected))


@pytest.mark.parametrize(
    ("domain", "stop_after", "allowed"),
    [
        ("source", "source-anchors", False),
        ("source", "labels", True),
        ("target", "labels", False),
        ("target", "stage-1", False),
        ("target", "stage-2", True),
    ],
)
def test_anchors_that_are_still_to_be_used_may_not_change(
    tmp_path: Path, domain: str, stop_after: str, allowed: bool
) -> None:
    first = fit(tmp_path, stop_after=stop_after, given={domain: "ab" * 32})
    other = staged_trainer(tmp_path, given={domain: "cd" * 32})
    if allowed:
        other.load_state(first.state())
        return
    with pytest.raises(UserError, match=rf"anchors of the {domain} would come from elsewhere .*--{domain}-"):
        other.load_state(first.state())


def test_run_can_be_ended_earlier_until_it_has_gone_further(tmp_path: Path) -> None:
    with run_of(tmp_path), run_of(tmp_path / "other"):
        pass
    with run_of(tmp_path, stop_after="stage-1"):
        pass
    (tmp_path / "other" / "iteration_0000009.pth").touch()
    with (
        pytest.raises(UserError, match=r"\(folder -> now\): --stop-after stage-2 -> stage-1; give another"),
        run_of(tmp_path / "other", stop_after="stage-1"),
    ):
        pytest.fail("opened")


def stopping_after(train: Callable[..., bool]) -> Callable[..., bool]:
    """An iteration at the end of which a stop signal has come."""

    def iteration(*given: Any) -> bool:
        train(*given)
        return True

    return iteration


def answer_truthfully(trainer: StagedTrainer) -> None:
    """What people would import, were they as good as the label files."""
    folder = trainer.rounds.store.round(0)
    queries = folder.queries()
    assert queries is not None
    truth = TruthOracle(DrawnImages(IMAGES, seed=1).truth).oracle
    answers = [truth.answer_image(query, queries.info.label_radius) for query in queries.images]
    folder.write_answers(np.concatenate(answers))


@pytest.mark.parametrize(
    ("steps", "stop_after", "buys"),
    [((3, 3), "stage-2", True), ((3, 3), "target-anchors", True), ((0, 3), "target-anchors", False),
     ((0, 3), "stage-2", True)],
)  # fmt: skip
def test_images_are_bought_unless_target_anchors_alone_are_wanted(
    steps: tuple[int, int], stop_after: str, buys: bool
) -> None:
    assert StagePlan(steps=steps, stop_after=stop_after).buys is buys
