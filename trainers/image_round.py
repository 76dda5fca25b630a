"""The query round of MADA: score all target images, choose whole ones, and predict those for the query.

Source: Ning et al., ICCV 2021, and the authors' released code: the images farthest from their nearest source
anchor. Descriptions and predictions are on disk in parts, so that a round that was cut short goes on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_loaders.samples import Sample
from data_loaders.streams import SampleSource
from networks.segmentation import SegmentationNetwork
from selection.anchor_files import remaining_positions, write_list, write_positions
from selection.budget import Budget
from selection.image_distance import anchor_distances, select_images
from selection.queries import WHOLE_IMAGE, whole_image_pick
from selection.rounds import ImageQuery, RoundFolder, RoundInfo, RoundQueries
from selection.store import BoughtLabels
from selection.vector_folder import VectorFolder
from trainers.description import describe, never
from trainers.inference import ImageProgress, Pass, evaluation_mode, fuse, prefetch
from trainers.query_reports import write_score_map
from trainers.shared_folder import check_seen_everywhere, seen_in_time
from trainers.target_images import TargetImages
from utils import distributed, maths, seeding
from utils.distributed import World
from utils.errors import UserError
from utils.files import write_atomically
from utils.precision import exact_float32

PART_IMAGES = 4  # predictions between two writes; each has a byte per pixel of its image
SCORES_NAME = "scores.csv"
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuerySettings:
    """How whole images are chosen.

    Attributes:
        budget: of the run; None where the images are given.
        score: "published" (distance to the nearest source anchor), "entropy" (mean pixel entropy) or
            "random".
        seed: of the random choice.
        network_input: "WxH" that images are scored at, for the record.
        pictures: how many images, the first that are asked about, are drawn.
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


def budget_name(budget: Budget | None, count: int) -> str:
    """The part of the lists' names that says how much: "0.05" for 5%, else such as "148images"."""
    if budget is None or budget.unit != "percent":
        return f"{count}images"
    return f"{(Decimal(repr(float(budget.amount))) / 100).normalize():f}"


@dataclass(frozen=True, slots=True, eq=False)
class ImageScores:
    """What images are ranked by.

    Attributes:
        values: (N,) float64, the higher the rather chosen.
        nearest: (N,) int64 nearest anchor of each image, where anchors are the measure.
    """

    values: np.ndarray
    nearest: np.ndarray | None = None


def distance_scores(vectors: np.ndarray, anchors: Tensor) -> ImageScores:
    """Distance of each of the (N, C, D) vectors to the nearest of the (V, C, D) anchors; read in pieces."""
    pieces = [
        anchor_distances(torch.from_numpy(np.array(vectors[start : start + _ROWS_AT_ONCE])), anchors)
        for start in range(0, len(vectors), _ROWS_AT_ONCE)
    ]
    distances = torch.cat(pieces)
    return ImageScores(distances.amin(dim=1).numpy(), distances.argmin(dim=1).numpy())


def random_scores(count: int, seed: int) -> ImageScores:
    """`count` down to 1 in a random order that follows from the seed."""
    values = np.empty(count)
    order = seeding.generator(seed, "random-images", 0).permutation(count)
    values[order] = np.arange(count, 0, -1)
    return ImageScores(values)


def asked_positions(values: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """Positions of all images that are asked about, ascending: those known, and the best of the others.

    Args:
        values: (N,) scores.
        known: positions that are asked about whatever their scores.
        count: of the result.
    """
    known = np.unique(known)
    wanted = count - len(known)
    others = remaining_positions(len(values), known)
    assert 0 <= wanted <= len(others), (count, len(known), len(values))
    if wanted == 0:
        return known
    return np.union1d(known, others[select_images(values[others], wanted)])


def write_choice(
    folder: Path, asked: np.ndarray, names: Sequence[str], scores: ImageScores | None, budget: str
) -> None:
    """Writes the published list and index of the images that are asked about, and all scores as a table.

    Args:
        folder: of the lists.
        asked: positions, ascending.
        names: of all target images.
        scores: of all of them; None where the images were given.
        budget: as `budget_name` gives it.
    """
    write_list(folder / f"stage1_cac_list_{budget}.txt", [names[position] for position in asked])
    write_positions(folder / f"stage1_cac_index_{budget}.txt", asked)
    is_asked = np.isin(np.arange(len(names)), asked)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", "score", "nearest anchor", "chosen"])
    for position, name in enumerate(names):
        score = "" if scores is None else repr(float(scores.values[position]))
        nearest = "" if scores is None or scores.nearest is None else int(scores.nearest[position])
        writer.writerow([name, score, nearest, int(is_asked[position])])
    write_atomically(folder / SCORES_NAME, table.getvalue().encode("utf-8", "surrogateescape"))


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
            asked = self._choose()
            if asked is None or not self._predict(asked, folder, info):
                return None
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

    def _choose(self) -> np.ndarray | None:
        """Positions of all images that are asked about, ascending; None when stopped."""
        make_scores = self._scoring()
        if make_scores is None:
            return None
        return distributed.from_rank_zero(lambda: self._decide(make_scores()))

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
            return lambda: ImageScores(vectors.entropies())
        return lambda: distance_scores(vectors.vectors(), anchors)

    def _decide(self, scores: ImageScores | None) -> np.ndarray:
        """The positions, also as files. Rank 0 only."""
        count = self.settings.count
        if self.listed is not None:
            asked = np.union1d(self.listed, self.known)
            assert len(asked) == count, f"{len(asked)} images are listed or known, not {count}"
        else:
            assert scores is not None
            asked = asked_positions(scores.values, self.known, count)
        asked = asked.astype(np.int64)
        name = budget_name(self.settings.budget, count)
        write_choice(self.list_folder, asked, self.images.names, scores, name)
        return asked

    # predicting

    def _predict(self, asked: np.ndarray, folder: RoundFolder, info: RoundInfo) -> bool:
        """Completes the round with predictions of the images at these positions; False when stopped."""
        positions = {self.images.names[position]: int(position) for position in asked}
        done = distributed.from_rank_zero(folder.part_names)
        missing = [name for name in positions if name not in done]
        mine = [missing[place] for place in distributed.shard(len(missing))]
        drawn = set(list(positions)[: self.settings.pictures])
        predicted = 0
        distributed.synchronize_buffers_(self.network)  # so that it does not matter who predicts an image
        with evaluation_mode(self.network), exact_float32():
            for part in self._parts([positions[name] for name in mine], drawn, folder):
                folder.write_part(part)
                predicted += len(part)
        if distributed.any_rank(predicted < len(mine), what="predicting the chosen images"):
            return False
        distributed.from_rank_zero(lambda: self._assemble(folder, list(positions)))
        check_seen_everywhere(folder.queries_path, "the queries of the round")
        return True

    def _assemble(self, folder: RoundFolder, names: Sequence[str]) -> None:
        """One file from all parts, images in the order of their list."""
        seen_in_time(lambda: folder.part_names() >= set(names))  # parts of other machines
        folder.write_queries(folder.assemble(names))

    def _parts(
        self, numbers: Sequence[int], drawn: set[str], folder: RoundFolder
    ) -> Iterator[list[ImageQuery]]:
        """Queries of some images, a part at a time, as far as no stop signal comes."""
        progress = ImageProgress("predicting the chosen images", len(numbers))
        part: list[ImageQuery] = []

        def load(number: int) -> tuple[int, Sample]:
            return number, self.samples.sample(number, None)

        for number, sample in prefetch(load, numbers, self.num_workers):
            if self.stop():
                break
            name = self.images.names[number]
            logits = self.network(sample.image[None].to(self.world.device)).logits
            part.append(image_query(logits, name, sample.size))
            if name in drawn:
                write_score_map(folder, name, entropy_map(logits, sample.size))
            progress.advance()
            if len(part) == PART_IMAGES:
                yield part
                part = []
        if part:
            yield part


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
