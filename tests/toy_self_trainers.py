"""Small networks, drawn batches and trainers for tests of self-training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from data_loaders.samples import Batch, Sample, collate
from data_loaders.streams import SampleStream
from losses.instance_bank import InstanceBank
from networks import build
from networks.segmentation import SegmentationNetwork
from networks.spec import NetworkSpec
from tests.toy_training import WORLD
from trainers.dida import DidaSettings, DidaTrainer
from trainers.loop_settings import LoopSettings
from trainers.reference import BackboneReference
from trainers.self_training import SelfTrainingSettings, SelfTrainingTrainer
from trainers.steps import Batches, StepOutput
from utils import seeding
from utils.class_spaces import IGNORE_LABEL, class_space
from utils.distributed import World

SIZE = (32, 48)  # H, W
SPACE = class_space("cityscapes19")
BANK_SIZE = 24
_SMALL = {"drop_rate": 0.0, "head_channels": 16}
_HEADS = {"bottleneck_channels": 16, "norm_style": "gn", "dilations": [1, 2]}
NETWORKS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "plus": ("deeplab_v3plus", "resnet18_quarter", {**_SMALL, "low_channels": 8, "norm_style": "bn"}),
    "affine": ("deeplab_v3plus", "resnet18_quarter", {**_SMALL, "low_channels": 8}),
    "two_head": ("deeplab_two_head", "resnet18_quarter", {**_SMALL, **_HEADS}),
    "mit": ("daformer", "mit_b0", {**_SMALL, "drop_path_rate": 0.0}),
}


def small_network(kind: str = "plus", *, double: bool = False, **options: Any) -> SegmentationNetwork:
    """A network of NETWORKS with the same weights at every call, without dropout unless `options` say so.

    plus: BatchNorm everywhere; affine: none anywhere; two_head: GroupNorm in both heads; mit: a transformer.
    """
    architecture, backbone, own = NETWORKS[kind]
    torch.manual_seed(3)
    network = build(NetworkSpec(architecture, backbone, SPACE.num_classes, SPACE.name, {**own, **options}))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("head.1.weight", "conv_seg.weight")):
                parameter.normal_(0, 0.3)  # else no pixel is more confident than another
            elif name.endswith(("decoder.3.bias", "conv_seg.bias")):
                parameter.fill_(4.0)  # else sums of raw logits near 0 make gradients that end a short run
    return network.double() if double else network


class DrawnScenes:
    """Eight noise images; a sample depends on its draw alone.

    A source image shows five classes in small blocks, a thing in its right half, and ignored rows above. Some
    target images are padded; they have no label.
    """

    def __init__(self, *, labelled: bool) -> None:
        self.labelled = labelled

    def __len__(self) -> int:
        return 8

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Image and label of one draw."""
        image = generator.integers(0, 256, (3, *SIZE), dtype=np.uint8)
        few = generator.choice(SPACE.num_classes, 5, replace=False).astype(np.uint8)
        label = generator.choice(few, (SIZE[0] // 8, SIZE[1] // 8)).repeat(8, 0).repeat(8, 1)
        label[:, SIZE[1] // 2 :] = generator.choice(SPACE.things)
        label[:3] = IGNORE_LABEL
        name = f"{index}.png"
        if self.labelled:
            return Sample(torch.from_numpy(image), torch.from_numpy(label), name, SIZE)
        content = (24, 40) if generator.random() < 0.5 else None
        if content is not None:
            image[:, content[0] :] = 0
            image[:, :, content[1] :] = 0
        return Sample(torch.from_numpy(image), None, name, SIZE, content)


def drawn_streams(world: World = WORLD, global_batch: int = 2, **options: Any) -> dict[str, SampleStream]:
    """Streams of both domains over all processes."""
    return {
        name: SampleStream(
            DrawnScenes(labelled=name == "source"),
            seed=5,
            name=name,
            global_batch=global_batch,
            rank=world.rank,
            world_size=world.size,
            **options,
        )
        for name in ("source", "target")
    }


def drawn_batches(count: int = 2, first: int = 0) -> dict[str, Batch]:
    """`count` draws of both domains from the draw `first` on."""
    batches = {}
    for name in ("source", "target"):
        scenes, draws = DrawnScenes(labelled=name == "source"), range(first, first + count)
        samples = [scenes.sample(draw % 8, seeding.generator(5, name, draw)) for draw in draws]
        batches[name] = collate(samples, draws=list(draws))
    return batches


def small_bank(network: SegmentationNetwork, *, size: int = BANK_SIZE, absent: int = 4) -> InstanceBank:
    """A full bank of drawn features that are at least 0, in the network's type; it lacks a class."""
    generator = torch.Generator().manual_seed(8)
    labels = torch.randint(0, SPACE.num_classes, (size,), generator=generator)
    labels[labels == absent] = absent + 1
    bank = InstanceBank(size, network.feature_channels, SPACE.num_classes)
    bank.to(next(network.parameters()))
    bank.set(torch.rand(bank.features.shape, generator=generator, dtype=bank.features.dtype), labels)
    return bank


def small_reference(network: SegmentationNetwork) -> BackboneReference:
    """A reference that differs a little from the network.

    At the same weights their distance is rounding errors, and its gradient a unit vector made of them.
    """
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.05)
    return BackboneReference(other)


def make_trainer(
    method: str = "daformer",
    *,
    network: SegmentationNetwork | None = None,
    settings: Mapping[str, Any] | None = None,
    loop: Mapping[str, Any] | None = None,
    bank: InstanceBank | None = None,
    world: World = WORLD,
    **parts: Any,
) -> SelfTrainingTrainer:
    """A trainer of a small network; equal arguments make equal trainers.

    Args:
        method: "daformer" or "dida".
        network: in place of `small_network()`.
        settings: of the method, on top of short schedules and a threshold that some pixels reach.
        loop: of the loop.
        bank: in place of `small_bank()`, for dida.
        world: this process.
        parts: further arguments of the trainer (streams, run, reference, fill_bank).
    """
    network = small_network() if network is None else network
    chosen: dict[str, Any] = {"learning_rate": 1e-3, "num_steps": 1000, "pseudo_threshold": 0.09}
    chosen |= {"ignore_top": 2, "ignore_bottom": 5, "mask_block": 16}
    chosen |= {"feature_distance_classes": SPACE.things, **(settings or {})}
    limits = {"num_steps_stop": 4, "log_every": 1, "save_every": 100, "ema_decay": 0.9}
    limits |= {"ema_copies_buffers": False, **(loop or {})}
    if "reference" not in parts:
        wanted = chosen.get("feature_distance_weight", 0.005) > 0
        parts["reference"] = small_reference(network) if wanted else None
    common = {"network": network, "world": world, "loop": LoopSettings(**limits), **parts}
    if method == "daformer":
        return SelfTrainingTrainer(settings=SelfTrainingSettings(**chosen), **common)
    chosen = {"bank_update_every": 2, "bank_momentum": 0.9, **chosen}
    return DidaTrainer(settings=DidaSettings(**chosen), bank=bank or small_bank(network), **common)


def forward(trainer: SelfTrainingTrainer, batches: Batches | None = None, iteration: int = 0) -> StepOutput:
    """The losses of one micro-batch, in the modes of a real iteration; earlier gradients are gone."""
    trainer._prepare(iteration)
    return trainer.step(drawn_batches() if batches is None else batches, {}, iteration)


def gradients(trainer: SelfTrainingTrainer) -> dict[str, torch.Tensor]:
    """Gradients of the network's parameters as they are now, 0 where there is none."""
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in trainer.network.named_parameters()
    }
