"""Noise images and trainers without files, for the benchmarks of whole iterations."""

from __future__ import annotations

import torch

from data_loaders.samples import Batch
from networks import build
from networks.discriminators import MultiScaleDiscriminator
from networks.spec import NetworkSpec
from trainers.loop_settings import LoopSettings
from trainers.memory import MemoryRegularizedTrainer, MemorySettings
from utils.distributed import World
from utils.precision import Precision

CLASSES = 19
OPTIONS = {"norm_style": "gn", "use_se": True, "drop_rate": 0.1}  # as published


def drawn_batches(count: int, height: int, width: int, device: torch.device) -> dict[str, Batch]:
    """`count` noise images of both domains; the source's have labels, with some rows ignored."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, CLASSES, (count, height, width), dtype=torch.uint8, generator=generator)
    label[:, : height // 8] = 255
    batches = {}
    for domain, labels in (("source", label), ("target", None)):
        image = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
        names = tuple(f"{domain} {number}" for number in range(count))
        batches[domain] = Batch(image, labels, names, torch.tensor([(height, width)] * count)).to(device)
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
