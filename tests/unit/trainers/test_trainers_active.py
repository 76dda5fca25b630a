"""The step of active learning, its schedule of rounds, and what a round does to the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loaders.samples import Batch
from losses.consistency import local_consistency
from losses.negative import negative_learning
from losses.segmentation import weighted_cross_entropy
from selection.budget import Budget
from selection.store import AnnotationStore
from tests.toy_active import SPACE, ArrayImages, DrawnImages, active_trainer, picks_of
from tests.toy_training import assert_same, copied_state, drawn_batch, run_in
from tests.toy_training import small_network as two_head_network
from trainers import query_round
from trainers.active import ActiveSettings, ActiveStep, ActiveTrainer, dropout_is_active
from trainers.loop_settings import Interrupted
from trainers.query_rounds import AnnotationState
from trainers.supervised import upsampled_logits
from utils import snapshots
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError
from utils.snapshots import FORMAT_VERSION


def batches(*, source: bool = True, bought: bool = True) -> dict[str, Batch]:
    """Two images of each domain; the target's labels are few, or none."""
    target = drawn_batch(2, 1)
    keep = torch.rand(target.label.shape, generator=torch.Generator().manual_seed(0)) < 0.05
    label = torch.where(keep & bought, target.label, torch.tensor(IGNORE_LABEL, dtype=torch.uint8))
    target = Batch(target.image, label, target.names, target.sizes)
    return {"source": drawn_batch(2, 0), "target": target} if source else {"target": target}


class TestStep:
    @pytest.mark.parametrize("kind", ["l1", "kl"])
    def test_loss_is_the_weighted_sum_of_all_terms_and_heads(self, kind: str) -> None:
        network = two_head_network()
        weights = {"lambda_seg": 0.3, "lambda_consistency": 0.7, "lambda_negative": 0.4}
        settings = ActiveSettings(**weights, consistency=kind, negative_threshold=0.2)
        given = batches()
        output = ActiveStep(network, settings)(given, {}, 0)
        expected, terms = torch.zeros(()), {}
        for name in ("source", "target"):
            auxiliary, main = upsampled_logits(network, given[name].image)
            terms[f"loss/{name}"] = weighted_cross_entropy(main, given[name].label)
            terms[f"loss/{name}_aux"] = weighted_cross_entropy(auxiliary, given[name].label)
            expected = expected + terms[f"loss/{name}"] + 0.3 * terms[f"loss/{name}_aux"]
            if name == "source":
                terms["loss/consistency"] = local_consistency(main, given[name].label, kind=kind)
                expected = expected + 0.7 * terms["loss/consistency"]
            else:
                terms["loss/negative"] = negative_learning(main, threshold=0.2)
                expected = expected + 0.4 * terms["loss/negative"]
        torch.testing.assert_close(output.loss, expected)
        assert all(value != 0 for value in terms.values())
        torch.testing.assert_close(dict(output.terms), terms)

    def test_terms_of_weight_0_are_left_out(self) -> None:
        settings = ActiveSettings(lambda_consistency=0, lambda_negative=0)
        output = ActiveStep(two_head_network(), settings)(batches(), {}, 0)
        names = {"loss/source", "loss/source_aux", "loss/target", "loss/target_aux"}
        assert set(output.terms) == names

    def test_without_a_source_the_target_trains_alone(self) -> None:
        output = ActiveStep(two_head_network(), ActiveSettings())(batches(source=False), {}, 0)
        assert set(output.terms) == {"loss/target", "loss/target_aux", "loss/negative"}

    def test_before_anything_is_bought_the_target_teaches_by_negative_learning_alone(self) -> None:
        network = two_head_network()
        settings = ActiveSettings(negative_threshold=0.2)
        output = ActiveStep(network, settings)(batches(source=False, bought=False), {}, 0)
        assert output.terms["loss/target"] == 0
        assert output.terms["loss/negative"] > 0
        torch.testing.assert_close(output.loss, output.terms["loss/negative"])
        output.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("iteration", "active"),
    [
        (0, True),
        (1999, True),
        (2000, False),
        (2999, False),
        (3000, True),
        (3999, True),
        (4000, True),
        (6000, False),
    ],
)
def test_dropout_rests_from_an_evaluation_of_the_original_to_the_next_round(
    iteration: int, active: bool
) -> None:
    options: dict[str, Any] = {"select_iterations": (3000, 4000), "period": 2000}
    assert dropout_is_active(iteration, **options, schedule="reference") is active
    assert dropout_is_active(iteration, **options, schedule="always")


class TestAnnotationState:
    def test_survives_a_snapshot_and_knows_its_annotations(self, tmp_path: Path) -> None:
        trainer = active_trainer(tmp_path)
        trainer.fit()
        store = trainer.rounds.store
        copy = AnnotationState()
        copy.load_state_dict(trainer.rounds.state.state_dict())
        assert int(copy.rounds) == 2
        assert copy.is_of(store.load(2))
        assert not copy.is_of(store.load(1))


class TestRounds:
    def test_are_held_after_their_iterations_and_train_what_follows(self, tmp_path: Path) -> None:
        trainer = active_trainer(tmp_path, settings={"select_iterations": (1, 3)})
        assert trainer.fit() == 0
        infos = [trainer.rounds.store.round(number).info() for number in range(2)]
        assert [info.iteration for info in infos] == [1, 3]
        assert [info.number for info in infos] == [0, 1]
        assert infos[0].images == 8
        assert not trainer.rounds.store.round(2).folder.exists()
        assert trainer.rounds.reader.bought.rounds == 2

    def test_bought_labels_reach_loader_processes(self, tmp_path: Path) -> None:
        """These have loaded unlabelled images ahead by then."""
        trainer = active_trainer(tmp_path, settings={"select_iterations": (1,)}, loop={"num_steps_stop": 3})
        trainer.streams["target"].num_workers = 1
        seen: list[Batch] = []
        inner = trainer.next_batches

        def next_batches() -> list[Mapping[str, Batch]]:
            given = inner()
            seen.extend(batches["target"] for batches in given)
            return given

        trainer.next_batches = next_batches
        trainer.fit()
        assert (seen[0].label == IGNORE_LABEL).all()
        bought = trainer.rounds.store.load(1)
        for batch in seen[1:]:
            for name, label in zip(batch.names, batch.label, strict=True):
                assert np.array_equal(label.numpy(), bought.mask(name))
                assert (label != IGNORE_LABEL).any()

    def test_later_rounds_ask_elsewhere(self, tmp_path: Path) -> None:
        trainer = active_trainer(tmp_path, query={"budget": Budget.parse("20%")})
        trainer.fit()
        blocked = trainer.rounds.store.load(1)
        for query in trainer.rounds.store.round(1).queries().images:
            before = blocked.blocked(query.name)
            assert not any(before[row, column] for row, column in query.picks)

    def test_round_that_is_on_disk_is_neither_selected_nor_asked_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = active_trainer(tmp_path)
        first.fit()
        monkeypatch.setattr(query_round, "select_image", lambda *args, **options: pytest.fail("again"))
        again = active_trainer(tmp_path)
        monkeypatch.setattr(again.rounds.oracle, "answer", lambda *args: pytest.fail("asked again"))
        again.fit()
        assert_same(copied_state(again.network), copied_state(first.network))
        assert picks_of(again, range(2)) == picks_of(first, range(2))

    def test_stop_in_the_selection_ends_the_round_with_nothing_asked(self, tmp_path: Path) -> None:
        trainer = active_trainer(tmp_path)
        trainer.rounds.query.stop = lambda: True
        assert isinstance(trainer.run_round(0, 2), Interrupted)
        assert trainer.rounds.store.round(0).queries() is None

    def test_selection_leaves_the_network_as_it_was(self, tmp_path: Path) -> None:
        trainer = active_trainer(tmp_path)
        before = copied_state(trainer.network)
        modes = {name: module.training for name, module in trainer.network.named_modules()}
        trainer.run_round(0, 2)
        assert_same(copied_state(trainer.network), before)
        assert {name: module.training for name, module in trainer.network.named_modules()} == modes
        assert all(parameter.requires_grad for parameter in trainer.network.parameters())

    def test_rounds_of_another_run_are_refused_at_the_start(self, tmp_path: Path) -> None:
        active_trainer(tmp_path).fit()
        active_trainer(tmp_path).rounds.check((2, 4))
        other = active_trainer(tmp_path, query={"seed": 7})
        with pytest.raises(UserError, match=r"round_00 belongs to another run.* seed is 0 there and 7 here"):
            other.rounds.check((2, 4))
        other = active_trainer(tmp_path, settings={"select_iterations": (2, 5)})
        with pytest.raises(UserError, match=r"round_01.* iteration is 4 there and 5 here"):
            other.rounds.check((2, 5))

    def test_check_of_the_rounds_begins_none(self, tmp_path: Path) -> None:
        active_trainer(tmp_path / "queries").rounds.check((2, 4))
        assert list(tmp_path.iterdir()) == []


def scores(**iou: float) -> Mapping[str, float]:
    """What an evaluation gives: percent by class; absent ones are left out."""
    return {"val/miou": 10.0} | {f"val/iou/{name}": value for name, value in iou.items()}


class TestClassWeights:
    @staticmethod
    def trainer(folder: Path, chosen: str, **options: Any) -> ActiveTrainer:
        settings = {"class_weights_from": chosen}
        return active_trainer(folder, method="dwaca", settings=settings, **options)

    def test_absent_classes_count_as_0(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        trainer = self.trainer(
            tmp_path, "source", class_evaluator=lambda network: scores(road=80.0, car=40.0)
        )
        trainer.run_round(0, 2)
        weights = dict(
            zip(SPACE.class_names, trainer.rounds.store.round(0).info().class_weights, strict=True)
        )
        assert weights["road"] < weights["car"] < 1e-4
        assert all(weight == 1 for name, weight in weights.items() if name not in ("road", "car"))
        assert "IoU 0 of sidewalk" in caplog.text

    def test_of_a_round_that_has_begun_are_not_measured_again(self, tmp_path: Path) -> None:
        first = self.trainer(tmp_path, "source", class_evaluator=lambda network: scores(road=80.0))
        first.rounds.query.stop = lambda: True
        assert isinstance(first.run_round(0, 2), Interrupted)
        begun = first.rounds.store.round(0).info()
        again = self.trainer(tmp_path, "source", class_evaluator=lambda network: pytest.fail("again"))
        assert again.run_round(0, 2) is None
        assert again.rounds.store.round(0).queries().info == begun

    def test_measurement_that_is_cut_short_begins_no_round(self, tmp_path: Path) -> None:
        trainer = self.trainer(tmp_path, "source", class_evaluator=lambda network: None)
        assert isinstance(trainer.run_round(0, 2), Interrupted)
        assert trainer.rounds.store.round(0).info() is None

    def test_from_validation_the_evaluation_is_saved_before_the_round(self, tmp_path: Path) -> None:
        seen = []

        def evaluator(network: torch.nn.Module) -> Mapping[str, float]:
            seen.append(trainer.iteration)
            return scores(road=80.0)

        with run_in(tmp_path) as run:
            trainer = self.trainer(tmp_path / "queries", "validation", evaluator=evaluator, run=run)
            trainer.iteration = 2
            trainer.run_round(0, 2)
            trainer.run_round(1, 2)
        assert seen == [2]
        state = snapshots.read(tmp_path / "iteration_0000002.pth")
        assert (state["evaluated_at"], state["best_at"], state["best"]) == (2, 2, 10.0)
        assert int(state["method_state"]["annotations"]["rounds"]) == 0

    def test_on_bought_labels_nothing_is_measured_before_the_first_round(self, tmp_path: Path) -> None:
        calls = []

        def measure(network: torch.nn.Module) -> Mapping[str, float]:
            calls.append(trainer.rounds.reader.bought.rounds)
            return scores(road=80.0)

        trainer = self.trainer(tmp_path, "labelled", class_evaluator=measure)
        trainer.run_round(0, 2)
        trainer.run_round(1, 4)
        assert calls == [1]
        assert trainer.rounds.store.round(0).info().class_weights == (1.0,) * 19


class TestResume:
    def saved(self, folder: Path) -> ActiveTrainer:
        with run_in(folder, stop=6) as run:
            trainer = active_trainer(folder / "queries", run=run)
            trainer.fit()
        return trainer

    def test_takes_over_what_was_bought(self, tmp_path: Path) -> None:
        first = self.saved(tmp_path)
        again = active_trainer(tmp_path / "queries")
        again.load_state(first.state())
        assert again.rounds.reader.bought.digest == first.rounds.reader.bought.digest
        assert again.rounds.reader.bought.rounds == 2

    def test_other_answers_are_refused(self, tmp_path: Path) -> None:
        state = self.saved(tmp_path).state()
        folder = AnnotationStore(tmp_path / "queries").round(0)
        labels = folder.labels()
        (folder.folder / "labels.npz").unlink()
        folder.write_labels((labels * 0).astype(np.uint8))
        with pytest.raises(UserError, match=r"not those that trained the snapshot \(2 rounds\)") as caught:
            active_trainer(tmp_path / "queries").load_state(state)
        assert caught.value.everywhere

    def test_deleted_answers_are_refused_on_all_processes_alike(self, tmp_path: Path) -> None:
        state = self.saved(tmp_path).state()
        (tmp_path / "queries" / "round_01" / "labels.npz").unlink()
        with pytest.raises(UserError, match="annotations were deleted") as caught:
            active_trainer(tmp_path / "queries").load_state(state)
        assert caught.value.everywhere


def test_snapshot_names_the_method(tmp_path: Path) -> None:
    state = active_trainer(tmp_path, method="dwaca").state()
    assert state["method"] == "dwaca"
    assert state["format_version"] == FORMAT_VERSION


def test_images_of_several_sizes(tmp_path: Path) -> None:
    class TwoSizes(ArrayImages):
        def network_input(self, name: str) -> tuple[torch.Tensor, tuple[int, int]]:
            image, (height, width) = super().network_input(name)
            return image, (height, width) if name != "1.png" else (2 * height, 2 * width)

    trainer = active_trainer(tmp_path, images=TwoSizes(DrawnImages(seed=1).images))
    queries = trainer.rounds.select(0, 2)
    small, large = queries["0.png"], queries["1.png"]
    assert (small.size, large.size) == ((33, 48), (66, 96))
    assert len(large.picks) == pytest.approx(4 * len(small.picks), abs=4)
    assert large.picks[:, 0].max() >= 33
