"""Whole SGD steps on the published networks against the authors' code (train_steps.npz / .json)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import golden_path, load_json, load_npz
from ripu_networks import ARCHITECTURES, forget_weights, golden_network, published_name
from torch import Tensor, nn

from data_loaders.samples import Batch
from tests.toy_active import active_trainer
from tests.toy_training import WORLD
from trainers.base import Trainer
from trainers.loop_settings import LoopSettings
from trainers.supervised import SupervisedSettings, SupervisedTrainer
from utils.class_spaces import IGNORE_LABEL

TERMS = {
    "sup": "loss/source",
    "sup_tgt": "loss/target",
    "cr": "loss/consistency",
    "nl": "loss/negative",
}
STRIDES = {
    "fe.backbone.conv1.weight": 11,
    "fe.backbone.layer1.0.conv1.weight": 7,
    "fe.backbone.layer3.10.conv2.weight": 997,
    "fe.backbone.layer4.2.conv3.weight": 1999,
}
CLASSIFIER_STRIDE = 101
BATCH = 2


def named_cases() -> list[str]:
    """Cases of the JSON file; one placeholder where it is missing."""
    try:
        path = golden_path("ripu", "train_steps.json")
    except BaseException:
        return ["missing-goldens"]
    return [name for name in load_json("ripu", path.name) if not name.startswith("_")]


@pytest.fixture(scope="module", autouse=True)
def _free_the_weights() -> Iterator[None]:
    yield
    forget_weights()


def images(seed: int, case: dict[str, Any]) -> Tensor:
    drawn = np.random.default_rng(seed).standard_normal((BATCH, 3, case["H"], case["W"]))
    return torch.from_numpy(drawn.astype(np.float32))


def blocks(seed: int, case: dict[str, Any]) -> Tensor:
    rng = np.random.default_rng(seed)
    height, width = case["H"], case["W"]
    cells = rng.integers(0, case["num_classes"], (BATCH, -(-height // 4), -(-width // 4)))
    cells[rng.random(cells.shape) < 0.15] = IGNORE_LABEL
    return torch.from_numpy(cells.repeat(4, 1).repeat(4, 2)[:, :height, :width].copy())


def sparse(seed: int, case: dict[str, Any]) -> Tensor:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, case["num_classes"], (BATCH, case["H"], case["W"]))
    label[rng.random(label.shape) > 0.03] = IGNORE_LABEL
    return torch.from_numpy(label)


def batches(case: dict[str, Any], step: int) -> dict[str, Batch]:
    """The batches of a step, with the streams that its variant reads."""
    seed = case["seed"] + 10 * step
    unlabelled = torch.full((BATCH, case["H"], case["W"]), IGNORE_LABEL)
    target_label = unlabelled if step == 0 else sparse(seed + 3, case)
    names, sizes = ("a", "b"), torch.tensor([[case["H"], case["W"]]] * BATCH)
    source = Batch(images(seed, case), blocks(seed + 2, case), names, sizes)
    target = Batch(images(seed + 1, case), target_label, names, sizes)
    return {
        "adapt": {"source": source, "target": target},
        "source_free": {"target": target},
        "source_only": {"source": source},
    }[case["variant"]]


def make_trainer(case: dict[str, Any], folder: Path) -> Trainer:
    """The trainer of the case at golden weights, dropout off."""
    network = copy.deepcopy(golden_network(ARCHITECTURES[case["model"]], case["num_classes"]))
    network.normalize = nn.Identity()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
    settings = {"learning_rate": case["base_lr"], "num_steps": case["max_iter"], "optimizer": "sgd-plain"}
    if case["variant"] == "source_only":
        loop = LoopSettings(num_steps_stop=1, batch_norm="frozen")
        return SupervisedTrainer(
            network=network, settings=SupervisedSettings(**settings), world=WORLD, loop=loop
        )
    return active_trainer(
        folder,
        network=network,
        settings={**settings, "select_iterations": (0,)},
        loop={"batch_norm": "frozen"},
        streams={},
    )


def gradient_norm(trainer: Trainer, part: str) -> float:
    """L2 norm over the backbone (fe) or the head (cls)."""
    network = trainer.network
    named = network.backbone_parameters() if part == "fe" else network.head_parameters()
    squares = [value.grad.double().square().sum() for _, value in named if value.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def strided(trainer: Trainer, key: str, values: dict[str, Tensor]) -> np.ndarray:
    """The entry that a golden array shows, flattened and thinned as it was stored."""
    by_published = {}
    for name, value in values.items():
        part, published = published_name(name, trainer.network)
        by_published[f"{'fe' if part == 'feature_extractor' else 'cls'}.{published}"] = value
    stride = STRIDES.get(key, CLASSIFIER_STRIDE)
    return by_published[key].detach().reshape(-1)[::stride].numpy()


@pytest.mark.parametrize("name", named_cases())
def test_steps_are_the_authors(name: str, tmp_path: Path) -> None:
    case = load_json("ripu", "train_steps.json")[name]
    arrays = load_npz("ripu", "train_steps.npz")
    trainer = make_trainer(case, tmp_path)
    before = {key: value.detach().clone() for key, value in trainer.network.named_parameters()}
    checked = 0
    for step, record in enumerate(case["records"]):
        assert trainer.learning_rates(record["iter"])["segmentation"] == pytest.approx(
            record["lr"], rel=1e-12
        )
        trainer.run_iteration(record["iter"], [batches(case, step)])
        terms = trainer.meter.read()
        for key, term in TERMS.items():
            term = "loss/seg_main" if case["variant"] == "source_only" else term
            if key in record:
                expected = record[key] / (0.1 if key == "cr" else 1.0)
                assert terms[term] == pytest.approx(expected, rel=1e-4, abs=1e-7), (step, key)
                checked += 1
        for part in ("fe", "cls"):
            assert gradient_norm(trainer, part) == pytest.approx(record[f"grad_norm_{part}"], rel=1e-3)
        if step == 0:
            gradients = {
                key: value.grad for key, value in trainer.network.named_parameters() if value.grad is not None
            }
            compare(arrays, f"{name}/grad0/", trainer, gradients, share=1e-3)
    deltas = {key: value - before[key] for key, value in trainer.network.named_parameters()}
    compare(arrays, f"{name}/delta/", trainer, deltas, share=1e-2)
    assert checked >= len(case["records"])


def compare(
    arrays: dict[str, np.ndarray], prefix: str, trainer: Trainer, values: dict[str, Tensor], *, share: float
) -> None:
    """Every array below the prefix, to a share of its largest entry."""
    keys = [key for key in arrays if key.startswith(prefix)]
    assert keys, f"no array {prefix}..."
    for key in keys:
        expected = arrays[key]
        ours = strided(trainer, key.removeprefix(prefix), values)
        assert np.abs(ours - expected).max() <= share * np.abs(expected).max(), key
