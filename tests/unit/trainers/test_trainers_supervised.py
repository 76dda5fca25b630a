"""Supervised steps: losses of one or two heads, class weights, optimisers."""

from __future__ import annotations

import pytest
import torch

from losses.segmentation import hard_pixel_cross_entropy, weighted_cross_entropy
from tests.toy_training import copied_state, drawn_batch, drawn_batches, make_trainer, small_network
from trainers.base import Trainer
from utils.optimizers import RepeatedSGD


def outputs_and_terms(trainer: Trainer, iteration: int = 0) -> tuple[float, dict[str, float]]:
    output = trainer.steps[0].module(drawn_batches(ignored=True), {}, iteration)
    return output.loss.item(), {name: value.item() for name, value in output.terms.items()}


def test_loss_is_the_main_head_plus_the_weighted_auxiliary() -> None:
    loss, terms = outputs_and_terms(make_trainer("source", settings={"lambda_seg": 0.3}))
    assert set(terms) == {"loss/seg_main", "loss/seg_aux"}
    assert loss == pytest.approx(terms["loss/seg_main"] + 0.3 * terms["loss/seg_aux"])


def test_terms_are_cross_entropies_at_label_resolution() -> None:
    trainer, batch = make_trainer("source"), drawn_batch(2, 0, ignored=True)
    _, terms = outputs_and_terms(trainer)
    auxiliary, main = trainer.steps[0].module.predict(batch.image)
    assert main.shape[-2:] == auxiliary.shape[-2:] == batch.label.shape[-2:]
    for logits, name in ((main, "loss/seg_main"), (auxiliary, "loss/seg_aux")):
        assert terms[name] == pytest.approx(weighted_cross_entropy(logits, batch.label).item(), rel=1e-5)


def test_network_with_one_head_has_one_term_and_trains() -> None:
    trainer = make_trainer("source", network=small_network(architecture="deeplab_oracle"))
    loss, terms = outputs_and_terms(trainer)
    assert terms == {"loss/seg_main": pytest.approx(loss)}
    before = copied_state(trainer.network)
    trainer.run_iteration(0, [{"source": drawn_batch(2, 0)}])
    assert not torch.equal(trainer.network.state_dict()["conv1.weight"], before["conv1.weight"])


def test_hard_labels_leave_the_easy_pixels_of_each_head_out() -> None:
    trainer = make_trainer("source", settings={"only_hard_label": 80})
    batch = drawn_batch(2, 0, ignored=True)
    _, terms = outputs_and_terms(trainer)
    _, plain = outputs_and_terms(make_trainer("source"))
    auxiliary, main = trainer.steps[0].module.predict(batch.image)
    for logits, name in ((main, "loss/seg_main"), (auxiliary, "loss/seg_aux")):
        expected = hard_pixel_cross_entropy(logits, batch.label, None, 80).loss.item()
        assert terms[name] == pytest.approx(expected, rel=1e-5)
        assert terms[name] > plain[name]


def test_class_weights_are_updated_once_per_micro_batch_and_kept_in_snapshots() -> None:
    settings = {"class_balance": True, "often_balance": True, "max_value": 7.0}
    trainer = make_trainer("source", settings=settings)
    label = drawn_batch(2, 0)
    label.label.fill_(1)
    trainer.run_iteration(0, [{"source": label}, {"source": label}])
    often = 1.0
    for _ in range(2):
        often = 0.9 * often + 0.1 * 7.0
    state = trainer.state()["method_state"]["class_weights"]
    assert state["often"].tolist() == pytest.approx([often, 1.0, often, often, often])
    assert state["weight"].tolist() == pytest.approx([7 * often, 7.0, 7 * often, 7 * often, 7 * often])


def test_batch_without_any_label_has_loss_0_and_finite_gradients() -> None:
    trainer, batch = make_trainer("source"), drawn_batch(2, 0)
    batch.label.fill_(255)
    trainer.run_iteration(0, [{"source": batch}])
    assert trainer.meter.read() == {"loss/seg_main": 0.0, "loss/seg_aux": 0.0}
    assert all(torch.isfinite(value).all() for value in trainer.network.state_dict().values())


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, RepeatedSGD),
        ({"quirks": "fixed"}, torch.optim.SGD),
        ({"optimizer": "adamw"}, torch.optim.AdamW),
    ],
)
def test_optimizer_follows_the_settings(settings: dict[str, str], kind: type) -> None:
    trainer = make_trainer("source", settings={**settings, "weight_decay": 0.03})
    optimizer = trainer.optimizers["segmentation"]
    assert type(optimizer) is kind
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.03}
    trainer.run_iteration(0, [drawn_batches()])


def test_steps_work_in_float64_without_losing_digits() -> None:
    trainer = make_trainer("source", double=True, settings={"class_balance": True, "only_hard_label": 50})
    output = trainer.steps[0].module(drawn_batches(), {}, 0)
    assert output.loss.dtype == torch.float64
    assert trainer.class_weights.weight.dtype == torch.float64
