"""Whole training iterations of DIDA and of plain DAFormer against the authors' code (train_step*.npz)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from dida_networks import golden_network
from golden_files import load_npz
from matching_cases import row_cases
from torch import Tensor, nn

from data_loaders.class_mix import class_mask
from data_loaders.samples import Batch
from losses.instance_bank import InstanceBank
from networks.segmentation import SegmentationNetwork
from tests.toy_training import WORLD
from trainers.dida import DidaSettings, DidaStep, DidaTrainer
from trainers.loop_settings import LoopSettings
from trainers.reference import BackboneReference
from trainers.self_training import (
    Mixture,
    SelfTrainingSettings,
    SelfTrainingStep,
    SelfTrainingTrainer,
    StudentPass,
)
from utils.class_spaces import class_space
from utils.maths import upsample

FILES = (
    "train_step.npz",
    "train_step_float64.npz",
    "train_step_raw_fusion_float64.npz",
    "train_step_daformer_baseline_float64.npz",
)
SPACE = class_space("cityscapes19")
TERMS = {
    "decode.loss_seg": ("loss/source", 1.0),
    "decode.acc_seg": ("accuracy/source", 1.0),
    "src.loss_imnet_feat_dist": ("loss/feature_distance", 0.005),
    "mix.decode.loss_seg": ("loss/mixed", 1.0),
    "mix.decode.acc_seg": ("accuracy/mixed", 1.0),
    "instance.loss_in": ("loss/instance", 0.5),
}


class Recorded:
    """Mixed into a step: classes are drawn as the recipe says, and what passes by is kept."""

    golden_seed: int
    images_mixed: int
    mixture: Mixture
    passes: Mapping[str, StudentPass]
    taught: Any

    def source_mask(self, source: Batch) -> Tensor:
        values = np.unique(source.label.numpy())
        chosen = torch.zeros(len(source), 256, dtype=torch.bool)
        for row in chosen:
            order = np.random.default_rng(self.golden_seed + 100 + self.images_mixed).permutation(len(values))
            row[torch.from_numpy(values[order[: (len(values) + 1) // 2]].astype(np.int64))] = True
            self.images_mixed += 1
        return class_mask(source.label, chosen)

    def labels_of(self, *arguments: Any) -> Any:
        self.labels = super().labels_of(*arguments)
        return self.labels

    def _mixture(self, *arguments: Any) -> Mixture:
        self.mixture = super()._mixture(*arguments)
        return self.mixture

    def further_losses(self, passes: Mapping[str, StudentPass], taught: Any, size: tuple[int, int]) -> Any:
        self.passes, self.taught = passes, taught
        return super().further_losses(passes, taught, size)


class RecordedSelfTraining(Recorded, SelfTrainingStep):
    pass


class RecordedDida(Recorded, DidaStep):
    pass


class RecordedTrainer(SelfTrainingTrainer):
    def make_step(self) -> SelfTrainingStep:
        parts = {"teacher": self.teacher, "reference": self.reference}
        return RecordedSelfTraining(self.network, self.settings, **parts)


class RecordedDidaTrainer(DidaTrainer):
    def make_step(self) -> DidaStep:
        parts = {"teacher": self.teacher, "reference": self.reference, "bank": self.bank}
        return RecordedDida(self.network, self.settings, **parts)


def dtype_of(name: str) -> torch.dtype:
    return torch.float64 if "float64" in name else torch.float32


def has_bank(case: dict[str, Any]) -> bool:
    """Whether the file is about DIDA, which logs an instance loss."""
    return "instance.loss_in" in case["log_keys"]


def make_trainer(name: str) -> SelfTrainingTrainer:
    """The trainer of the recipe: golden weights, no dropout, augmentation off.

    The released loop copies parameters alone when it begins, so that the teacher's BatchNorm starts with
    golden statistics of its own.
    """
    networks = golden_networks(name)
    trainer = build_trainer(name, networks)
    own = dict(networks["ema_model."].named_buffers())
    for key, buffer in trainer.teacher.network.named_buffers():
        buffer.copy_(own[key])
    return trainer


def golden_networks(name: str) -> dict[str, SegmentationNetwork]:
    """Student, teacher and ImageNet copy by the prefixes of their entries, for normalised images."""
    networks = {}
    for prefix in ("model.", "ema_model.", "imnet_model."):
        network = golden_network("mit_b0", prefix, drop_rate=0.0, drop_path_rate=0.0)
        network.normalize = nn.Identity()
        networks[prefix] = network.to(dtype_of(name))
    return networks


def build_trainer(name: str, networks: Mapping[str, SegmentationNetwork]) -> SelfTrainingTrainer:
    """The trainer of these networks with the recipe's settings."""
    case = load_npz("dida", name)
    student = networks["model."]
    with torch.no_grad():
        student.decode_head.conv_seg.bias += float(case["conv_seg_bias_shift"])
    threshold, top, bottom = case["thresholds"].tolist()
    settings = {
        "learning_rate": 6e-4,
        "num_steps": 10,
        "power": 1.0,
        "warm_up": 3,
        "warm_up_schedule": "decaying",
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "backbone_norm_decay": False,
        "pseudo_threshold": threshold,
        "ignore_top": int(top),
        "ignore_bottom": int(bottom),
        "jitter_threshold": 1.0,
        "blur": False,
        "feature_distance_classes": SPACE.things,
    }
    loop = LoopSettings(num_steps_stop=10, ema_decay=0.999, ema_copies_buffers=False)
    parts = {"network": student, "world": WORLD, "loop": loop}
    parts["reference"] = BackboneReference(networks["imnet_model."])
    if not has_bank(case):
        return RecordedTrainer(settings=SelfTrainingSettings(**settings), **parts)
    drawn = np.random.default_rng(int(case["seed"])).standard_normal((int(case["K"]), 256))
    bank = InstanceBank(int(case["K"]), 256, SPACE.num_classes)
    bank.set(torch.from_numpy(np.maximum(drawn, 0).astype(np.float32)), torch.from_numpy(case["bank_labels"]))
    settings["bank_update_every"] = 2
    return RecordedDidaTrainer(settings=DidaSettings(**settings), bank=bank.to(dtype_of(name)), **parts)


def batches(name: str, iteration: int) -> dict[str, Batch]:
    """The iteration's images and label, from the recipe's generator."""
    case = load_npz("dida", name)
    count, height, width = case["B_h_w"].tolist()
    rng = np.random.default_rng(int(case["seed"]) + 10 + iteration)

    def image() -> Tensor:
        drawn = rng.standard_normal((count, 3, height, width)).astype(np.float32)
        return torch.from_numpy(drawn).to(dtype_of(name))

    source, target = image(), image()
    coarse = rng.integers(0, 19, (count, 1, height // 16, width // 16)).repeat(16, 2).repeat(16, 3)
    things = rng.choice([6, 7, 11, 13, 17, 18, 255], (count, 1, height // 32, width // 32))
    chosen = rng.random((count, 1, height // 32, width // 32)) < 0.6
    label = np.where(chosen.repeat(32, 2).repeat(32, 3), things.repeat(32, 2).repeat(32, 3), coarse)
    np.testing.assert_array_equal(label, case[f"gt_{iteration}"].repeat(16, 2).repeat(16, 3))
    names, sizes = tuple("ab"[:count].ljust(count, "c")), torch.tensor([[height, width]] * count)
    draws = tuple(range(iteration * count, (iteration + 1) * count))
    labels = torch.from_numpy(label[:, 0].astype(np.uint8))
    return {
        "source": Batch(source, labels, names, sizes, draws=draws),
        "target": Batch(target, None, names, sizes, draws=draws),
    }


@lru_cache(maxsize=1)
def replayed(name: str) -> list[dict[str, Any]]:
    """What every iteration of the recipe gives with our trainer."""
    trainer = make_trainer(name)
    step = trainer.step
    step.golden_seed, step.images_mixed = int(load_npz("dida", name)["seed"]), 0
    results = []
    for iteration in range(len(load_npz("dida", name)["logs"])):
        # the released loop moves the teacher at the beginning of an iteration, ours after the one before
        teacher = {key: value.clone() for key, value in trainer.teacher.network.state_dict().items()}
        trainer.run_iteration(iteration, [batches(name, iteration)])
        student = {key: value.clone() for key, value in trainer.network.state_dict().items()}
        result = {
            "terms": trainer.meter.read(),
            "rates": [group["lr"] for group in trainer.optimizers["segmentation"].param_groups],
            "labels": step.labels,
            "mixture": step.mixture,
            "weights": {f"model.{key}": value for key, value in student.items()},
        }
        buffers = {key: value.clone() for key, value in trainer.teacher.network.named_buffers()}
        result["weights"] |= {f"ema_model.{key}": value for key, value in (teacher | buffers).items()}
        frozen = golden_networks(name)["imnet_model."]  # of which ours keeps the backbone
        frozen.load_state_dict(trainer.reference.network.state_dict(), strict=False)
        result["weights"] |= {f"imnet_model.{key}": value for key, value in frozen.state_dict().items()}
        if hasattr(step, "bank"):
            result["bank"] = step.bank.features.clone()
            result |= similarities(step)
        results.append(result)
    return results


def similarities(step: RecordedDida) -> dict[str, Tensor]:
    """The fused target and the student's normalised similarities, every 8th entry, row and column, the plain
    way."""
    size = tuple(step.mixture.label.shape[-2:])
    mixed, bank = step.passes["mixed"].output, step.bank.features

    def to_bank(features: Tensor) -> Tensor:
        return torch.einsum("ndhw,kd->nkhw", upsample(features, size, align_corners=False), bank)

    with torch.no_grad():
        scores = upsample(mixed.logits, size, align_corners=False)[:, step.bank.labels]
        target, strong = to_bank(step.taught.features) * scores, to_bank(mixed.features)
        return {
            "target_sim": (target / target.sum(dim=1, keepdim=True))[:, ::8, ::8, ::8],
            "strong_sim": (strong / strong.sum(dim=1, keepdim=True))[:, ::8, ::8, ::8],
        }


def iterations() -> list[tuple[str, int | str]]:
    """Every (file, iteration)."""
    return [(name, number) for name in FILES for number in row_cases("dida", name, "logs")]


@pytest.mark.parametrize(("name", "iteration"), iterations())
def test_dida_train_step(name: str, iteration: int) -> None:
    case, ours = load_npz("dida", name), replayed(name)[iteration]
    double = dtype_of(name) == torch.float64
    np.testing.assert_allclose(sorted(set(ours["rates"])), sorted(case["lr"][iteration]), rtol=1e-9)
    _check_labels(case, ours, iteration, exact=double)
    for key, expected in zip(case["log_keys"].tolist(), case["logs"][iteration].tolist(), strict=True):
        term, weight = TERMS[key]
        if "acc" in key:
            atol = 2e-6 if double else 0.05
        else:
            atol = 1e-6 if double else 1e-5 if iteration < 2 else 1e-3
        assert weight * ours["terms"][term] == pytest.approx(expected, abs=atol), key
    atol = 1e-6 if double else 2e-3
    _check_weights(case, ours, iteration, atol=atol)
    if has_bank(case):
        _check_bank(case, ours, iteration, atol=max(atol, 2e-6))


def _check_labels(case: dict[str, Any], ours: dict[str, Any], iteration: int, *, exact: bool) -> None:
    mixture, labels = ours["mixture"], ours["labels"]
    packed = np.packbits(mixture.mask.numpy()[:, None].astype(np.uint8))
    np.testing.assert_array_equal(packed, case[f"masks_{iteration}"])
    different = {
        "pseudo": (labels.label.numpy() != case[f"pseudo_label_{iteration}"]).mean(),
        "mixed": (mixture.label.numpy() != case[f"mixed_label_{iteration}"][:, 0]).mean(),
    }
    assert max(different.values()) <= (0 if exact else 1e-3), different
    atol = 0 if exact else 1e-3
    assert float(labels.ratio) == pytest.approx(
        float(case[f"pseudo_ratio_{iteration}"]), abs=max(atol, 1e-12)
    )
    weight = mixture.weight.numpy()[:, ::4]
    np.testing.assert_allclose(weight, case[f"mixed_weight_{iteration}"][:, 0], atol=max(atol, 1e-7))


def _check_weights(case: dict[str, Any], ours: dict[str, Any], iteration: int, *, atol: float) -> None:
    prefix = f"after_{iteration}__"
    stored = {key.removeprefix(prefix): value for key, value in case.items() if key.startswith(prefix)}
    assert stored
    for name, expected in stored.items():
        value = ours["weights"][name].reshape(-1)[:32].double().numpy()
        np.testing.assert_allclose(value, expected, atol=atol, rtol=0, err_msg=name)


def _check_bank(case: dict[str, Any], ours: dict[str, Any], iteration: int, *, atol: float) -> None:
    """The bank after the iteration, and the similarities to it."""
    bank = ours["bank"].double().numpy()[:, ::16]
    np.testing.assert_allclose(bank, case[f"bank_{iteration}_sub"], atol=atol)
    for field in ("target_sim", "strong_sim"):
        expected = case[f"{field}_{iteration}"]
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(ours[field].double().numpy(), expected, atol=scale * atol, err_msg=field)
