"""The training loop: updates, events, evaluation, snapshots, resume, stop signals."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy_training import (
    assert_same,
    copied_state,
    drawn_batches,
    drawn_streams,
    make_trainer,
    part_of,
    run_in,
    small_network,
)
from trainers.base import Trainer
from trainers.loop_settings import Event, Interrupted, Outcome
from trainers.steps import Batches, StepModule, StepOutput
from trainers.supervised import SupervisedTrainer
from utils import snapshots, stopping
from utils.errors import RunStopped, UserError
from utils.runs import DONE, PREEMPTED


def gradients(trainer: Trainer, optimizer: str) -> dict[str, torch.Tensor]:
    groups = trainer.optimizers[optimizer].param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    return {str(number): parameter.grad.clone() for number, parameter in enumerate(parameters)}


def norm(tensors: Mapping[str, torch.Tensor]) -> float:
    return torch.stack([value.norm() for value in tensors.values()]).norm().item()


def metric_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Stop signals set the flag; what was before comes back."""
    numbers = [getattr(signal, name) for name in stopping.STOP_SIGNALS]
    before = [signal.getsignal(number) for number in numbers]
    stopping.install()
    yield
    stopping.clear()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class TestUpdates:
    @pytest.mark.parametrize("method", ["source", "mrnet", "rectified"])
    def test_accumulated_micro_batches_equal_the_large_batch(self, method: str) -> None:
        states = []
        for parts in ([(0, 2)], [(0, 1), (1, 2)]):
            trainer = make_trainer(method, double=True, loop={"batch_norm": "frozen"})
            for iteration in range(2):
                batches = drawn_batches(2, iteration)
                trainer.run_iteration(iteration, [part_of(batches, *part) for part in parts])
            modules = {"network": trainer.network, **trainer.method_modules()}
            states.append({f"{n}/{k}": v for n, m in modules.items() for k, v in m.state_dict().items()})
        for other in states[1:]:
            for name, value in states[0].items():
                scale = value.abs().max().item() if value.numel() else 0.0
                np.testing.assert_allclose(
                    other[name], value, rtol=1e-9, atol=1e-11 * scale + 1e-15, err_msg=name
                )

    def test_gradients_of_the_generator_alone_are_clipped_to_the_norm(self) -> None:
        free, clipped = (make_trainer(settings={"max_grad_norm": limit}) for limit in (None, 0.01))
        for trainer in (free, clipped):
            trainer.run_iteration(0, [drawn_batches()])
        plain, limited = gradients(free, "segmentation"), gradients(clipped, "segmentation")
        assert norm(plain) > 0.02
        assert norm(limited) == pytest.approx(0.01, rel=1e-3)
        for name, value in plain.items():
            torch.testing.assert_close(limited[name], value * (0.01 / norm(plain)), rtol=1e-4, atol=1e-9)
        assert_same(gradients(clipped, "D_main"), gradients(free, "D_main"))

    def test_gradients_below_the_norm_stay(self) -> None:
        free, clipped = (make_trainer(settings={"max_grad_norm": limit}) for limit in (None, 1e6))
        for trainer in (free, clipped):
            trainer.run_iteration(0, [drawn_batches()])
        assert_same(gradients(clipped, "segmentation"), gradients(free, "segmentation"))

    def test_learning_rate_of_the_iteration_is_set_in_every_group(self) -> None:
        schedule = {"learning_rate": 0.02, "num_steps": 100, "power": 0.5, "warm_up": 10}
        trainer = make_trainer(settings={**schedule, "learning_rate_discriminator": 0.004})
        for iteration, generator, discriminator in ((0, 0.002, 0.004), (5, 0.011, 0.004 * 0.95**0.5)):
            trainer.run_iteration(iteration, [drawn_batches()])
            groups = trainer.optimizers["segmentation"].param_groups
            rates = {group["name"]: group["lr"] for group in groups}
            assert rates.pop("heads") == pytest.approx(10 * generator)
            assert list(rates.values()) == pytest.approx([generator] * len(rates))
            assert len(rates) >= 2
            for name in ("D_aux", "D_main"):
                assert trainer.optimizers[name].param_groups[0]["lr"] == pytest.approx(discriminator)

    def test_gradients_of_the_iteration_before_are_dropped(self) -> None:
        trainer = make_trainer(settings={"learning_rate": 1e-30, "learning_rate_discriminator": 1e-30})
        trainer.run_iteration(0, [drawn_batches()])
        first = gradients(trainer, "segmentation")
        trainer.run_iteration(1, [drawn_batches()])
        second = gradients(trainer, "segmentation")
        assert norm(second) == pytest.approx(norm(first), rel=1e-3)

    @pytest.mark.parametrize(("mode", "moves"), [("frozen", False), ("local", True), ("sync", True)])
    def test_frozen_batch_norm_of_the_backbone_keeps_statistics_and_affine(
        self, mode: str, moves: bool
    ) -> None:
        trainer = make_trainer(loop={"batch_norm": mode})
        before = copied_state(trainer.network)
        trainer.run_iteration(0, [drawn_batches()])
        after = copied_state(trainer.network)
        norms = [name.rpartition(".")[0] for name in before if name.endswith("running_mean")]
        assert norms
        for name in norms:
            changed = not torch.equal(before[f"{name}.running_mean"], after[f"{name}.running_mean"])
            assert changed is moves
            assert torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])
        assert not torch.equal(
            before["layer6.conv2d_list.0.0.weight"], after["layer6.conv2d_list.0.0.weight"]
        )

    def test_affine_of_the_backbone_trains_on_request(self) -> None:
        trainer = make_trainer(loop={"batch_norm": "frozen", "train_batch_norm_affine": True})
        before = copied_state(trainer.network)
        trainer.run_iteration(0, [drawn_batches()])
        after = copied_state(trainer.network)
        assert not torch.equal(before["layer4.0.bn1.weight"], after["layer4.0.bn1.weight"])
        assert torch.equal(before["layer4.0.bn1.running_mean"], after["layer4.0.bn1.running_mean"])


class BrokenStep(StepModule):
    """A step whose loss is not finite on images of one name."""

    def __init__(self, step: StepModule, name: str, value: float) -> None:
        super().__init__()
        self.step = step
        self.name = name
        self.value = value

    def forward(self, batches: Batches, carried: Mapping[str, torch.Tensor], iteration: int) -> StepOutput:
        """The wrapped step's output with one broken term."""
        output = self.step(batches, carried, iteration)
        if any(self.name in batch.names for batch in batches.values()):
            output.terms["loss/seg_main"] = output.terms["loss/seg_main"] * self.value
        return output


class TestNonFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_loss_stops_before_the_update_and_names_iteration_term_and_images(self, value: float) -> None:
        trainer = make_trainer()
        trainer.modules["segmentation"] = BrokenStep(trainer.modules["segmentation"], "2-1.png", value)
        trainer.run_iteration(0, [drawn_batches(seed=0)])
        before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
        with pytest.raises(RunStopped) as stop:
            trainer.run_iteration(1, [drawn_batches(seed=1)])
        for text in ("loss/seg_main", "iteration 1", "rank 0", "2-0.png, 2-1.png", "3-0.png, 3-1.png"):
            assert text in str(stop.value)
        assert "0-0.png" not in str(stop.value)
        assert_same(dict(trainer.network.named_parameters()), before)

    def test_any_accumulated_micro_batch_stops(self) -> None:
        trainer = make_trainer()
        trainer.modules["segmentation"] = BrokenStep(trainer.modules["segmentation"], "0-0.png", float("nan"))
        with pytest.raises(RunStopped, match="loss/seg_main is not finite at iteration 7"):
            trainer.run_iteration(7, [drawn_batches(seed=number) for number in (1, 0, 2)])

    def test_nothing_is_saved(self, tmp_path: Path) -> None:
        with run_in(tmp_path) as run:
            streams = drawn_streams(["source"])
            trainer = make_trainer("source", streams=streams, run=run, loop={"save_every": 1})
            inner = trainer.modules["segmentation"]

            class Later(StepModule):
                def forward(self, *inputs: Any) -> StepOutput:
                    output = inner(*inputs)
                    if inputs[2] == 2:
                        output.terms["loss/seg_aux"] = output.terms["loss/seg_aux"] / 0
                    return output

            trainer.modules["segmentation"] = Later()
            with pytest.raises(RunStopped, match="loss/seg_aux is not finite at iteration 2"):
                trainer.fit()
        assert snapshots.resolve(tmp_path).name == "iteration_0000002.pth"
        assert not (tmp_path / DONE).exists()

    def test_weights_that_an_update_broke_are_not_saved(self, tmp_path: Path) -> None:
        with run_in(tmp_path) as run:
            trainer = make_trainer(
                "source", streams=drawn_streams(["source"]), run=run, loop={"save_every": 1}
            )
            next(trainer.network.parameters()).register_hook(lambda gradient: gradient / 0)
            with pytest.raises(RunStopped, match=r"weights are not finite after 1 .*conv1.weight"):
                trainer.fit()
        assert not list(tmp_path.glob("*.pth"))


class WithEvents(SupervisedTrainer):
    """Remembers when its events happened."""

    due = (0, 2)

    def __init__(self, **parts: Any) -> None:
        self.happened: list[int] = []
        super().__init__(**parts)

    def events(self) -> list[Event]:
        """One event after the iterations in `due`, one that never happens."""
        return [
            Event("a query round", lambda iteration: iteration in self.due, self.happened.append),
            Event("never", lambda iteration: False, lambda iteration: pytest.fail("not due")),
        ]


class TestEvents:
    def test_happen_when_due_and_a_snapshot_follows(self, tmp_path: Path) -> None:
        with run_in(tmp_path) as run:
            trainer = make_trainer("source", kind=WithEvents, streams=drawn_streams(["source"]), run=run)
            assert trainer.fit() == 0
        assert trainer.happened == [0, 2]
        saved = sorted(path.name for path in tmp_path.glob("*.pth"))
        assert saved == [f"iteration_{number:07d}.pth" for number in (0, 2, 4)]

    @pytest.mark.parametrize(
        "rest", [["iteration_0000000.pth"], ["iteration_0000000.pth", "iteration_0000002.pth"]]
    )
    def test_are_not_repeated_after_the_snapshot_that_followed_them(
        self, tmp_path: Path, rest: list[str]
    ) -> None:
        with run_in(tmp_path) as run:
            first = make_trainer("source", kind=WithEvents, streams=drawn_streams(["source"]), run=run)
            first.fit()
        for path in [*tmp_path.glob("*.pth"), tmp_path / DONE]:
            if path.name not in rest:
                path.unlink()
        with run_in(tmp_path) as run:
            again = make_trainer("source", kind=WithEvents, streams=drawn_streams(["source"]), run=run)
            again.fit()
        assert again.happened == ([] if len(rest) == 2 else [2])
        assert_same(again.network.state_dict(), first.network.state_dict())


class WithLongEvent(SupervisedTrainer):
    """Has one event after iteration 2 that takes a snapshot first.

    Arguments beyond those of the trainer:
        outcomes: of its calls, in turn.
        at_call: called in each.
    """

    def __init__(
        self, *, outcomes: list[Outcome], at_call: Callable[[], object] = lambda: None, **parts: Any
    ) -> None:
        self.outcomes = outcomes
        self.at_call = at_call
        super().__init__(**parts)

    def events(self) -> list[Event]:
        """The event."""
        return [Event("a long event", lambda done: done == 2, self._call, snapshot_first=True)]

    def _call(self, iteration: int) -> Outcome:
        self.at_call()
        return self.outcomes.pop(0)


def run_with_long_event(folder: Path, *outcomes: Outcome, **parts: Any) -> WithLongEvent:
    """Starts or continues a run of it."""
    with run_in(folder) as run:
        streams = drawn_streams(["source"])
        parts |= {"outcomes": list(outcomes), "streams": streams, "run": run}
        trainer = make_trainer("source", kind=WithLongEvent, **parts)
        assert trainer.fit() == 0
    return trainer


class TestLongEvents:
    def test_snapshot_is_taken_before_and_after(self, tmp_path: Path) -> None:
        during = []

        def look() -> None:
            state = snapshots.read(tmp_path / "iteration_0000002.pth")
            during.append((state["iteration"], state["waiting_event"]))

        run_with_long_event(tmp_path, None, at_call=look)
        assert during == [(2, "a long event")]
        assert snapshots.read(tmp_path / "iteration_0000002.pth")["waiting_event"] is None
        assert (tmp_path / DONE).exists()

    def test_run_that_dies_in_it_starts_again_with_it(self, tmp_path: Path) -> None:
        class Killed(BaseException):
            pass

        def die() -> None:
            raise Killed

        for _ in range(2):
            with pytest.raises(Killed):
                run_with_long_event(tmp_path, None, at_call=die)
        assert [path.name for path in tmp_path.glob("*.pth")] == ["iteration_0000002.pth"]
        calls = []
        last = run_with_long_event(tmp_path, None, at_call=lambda: calls.append(1))
        assert calls == [1]
        whole = run_with_long_event(tmp_path / "whole", None)
        assert_same(last.network.state_dict(), whole.network.state_dict())
        lines = [line["iteration"] for line in metric_lines(tmp_path) if "lr/segmentation" in line]
        assert lines == [1, 2, 3, 4]

    def test_interrupted_one_ends_the_run_as_a_stop_signal_does(self, tmp_path: Path) -> None:
        first = run_with_long_event(tmp_path, Interrupted())
        assert first.iteration == 2
        assert (tmp_path / PREEMPTED).exists()
        assert not (tmp_path / DONE).exists()
        again = run_with_long_event(tmp_path, Interrupted())
        assert (again.iteration, again.outcomes) == (2, [])
        last = run_with_long_event(tmp_path, None)
        assert last.iteration == 4
        assert not (tmp_path / PREEMPTED).exists()
        whole = run_with_long_event(tmp_path / "whole", None)
        assert_same(last.network.state_dict(), whole.network.state_dict())

    def test_without_a_run_folder_it_happens_all_the_same(self) -> None:
        trainer = make_trainer(
            "source", kind=WithLongEvent, outcomes=[None], streams=drawn_streams(["source"])
        )
        assert trainer.fit() == 0
        assert trainer.outcomes == []


def test_mode_of_the_network_is_set_before_every_iteration() -> None:
    class Alternating(SupervisedTrainer):
        def set_mode(self, iteration: int) -> None:
            self.network.train(iteration % 2 == 0)

    trainer = make_trainer("source", kind=Alternating, streams=drawn_streams(["source"]))
    modes = []
    trainer.network.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    trainer.evaluator = lambda network: {"val/miou": 0.0}
    trainer.fit()
    assert modes == [True, False, True, False]


class Scores:
    """An evaluator that gives the next of some scores."""

    def __init__(self, trainer_iterations: list[int], *scores: float) -> None:
        self.scores = list(scores)
        self.iterations = trainer_iterations
        self.trainer: Trainer | None = None

    def __call__(self, network: nn.Module) -> dict[str, float]:
        self.iterations.append(self.trainer.iteration)
        network.eval()
        return {"val/miou": self.scores.pop(0), "val/accuracy": 50.0}


def scored_run(folder: Path, scores: tuple[float, ...], *, stop: int = 6, **loop: Any) -> list[int]:
    """Trains with an evaluator of these scores; the iterations at which it was called."""
    iterations: list[int] = []
    with run_in(folder, stop=stop) as run:
        evaluator = Scores(iterations, *scores)
        trainer = make_trainer(
            "source",
            streams=drawn_streams(["source"]),
            run=run,
            evaluator=evaluator,
            loop={"num_steps_stop": stop, **loop},
        )
        evaluator.trainer = trainer
        trainer.fit()
        assert trainer.network.training
    return iterations


class TestEvaluation:
    def test_only_at_the_end_by_default(self, tmp_path: Path) -> None:
        assert scored_run(tmp_path, (10.0,)) == [6]
        assert "target val mIoU 10.00" in json.loads((tmp_path / DONE).read_text())["text"]

    def test_regularly_and_once_at_the_end(self, tmp_path: Path) -> None:
        assert scored_run(tmp_path / "a", (1.0,) * 3, evaluate_every=2) == [2, 4, 6]
        assert scored_run(tmp_path / "b", (1.0,) * 2, evaluate_every=4) == [4, 6]
        lines = [line for line in metric_lines(tmp_path / "a") if "val/miou" in line]
        assert [line["iteration"] for line in lines] == [2, 4, 6]

    def test_best_names_the_snapshot_of_the_best_score(self, tmp_path: Path) -> None:
        scored_run(tmp_path, (10.0, 30.0, 20.0), evaluate_every=2, save_every=4)
        best = (tmp_path / "best").read_text()
        assert best.splitlines() == ["iteration_0000004.pth", "selected on target val: mIoU 30.00"]
        assert (tmp_path / "last").read_text().split() == ["iteration_0000006.pth"]

    def test_best_between_regular_snapshots_is_saved(self, tmp_path: Path) -> None:
        scored_run(tmp_path, (10.0, 30.0, 20.0), evaluate_every=2, save_every=100)
        path = snapshots.resolve(tmp_path / "best")
        state = snapshots.read(path)
        assert (path.name, state["iteration"], state["best"]) == ("iteration_0000004.pth", 4, 30.0)
        assert state["metrics"]["val/miou"] == 30.0

    def test_best_is_remembered_when_the_run_is_continued(self, tmp_path: Path) -> None:
        scored_run(tmp_path, (10.0, 30.0), stop=4, evaluate_every=2)
        assert scored_run(tmp_path, (20.0,), stop=6, evaluate_every=2) == [6]
        assert (tmp_path / "best").read_text().split()[0] == "iteration_0000004.pth"

    def test_without_labels_there_is_no_best(self, tmp_path: Path) -> None:
        with run_in(tmp_path) as run:
            make_trainer("source", streams=drawn_streams(["source"]), run=run).fit()
        assert (tmp_path / "last").exists()
        assert not (tmp_path / "best").exists()


class TestState:
    def test_round_trip_continues_bit_for_bit(self, tmp_path: Path) -> None:
        settings = {"class_balance": True, "often_balance": True, "only_hard_label": 50}
        parts = {"settings": settings, "loop": {"ema_decay": 0.9, "num_steps_stop": 5}}

        def trainer() -> Trainer:
            network = small_network(norm_style="bn", drop_rate=0.5)
            return make_trainer(network=network, streams=drawn_streams(), **parts)

        torch.manual_seed(7)
        whole = trainer()
        for iteration in range(2):
            whole.run_iteration(iteration, whole.next_batches())
        whole.iteration = 2
        snapshots.save(tmp_path / "state.pth", whole.state())
        for iteration in range(2, 5):
            whole.run_iteration(iteration, whole.next_batches())

        torch.manual_seed(8)
        resumed = trainer()
        resumed.load_state(snapshots.read(tmp_path / "state.pth"))
        assert resumed.iteration == 2
        for iteration in range(2, 5):
            resumed.run_iteration(iteration, resumed.next_batches())

        assert_same(resumed.network.state_dict(), whole.network.state_dict())
        assert_same(resumed.teacher.network.state_dict(), whole.teacher.network.state_dict())
        assert resumed.teacher.updates == whole.teacher.updates == 5
        for name, module in whole.method_modules().items():
            assert_same(resumed.method_modules()[name].state_dict(), module.state_dict())
        assert {name: stream.consumed for name, stream in resumed.streams.items()} == {
            "source": 10,
            "target": 10,
        }

    def test_dropout_draws_matter_for_that_test(self) -> None:
        states = []
        for seed in (1, 2):
            trainer = make_trainer(network=small_network(drop_rate=0.5))
            torch.manual_seed(seed)
            trainer.run_iteration(0, [drawn_batches()])
            states.append(copied_state(trainer.network))
        assert not torch.equal(
            states[0]["layer6.conv2d_list.0.0.weight"], states[1]["layer6.conv2d_list.0.0.weight"]
        )

    def test_snapshot_of_another_number_of_processes_continues_with_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        trainer = make_trainer(streams=drawn_streams())
        state = trainer.state()
        state["rng"] = state["rng"] * 2
        trainer.load_state(state)
        assert "random states of 2 processes, this run has 1" in caplog.text

    def test_snapshot_of_another_method_is_refused(self, tmp_path: Path) -> None:
        with run_in(tmp_path) as run:
            make_trainer("mrnet", streams=drawn_streams(), run=run).save()
        with (
            run_in(tmp_path) as run,
            pytest.raises(
                UserError, match="method mrnet, this run is rectified; choose another --snapshot-dir"
            ),
        ):
            make_trainer("rectified", streams=drawn_streams(), run=run).fit()

    def test_unreadable_snapshots_are_refused_and_stay(self, tmp_path: Path) -> None:
        path = tmp_path / "iteration_0000003.pth"
        path.write_bytes(b"PK rubbish")
        with run_in(tmp_path) as run, pytest.raises(UserError, match="none of the 1 snapshots"):
            make_trainer("mrnet", streams=drawn_streams(), run=run).fit()
        assert path.read_bytes() == b"PK rubbish"


class TestRun:
    def test_folder_holds_metrics_pictures_snapshots_and_the_mark(self, tmp_path: Path) -> None:
        with run_in(tmp_path) as run:
            loop = {"log_every": 3, "save_every": 2, "pictures_every": 3}
            assert make_trainer(streams=drawn_streams(), run=run, loop=loop).fit() == 0
        lines = metric_lines(tmp_path)
        assert [line["iteration"] for line in lines] == [3, 4]
        wanted = {"loss/seg_main", "loss/kl", "loss/D_main", "lr/segmentation", "lr/D_aux", "time/seconds"}
        assert wanted <= set(lines[0])
        assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
            f"iteration_{number:07d}_train_{name}.png" for number in (3, 4) for name in ("source", "target")
        ]
        assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
            "iteration_0000002.pth",
            "iteration_0000004.pth",
        ]
        assert json.loads((tmp_path / DONE).read_text())["text"] == "iteration 4"

    def test_finished_run_is_not_trained_again(self, tmp_path: Path) -> None:
        with run_in(tmp_path) as run:
            make_trainer("source", streams=drawn_streams(["source"]), run=run).fit()
        before = (tmp_path / "metrics.jsonl").read_bytes()
        with run_in(tmp_path) as run:
            again = make_trainer("source", streams=drawn_streams(["source"]), run=run)
            assert again.fit() == 0
        assert again.iteration == 0
        assert (tmp_path / "metrics.jsonl").read_bytes() == before

    def test_later_stop_continues_with_the_weights_of_one_run(self, tmp_path: Path) -> None:
        finished = []
        for folder, stops in (("whole", [6]), ("parts", [3, 6])):
            for stop in stops:
                with run_in(tmp_path / folder, stop=stop) as run:
                    trainer = make_trainer(
                        "source",
                        network=small_network(drop_rate=0.5),
                        streams=drawn_streams(["source"]),
                        run=run,
                        loop={"num_steps_stop": stop},
                    )
                    torch.manual_seed(5)
                    assert trainer.fit() == 0
            finished.append(trainer)
        assert_same(finished[1].network.state_dict(), finished[0].network.state_dict())
        assert json.loads((tmp_path / "parts" / DONE).read_text())["text"] == "iteration 6"

    def test_mark_of_an_earlier_stop_goes_when_the_run_continues(self, tmp_path: Path) -> None:
        with run_in(tmp_path, stop=1) as run:
            make_trainer(
                "source", streams=drawn_streams(["source"]), run=run, loop={"num_steps_stop": 1}
            ).fit()
        with run_in(tmp_path, stop=2) as run:
            trainer = make_trainer(
                "source", streams=drawn_streams(["source"]), run=run, loop={"num_steps_stop": 2}
            )
            assert (tmp_path / DONE).exists()
            assert trainer.resume()
            assert not (tmp_path / DONE).exists()

    def test_without_a_run_folder_nothing_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        trainer = make_trainer(
            "source", streams=drawn_streams(["source"]), loop={"pictures_every": 1, "save_every": 1}
        )
        assert trainer.fit() == 0
        assert trainer.iteration == 4
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("handlers")
class TestStopSignals:
    @pytest.mark.parametrize("name", stopping.STOP_SIGNALS)
    def test_iteration_is_finished_and_saved_and_the_run_continues_later(
        self, tmp_path: Path, name: str
    ) -> None:
        with run_in(tmp_path) as run:
            trainer = make_trainer("source", streams=drawn_streams(["source"]), run=run)
            inner = trainer.next_batches

            def next_batches() -> list[Batches]:
                if trainer.iteration == 1:
                    signal.raise_signal(getattr(signal, name))
                return inner()

            trainer.next_batches = next_batches
            assert trainer.fit() == 0
            assert trainer.iteration == 2
        assert json.loads((tmp_path / PREEMPTED).read_text())["text"] == f"iteration 2, {name}"
        assert not (tmp_path / DONE).exists()

        stopping.clear()
        with run_in(tmp_path) as run:
            resumed = make_trainer("source", streams=drawn_streams(["source"]), run=run)
            assert resumed.fit() == 0
        assert (tmp_path / DONE).exists()
        assert not (tmp_path / PREEMPTED).exists()
        whole = make_trainer("source", streams=drawn_streams(["source"]))
        whole.fit()
        assert_same(resumed.network.state_dict(), whole.network.state_dict())

    def test_signal_in_the_last_iteration_is_a_finished_run(self, tmp_path: Path) -> None:
        with run_in(tmp_path, stop=1) as run:
            trainer = make_trainer(
                "source", streams=drawn_streams(["source"]), run=run, loop={"num_steps_stop": 1}
            )
            signal.raise_signal(signal.SIGTERM)
            assert trainer.fit() == 0
        assert (tmp_path / DONE).exists()
        assert not (tmp_path / PREEMPTED).exists()

    def test_evaluation_that_is_cut_short_is_done_by_the_next_start(self, tmp_path: Path) -> None:
        def cut_short(network: torch.nn.Module) -> None:
            signal.raise_signal(signal.SIGTERM)

        with run_in(tmp_path) as run:
            trainer = make_trainer("source", streams=drawn_streams(["source"]), run=run, evaluator=cut_short)
            assert trainer.fit() == 0
        assert (tmp_path / PREEMPTED).exists()
        assert not (tmp_path / DONE).exists()

        stopping.clear()
        with run_in(tmp_path) as run:
            resumed = make_trainer(
                "source",
                streams=drawn_streams(["source"]),
                run=run,
                evaluator=lambda network: {"val/miou": 12.5},
            )
            assert resumed.fit() == 0
        assert json.loads((tmp_path / DONE).read_text())["text"].endswith("target val mIoU 12.50")
        assert_same(resumed.network.state_dict(), trainer.network.state_dict())


class TestContinuedScores:
    def test_best_is_marked_again_after_a_kill_between_snapshot_and_mark(self, tmp_path: Path) -> None:
        scored_run(tmp_path, (10.0, 30.0), stop=4, evaluate_every=2)
        (tmp_path / "best").write_text("iteration_0000002.pth\nselected on target val: mIoU 10.00\n")
        scored_run(tmp_path, (20.0,), stop=6, evaluate_every=2)
        assert (tmp_path / "best").read_text().split()[0] == "iteration_0000004.pth"

    def test_an_equal_later_score_does_not_take_the_mark(self, tmp_path: Path) -> None:
        scored_run(tmp_path, (30.0, 30.0), stop=4, evaluate_every=2)
        scored_run(tmp_path, (20.0,), stop=6, evaluate_every=2)
        assert (tmp_path / "best").read_text().split()[0] == "iteration_0000002.pth"

    def test_scores_of_another_evaluation_are_forgotten(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for protocol, stop, score in (("a", 2, 50.0), ("b", 4, 10.0)):
            with run_in(tmp_path, stop=stop) as run:
                make_trainer(
                    "source",
                    streams=drawn_streams(["source"]),
                    run=run,
                    evaluator=lambda network, score=score: {"val/miou": score},
                    evaluation={"protocol": protocol},
                    loop={"num_steps_stop": stop},
                ).fit()
        assert "evaluation changed since the snapshot" in caplog.text
        assert (tmp_path / "best").read_text().split()[0] == "iteration_0000004.pth"

    def test_snapshots_without_an_evaluation_mark_are_read(self) -> None:
        trainer = make_trainer("source", streams=drawn_streams(["source"]))
        state = trainer.state()
        for name in ("evaluated_at", "best_at", "contents", "precision", "waiting_event"):
            del state[name]
        trainer.load_state(state)
        assert trainer.evaluated_at == -1

    def test_another_precision_is_warned_about(self, caplog: pytest.LogCaptureFixture) -> None:
        trainer = make_trainer("source", streams=drawn_streams(["source"]))
        state = trainer.state()
        trainer.load_state(state)
        assert caplog.text == ""
        trainer.load_state({**state, "precision": "bf16"})
        assert "computed in bf16, from here on it computes in fp32; --precision bf16" in caplog.text
