"""Events that wait for people, streams that events rebuild, and what a continued run compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_loaders.streams import SampleStream
from tests.toy_training import assert_same, drawn_batches, drawn_streams, make_trainer, run_in
from trainers import run_state
from trainers.base import Trainer
from trainers.loop_settings import Event, WaitForLabels
from trainers.supervised import SupervisedTrainer
from utils import snapshots
from utils.errors import UserError
from utils.runs import DONE, WAITING_FOR_LABELS, Run


def waiting_kind(answers: list[WaitForLabels | None], happened: list[str]) -> type[Trainer]:
    """A method with three events after two iterations; the one in the middle gives these outcomes in turn."""

    class Waiting(SupervisedTrainer):
        def events(self) -> list[Event]:
            def due(iteration: int) -> bool:
                return iteration == 2

            def ask(iteration: int) -> WaitForLabels | None:
                happened.append("ask")
                return answers.pop(0)

            return [
                Event("before", due, lambda iteration: happened.append("before")),
                Event("ask", due, ask),
                Event("after", due, lambda iteration: happened.append("after")),
            ]

    return Waiting


class TestWaitingForLabels:
    def test_run_ends_saved_and_marked_and_the_next_start_asks_again(self, tmp_path: Path) -> None:
        happened: list[str] = []
        todo = WaitForLabels("label the 3 tasks in tasks/round_1")
        kind = waiting_kind([todo, todo, None], happened)
        marks = []
        for _ in range(3):
            with run_in(tmp_path) as run:
                trainer = make_trainer("source", kind=kind, streams=drawn_streams(["source"]), run=run)
                assert trainer.fit() == 0
            mark = tmp_path / WAITING_FOR_LABELS
            marks.append(json.loads(mark.read_text())["text"] if mark.exists() else None)
        assert marks == [todo.text, todo.text, None]
        assert happened == ["before", "ask", "ask", "ask", "after"]
        assert trainer.iteration == 4
        assert (tmp_path / DONE).exists()

    def test_waiting_changes_no_weight(self, tmp_path: Path) -> None:
        weights = []
        for number, answers in enumerate(([None], [WaitForLabels("label"), None])):
            kind = waiting_kind(list(answers), [])
            for _ in answers:
                with run_in(tmp_path / str(number)) as run:
                    trainer = make_trainer("source", kind=kind, streams=drawn_streams(["source"]), run=run)
                    trainer.fit()
            weights.append(trainer.network.state_dict())
        assert_same(*weights)

    def test_before_the_first_iteration(self, tmp_path: Path) -> None:
        class AtOnce(SupervisedTrainer):
            def events(self) -> list[Event]:
                return [
                    Event("ask", lambda iteration: iteration == 0, lambda iteration: WaitForLabels("now"))
                ]

        with run_in(tmp_path) as run:
            trainer = make_trainer("source", kind=AtOnce, streams=drawn_streams(["source"]), run=run)
            assert trainer.fit() == 0
        assert (trainer.iteration, (tmp_path / WAITING_FOR_LABELS).exists()) == (0, True)
        assert snapshots.resolve(tmp_path).name == "iteration_0000000.pth"


class TestStreams:
    def test_are_rebuilt_at_their_position_after_an_event_that_changes_them(self) -> None:
        built: list[SampleStream] = []

        class Changing(SupervisedTrainer):
            def events(self) -> list[Event]:
                def due(iteration: int) -> bool:
                    return iteration == 3

                return [Event("buy labels", due, lambda iteration: None, rebuild_streams=True)]

            def rebuild_streams(self) -> dict[str, SampleStream]:
                built.append(drawn_streams(["source"])["source"])
                return {"source": built[-1]}

        first = drawn_streams(["source"])
        trainer = make_trainer("source", kind=Changing, streams=first)
        trainer.fit()
        assert len(built) == 1
        assert (first["source"].consumed, built[0].consumed) == (6, 8)
        whole = make_trainer("source", streams=drawn_streams(["source"]))
        whole.fit()
        assert_same(trainer.network.state_dict(), whole.network.state_dict())

    def test_of_other_images_are_refused_when_the_run_continues_and_nothing_changes(
        self, tmp_path: Path
    ) -> None:
        def trainer(run: Run, fingerprint: str, stop: int) -> Trainer:
            streams = drawn_streams(["source"])
            streams["source"].fingerprint = fingerprint
            streams["source"].description = "8 images, the first /data/0.png"
            return make_trainer("source", streams=streams, run=run, loop={"num_steps_stop": stop})

        with run_in(tmp_path, stop=2) as run:
            trainer(run, "aaaa", 2).fit()
        with (
            run_in(tmp_path, stop=3) as run,
            pytest.raises(
                UserError, match=r"stream source reads or draws other .* /data/0.png.*--snapshot-dir"
            ) as refused,
        ):
            trainer(run, "bbbb", 3).fit()
        assert refused.value.everywhere
        assert (tmp_path / DONE).exists()
        with run_in(tmp_path, stop=3) as run:
            assert trainer(run, "aaaa", 3).fit() == 0

    def test_copies_that_differ_between_ranks_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run_state.check_alike({"the source images": "a"}, "copy them again")
        monkeypatch.setattr(
            "utils.distributed.all_gather_objects", lambda value: [value, value, {"the source images": "b"}]
        )
        with pytest.raises(UserError, match=r"the source images differ on ranks \[2\] .*; copy them again"):
            run_state.check_alike({"the source images": "a"}, "copy them again")


@pytest.mark.parametrize(("copies", "same"), [(True, True), (False, False)])
def test_teacher_has_the_students_batch_norm_statistics_unless_they_shall_stay(
    copies: bool, same: bool
) -> None:
    trainer = make_trainer("source", loop={"ema_decay": 0.9, "ema_copies_buffers": copies})
    trainer.run_iteration(0, [drawn_batches()])
    ours, theirs = trainer.teacher.network.state_dict(), trainer.network.state_dict()
    assert torch.equal(ours["bn1.running_mean"], theirs["bn1.running_mean"]) is same
