"""Noise images and trainers without files, for the benchmarks of whole iterations."""

from __future__ import annotations

import torch

from data_loaders.samples import Batch
from losses.instance_bank import InstanceBank
from networks import build
from networks.discriminators import MultiScaleDiscriminator
from networks.segmentation import SegmentationNetwork
from networks.spec import NetworkSpec
from trainers.dida import DidaTrainer
from trainers.loop_settings import LoopSettings
from trainers.memory import MemoryRegularizedTrainer, MemorySettings
from trainers.reference import BackboneReference
from trainers.self_training import SelfTrainingSettings, SelfTrainingTrainer
from utils.distributed import World
from utils.precision import Precision

CLASSES = 19
OPTIONS = {"norm_style": "gn", "use_se": True, "drop_rate": 0.1}  # as published
BANK_SIZE = 300


def drawn_batches(
    count: int, height: int, width: int, device: torch.device, *, block: int = 1
) -> dict[str, Batch]:
    """`count` noise images of both domains; the source's have labels, with some rows ignored.

    Labels are drawn for squares of `block` pixels, of which the sides must be multiples.
    """
    generator = torch.Generator().manual_seed(0)
    squares = (count, height // block, width // block)
    label = torch.randint(0, CLASSES, squares, dtype=torch.uint8, generator=generator)
    label = label.repeat_interleave(block, 1).repeat_interleave(block, 2)
    label[:, : height // 8] = 255
    batches = {}
    for domain, labels in (("source", label), ("target", None)):
        image = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
        names = tuple(f"{domain} {number}" for number in range(count))
        sizes = torch.tensor([(height, width)] * count)
        batches[domain] = Batch(image, labels, names, sizes, draws=tuple(range(count))).to(device)
    return batches


def drawn_trainer(
    kind: type[MemoryRegularizedTrainer],
    backbone: str,
    settings: MemorySettings,
    device: torch.device,
    *,
    precision: Precision | None = None,
    channels_last: bool = False,
    compiled: bool = False,
) -> MemoryRegularizedTrainer:
    """A trainer of a two-head DeepLab with random weights; equal arguments make equal trainers.

    Its iterations are run one by one with `run_iteration`; it has no streams and no run folder.
    """
    torch.manual_seed(1)
    network = build(NetworkSpec("deeplab_two_head", backbone, CLASSES, "cityscapes19", OPTIONS)).to(device)
    discriminators = tuple(MultiScaleDiscriminator(CLASSES).to(device) for _ in range(2))
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compiled:
        network.compile()
    loop = LoopSettings(
        num_steps_stop=settings.num_steps,
        precision=precision or Precision("fp32", device.type),
    )
    return kind(
        network=network,
        discriminators=discriminators,
        settings=settings,
        world=World(rank=0, size=1, local_rank=0, device=device),
        loop=loop,
    )


def drawn_self_training(
    kind: type[SelfTrainingTrainer],
    spec: NetworkSpec,
    settings: SelfTrainingSettings,
    device: torch.device,
    *,
    precision: Precision | None = None,
    double: bool = False,
) -> SelfTrainingTrainer:
    """A trainer of DAFormer, or of DIDA with a full bank, with random weights; equal arguments make equal
    trainers.

    The reference is another random backbone, so that the feature distance has a gradient from the first
    iteration on. `double`: everything in float64. There are no streams and no run folder.
    """
    torch.manual_seed(1)
    network, reference = (build(spec).to(device) for _ in range(2))
    if double:
        network, reference = network.double(), reference.double()
    parts = {"bank": _drawn_bank(network)} if issubclass(kind, DidaTrainer) else {}
    return kind(
        network=network,
        reference=BackboneReference(reference),
        settings=settings,
        world=World(rank=0, size=1, local_rank=0, device=device),
        loop=LoopSettings(
            num_steps_stop=settings.num_steps,
            precision=precision or Precision("fp32", device.type),
            ema_decay=0.999,
            ema_copies_buffers=False,
        ),
        **parts,
    )


def _drawn_bank(network: SegmentationNetwork) -> InstanceBank:
    """Features at least 0, all classes equally often."""
    bank = InstanceBank(BANK_SIZE, network.feature_channels, CLASSES).to(next(network.parameters()))
    generator = torch.Generator().manual_seed(2)
    bank.set(torch.rand(bank.features.shape, generator=generator), torch.arange(BANK_SIZE) % CLASSES)
    return bank
