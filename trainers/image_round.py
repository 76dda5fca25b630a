"""The query round of MADA: score all target images, choose whole ones, and predict those for the query.

Source: Ning et al., ICCV 2021, and the authors' released code: the images farthest from their nearest source
anchor. Descriptions and predictions are on disk in parts, so that a round that was cut short goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_loaders.samples import Sample
from data_loaders.streams import SampleSource
from networks.segmentation import SegmentationNetwork
from selection.budget import Budget
from selection.image_choice import ImageChoice, choose_images, entropy_scores, random_scores, write_choice
from selection.image_distance import ImageScores, image_scores
from selection.queries import WHOLE_IMAGE, whole_image_pick
from selection.report import write_captions
from selection.rounds import ImageQuery, RoundFolder, RoundInfo, RoundQueries
from selection.store import BoughtLabels
from selection.vector_folder import VectorFolder
from trainers.description import describe
from trainers.image_pass import pass_over
from trainers.inference import Pass, fuse
from trainers.query_reports import write_score_map
from trainers.shared_folder import check_seen_everywhere, seen_in_time
from trainers.target_images import TargetImages
from utils import distributed, maths
from utils.distributed import World
from utils.errors import UserError
from utils.stopping import never

PART_IMAGES = 4  # predictions between two writes; each has a byte per pixel of its image


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuerySettings:
    """How whole images are chosen.

    Attributes:
        budget: of the run; None where the images are given.
        score: "published" (distance to the nearest source anchor), "entropy" (mean pixel entropy) or
            "random".
        seed: of the random choice.
        network_input: "WxH" that images are scored at, for the record.
        pictures: how many images are drawn, of the chosen ones those with the highest scores.
        count: of the images that are asked about, those with known labels and those of a list too.
    """

    budget: Budget | None
    score: str
    seed: int
    network_input: str
    pictures: int
    count: int

    @property
    def setting(self) -> str:
        """What a query is, for the record."""
        return "image"

    @property
    def label_radius(self) -> int:
        """L: the square around a pick, clipped to the image, is the image."""
        return WHOLE_IMAGE

    @property
    def exclusion_radius(self) -> int:
        """M: nothing is left to pick in an image that was bought."""
        return WHOLE_IMAGE

    @property
    def rounds(self) -> int:
        """All images are chosen at once."""
        return 1


@dataclass(slots=True, kw_only=True)
class ImageRound:
    """Carries the round out on all processes. Every rank must call its methods.

    Attributes:
        network: unwrapped, on its device.
        images: of the target's training split, for names and pictures.
        settings: how images are chosen.
        samples: the same images in the same order, as the network is to see them, without augmentation.
        source_anchors: gives (V, C, D), or None when a stop signal came; called for the published score only.
        listed: positions of images that are given: nothing is scored.
        known: positions of images whose labels are known: asked about too, never chosen.
        folder: of the run's anchors and vectors.
        list_folder: of the lists of the images that are asked about.
        num_workers: threads that load images ahead.
        stop: asked before every image; true on any rank ends the work there.
    """

    network: SegmentationNetwork
    images: TargetImages
    settings: ImageQuerySettings
    samples: SampleSource
    source_anchors: Callable[[], Tensor | None]
    listed: np.ndarray | None = None
    known: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    folder: Path
    list_folder: Path
    world: World
    num_workers: int = 2
    stop: Callable[[], bool] = never

    @property
    def asked(self) -> int:
        """How many images the round asks about."""
        return self.settings.count

    def select(self, folder: RoundFolder, info: RoundInfo, bought: BoughtLabels) -> RoundQueries | None:
        """The queries of the round: those on disk if they are complete, else what is missing is made.

        Args:
            folder: of the round.
            info: what the round is; it must agree with what is on disk of it.
            bought: everything that was bought before, which changes nothing: nothing was, in the only round.

        Returns:
            None when a stop signal cut it short.

        Raises:
            UserError: on every rank: a folder that belongs to another run or that not all ranks see, scores
                that are not finite; on the rank that finds it: output that is not finite, images that cannot
                be read; and what `source_anchors` raises.
        """
        is_done = distributed.from_rank_zero(lambda: self._begin(folder, info))
        check_seen_everywhere(folder.info_path, "the settings of the round")
        if not is_done:
            chosen = self._choose(folder)
            if chosen is None or not self._predict(*chosen, folder):
                return None
            check_seen_everywhere(folder.queries_path, "the queries of the round")
        queries = folder.queries()
        assert queries is not None, "all ranks see the queries that rank 0 has read or written"
        return queries

    def _begin(self, folder: RoundFolder, info: RoundInfo) -> bool:
        """Whether the queries are complete."""
        folder.begin(info)
        queries = folder.queries()
        if queries is not None:
            folder.write_queries(queries)  # removes the parts that a kill has left
        return queries is not None

    # choosing

    def _choose(self, folder: RoundFolder) -> tuple[np.ndarray, list[int]] | None:
        """Positions of all images that are asked about, ascending, and of those drawn; None when stopped."""
        make_scores = self._scoring()
        if make_scores is None:
            return None
        return distributed.from_rank_zero(lambda: self._decide(make_scores(), folder))

    def _scoring(self) -> Callable[[], ImageScores | None] | None:
        """What gives the scores on rank 0, after everything that all ranks do for it; None when stopped."""
        if self.listed is not None:
            return lambda: None
        score = self.settings.score
        if score == "random":
            return lambda: random_scores(len(self.samples), self.settings.seed)
        anchors = self.source_anchors() if score == "published" else None
        if score == "published" and anchors is None:
            return None
        vectors = VectorFolder(self.folder / "scoring_vectors")
        finished = describe(
            self.network,
            self.samples,
            vectors,
            what="target images",
            labelled=False,
            fingerprint=f"{self.images.fingerprint} {self.settings.network_input}",
            world=self.world,
            num_workers=self.num_workers,
            stop=self.stop,
        )
        if not finished:
            return None
        if anchors is None:
            return lambda: entropy_scores(vectors.entropies())
        return lambda: image_scores(vectors.vectors(), anchors)

    def _decide(self, scores: ImageScores | None, folder: RoundFolder) -> tuple[np.ndarray, list[int]]:
        """The positions, also as files. Rank 0 only."""
        count = self.settings.count
        if self.listed is None:
            assert scores is not None
            choice = choose_images(scores, self.known, count)
        else:
            choice = ImageChoice(np.unique(self.listed), np.unique(self.known))
        asked, drawn = choice.asked, choice.foremost(self.settings.pictures)
        assert len(asked) == count, f"{len(asked)} images are listed or known, not {count}"
        names = self.images.names
        write_captions(folder.folder, {names[position]: choice.caption(position) for position in drawn})
        write_choice(self.list_folder, choice, names, self.settings.budget)
        return asked, drawn

    # predicting

    def _predict(self, asked: np.ndarray, drawn: Sequence[int], folder: RoundFolder) -> bool:
        """Completes the round with predictions of the images at these positions; False when stopped."""
        names = [self.images.names[position] for position in asked]
        done = distributed.from_rank_zero(folder.part_names)
        missing = [position for position, name in zip(asked.tolist(), names, strict=True) if name not in done]

        def see(loaded: tuple[int, Sample]) -> ImageQuery:
            number, sample = loaded
            name = self.images.names[number]
            logits = self.network(sample.image[None].to(self.world.device)).logits
            query = image_query(logits, name, sample.size)
            if number in drawn:
                write_score_map(folder, name, entropy_map(logits, sample.size))
            return query

        return pass_over(
            self.network,
            missing,
            load=lambda number: (number, self.samples.sample(number, None)),
            see=see,
            keep=folder.write_part,
            collect=lambda: self._assemble(folder, names),
            what="predicting the chosen images",
            part_images=PART_IMAGES,
            num_workers=self.num_workers,
            stop=self.stop,
        )

    def _assemble(self, folder: RoundFolder, names: Sequence[str]) -> None:
        """One file from all parts, images in the order of their list."""
        seen_in_time(lambda: folder.part_names() >= set(names))  # parts of other machines
        folder.write_queries(folder.assemble(names))


def image_query(logits: Tensor, name: str, size: tuple[int, int]) -> ImageQuery:
    """The query of a whole image of (H, W) `size`, with the prediction of (1, C, h, w) `logits`.

    Raises:
        UserError: a logit is not finite.
    """
    if not torch.isfinite(logits).all():
        raise UserError(
            f"the network's output for {name} is not finite; the weights are broken: start from another "
            "snapshot"
        )
    label, _ = fuse([Pass(logits)], (size[1], size[0]), upsampled="logits")
    return ImageQuery(name, size, whole_image_pick(size), label[0].reshape(-1).cpu().numpy())


def entropy_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Entropy of each pixel in nats, resized to (H, W) `size`; of (1, C, h, w) logits."""
    entropy = maths.entropy(maths.log_softmax(logits))
    return maths.upsample(entropy[None], size)[0, 0]
