"""The selection of a query round: score every target image and choose its regions.

The images are split over the processes; what is finished is on disk in parts, so that a round that was cut
short goes on, on any number of processes, and no image is selected twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from networks.segmentation import SegmentationNetwork
from selection import scores
from selection.budget import Budget
from selection.regions import select_regions
from selection.rounds import ImageQuery, RoundFolder, RoundInfo, RoundQueries
from selection.store import BoughtLabels
from trainers.image_pass import pass_over
from trainers.query_reports import write_score_map
from trainers.shared_folder import check_seen_everywhere, seen_in_time
from trainers.target_images import TargetImages
from utils import distributed, seeding
from utils.distributed import World
from utils.errors import UserError
from utils.stopping import never

PART_IMAGES = 32  # images a process selects between two writes: what a killed round loses at most
Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySettings:
    """How the regions of an image are chosen.

    Attributes:
        setting: "region" buys squares of radius `radius`; "pixel" buys single pixels, whose neighbourhood of
            that radius is scored and never asked again.
        budget: of one image over all rounds.
        radius: k, in pixels of the image at its own size.
        rounds: the budget is divided by.
        training_size: (W, H) that target images are trained at, to which a budget in pixels refers.
        network_input: "WxH" that images are scored at, for the record.
        score: "published" (impurity x uncertainty), or the baselines "entropy" and "random".
        seed: of the random baseline.
        pictures: how many images, the first of the list, are drawn in every round.
    """

    setting: Literal["region", "pixel"]
    budget: Budget
    radius: int
    rounds: int
    training_size: tuple[int, int]
    network_input: str = ""
    score: Literal["published", "entropy", "random"] = "published"
    seed: int = 0
    pictures: int = 4

    @property
    def label_radius(self) -> int:
        """L: the square of 2 L + 1 pixels around a pick is bought."""
        return self.radius if self.setting == "region" else 0

    @property
    def exclusion_radius(self) -> int:
        """M: no later pick lies within this Chebyshev distance of a pick."""
        return 2 * self.radius if self.setting == "region" else self.radius

    def picks(self, size: Size) -> int:
        """Picks per round in an image of (H, W) `size`."""
        return self.budget.picks_per_round(
            size, label_radius=self.label_radius, rounds=self.rounds, training_size=self.training_size
        )


@dataclass(frozen=True, slots=True)
class Selected:
    """The query of one image and the score map (H, W) it was chosen by, on the device."""

    query: ImageQuery
    score: Tensor


def select_image(
    logits: Tensor,
    name: str,
    *,
    number: int,
    size: Size,
    network_input: Size,
    blocked: np.ndarray | None,
    settings: QuerySettings,
    class_weight: Tensor | None = None,
    round_number: int = 0,
) -> Selected:
    """Regions of one image from the network's logits.

    Source: Xie et al., CVPR 2022, Sec. 3 (RIPU); with `class_weight`, Guan & Yuan's DWACA as released.

    Args:
        logits: (C, h, w) at network stride.
        name: of the image, for the query and for messages.
        number: place of the image in its list; the random baseline draws from it.
        size: (H, W) of the image, in which picks are counted.
        network_input: (H, W) of the network's input: logits are resized to it, then to `size`.
        blocked: (H, W) bool, where no pick may be made any more; None: nowhere.
        settings: budget, radii, score.
        class_weight: (C,) float64, weight of a pixel's entropy by its predicted class.
        round_number: of the round, 0-based.

    Raises:
        UserError: the network gives logits that are not finite.
    """
    score_of = scores.region_scores if settings.setting == "region" else scores.pixel_scores
    options: dict[str, object] = {"size": size, "network_input": network_input, "radius": settings.radius}
    if settings.score == "entropy":  # as in the setting's own score: the window's mean, or the pixel's own
        score_of = scores.entropy_scores
        options["radius"] = settings.label_radius
    elif class_weight is not None:
        options["class_weight"] = class_weight
    if not torch.isfinite(logits).all():
        raise UserError(
            f"the network's output for {name} is not finite; the weights are broken: go on from an earlier "
            "snapshot, with a lower --learning-rate"
        )
    maps = score_of(logits, **options)
    score = maps.score
    if settings.score == "random":
        generator = seeding.generator(settings.seed, f"random-regions/{round_number}", number)
        score = scores.random_scores(size, generator).to(score.device)
    picks = select_regions(
        score,
        None if blocked is None else torch.from_numpy(blocked).to(score.device),
        settings.picks(size),
        exclusion_radius=settings.exclusion_radius,
    )
    query = ImageQuery(name, size, picks.cpu().numpy().astype(np.uint16), np.empty(0, np.uint8))
    place = torch.from_numpy(query.pixels(settings.label_radius)).to(maps.prediction.device)
    predicted = maps.prediction.reshape(-1)[place].cpu().numpy()
    return Selected(ImageQuery(name, size, query.picks, predicted), score)


@dataclass(slots=True)
class QueryRound:
    """Carries a round out on all processes. Every rank must call its methods.

    Attributes:
        network: unwrapped, on its device.
        images: of the target's training split.
        settings: budget, radii, score.
        num_workers: threads that load images ahead.
        stop: asked before every image; true on any rank ends the work there.
    """

    network: SegmentationNetwork
    images: TargetImages
    settings: QuerySettings
    world: World
    num_workers: int = 2
    stop: Callable[[], bool] = never

    @property
    def asked(self) -> int:
        """A round asks about every image."""
        return len(self.images.names)

    def select(self, folder: RoundFolder, info: RoundInfo, bought: BoughtLabels) -> RoundQueries | None:
        """The queries of a round: those on disk if they are complete, else what is missing is selected.

        Args:
            folder: of the round.
            info: what the round is; it must agree with what is on disk of it.
            bought: everything that was bought before.

        Returns:
            None when a stop signal cut it short.

        Raises:
            UserError: on every rank: a folder that belongs to another run or that not all ranks see; on the
                rank that finds it: logits that are not finite, images that cannot be read.
        """
        done = distributed.from_rank_zero(lambda: self._begin(folder, info))
        check_seen_everywhere(folder.info_path, "the settings of the round")
        if done is not None:
            missing = [number for number, name in enumerate(self.images.names) if name not in done]
            if not self._select_missing(missing, folder, info, bought):
                return None
            check_seen_everywhere(folder.queries_path, "the queries of the round")
        queries = folder.queries()
        assert queries is not None, "all ranks see the queries that rank 0 has read or written"
        return queries

    def _begin(self, folder: RoundFolder, info: RoundInfo) -> set[str] | None:
        """Names of the images that are selected already; None when all are."""
        folder.begin(info)
        queries = folder.queries()
        if queries is None:
            return folder.part_names()
        folder.write_queries(queries)  # removes the parts that a kill has left
        return None

    def _assemble(self, folder: RoundFolder) -> None:
        """One file from all parts, images in the order of their list."""
        seen_in_time(lambda: folder.part_names() >= set(self.images.names))  # parts of other machines
        folder.write_queries(folder.assemble(self.images.names))

    def _select_missing(
        self, missing: Sequence[int], folder: RoundFolder, info: RoundInfo, bought: BoughtLabels
    ) -> bool:
        """Completes the round with these images; False when a stop signal cut it short."""
        names = self.images.names
        weights = info.class_weights
        class_weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)

        def load(number: int) -> tuple[int, Tensor, Size, np.ndarray | None]:
            image, size = self.images.network_input(names[number])
            before = bought.size_of(names[number])
            blocked = None if before is None else bought.blocked(names[number], size)
            return number, image, size, blocked

        def see(loaded: tuple[int, Tensor, Size, np.ndarray | None]) -> ImageQuery:
            number, image, size, blocked = loaded
            logits = self.network(image[None].to(self.world.device)).logits[0]
            selected = select_image(
                logits,
                names[number],
                number=number,
                size=size,
                network_input=(image.shape[-2], image.shape[-1]),
                blocked=blocked,
                settings=self.settings,
                class_weight=class_weight if class_weight is None else class_weight.to(logits.device),
                round_number=info.number,
            )
            if number < self.settings.pictures:
                write_score_map(folder, names[number], selected.score)
            return selected.query

        return pass_over(
            self.network,
            missing,
            load=load,
            see=see,
            keep=folder.write_part,
            collect=lambda: self._assemble(folder),
            what=f"round {info.number + 1}: selecting regions",
            part_images=PART_IMAGES,
            num_workers=self.num_workers,
            stop=self.stop,
        )
