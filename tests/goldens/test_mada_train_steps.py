"""Two whole iterations of either stage on MADA's network against the authors' code (stage1_steps.npz,
stage2_steps.npz), in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import load_npz
from mada_networks import NO_DROPOUT, forget_weights, golden_network
from torch import Tensor, nn

from data_loaders.samples import Batch
from tests.toy_training import WORLD
from trainers.anchored import AnchoredSettings, AnchoredTrainer
from trainers.loop_settings import LoopSettings
from utils.class_spaces import IGNORE_LABEL

FILES = ("stage1_steps.npz", "stage2_steps.npz")
DOMAINS = ("source", "target", "active")
RTOL = 1e-8


@pytest.fixture(scope="module", autouse=True)
def _free_the_weights() -> Iterator[None]:
    yield
    replayed.cache_clear()
    forget_weights()


def batch(case: dict[str, Any], iteration: int, domain: str) -> Batch:
    """Blocky images and labels of the recipe."""
    count, height, width = case["shape"].tolist()
    seed = int(case["base"]) + 100 * iteration + 10 * DOMAINS.index(domain)
    image = np.random.default_rng(seed).random((count, 3, -(-height // 16), -(-width // 16)))
    image = image.astype(np.float32).repeat(16, 2).repeat(16, 3)[:, :, :height, :width]
    brightness = ((np.arange(count) + 1) / count).astype(np.float32).reshape(-1, 1, 1, 1)
    label = np.random.default_rng(seed + 1).integers(0, 19, (count, -(-height // 8), -(-width // 8)))
    label = label.repeat(8, 1).repeat(8, 2)[:, :height, :width].copy()
    label[np.random.default_rng(seed + 2).random(label.shape) < 0.2] = IGNORE_LABEL
    truth = None if domain == "target" else torch.from_numpy(label.astype(np.uint8))
    images = torch.from_numpy(image * brightness).double()
    return Batch(images, truth, tuple(f"{i}" for i in range(count)), torch.tensor([[height, width]] * count))


def start_anchors(case: dict[str, Any]) -> Tensor:
    base = int(case["base"])
    shape = (len(case["centroid_delta_norm"]), 19, 256)
    values = (np.abs(np.random.default_rng(base + 7).standard_normal(shape)) * 0.8).astype(np.float32)
    values[np.random.default_rng(base + 8).random(shape[:2]) < 0.3] = 0
    return torch.from_numpy(values).double()


@lru_cache(maxsize=2)
def replayed(name: str) -> dict[str, Any]:
    """Losses, changes of all parameters and the end state of our trainer."""
    case = load_npz("mada", name)
    network = golden_network(**NO_DROPOUT).double().train()
    network.normalize = nn.Identity()
    stage_two = "centroid_delta_norm" in case
    trainer = AnchoredTrainer(
        network=network,
        settings=AnchoredSettings(),
        anchors=start_anchors(case) if stage_two else torch.zeros(10, 19, 256).double(),
        world=WORLD,
        loop=LoopSettings(num_steps_stop=2, train_batch_norm_affine=True),
    )
    start = {key: value.detach().clone() for key, value in network.named_parameters()}
    names = ("active", "source", "target") if stage_two else ("active", "source")
    losses, rates, changes = [], [], []
    for iteration in range(len(case["losses64"])):
        trainer.run_iteration(iteration, [{domain: batch(case, iteration, domain) for domain in names}])
        losses.append(trainer.meter.read())
        rates.append({group["lr"] for group in trainer.optimizers["segmentation"].param_groups})
        changes.append([(value.detach() - start[key]).norm() for key, value in network.named_parameters()])
    ours = {"losses": losses, "rates": rates, "changes": torch.tensor(changes), "start": start}
    return ours | {"anchors": trainer.anchors.values, "state": network.state_dict()}


def in_reference_terms(terms: dict[str, float]) -> dict[str, float]:
    """The reference logs the weighted alignment, and everything but the bought images as `loss`."""
    pseudo, alignment = terms.get("loss/pseudo", 0.0), 0.7 * terms.get("loss/alignment", 0.0)
    return {
        "loss": terms["loss/source"] + pseudo + alignment,
        "loss_cls_L2_weighted": alignment,
        "loss_pseudo": pseudo,
        "loss_active": terms["loss/active"],
    }


@pytest.mark.parametrize("name", FILES)
def test_losses_and_rates(name: str) -> None:
    case, ours = load_npz("mada", name), replayed(name)
    names = case["loss_names"].tolist()
    losses = [[in_reference_terms(terms)[key] for key in names] for terms in ours["losses"]]
    np.testing.assert_allclose(losses, case["losses64"], rtol=RTOL)
    for rates, expected in zip(ours["rates"], case["lr"], strict=True):
        np.testing.assert_allclose(list(rates), [expected], rtol=1e-12)


@pytest.mark.parametrize("name", FILES)
def test_every_parameter_moves_as_far(name: str) -> None:
    case, ours = load_npz("mada", name), replayed(name)
    np.testing.assert_allclose(ours["changes"].numpy(), case["delta_norm64"], rtol=1e-6, atol=1e-14)
    for key, expected in ((key, value) for key, value in case.items() if key.startswith("param_delta/")):
        entry = key.removeprefix("param_delta/")
        change = (ours["state"][entry] - ours["start"][entry]).reshape(-1)[:64].numpy()
        np.testing.assert_allclose(change, expected, rtol=1e-6, atol=1e-12, err_msg=entry)


@pytest.mark.parametrize("name", FILES)
def test_running_statistics(name: str) -> None:
    case, ours = load_npz("mada", name), replayed(name)
    entries = {key.removeprefix("bn/"): value for key, value in case.items() if key.startswith("bn/")}
    assert entries
    for entry, expected in entries.items():
        value = ours["state"][entry].reshape(-1)[:48].numpy()
        np.testing.assert_allclose(value, expected, rtol=RTOL, err_msg=entry)


def test_the_nearest_anchor_follows() -> None:
    case, ours = load_npz("mada", FILES[1]), replayed(FILES[1])
    moved = (ours["anchors"] - start_anchors(case)).flatten(1).norm(dim=1)
    np.testing.assert_allclose(moved.numpy(), case["centroid_delta_norm"], rtol=RTOL, atol=1e-12)
    after = ours["anchors"][:, :, :6].numpy()
    np.testing.assert_allclose(after, case["centroid_after_first6"], rtol=RTOL, atol=1e-12)
    alignment = [terms["loss/alignment"] for terms in ours["losses"]]
    of_target = case["min_order"] == "target"  # the reference also computes the source's, for nothing
    np.testing.assert_allclose(alignment, case["min_loss64"][of_target], rtol=RTOL)
    assert set(np.flatnonzero(moved.numpy())) == set(case["min_index"][of_target])
