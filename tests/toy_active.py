"""Small parts of active learning for tests: images in memory, their truth, and trainers on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loaders.discovery import Item
from data_loaders.samples import Sample
from data_loaders.streams import SampleStream
from networks import build
from networks.segmentation import SegmentationNetwork
from networks.spec import NetworkSpec
from selection.budget import Budget
from selection.store import AnnotationStore
from tests.toy_training import WORLD
from trainers.active import ActiveSettings, ActiveTrainer
from trainers.loop_settings import LoopSettings
from trainers.oracles import TruthOracle
from trainers.query_round import QueryRound, QuerySettings
from trainers.query_rounds import Oracle, QueryRounds
from trainers.target_images import BoughtLabelReader
from utils.class_spaces import IGNORE_LABEL, ClassSpace, class_space
from utils.distributed import World

SIZE = (33, 48)  # H, W
SPACE = class_space("cityscapes19")


class ArrayImages:
    """Target images that lie in memory.

    Args:
        images: (N, 3, H, W) what the network takes; names are "0.png", "1.png", ...
    """

    def __init__(self, images: Tensor | np.ndarray) -> None:
        self.images = torch.as_tensor(images)
        self.names = tuple(f"{number}.png" for number in range(len(self.images)))
        self.fingerprint = f"{len(self.images)} arrays"

    def network_input(self, name: str) -> tuple[Tensor, tuple[int, int]]:
        """The image, and its (H, W)."""
        image = self.images[int(name.removesuffix(".png"))]
        return image, (image.shape[-2], image.shape[-1])

    def picture(self, name: str) -> np.ndarray:
        """A grey (H, W, 3) picture."""
        height, width = self.images.shape[-2:]
        return np.full((height, width, 3), 128, np.uint8)


class DrawnImages:
    """Noise images with blocky labels, as a data set and as target images; the same at every call."""

    def __init__(self, count: int = 8, *, seed: int = 0, reader: BoughtLabelReader | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 256, (count, 3, *SIZE), dtype=np.uint8)
        blocks = rng.integers(0, 20, (count, 5, 6), dtype=np.uint8)
        blocks[blocks == 19] = IGNORE_LABEL
        labels = blocks.repeat(7, 1).repeat(8, 2)[:, : SIZE[0], : SIZE[1]]
        self.labels = np.ascontiguousarray(labels)
        self.reader = reader

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Image with its label, or with what was bought where there is a reader."""
        name = f"{index}.png"
        label = self.labels[index]
        if self.reader is not None:
            label = np.broadcast_to(self.reader(Item(name, Path(name), None)), SIZE).copy()
        return Sample(torch.from_numpy(self.images[index]), torch.from_numpy(label), name, SIZE)

    def truth(self, name: str) -> np.ndarray:
        """(H, W) uint8 train ids."""
        return self.labels[int(name.removesuffix(".png"))]


def small_network(*, architecture: str = "deeplab_v3plus", double: bool = False) -> SegmentationNetwork:
    """A quarter-width network with the same weights at every call, without dropout."""
    torch.manual_seed(3)
    options: dict[str, Any] = {}
    if architecture == "deeplab_v3plus":
        options = {"drop_rate": 0.0, "head_channels": 16, "low_channels": 8}
    network = build(NetworkSpec(architecture, "resnet18_quarter", SPACE.num_classes, SPACE.name, options))
    return network.double() if double else network


def active_trainer(
    folder: Path,
    *,
    network: SegmentationNetwork | None = None,
    settings: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    loop: Mapping[str, Any] | None = None,
    images: Any = None,
    oracle: Oracle | None = None,
    world: World = WORLD,
    global_batch: int = 4,
    source: bool = True,
    method: str = "ripu",
    space: ClassSpace = SPACE,
    **parts: Any,
) -> ActiveTrainer:
    """A trainer on drawn images with two query rounds; equal arguments make equal trainers.

    Args:
        folder: of the annotations.
        network: in place of `small_network()`.
        settings: of the method, on top of short schedules.
        query: of the selection.
        loop: of the loop.
        images: target images in place of the drawn ones.
        oracle: in place of the truth of the drawn images.
        world: this process.
        global_batch: images of each domain and iteration.
        source: whether there is a source stream.
        method: "ripu" or "dwaca".
        space: classes in use.
        parts: further arguments of the trainer.
    """
    network = small_network() if network is None else network
    store = AnnotationStore(folder)
    reader = BoughtLabelReader(store.load(0))
    target = DrawnImages(seed=1, reader=reader)
    chosen = {"learning_rate": 1e-3, "num_steps": 100, "select_iterations": (2, 4), **(settings or {})}
    active = ActiveSettings(**chosen)
    asked: dict[str, Any] = {"setting": "region", "budget": Budget.parse("10%"), "radius": 1, "pictures": 1}
    asked |= {"rounds": max(1, len(active.select_iterations)), "training_size": SIZE[::-1], **(query or {})}
    if "streams" not in parts:
        sets: dict[str, Any] = {"source": DrawnImages(seed=0)} if source else {}
        parts["streams"] = drawn_streams({**sets, "target": target}, world, global_batch)
    rounds = QueryRounds(
        query=QueryRound(
            network,
            images or ArrayImages(target.images),
            QuerySettings(**asked),
            world,
            num_workers=0,
        ),
        store=store,
        reader=reader,
        oracle=oracle or TruthOracle(target.truth, num_workers=0),
        space=space,
        method=method,
        class_weights_from=active.class_weights_from,
        **{name: parts.pop(name) for name in ("write_masks", "identity") if name in parts},
    )
    return ActiveTrainer(
        network=network,
        settings=active,
        rounds=rounds,
        world=world,
        loop=LoopSettings(**{"num_steps_stop": 6, "log_every": 1, "save_every": 100, **(loop or {})}),
        **parts,
    )


def drawn_streams(
    datasets: Mapping[str, DrawnImages], world: World, global_batch: int
) -> dict[str, SampleStream]:
    """Streams over all processes."""
    return {
        name: SampleStream(
            dataset,
            seed=5,
            name=name,
            global_batch=global_batch,
            rank=world.rank,
            world_size=world.size,
        )
        for name, dataset in datasets.items()
    }


def picks_of(trainer: ActiveTrainer, rounds: Sequence[int]) -> dict[str, list[list[int]]]:
    """Picks by round and image name."""
    found = {}
    for number in rounds:
        queries = trainer.rounds.store.round(number).queries()
        assert queries is not None
        found |= {f"{number}/{query.name}": query.picks.tolist() for query in queries.images}
    return found
