"""Small networks, drawn batches and trainers for tests of the training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_loaders.samples import Batch, Sample
from data_loaders.streams import SampleStream
from networks import build
from networks.segmentation import SegmentationNetwork
from networks.spec import NetworkSpec
from trainers.base import LoopSettings, Trainer
from trainers.memory import MemoryRegularizedTrainer, MemorySettings, make_discriminators
from trainers.rectified import RectifiedTrainer
from trainers.supervised import SupervisedSettings, SupervisedTrainer
from utils.distributed import World
from utils.runs import Run, open_run

SIZE = (33, 48)  # H, W
NUM_CLASSES = 5
WORLD = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
TRAINERS = {
    "source": SupervisedTrainer,
    "mrnet": MemoryRegularizedTrainer,
    "rectified": RectifiedTrainer,
}


def small_network(
    *, norm_style: str = "gn", drop_rate: float = 0.0, architecture: str = "deeplab_two_head"
) -> SegmentationNetwork:
    """A quarter-width network with the same weights at every call."""
    torch.manual_seed(1)
    options: dict[str, Any] = {"dilations": [1, 2]}
    if architecture == "deeplab_two_head":
        options |= {"norm_style": norm_style, "drop_rate": drop_rate}
        options |= {"head_channels": 16, "bottleneck_channels": 16}
    return build(NetworkSpec(architecture, "resnet18_quarter", NUM_CLASSES, "cityscapes19", options))


def drawn_batch(count: int, seed: int, *, labelled: bool = True, ignored: bool = False) -> Batch:
    """Noise images with noise labels; `ignored` leaves out a different share of every label."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, NUM_CLASSES, (count, *SIZE), dtype=torch.uint8, generator=generator)
    if ignored:
        for number in range(count):
            label[number, : 3 + 2 * number] = 255
    names = tuple(f"{seed}-{number}.png" for number in range(count))
    return Batch(image, label if labelled else None, names, torch.tensor([SIZE] * count))


def drawn_batches(count: int = 2, seed: int = 0, *, ignored: bool = False) -> dict[str, Batch]:
    """One batch of both domains."""
    return {
        "source": drawn_batch(count, 2 * seed, ignored=ignored),
        "target": drawn_batch(count, 2 * seed + 1, labelled=False),
    }


def part_of(batches: Mapping[str, Batch], start: int, stop: int) -> dict[str, Batch]:
    """Some images of each batch."""
    chosen = slice(start, stop)
    return {
        name: Batch(
            batch.image[chosen],
            None if batch.label is None else batch.label[chosen],
            batch.names[chosen],
            batch.sizes[chosen],
        )
        for name, batch in batches.items()
    }


class DrawnImages:
    """A data set of eight noise images; a sample depends on its draw alone."""

    def __init__(self, *, labelled: bool) -> None:
        self.labelled = labelled

    def __len__(self) -> int:
        return 8

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Image and label of one draw."""
        image = torch.from_numpy(generator.integers(0, 256, (3, *SIZE), dtype=np.uint8))
        label = torch.from_numpy(generator.integers(0, NUM_CLASSES, SIZE, dtype=np.uint8))
        return Sample(image, label if self.labelled else None, f"{index}.png", SIZE)


def drawn_streams(names: Sequence[str] = ("source", "target")) -> dict[str, SampleStream]:
    """Streams of two images each; the one called source has labels."""
    return {
        name: SampleStream(DrawnImages(labelled=name == "source"), seed=4, name=name, global_batch=2)
        for name in names
    }


def make_trainer(
    method: str = "mrnet",
    *,
    network: SegmentationNetwork | None = None,
    settings: Mapping[str, Any] | None = None,
    loop: Mapping[str, Any] | None = None,
    double: bool = False,
    world: World = WORLD,
    kind: type[Trainer] | None = None,
    **parts: Any,
) -> Trainer:
    """A trainer of a small network; equal arguments make equal trainers.

    Args:
        method: "source", "mrnet" or "rectified".
        network: in place of `small_network()`.
        settings: of the method, on top of a constant learning rate without warm-up.
        loop: settings of the loop.
        double: everything in float64.
        world: this process, and the device on which `network` already is.
        kind: class in place of the method's own.
        parts: further arguments of the trainer (streams, run, evaluator).
    """
    network = small_network() if network is None else network
    torch.manual_seed(2)
    discriminators = make_discriminators(network)
    if double:
        network = network.double()
        discriminators = tuple(discriminator.double() for discriminator in discriminators)
    chosen = {"learning_rate": 1e-3, "num_steps": 1000, **(settings or {})}
    if method == "source":
        parts["settings"] = SupervisedSettings(**chosen)
    else:
        chosen = {"lambda_kl_target": 0.1, "target_terms_start": 0, **chosen}
        parts["settings"] = MemorySettings(**chosen)
        parts["discriminators"] = discriminators
    limits = LoopSettings(**{"num_steps_stop": 4, "log_every": 1, "save_every": 100, **(loop or {})})
    return (kind or TRAINERS[method])(network=network, world=world, loop=limits, **parts)


def run_in(folder: Path, *, stop: int = 4, keep: int = 10) -> AbstractContextManager[Run]:
    """A run folder of a run to `stop` iterations."""
    arguments = {"seed": 0, "num_steps_stop": stop}
    return open_run(folder, arguments, world=WORLD, keep=keep, free_to_change=frozenset(), tensorboard=False)


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters and buffers as they are now."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Equal names and equal bits."""
    assert ours.keys() == theirs.keys()
    different = [name for name, value in theirs.items() if not torch.equal(ours[name], value)]
    assert different == []
