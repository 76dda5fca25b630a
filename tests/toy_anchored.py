"""Small parts of MADA for tests: both stages as one run on drawn images, with the real choice of images and
the real anchors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data_loaders.samples import Sample
from data_loaders.streams import SampleStream
from networks import build
from networks.segmentation import SegmentationNetwork
from networks.spec import NetworkSpec
from selection.anchor_files import Domain
from selection.budget import Budget
from selection.store import AnnotationStore
from tests.toy_active import SIZE, SPACE, ArrayImages, DrawnImages, drawn_streams
from tests.toy_training import WORLD
from trainers.anchored import AnchoredSettings
from trainers.anchored_stages import StagedTrainer, StagePlan
from trainers.domain_anchors import ClusterSettings, DomainAnchors
from trainers.image_round import ImageQuerySettings, ImageRound
from trainers.loop_settings import LoopSettings
from trainers.oracles import TruthOracle
from trainers.query_rounds import Oracle, QueryRounds
from trainers.target_images import BoughtLabelReader
from utils.distributed import World
from utils.maths import upsample
from utils.phases import PHASES
from utils.runs import Run, open_run
from utils.stopping import never

STEPS = (2, 2)
COUNT = 3  # images that are bought, of
IMAGES = 5  # of the target
SOURCE_IMAGES = 6
ANCHORS = 2


def lively_network(
    *, architecture: str = "mada_v3plus", double: bool = False, drop_rate: float = 0.0
) -> SegmentationNetwork:
    """Predicts several classes from the start; the same weights at every call."""
    torch.manual_seed(3)
    options = {"drop_rate": drop_rate, "head_channels": 16, "low_channels": 8, "dilations": [1, 2]}
    if architecture == "mada_v3plus":
        options["inner_drop_rate"] = drop_rate
    network = build(NetworkSpec(architecture, "resnet18_quarter", SPACE.num_classes, SPACE.name, options))
    with torch.no_grad():
        for _, value in network.head_parameters():
            if value.shape[0] == SPACE.num_classes and value.ndim == 4:
                value.normal_(0, 2, generator=torch.Generator().manual_seed(0))
    return network.double() if double else network


@cache
def source_images() -> DrawnImages:
    """Labelled in their upper halves as the network sees them, so that both agree on some pixels."""
    images = DrawnImages(SOURCE_IMAGES, seed=0)
    network = lively_network().eval()
    with torch.no_grad():
        logits = upsample(network(torch.from_numpy(images.images)).logits, SIZE)
    half = SIZE[0] // 2
    images.labels[:, :half] = logits.argmax(1).numpy()[:, :half]
    return images


class Part:
    """Some samples of a data set."""

    def __init__(self, samples: DrawnImages, numbers: list[int], *, labelled: bool = True) -> None:
        self.samples = samples
        self.numbers = numbers
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.numbers)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Image, and its label unless the part has none."""
        sample = self.samples.sample(self.numbers[index], generator)
        return sample if self.labelled else Sample(sample.image, None, sample.name, sample.size)


class ScriptedScores:
    """An evaluator that gives these scores, by the trainer's iteration; None: a stop signal cut it short."""

    def __init__(self, scores: Mapping[int, float | None]) -> None:
        self.scores = dict(scores)
        self.trainer: StagedTrainer | None = None
        self.asked: list[int] = []

    def __call__(self, network: nn.Module) -> dict[str, float] | None:
        assert self.trainer is not None
        self.asked.append(self.trainer.iteration)
        score = self.scores[self.trainer.iteration]
        return None if score is None else {"val/miou": score}


def after_calls(count: int) -> Callable[[], bool]:
    """A stop signal that is seen from that call on."""
    calls = iter(range(1_000_000))
    return lambda: next(calls) >= count


def staged_trainer(
    folder: Path,
    *,
    run: Run | None = None,
    network: SegmentationNetwork | None = None,
    settings: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
    score: str = "published",
    loop: Mapping[str, Any] | None = None,
    oracle: Oracle | None = None,
    world: World = WORLD,
    global_batch: int = 2,
    stops: Mapping[str, Callable[[], bool]] | None = None,
    identity: str = "",
    **parts: Any,
) -> StagedTrainer:
    """A trainer of both stages; equal arguments make equal trainers.

    Args:
        folder: of anchors, lists and annotations.
        run: for snapshots.
        network: in place of a `lively_network` with dropout.
        settings: of the method, on top of a short schedule.
        plan: of the stages, on top of `STEPS`.
        score: of the choice.
        loop: of the loop; `num_steps_stop` follows from the plan.
        oracle: in place of the truth of the drawn images.
        world: this process.
        global_batch: images of each domain and iteration.
        stops: stop signals, by "source", "choice", "answers" and "target".
        identity: of the run's settings.
        parts: further arguments of the trainer, such as an `evaluator`.
    """
    network = lively_network(drop_rate=0.2) if network is None else network
    stops = stops or {}
    chosen = StagePlan(**{"steps": STEPS, **(plan or {})})
    store = AnnotationStore(folder / "queries")
    reader = BoughtLabelReader(store.load(0))
    source, target = source_images(), DrawnImages(IMAGES, seed=1)

    def anchors(domain: Domain, samples: DrawnImages) -> DomainAnchors:
        return DomainAnchors(
            network=network,
            samples=samples,
            labelled=domain == "source",
            fingerprint=domain,
            clusters=ClusterSettings(
                domain=domain,
                folder=folder / "anchors",
                num_anchors=ANCHORS,
                class_names=SPACE.class_names,
                allow_absent=True,
            ),
            world=world,
            num_workers=0,
            stop=stops.get(domain, never),
        )

    source_anchors = anchors("source", source)
    query = ImageRound(
        network=network,
        images=ArrayImages(target.images),
        settings=ImageQuerySettings(
            budget=Budget(float(COUNT), "images"),
            score=score,
            seed=0,
            network_input="48x33",
            pictures=0,
            count=COUNT,
        ),
        samples=target,
        source_anchors=source_anchors,
        folder=folder / "anchors",
        list_folder=folder / "selection_list",
        world=world,
        num_workers=0,
        stop=stops.get("choice", never),
    )
    truth = TruthOracle(target.truth, num_workers=0, stop=stops.get("answers", never))
    rounds = QueryRounds(
        query=query,
        store=store,
        reader=reader,
        oracle=oracle or truth,
        space=SPACE,
        method="mada",
        identity=identity,
    )

    def make_streams(stage: int) -> dict[str, SampleStream]:
        names = reader.bought.names_with_labels()
        bought = sorted(int(name.removesuffix(".png")) for name in names)
        labelled = DrawnImages(IMAGES, seed=1, reader=reader)
        sets = {"active": Part(labelled, bought), "source": Part(source, list(range(SOURCE_IMAGES)))}
        if stage == 2:
            sets["target"] = Part(target, list(range(IMAGES)), labelled=False)
        return drawn_streams(sets, world, global_batch)

    method = {"learning_rate": 1e-3, "num_steps": 10, **(settings or {})}
    limits = {"num_steps_stop": last_step(chosen), "log_every": 1, "save_every": 1, **(loop or {})}
    trainer = StagedTrainer(
        network=network,
        settings=AnchoredSettings(**method),
        anchors_shape=(ANCHORS, SPACE.num_classes, network.feature_channels),
        plan=chosen,
        rounds=rounds,
        source_anchors=source_anchors,
        target_anchors=anchors("target", target),
        make_streams=make_streams,
        world=world,
        loop=LoopSettings(**limits),
        run=run,
        **parts,
    )
    if isinstance(trainer.evaluator, ScriptedScores):
        trainer.evaluator.trainer = trainer
    return trainer


def last_step(plan: StagePlan) -> int:
    """Where a run with this plan stops, as the command line settles it."""
    place = PHASES.index(plan.stop_after)
    if place < PHASES.index("stage-1"):
        return 0
    return plan.steps[0] + (plan.steps[1] if plan.stop_after == "stage-2" else 0)


def run_of(
    folder: Path,
    *,
    stop_after: str = "stage-2",
    keep: int = 10,
    steps: tuple[int, int] = STEPS,
    world: World = WORLD,
) -> AbstractContextManager[Run]:
    """The run folder of a run to the end of a phase."""
    stop = last_step(StagePlan(steps=steps, stop_after=stop_after))
    arguments = {"seed": 0, "num_steps_stop": stop, "stop_after": stop_after}
    free = frozenset({"stop_after"})
    return open_run(folder, arguments, world=world, keep=keep, free_to_change=free, tensorboard=False)


def fit(folder: Path, *, stop_after: str = "stage-2", keep: int = 10, **options: Any) -> StagedTrainer:
    """A run in this folder, or what is missing of it, up to the end of a phase."""
    plan = {**options.pop("plan", {}), "stop_after": stop_after}
    with run_of(folder, stop_after=stop_after, keep=keep, steps=plan.get("steps", STEPS)) as run:
        trainer = staged_trainer(folder, run=run, plan=plan, **options)
        assert trainer.fit() == 0
    return trainer


def outcome_of(trainer: StagedTrainer) -> dict[str, Any]:
    """What must be equal, bit for bit, after a run: weights, anchors, optimizer, queries, annotations."""
    state = trainer.state()
    queries = trainer.rounds.store.round(0).queries()
    assert queries is not None
    names = ("iteration", "weights", "method_state", "optimizers", "streams", "metrics", "best", "best_at")
    kept = {name: state[name] for name in names}
    return {**kept, "torch": torch.get_rng_state(), "queries": queries.digest()}
