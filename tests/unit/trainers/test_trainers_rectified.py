"""The rectified trainer replaces the segmentation losses and nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.toy_training import drawn_batch, drawn_batches, make_trainer
from tests.unit.losses.plain_losses import rectified_cross_entropy

NO_TARGET = {"lambda_adv_target1": 0.0, "lambda_adv_target2": 0.0, "lambda_kl_target": 0.0}


def test_each_head_is_rectified_by_its_disagreement_with_the_other() -> None:
    trainer, batch = make_trainer("rectified", settings={"lambda_seg": 0.5, **NO_TARGET}), drawn_batch(2, 0)
    output = trainer.steps[0].module({"source": batch}, {}, 0)
    auxiliary, main = trainer.steps[0].module.predict(batch.image)
    expected_main = rectified_cross_entropy(main, auxiliary, batch.label).item()
    expected_auxiliary = rectified_cross_entropy(auxiliary, main, batch.label).item()
    assert output.terms["loss/seg_main"].item() == pytest.approx(expected_main, rel=1e-5)
    assert output.terms["loss/seg_aux"].item() == pytest.approx(expected_auxiliary, rel=1e-5)
    assert output.loss.item() == pytest.approx(expected_main + 0.5 * expected_auxiliary, rel=1e-5)


def test_easy_pixels_are_never_dropped() -> None:
    losses = [
        make_trainer("rectified", settings={"only_hard_label": percentile})
        .steps[0]
        .module(drawn_batches(), {}, 0)
        for percentile in (0.0, 80.0)
    ]
    assert torch.equal(losses[0].loss, losses[1].loss)


def test_target_terms_and_discriminators_are_those_of_memory_regularisation() -> None:
    rectified, plain = make_trainer("rectified"), make_trainer("mrnet")
    outputs = [trainer.steps[0].module(drawn_batches(), {}, 0) for trainer in (rectified, plain)]
    for name in ("loss/adv_aux", "loss/adv_main", "loss/kl"):
        assert torch.equal(outputs[0].terms[name], outputs[1].terms[name])
    assert not torch.equal(outputs[0].terms["loss/seg_main"], outputs[1].terms["loss/seg_main"])
    assert [step.name for step in rectified.steps] == [step.name for step in plain.steps]
    assert rectified.method == "rectified"


def test_batch_without_any_label_teaches_agreement_alone() -> None:
    trainer, batches = make_trainer("rectified", settings=NO_TARGET), drawn_batches()
    batches["source"].label.fill_(255)
    trainer.run_iteration(0, [batches])
    terms = trainer.meter.read()
    assert all(value > 0 for value in terms.values())
    assert all(torch.isfinite(value).all() for value in trainer.network.state_dict().values())
