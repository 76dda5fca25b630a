"""Whole training iterations of both stages against the authors' trainers, in float64 (train_steps.npz)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import cases, golden_state, golden_tensor, load_json, load_npz
from torch import nn

from data_loaders.samples import Batch
from networks import build
from networks.discriminators import MultiScaleDiscriminator
from networks.spec import NetworkSpec
from trainers.base import LoopSettings
from trainers.memory import MemoryRegularizedTrainer, MemorySettings
from trainers.rectified import RectifiedTrainer
from utils.class_spaces import IGNORE_LABEL
from utils.distributed import World

TRAINERS = {"memory_regularisation": MemoryRegularizedTrainer, "rectified": RectifiedTrainer}
COLUMNS = {
    "loss_seg1": "loss/seg_aux",
    "loss_seg2": "loss/seg_main",
    "loss_adv_target1": "loss/adv_aux",
    "loss_adv_target2": "loss/adv_main",
    "loss_me": "loss/entropy",
    "loss_kl": "loss/kl",
    "loss_D1": "loss/D_aux",
    "loss_D2": "loss/D_main",
    "val_loss": "loss/target_seg",
}


def make_network(config: dict[str, Any]) -> nn.Module:
    """The published generator at golden weights, in float64, fed with normalised floats."""
    spec = NetworkSpec(
        architecture="deeplab_two_head",
        backbone="resnet101_caffe",
        num_classes=config["num_classes"],
        class_space="cityscapes19" if config["num_classes"] == 19 else "robotcar9",
        options={
            "norm_style": config["norm_style"],
            "use_se": config["use_se"],
            "drop_rate": config["droprate"],
        },
    )
    network = build(spec)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(golden_state(shapes))
    network.normalize = nn.Identity()
    return network.double()


def make_discriminator(config: dict[str, Any], prefix: str) -> MultiScaleDiscriminator:
    discriminator = MultiScaleDiscriminator(config["num_classes"])
    state = {
        name: torch.from_numpy(golden_tensor(prefix + name, tuple(tensor.shape)))
        for name, tensor in discriminator.state_dict().items()
    }
    discriminator.load_state_dict(state)
    return discriminator.double()


def make_trainer(config: dict[str, Any]) -> MemoryRegularizedTrainer:
    settings = MemorySettings(
        learning_rate=config["learning_rate"],
        momentum=config["momentum"],
        weight_decay=config["weight_decay"],
        num_steps=config["num_steps"],
        power=config["power"],
        warm_up=config["warm_up"],
        lambda_seg=config["lambda_seg"],
        class_balance=config["class_balance"],
        often_balance=config["often_balance"],
        max_value=config["max_value"],
        only_hard_label=config["only_hard_label"],
        learning_rate_discriminator=config["learning_rate_D"],
        lambda_adv_target1=config["lambda_adv_target1"],
        lambda_adv_target2=config["lambda_adv_target2"],
        lambda_me_target=config["lambda_me_target"],
        lambda_kl_target=config["lambda_kl_target"],
        unweighted_terms=True,
    )
    return TRAINERS[config["trainer"]](
        network=make_network(config),
        discriminators=(make_discriminator(config, "D1."), make_discriminator(config, "D2.")),
        settings=settings,
        world=World(rank=0, size=1, local_rank=0, device=torch.device("cpu")),
        loop=LoopSettings(num_steps_stop=config["num_steps"], train_batch_norm_affine=config["train_bn"]),
    )


def batches_of_step(
    config: dict[str, Any], arrays: dict[str, np.ndarray], case: str, step: int
) -> dict[str, Batch]:
    shape = (config["n"], 3, *config["crop_hw"])
    rng = np.random.default_rng(config["seed"] + step)
    names, sizes = ("image",) * config["n"], torch.tensor([config["crop_hw"]] * config["n"])
    made = {}
    for stream, labels in (("source", "labels"), ("target", "labels_t")):
        image = torch.from_numpy((rng.standard_normal(shape) * 50).astype(np.float32)).double()
        label = torch.from_numpy(arrays[f"{case}/{labels}_{step}"])
        made[stream] = Batch(image=image, label=label, names=names, sizes=sizes)
    return made


@pytest.mark.parametrize("case", cases("mrnet", "train_steps.npz", "config"))
def test_iterations_match_the_authors_trainer(case: str) -> None:
    arrays = load_npz("mrnet", "train_steps.npz")
    config = json.loads(str(arrays[f"{case}/config"]))
    columns = [str(name) for name in arrays[f"{case}/loss_columns"]]
    trainer = make_trainer(config)
    entries = sorted(key.split("/", 2)[2] for key in arrays if key.startswith(f"{case}/delta_norm/"))
    initial = {name: trainer.network.state_dict()[name].clone() for name in entries}

    for step, iteration in enumerate(config["iters"]):
        trainer.run_iteration(iteration, [batches_of_step(config, arrays, case, step)])
        terms = trainer.meter.read()
        expected = dict(zip(columns, arrays[f"{case}/losses"][step], strict=True))
        assert expected.pop("i_iter") == iteration
        for column, value in expected.items():
            ours = terms.get(COLUMNS[column], 0.0)
            if column == "val_loss" and np.isnan(value):  # the reference divides by zero; ours is 0
                assert (arrays[f"{case}/labels_t_{step}"] == IGNORE_LABEL).all()
                assert terms[COLUMNS[column]] == 0
                continue
            np.testing.assert_allclose(ours, value, rtol=1e-6, err_msg=f"{column} at iteration {iteration}")
        np.testing.assert_allclose(
            trainer.class_weights.weight.numpy(), arrays[f"{case}/class_weight_{step}"], rtol=1e-12
        )
        for name in entries:
            delta = trainer.network.state_dict()[name] - initial[name]
            norm = arrays[f"{case}/delta_norm/{name}"][step]
            np.testing.assert_allclose(
                delta.norm().item(), norm, rtol=1e-5, atol=1e-12, err_msg=f"norm {name}"
            )
            total = arrays[f"{case}/delta_sum/{name}"][step]
            slack = 1e-5 * float(norm) * delta.numel() ** 0.5
            np.testing.assert_allclose(
                delta.sum().item(), total, rtol=1e-5, atol=slack, err_msg=f"sum {name}"
            )

    for name in entries:
        delta = (trainer.network.state_dict()[name] - initial[name]).flatten()[:16].numpy()
        golden = arrays[f"{case}/delta_first16/{name}"]
        np.testing.assert_allclose(delta, golden, rtol=1e-5, atol=1e-5 * np.abs(golden).max(), err_msg=name)


def test_every_manifest_entry_is_filled() -> None:
    """The weights of these tests come from the published key list."""
    manifest = load_json("mrnet", "state_dict_deeplab_se_gn_19.json")
    config = {"num_classes": 19, "norm_style": "gn", "use_se": True, "droprate": 0.0}
    assert {name: list(t.shape) for name, t in make_network(config).state_dict().items()} == manifest
