"""All losses of one update on fixed logits: values, gradients, class weights, hard pixels and both
discriminators' update (trainer_losses.npz)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import cases, golden_state, load_npz
from torch import Tensor

from losses.adversarial import discriminator_loss, generator_loss
from losses.class_balance import ClassWeights
from losses.memory import confident_entropy, memory_regularization
from losses.rectified import rectified_losses
from losses.segmentation import (
    HardPixelLoss,
    hard_pixel_cross_entropy,
    pixel_cross_entropy,
    pixel_weight,
    weighted_cross_entropy,
)
from networks.discriminators import MultiScaleDiscriminator
from utils import maths
from utils.class_spaces import IGNORE_LABEL
from utils.optimizers import build_adam

ARCHIVE = "trainer_losses.npz"
LOSS_RTOL, GRADIENT_RTOL = 2e-6, 1e-4  # float32 on both sides
THRESHOLD_MARGIN = 1e-5  # relative; closer pixels may fall on either side
GATE = 15_000  # first iteration with the entropy and memory terms
DISCRIMINATOR_LR = 1e-4


@dataclass
class Update:
    """One generator update of the method, and the update of the discriminators where they learn."""

    config: dict[str, Any]
    weights: ClassWeights
    low: dict[str, Tensor]
    terms: dict[str, Tensor] = field(default_factory=dict)
    hard: list[HardPixelLoss] = field(default_factory=list)
    full: dict[str, Tensor] = field(default_factory=dict)
    discriminators: list[MultiScaleDiscriminator] = field(default_factory=list)


def _low_resolution_logits(config: dict[str, Any]) -> dict[str, Tensor]:
    shape = (config["n"], config["num_classes"], *config["lowres"])
    t = [
        (np.random.default_rng(config["seed"] + j).standard_normal(shape) * 3).astype(np.float32)
        for j in range(4)
    ]
    mixed = [(0.6 * t[j] + 0.5 * t[j + 1]).astype(np.float32) for j in (0, 2)]
    arrays = {"src_aux": t[0], "src_main": mixed[0], "tgt_aux": t[2], "tgt_main": mixed[1]}
    return {name: torch.from_numpy(array).requires_grad_() for name, array in arrays.items()}


def _discriminator(name: str, num_classes: int) -> MultiScaleDiscriminator:
    network = MultiScaleDiscriminator(num_classes)
    shapes = {entry: list(value.shape) for entry, value in network.state_dict().items()}
    network.load_state_dict(golden_state(shapes, name + "."))
    return network


def _segmentation(update: Update, labels: Tensor) -> None:
    """Fills loss_seg1 (auxiliary) and loss_seg2 (main), and the hard pixels of each head."""
    config, weight = update.config, update.weights.update(labels)
    heads = (update.full["src_aux"], update.full["src_main"])
    if config["trainer"] == "rectified":
        losses = rectified_losses(*heads, labels, weight)
    elif config["only_hard_label"] > 0:
        update.hard = [hard_pixel_cross_entropy(z, labels, weight, config["only_hard_label"]) for z in heads]
        losses = [hard.loss for hard in update.hard]
    else:
        losses = [weighted_cross_entropy(logits, labels, weight) for logits in heads]
    update.terms["loss_seg1"], update.terms["loss_seg2"] = losses


def _target(update: Update) -> None:
    """Fills the terms on target images; those behind the gate are 0 before it."""
    auxiliary, main = update.full["tgt_aux"], update.full["tgt_main"]
    for number, logits in enumerate((auxiliary, main), start=1):
        network = update.discriminators[number - 1].requires_grad_(False)
        update.terms[f"loss_adv_target{number}"] = generator_loss(network(maths.softmax(logits)))
        network.requires_grad_(True)
    open_gate = update.config["i_iter"] >= GATE
    zero = torch.zeros(())
    for name, term in (("me", confident_entropy), ("kl", memory_regularization)):
        wanted = open_gate and update.config[f"lambda_{name}_target"] > 0
        update.terms[f"loss_{name}"] = term(auxiliary, main) if wanted else zero


def _generator_update(case: str) -> Update:
    golden = load_npz("mrnet", ARCHIVE)
    config = json.loads(str(golden[f"{case}/config"]))
    weights = ClassWeights(
        config["num_classes"],
        max_value=config["max_value"],
        class_balance=config["class_balance"],
        often_balance=config["often_balance"],
    )
    update = Update(config, weights, _low_resolution_logits(config))
    update.discriminators = [_discriminator(name, config["num_classes"]) for name in ("D1", "D2")]
    update.full = {name: maths.upsample(low, config["crop"]) for name, low in update.low.items()}
    _segmentation(update, torch.from_numpy(golden[f"{case}/labels"]))
    _target(update)
    terms = update.terms
    terms["total_gen"] = (
        terms["loss_seg2"]
        + config["lambda_seg"] * terms["loss_seg1"]
        + config["lambda_adv_target1"] * terms["loss_adv_target1"]
        + config["lambda_adv_target2"] * terms["loss_adv_target2"]
        + config["lambda_me_target"] * terms["loss_me"]
        + config["lambda_kl_target"] * terms["loss_kl"]
    )
    labels = torch.from_numpy(golden[f"{case}/labels_t"])
    terms["val_loss"] = weighted_cross_entropy(update.full["tgt_main"], labels, weights.weight)
    return update


def _fields(case: str) -> dict[str, np.ndarray]:
    golden = load_npz("mrnet", ARCHIVE)
    return {
        key.removeprefix(case + "/"): value for key, value in golden.items() if key.startswith(case + "/")
    }


CASES = cases("mrnet", ARCHIVE, "config")


@pytest.mark.parametrize("case", CASES)
def test_losses_equal_the_reference(case: str) -> None:
    golden, update = _fields(case), _generator_update(case)
    if np.isnan(golden["val_loss"]):  # the reference divides by zero; ours is 0
        assert (golden["labels_t"] == IGNORE_LABEL).all()
        assert update.terms.pop("val_loss") == 0
    for name, term in update.terms.items():
        np.testing.assert_allclose(term.item(), golden[name], rtol=LOSS_RTOL, err_msg=name)
    for name, buffer in (("class_weight", update.weights.weight), ("often_weight", update.weights.often)):
        np.testing.assert_allclose(buffer.numpy(), golden[name], rtol=LOSS_RTOL, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_total_equal_the_reference(case: str) -> None:
    golden, update = _fields(case), _generator_update(case)
    update.terms["total_gen"].backward()
    for name, low in update.low.items():
        gradient = torch.zeros_like(low) if low.grad is None else low.grad
        expected = golden[f"grad_{name}"]
        norm = golden[f"gradnorm_{name}"]
        np.testing.assert_allclose(gradient.norm().item(), norm, rtol=GRADIENT_RTOL, err_msg=name)
        np.testing.assert_allclose(
            gradient[:, :, ::2, ::3].numpy(),
            expected,
            rtol=GRADIENT_RTOL,
            atol=GRADIENT_RTOL * np.abs(expected).max(),
            err_msg=name,
        )


@pytest.mark.parametrize("case", CASES)
def test_hard_pixels_equal_the_reference(case: str) -> None:
    golden, update = _fields(case), _generator_update(case)
    assert len(update.hard) == len(golden["percentiles"])
    thresholds = [hard.threshold.item() for hard in update.hard]
    np.testing.assert_allclose(thresholds, golden["percentiles"], rtol=LOSS_RTOL)
    labels = torch.from_numpy(golden["labels"])
    for number, hard in enumerate(update.hard, start=1):
        logits = update.full[("src_aux", "src_main")[number - 1]].detach()
        loss = pixel_cross_entropy(logits, labels)
        loss = loss * pixel_weight(labels, update.weights.weight, loss.dtype)
        threshold = golden["percentiles"][number - 1]
        decided = (np.abs(loss.numpy() - threshold) > THRESHOLD_MARGIN * threshold).reshape(-1)
        kept = (hard.labels != IGNORE_LABEL).numpy().reshape(-1)
        expected = np.unpackbits(golden[f"kept_mask_seg{number}"], count=kept.size).astype(bool)
        assert np.array_equal(kept[decided], expected[decided])
        count = int(golden[f"kept_count_seg{number}"])
        assert abs(int(kept.sum()) - count) <= int((~decided).sum())


@pytest.mark.parametrize("case", CASES)
def test_discriminator_update_equals_the_reference(case: str) -> None:
    golden, update = _fields(case), _generator_update(case)
    config, full = update.config, update.full
    learns = config["lambda_adv_target1"] > 0 and config["lambda_adv_target2"] > 0
    if not learns:
        assert "loss_D1" not in golden
        return
    real = maths.softmax(0.5 * full["src_aux"] + full["src_main"])
    losses = [
        discriminator_loss(network, maths.softmax(full[head]), real)[0]
        for network, head in zip(update.discriminators, ("tgt_aux", "tgt_main"), strict=True)
    ]
    total = losses[0] + losses[1]
    np.testing.assert_allclose(total.item(), golden["total_dis"], rtol=LOSS_RTOL)
    total.backward()
    assert all(low.grad is None for low in update.low.values()), (
        "the discriminators' update reached the generator"
    )
    for number, (loss, network) in enumerate(zip(losses, update.discriminators, strict=True), start=1):
        np.testing.assert_allclose(loss.item(), golden[f"loss_D{number}"], rtol=LOSS_RTOL)
        norms = [parameter.grad.norm().item() for parameter in network.parameters()]
        np.testing.assert_allclose(norms, golden[f"D{number}_param_grad_norms"], rtol=GRADIENT_RTOL)
        build_adam(network.parameters(), lr=DISCRIMINATOR_LR, betas=(0.9, 0.99)).step()
        _check_weights(network, f"D{number}_after_step_", golden)


def _check_weights(network: MultiScaleDiscriminator, prefix: str, golden: dict[str, np.ndarray]) -> None:
    """Weights after Adam's first step, which moves every weight by about the learning rate."""
    state = network.state_dict()
    names = [name for name in golden if name.startswith(prefix)]
    assert names
    for name in names:
        entry = name.removeprefix(prefix)
        value = state[entry.removesuffix("_strided")].numpy()
        value = value[::4, ::4] if entry.endswith("_strided") else value
        np.testing.assert_allclose(value, golden[name], rtol=0, atol=0.01 * DISCRIMINATOR_LR, err_msg=name)
