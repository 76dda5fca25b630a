"""Memory regularisation: gates, terms of weight 0, discriminators apart from the generator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.toy_training import (
    assert_same,
    copied_state,
    drawn_batch,
    drawn_batches,
    make_trainer,
    small_network,
)
from trainers.base import Trainer
from trainers.memory import MemorySettings, frozen
from trainers.supervised import SupervisedTrainer
from utils.errors import UserError

NO_TARGET = {"lambda_adv_target1": 0.0, "lambda_adv_target2": 0.0, "lambda_kl_target": 0.0}
SEGMENTATION = {"loss/seg_main", "loss/seg_aux"}
ADVERSARIAL = {"loss/adv_main", "loss/adv_aux"}
DISCRIMINATORS = {"loss/D_main", "loss/D_aux", "loss/D_penalty"}


def terms_at(trainer: Trainer, iteration: int) -> set[str]:
    trainer.run_iteration(iteration, [drawn_batches()])
    return set(trainer.meter.read())


class TestGates:
    def test_entropy_and_memory_terms_start_at_their_iteration(self) -> None:
        settings = {"lambda_me_target": 0.1, "lambda_kl_target": 0.1, "target_terms_start": 7}
        trainer = make_trainer(settings=settings)
        always = SEGMENTATION | ADVERSARIAL | DISCRIMINATORS
        assert terms_at(trainer, 6) == always
        assert terms_at(trainer, 7) == always | {"loss/kl", "loss/entropy"}

    def test_terms_of_weight_0_are_left_out(self) -> None:
        assert terms_at(make_trainer(settings={"lambda_kl_target": 0.0}), 0).isdisjoint(
            {"loss/kl", "loss/entropy"}
        )
        assert terms_at(make_trainer(settings=NO_TARGET), 0) == SEGMENTATION

    def test_discriminators_train_only_when_both_adversarial_weights_are_positive(self) -> None:
        trainer = make_trainer(settings={"lambda_adv_target1": 0.0})
        assert [step.name for step in trainer.steps] == ["segmentation"]
        assert set(trainer.optimizers) == set(trainer.learning_rates(0)) == {"segmentation"}
        assert terms_at(trainer, 0) == SEGMENTATION | {"loss/adv_main", "loss/kl"}

    @pytest.mark.parametrize(
        ("settings", "iteration", "used"),
        [
            ({**NO_TARGET}, 0, False),
            ({**NO_TARGET, "lambda_kl_target": 0.1, "target_terms_start": 5}, 4, False),
            ({**NO_TARGET, "lambda_kl_target": 0.1, "target_terms_start": 5}, 5, True),
            ({**NO_TARGET, "lambda_me_target": 0.1, "target_terms_start": 5}, 5, True),
            ({**NO_TARGET, "lambda_adv_target2": 0.1}, 0, True),
            ({**NO_TARGET, "unweighted_terms": True}, 0, True),
        ],
    )
    def test_settings_know_whether_an_iteration_looks_at_target_images(
        self, settings: dict[str, Any], iteration: int, used: bool
    ) -> None:
        assert MemorySettings(**settings).uses_target(iteration) is used

    def test_a_gate_that_opens_later_counts_for_the_whole_run(self) -> None:
        late = {**NO_TARGET, "lambda_kl_target": 0.1, "target_terms_start": 5}
        assert MemorySettings(**late).ever_uses_target
        assert not MemorySettings(**NO_TARGET).ever_uses_target


class TestTotalLoss:
    def test_is_the_weighted_sum_of_the_logged_terms(self) -> None:
        weights = {"lambda_adv_target1": 0.3, "lambda_adv_target2": 0.5}
        weights |= {"lambda_me_target": 0.7, "lambda_kl_target": 1.1}
        trainer = make_trainer(settings={**weights, "lambda_seg": 0.2})
        output = trainer.steps[0].module(drawn_batches(), {}, 0)
        shares = {"loss/seg_main": 1.0, "loss/seg_aux": 0.2, "loss/adv_aux": 0.3, "loss/adv_main": 0.5}
        shares |= {"loss/entropy": 0.7, "loss/kl": 1.1}
        assert set(output.terms) == set(shares)
        total = sum(weight * output.terms[name] for name, weight in shares.items())
        assert output.loss.item() == pytest.approx(total.item())
        assert not any(value.requires_grad for value in [*output.terms.values(), *output.carried.values()])

    @pytest.mark.parametrize("kind", ["mrnet", "rectified"])
    def test_target_labels_would_only_measure(self, kind: str) -> None:
        batches = drawn_batches()
        labelled = {**batches, "target": drawn_batch(2, 1)}
        plain, measured = make_trainer(kind), make_trainer(kind)
        plain.run_iteration(0, [batches])
        measured.run_iteration(0, [labelled])
        assert_same(measured.network.state_dict(), plain.network.state_dict())
        assert set(measured.meter.read()) - set(plain.meter.read()) == {"loss/target_seg"}


class TestZeroWeights:
    @pytest.mark.parametrize("kind", ["mrnet", "rectified"])
    @pytest.mark.parametrize("norm_style", ["gn", "bn"])
    def test_skipping_them_leaves_the_weights_and_buffers_of_computing_them(
        self, kind: str, norm_style: str
    ) -> None:
        states = []
        for unweighted in (False, True):
            network = small_network(norm_style=norm_style, drop_rate=0.5)
            trainer = make_trainer(
                kind, network=network, settings={**NO_TARGET, "unweighted_terms": unweighted}
            )
            torch.manual_seed(3)  # the same dropout draws
            for iteration in range(2):
                trainer.run_iteration(iteration, [drawn_batches(seed=iteration)])
            states.append(copied_state(trainer.network))
            logged = set(trainer.meter.read())
            assert logged == (SEGMENTATION | ADVERSARIAL if unweighted else SEGMENTATION)
        assert_same(states[0], states[1])

    def test_target_images_move_the_running_statistics(self) -> None:
        with_target, without = (make_trainer(settings=NO_TARGET) for _ in range(2))
        with_target.run_iteration(0, [drawn_batches()])
        without.run_iteration(0, [{"source": drawn_batches()["source"]}])
        ours, theirs = with_target.network.state_dict(), without.network.state_dict()
        assert not torch.equal(ours["bn1.running_mean"], theirs["bn1.running_mean"])
        assert_same(
            {name: ours[name] for name, _ in with_target.network.named_parameters()},
            {name: theirs[name] for name, _ in without.network.named_parameters()},
        )

    def test_frozen_statistics_make_the_target_forward_needless(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = make_trainer(settings=NO_TARGET, loop={"batch_norm": "frozen"})
        calls = []
        forward = trainer.network.forward_normalized
        monkeypatch.setattr(
            trainer.network, "forward_normalized", lambda x: calls.append(x.requires_grad) or forward(x)
        )
        trainer.run_iteration(0, [drawn_batches()])
        assert len(calls) == 1

    def test_without_target_terms_it_is_supervised_training(self) -> None:
        memory = make_trainer(settings=NO_TARGET)
        supervised = make_trainer("source", kind=SupervisedTrainer)
        for trainer in (memory, supervised):
            trainer.run_iteration(0, [{"source": drawn_batches()["source"]}])
        assert_same(memory.network.state_dict(), supervised.network.state_dict())


class TestDiscriminators:
    def test_generator_step_leaves_them_without_gradient_and_unchanged(self) -> None:
        trainer = make_trainer()
        before = [copied_state(discriminator) for discriminator in trainer.discriminators]
        output = trainer.steps[0].module(drawn_batches(), {}, 0)
        output.loss.backward()
        for discriminator, state in zip(trainer.discriminators, before, strict=True):
            assert all(parameter.grad is None for parameter in discriminator.parameters())
            assert all(parameter.requires_grad for parameter in discriminator.parameters())
            assert_same(discriminator.state_dict(), state)

    def test_adversarial_terms_reach_the_generator_through_them(self) -> None:
        norms = []
        for weight in (0.0, 10.0):
            weights = {"lambda_adv_target1": weight, "lambda_adv_target2": weight, "lambda_kl_target": 0.0}
            trainer = make_trainer(settings=weights)
            trainer.steps[0].module(drawn_batches(), {}, 0).loss.backward()
            norms.append(trainer.network.layer6.conv2d_list[0][0].weight.grad.clone())
        assert not torch.equal(norms[0], norms[1])

    def test_their_step_leaves_the_generator_alone(self) -> None:
        trainer = make_trainer()
        carried = trainer.steps[0].module(drawn_batches(), {}, 0).carried
        trainer.network.zero_grad()
        before = copied_state(trainer.network)
        trainer.steps[1].module(drawn_batches(), carried, 0).loss.backward()
        assert all(parameter.grad is None for parameter in trainer.network.parameters())
        assert_same(trainer.network.state_dict(), before)
        for discriminator in trainer.discriminators:
            assert all(p.grad is not None for p in discriminator.parameters())

    def test_both_learn_in_an_iteration_and_are_in_snapshots(self) -> None:
        trainer = make_trainer()
        before = [copied_state(discriminator) for discriminator in trainer.discriminators]
        trainer.run_iteration(0, [drawn_batches()])
        state = trainer.state()
        for name, discriminator, old in zip(("D_aux", "D_main"), trainer.discriminators, before, strict=True):
            assert_same(state["method_state"][name], discriminator.state_dict())
            assert state["optimizers"][name]["state"]
            assert any(not torch.equal(value, old[key]) for key, value in discriminator.state_dict().items())

    def test_freezing_ends_with_an_error_inside(self) -> None:
        parameters = list(make_trainer().discriminators[0].parameters())

        def fail() -> None:
            assert not any(parameter.requires_grad for parameter in parameters)
            raise KeyError

        with pytest.raises(KeyError), frozen([nn.ParameterList(parameters)]):
            fail()
        assert all(parameter.requires_grad for parameter in parameters)


class TestOneHead:
    """A network with one head has that head's terms, its own discriminator, and nothing that compares two."""

    def make(self, **settings: float) -> Trainer:
        network = small_network(architecture="deeplab_oracle")
        return make_trainer(network=network, settings={"lambda_kl_target": 0.0, **settings})

    def test_terms_and_learners(self) -> None:
        trainer = self.make(lambda_me_target=0.1)
        expected = {"loss/seg_main", "loss/adv_main", "loss/entropy", "loss/D_main", "loss/D_penalty"}
        assert terms_at(trainer, 0) == expected
        assert set(trainer.optimizers) == set(trainer.learning_rates(0)) == {"segmentation", "D_main"}
        assert set(trainer.state()["method_state"]) == {"class_weights", "D_main"}

    def test_loss_is_the_sum_of_its_weighted_terms(self) -> None:
        output = (
            self.make(lambda_me_target=0.1, lambda_adv_target2=0.5).steps[0].module(drawn_batches(), {}, 0)
        )
        terms = output.terms
        expected = terms["loss/seg_main"] + 0.5 * terms["loss/adv_main"] + 0.1 * terms["loss/entropy"]
        torch.testing.assert_close(output.loss.detach(), expected)
        assert set(output.carried) == {"real", "fake_main"}

    def test_discriminator_sees_the_predictions_of_source_and_target(self) -> None:
        trainer = self.make()
        step = trainer.steps[0].module
        carried = step(drawn_batches(), {}, 0).carried
        for name, domain in (("real", "source"), ("fake_main", "target")):
            _, logits = step.predict(drawn_batches()[domain].image)
            torch.testing.assert_close(carried[name], logits.detach().softmax(1))

    def test_weight_of_the_missing_head_decides_nothing(self) -> None:
        with_weight, without = self.make(), self.make(lambda_adv_target1=0.0)
        for trainer in (with_weight, without):
            trainer.run_iteration(0, [drawn_batches()])
        assert_same(with_weight.network.state_dict(), without.network.state_dict())
        assert not self.make(lambda_adv_target2=0.0).settings.ever_uses_target

    def test_memory_regularization_is_refused(self) -> None:
        message = "--lambda-kl-target 0.1.*--network deeplab_oracle has one; give 0"
        with pytest.raises(UserError, match=message):
            self.make(lambda_kl_target=0.1)

    def test_rectifying_is_refused(self) -> None:
        network = small_network(architecture="deeplab_oracle")
        with pytest.raises(
            UserError, match=r"--pseudo-label-loss rectified.*--network deeplab_oracle has one"
        ):
            make_trainer("rectified", network=network)
