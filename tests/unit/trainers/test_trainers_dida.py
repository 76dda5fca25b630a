from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from losses.instance import instance_loss
from losses.instance_bank import InstanceBank
from tests.toy_self_trainers import (
    BANK_SIZE,
    SPACE,
    drawn_batches,
    drawn_streams,
    forward,
    gradients,
    make_trainer,
    small_bank,
    small_network,
)
from tests.toy_training import copied_state, run_in
from trainers import dida
from trainers.dida import DidaTrainer
from utils.precision import Precision
from utils.runs import DONE, PREEMPTED


def instance_term(iteration: int = 1, kind: str = "plus", **settings: Any) -> float:
    trainer = make_trainer("dida", network=small_network(kind, double=True), settings=settings)
    return forward(trainer, iteration=iteration).terms["loss/instance"].item()


def bank_after(iteration: int = 0, first: int = 0, **settings: Any) -> InstanceBank:
    trainer = make_trainer("dida", settings={"bank_momentum": 0.5, **settings})
    forward(trainer, drawn_batches(first=first), iteration)
    return trainer.bank


class TestInstanceLoss:
    def test_is_one_more_term(self) -> None:
        daformer, ours = (make_trainer(method) for method in ("daformer", "dida"))
        without, with_it = forward(daformer, iteration=1), forward(ours, iteration=1)
        assert with_it.terms.keys() - without.terms.keys() == {"loss/instance"}
        assert all(torch.equal(with_it.terms[name], value) for name, value in without.terms.items())
        difference = (with_it.loss - without.loss).item()
        assert difference == pytest.approx(0.5 * with_it.terms["loss/instance"].item(), rel=1e-5)

    def test_compares_the_mixture_with_the_teacher_on_the_plain_target(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[Tensor, ...]] = []

        def recording(student: Tensor, teacher: Tensor, *rest: Any, **options: Any) -> Tensor:
            calls.append((student, teacher, options["class_logits"]))
            return instance_loss(student, teacher, *rest, **options)

        monkeypatch.setattr(dida, "instance_loss", recording)
        trainer = make_trainer("dida", network=small_network("affine", double=True))
        forward(trainer, drawn_batches(1), iteration=1)
        shown = trainer.step.shown.images
        [(student, teacher, scores)] = calls
        mixed = trainer.network(shown["mixed"][None])
        torch.testing.assert_close(student, mixed.features, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(scores, mixed.logits, rtol=1e-10, atol=1e-12)
        target = trainer.teacher.network(shown["target"][None])
        torch.testing.assert_close(teacher, target.features, rtol=1e-10, atol=1e-12)
        assert not scores.requires_grad
        assert not teacher.requires_grad

    def test_weight_0_switches_it_off(self) -> None:
        trainer = make_trainer("dida", settings={"instance_weight": 0.0})
        assert "loss/instance" not in forward(trainer).terms

    def test_waits_for_a_full_bank(self) -> None:
        network = small_network()
        empty = InstanceBank(BANK_SIZE, network.feature_channels, SPACE.num_classes)
        terms = forward(make_trainer("dida", network=network, bank=empty, settings={"smooth": 0.5})).terms
        assert not any("instance" in name or "bank" in name for name in terms)

    @pytest.mark.parametrize("calibrate", ["teacher", "none"])
    def test_calibration_changes_it(self, calibrate: str) -> None:
        assert abs(instance_term(calibrate=calibrate) / instance_term() - 1) > 1e-5

    @pytest.mark.parametrize("calibrate", ["student", "teacher", "none"])
    def test_trains_the_features_not_the_classifier(self, calibrate: str) -> None:
        found = {}
        for weight in (0.0, 0.5):
            network = small_network("mit", double=True)
            settings = {"calibrate": calibrate, "instance_weight": weight}
            trainer = make_trainer("dida", network=network, settings=settings)
            forward(trainer, iteration=1).loss.backward()
            found[weight] = gradients(trainer)
        unchanged = {name for name, value in found[0.0].items() if torch.equal(value, found[0.5][name])}
        assert unchanged == {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}
        assert not trainer.bank.features.requires_grad

    def test_features_below_zero_count_as_zero(self) -> None:
        network = small_network("two_head", double=True)
        trainer = make_trainer("dida", network=network, settings={"calibrate": "teacher"})
        with torch.no_grad():
            assert network(drawn_batches()["source"].image).features.min() < 0
        output = forward(trainer)
        output.loss.backward()
        assert torch.isfinite(output.loss)
        assert all(torch.isfinite(value).all() for value in gradients(trainer).values())
        assert trainer.bank.features.min() >= 0

    def test_stays_in_float32_under_autocast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        types = []

        def recording(*arguments: Any, **options: Any) -> Tensor:
            types.append((arguments[0].dtype, instance_loss(*arguments, **options).dtype))
            return instance_loss(*arguments, **options)

        monkeypatch.setattr(dida, "instance_loss", recording)
        values = {}
        for name in ("fp32", "bf16"):
            loop = {"precision": Precision(name)}
            trainer = make_trainer("dida", network=small_network("affine"), loop=loop)
            with trainer.loop.precision.autocast():
                output = forward(trainer)
            output.loss.backward()
            assert output.loss.dtype == trainer.bank.features.dtype == torch.float32
            assert all(torch.isfinite(value).all() for value in gradients(trainer).values())
            values[name] = output.terms["loss/instance"].item(), trainer.bank.features.clone()
        assert types == [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)]
        assert values["bf16"][0] == pytest.approx(values["fp32"][0], rel=2e-3)
        torch.testing.assert_close(values["bf16"][1], values["fp32"][1], rtol=2e-2, atol=2e-2)


class TestSmoothing:
    def labels(self, *, first_source: int = 0, **settings: Any) -> tuple[Tensor, Tensor]:
        """Pseudo label and confidence of the first target image, with a source of other draws."""
        trainer = make_trainer("dida", network=small_network("affine", double=True), settings=settings)
        assert trainer.step.source_first == (settings.get("smooth", 1.0) < 1)
        batches = {**drawn_batches(), "source": drawn_batches(first=first_source)["source"]}
        forward(trainer, batches)
        return trainer.step.shown.labels["pseudo"], trainer.step.shown.confidence

    def test_similarities_take_part_in_choosing_labels(self) -> None:
        (plain, confidence), (smooth, raised) = self.labels(), self.labels(smooth=0.01)
        assert not torch.equal(plain, smooth)
        assert (raised >= confidence).all()
        assert raised.max() > confidence.max()

    def test_labels_come_from_the_bank_that_the_source_has_updated(self) -> None:
        settings = {"smooth": 0.01, "bank_momentum": 0.0}
        here, elsewhere = self.labels(**settings), self.labels(**settings, first_source=4)
        assert not torch.equal(here[1], elsewhere[1])
        plain = [self.labels(bank_momentum=0.0, first_source=first)[1] for first in (0, 4)]
        assert torch.equal(*plain)

    def test_other_terms_do_not_depend_on_the_order_of_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        for first in (True, False):
            trainer = make_trainer("dida", network=small_network("plus", double=True))
            monkeypatch.setattr(dida.DidaStep, "source_first", first)
            forward(trainer).loss.backward()
            found.append(gradients(trainer))
        assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


class TestBank:
    def test_moves_every_so_many_iterations(self) -> None:
        start = small_bank(small_network()).features
        for iteration, moves in ((0, True), (1, False), (2, False), (3, True)):
            bank = bank_after(iteration, bank_update_every=3)
            assert torch.equal(bank.features, start) is not moves
            assert int(bank.updated_at) == (iteration if moves else -1)

    def test_is_logged_where_it_moves(self) -> None:
        trainer = make_trainer("dida")
        for iteration, logged in ((0, True), (1, False), (2, True)):
            terms = forward(trainer, iteration=iteration).terms
            assert ("bank/norm_mean" in terms) is logged

    def test_losses_use_the_bank_that_has_moved(self) -> None:
        moved = instance_term(0, bank_momentum=0.0)
        assert moved != instance_term(1, bank_momentum=0.0)

    @pytest.mark.parametrize("choice", [{"bank_labels": "own"}, {"bank_absent": "keep"}])
    def test_options_change_it(self, choice: dict[str, str]) -> None:
        assert not torch.equal(bank_after().features, bank_after(**choice).features)

    def test_labels_of_the_first_image_alone(self) -> None:
        batches = drawn_batches()
        label = batches["source"].label.clone()
        label[1] = 255
        banks = {}
        for choice in ("own", "batch"):
            for name, source in (
                ("full", batches["source"]),
                ("one", replace(batches["source"], label=label)),
            ):
                trainer = make_trainer("dida", settings={"bank_labels": choice})
                forward(trainer, {**batches, "source": source})
                banks[choice, name] = trainer.bank.features
        assert torch.equal(banks["own", "full"], banks["own", "one"])
        assert not torch.equal(banks["batch", "full"], banks["batch", "one"])

    def test_absent_classes(self) -> None:
        start = small_bank(small_network())
        seen = set(drawn_batches()["source"].label.unique().tolist())
        absent = torch.tensor([label not in seen for label in start.labels.tolist()])
        assert absent.any()
        torch.testing.assert_close(bank_after().features[absent], start.features[absent] / 2)
        kept = bank_after(bank_absent="keep").features
        assert torch.equal(kept[absent], start.features[absent])
        assert not torch.isclose(kept[~absent], start.features[~absent]).all(1).any()

    def test_moves_once_with_accumulation(self) -> None:
        micro = [drawn_batches(2, first) for first in (0, 2)]
        once = make_trainer("dida")
        once.run_iteration(0, micro[:1])
        twice = make_trainer("dida")
        twice.run_iteration(0, micro)
        assert torch.equal(once.bank.features, twice.bank.features)
        assert int(twice.bank.updated_at) == 0

    def test_is_part_of_snapshots(self) -> None:
        trainer = make_trainer("dida", streams=drawn_streams())
        for iteration in range(3):
            trainer.run_iteration(iteration, trainer.next_batches())
        trainer.iteration = 3
        fresh = make_trainer("dida", streams=drawn_streams(), bank=empty_bank())
        fresh.load_state(trainer.state())
        assert fresh.bank.is_full
        for name, value in copied_state(trainer.bank).items():
            assert torch.equal(fresh.bank.state_dict()[name], value), name


def empty_bank() -> InstanceBank:
    return InstanceBank(BANK_SIZE, small_network().feature_channels, SPACE.num_classes)


class TestFilling:
    def trainer(self, folder_run: Any, *, allowed: bool = True) -> DidaTrainer:
        def fill(bank: InstanceBank) -> bool:
            if allowed:
                full = small_bank(small_network())
                bank.set(full.features, full.labels)
            return allowed

        return make_trainer(
            "dida",
            settings={"bank_fill_at": 2},
            bank=empty_bank(),
            fill_bank=fill,
            streams=drawn_streams(),
            run=folder_run,
        )

    def test_begins_the_instance_loss(self, tmp_path: Path) -> None:
        with run_in(tmp_path / "run") as run:
            assert self.trainer(run).fit() == 0
        lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        with_loss = [line["iteration"] for line in lines if "loss/instance" in line]
        assert with_loss == [3, 4]
        assert (tmp_path / "run" / DONE).exists()

    def test_ends_the_run_when_it_was_stopped_and_is_done_by_the_next_start(self, tmp_path: Path) -> None:
        with run_in(tmp_path / "run") as run:
            trainer = self.trainer(run, allowed=False)
            assert trainer.fit() == 0
            assert trainer.iteration == 2
            assert (tmp_path / "run" / PREEMPTED).exists()
        with run_in(tmp_path / "run") as run:
            resumed = self.trainer(run)
            assert resumed.fit() == 0
        with run_in(tmp_path / "whole") as run:
            whole = self.trainer(run)
            assert whole.fit() == 0
        assert torch.equal(resumed.bank.features, whole.bank.features)
        theirs = copied_state(whole.network)
        assert all(torch.equal(value, theirs[name]) for name, value in copied_state(resumed.network).items())

    def test_is_no_event_of_a_bank_that_was_loaded(self) -> None:
        assert make_trainer("dida").events() == []
