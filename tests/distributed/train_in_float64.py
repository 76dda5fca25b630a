"""Worker of test_distributed_equality.py: trains a small network in float64 on drawn images and saves its
weights.

Usage: train_in_float64.py OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_loaders.samples import Sample
from data_loaders.streams import SampleStream
from networks import build
from networks.discriminators import MultiScaleDiscriminator
from networks.spec import NetworkSpec
from trainers.base import LoopSettings, Trainer
from trainers.memory import MemoryRegularizedTrainer, MemorySettings
from trainers.rectified import RectifiedTrainer
from trainers.supervised import SupervisedSettings, SupervisedTrainer
from utils import distributed, seeding

GLOBAL_BATCH = 4
ITERATIONS = 5
SIZE = (33, 48)


class DrawnImages:
    """Noise images with blocky labels; a sample depends on its draw alone."""

    def __init__(self, labelled: bool) -> None:
        self.labelled = labelled

    def __len__(self) -> int:
        return 16

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """One image (3, H, W) and its label with all classes and some ignored pixels."""
        image = torch.from_numpy(generator.integers(0, 256, (3, *SIZE), dtype=np.uint8))
        blocks = generator.integers(0, 20, (5, 6), dtype=np.uint8)
        blocks[blocks == 19] = 255
        label = torch.from_numpy(np.kron(blocks, np.ones((7, 8), np.uint8))[: SIZE[0], : SIZE[1]].copy())
        return Sample(image=image, label=label if self.labelled else None, name=f"{index}", size=SIZE)


def make_trainer(method: str, batch_norm: str, world: distributed.World) -> Trainer:
    """The method's trainer with every term on and dropout off."""
    seeding.seed_everything(3)
    spec = NetworkSpec(
        "deeplab_two_head",
        "resnet18_quarter",
        19,
        "cityscapes19",
        {
            "norm_style": "gn",
            "use_se": True,
            "drop_rate": 0.0,
            "head_channels": 16,
            "bottleneck_channels": 16,
        },
    )
    network = build(spec).double()
    discriminators = (MultiScaleDiscriminator(19).double(), MultiScaleDiscriminator(19).double())
    common = {
        "learning_rate": 1e-3,
        "num_steps": 100,
        "warm_up": 3,
        "class_balance": True,
        "often_balance": True,
    }
    common |= {"max_value": 7.0, "lambda_seg": 0.5}
    streams = {
        name: SampleStream(
            DrawnImages(labelled=name == "source"),
            seed=5,
            name=name,
            global_batch=GLOBAL_BATCH,
            rank=world.rank,
            world_size=world.size,
        )
        for name in (("source",) if method == "source" else ("source", "target"))
    }
    loop = {
        "network": network,
        "world": world,
        "streams": streams,
        "loop": LoopSettings(num_steps_stop=ITERATIONS, batch_norm=batch_norm, train_batch_norm_affine=True),
    }
    if method == "source":
        return SupervisedTrainer(settings=SupervisedSettings(**common, only_hard_label=60), **loop)
    target = {"lambda_me_target": 0.05, "lambda_kl_target": 0.1, "target_terms_start": 2}
    if method == "mrnet":
        settings = MemorySettings(**common, **target, only_hard_label=60)
        return MemoryRegularizedTrainer(discriminators=discriminators, settings=settings, **loop)
    settings = MemorySettings(**common, **target, lambda_adv_target1=0, lambda_adv_target2=0)
    kind = RectifiedTrainer if method == "rectified" else MemoryRegularizedTrainer
    return kind(discriminators=discriminators, settings=settings, **loop)


def train(method: str, batch_norm: str, world: distributed.World) -> dict[str, object]:
    """What must be equal after a short run: weights, running statistics, method state, logged means."""
    trainer = make_trainer(method, batch_norm, world)
    losses = []
    for iteration in range(ITERATIONS):
        trainer.run_iteration(iteration, trainer.next_batches())
        losses.append(trainer.meter.read())
    state = {f"network/{name}": value for name, value in trainer.network.state_dict().items()}
    for module_name, module in trainer.method_modules().items():
        state |= {f"{module_name}/{name}": value for name, value in module.state_dict().items()}
    return {"state": state, "losses": losses}


def main() -> None:
    """Trains every method with every BatchNorm mode and saves the results."""
    torch.set_num_threads(1)
    with distributed.session("cpu", timeout_s=120) as world:
        results = {
            f"{method}-{batch_norm}": train(method, batch_norm, world)
            for method in ("source", "mrnet", "plain", "rectified")
            for batch_norm in ("sync", "frozen")
        }
        if world.is_main:
            torch.save(results, sys.argv[1])


if __name__ == "__main__":
    main()
