"""From parsed arguments to what MADA takes: its files, whole-image queries, anchors, stages."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from data_loaders.dataset import SegmentationDataset
from data_loaders.discovery import FileList
from data_loaders.scaled_crops import ScaledCropTransform
from data_loaders.streams import SampleStream
from networks.segmentation import SegmentationNetwork
from selection.anchor_files import find_list, read_list
from selection.budget import Budget
from selection.store import AnnotationStore
from trainers import wiring, wiring_active, wiring_data
from trainers.anchored import AnchoredSettings
from trainers.anchored_stages import StagedTrainer, StagePlan
from trainers.image_round import ImageQuerySettings, ImageRound
from trainers.query_rounds import Oracle, QueryRounds
from trainers.run_state import check_alike
from trainers.shared_folder import check_is_shared
from trainers.source_order import SourceOrder
from trainers.target_images import BoughtLabelReader, FileImages
from trainers.wiring_anchored_checks import check_anchors, check_batch, check_labels, check_start
from trainers.wiring_data import Arguments, Domains
from trainers.wiring_domain_anchors import RESAMPLING, AnchorSources, whole_images
from trainers.wiring_people import people_for_images
from utils import distributed
from utils.arguments import settings_digest, warn
from utils.distributed import World
from utils.errors import UserError
from utils.precision import Precision

logger = logging.getLogger(__name__)

_HALF = 8  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class AnchoredParts:
    """What is made and checked before the network: data, images to ask about, annotations. Nothing is
    written.

    Attributes:
        query: how images are chosen.
        listed, known: positions in the target's list, of --image-list (None without) and --labelled-list.
    """

    domains: Domains
    plan: StagePlan
    query: ImageQuerySettings
    listed: np.ndarray | None
    known: np.ndarray
    store: AnnotationStore
    reader: BoughtLabelReader
    source_order: SourceOrder | None


def prepare(args: Arguments) -> AnchoredParts:
    """Finds the data and checks budget and lists against it.

    Raises:
        UserError: data that is not as it should be, a budget of less than one image, lists of unknown images,
            more anchors than images, a class that the source cannot show, label files that the oracle needs
            and that are not there or of another size, a folder that cannot take annotations.
    """
    plan = StagePlan(steps=args.stage_steps, second_from=args.stage_2_from, stop_after=args.stop_after)
    truth = plan.buys and args.oracle == "truth"  # whatever the phase: the list of images must not change
    labels = "optional" if truth else "never"
    domains = wiring_data.find_domains(args, source=plan.buys, target=True, target_labels=labels)
    if args.input_size_query is None:
        args.input_size_query = args.input_size_target
    listed, known = _read_lists(args, domains.target)
    check_start(args)
    query = query_settings(args, len(domains.target.items), listed, known)
    check_anchors(args, plan, domains)
    store = AnnotationStore(Path(args.snapshot_dir) / "queries")
    wiring_active.check_store(args, store, domains)
    if truth and plan.reaches("labels"):
        check_labels(args, domains.target, listed, store.round(0))
    reader = BoughtLabelReader(store.load(0))
    order = None
    if domains.source is not None:
        order = wiring_data.source_order(args, domains.source, domains.space)
    return AnchoredParts(domains, plan, query, listed, known, store, reader, order)


def _read_lists(args: Arguments, target: FileList) -> tuple[np.ndarray | None, np.ndarray]:
    names = [item.name for item in target.items]
    listed = None if args.image_list is None else read_list(find_list(Path(args.image_list)), names)
    known = np.zeros(0, np.int64)
    if args.labelled_list is not None:
        known = read_list(find_list(Path(args.labelled_list)), names)
    digests = {"the images of --image-list": _digest(listed), "those of --labelled-list": _digest(known)}
    check_alike(digests, "give every machine the same lists")
    return listed, known


def _digest(array: np.ndarray | None) -> str:
    """Hex, of the numbers and their order; empty for None."""
    return "" if array is None else hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def query_settings(
    args: Arguments, total: int, listed: np.ndarray | None, known: np.ndarray
) -> ImageQuerySettings:
    """How images are chosen.

    Args:
        total: images of the target.
        listed, known: see `AnchoredParts`.

    Raises:
        UserError: the budget is less than one image, or more than there are.
    """
    if listed is not None:
        budget, count = Budget(float(len(listed)), "images"), len(listed)
    else:
        budget = Budget.parse(args.budget)
        count = budget.whole_images(total) + len(known)
        if count > total:
            raise UserError(
                f"--budget {budget} buys {count - len(known)} images, but only {total - len(known)} of "
                f"{total} are not in --labelled-list {args.labelled_list}; give a smaller budget"
            )
    return ImageQuerySettings(
        budget=budget,
        score="list" if listed is not None else args.score,
        seed=args.seed,
        network_input="x".join(map(str, args.input_size_query)),
        pictures=args.query_pictures,
        count=count,
    )


def make_trainer(
    args: Arguments, parts: AnchoredParts, network: SegmentationNetwork, world: World, chosen: Precision
) -> StagedTrainer:
    """The trainer of both stages with everything it needs but its run folder.

    Raises:
        UserError: as the parts; the run folder holds the round of another run; anchors or vectors of another
            network.
    """
    domains = parts.domains
    check_batch(args, network, world)
    folder = Path(args.snapshot_dir) / "anchors"
    shape = (args.num_anchors, network.spec.num_classes, network.feature_channels)
    anchors = AnchorSources(args, domains, network, world, folder)
    source_anchors, target_anchors = anchors.source(), anchors.target()
    rounds = QueryRounds(
        query=ImageRound(
            network=network,
            images=FileImages(domains.target, args.input_size_query, resampling=RESAMPLING),
            settings=parts.query,
            samples=whole_images(domains.target, args.input_size_query),
            source_anchors=source_anchors,
            listed=parts.listed,
            known=parts.known,
            folder=folder,
            list_folder=Path(args.snapshot_dir) / "selection_list",
            world=world,
            num_workers=args.num_workers,
            stop=wiring_active.stop_asked,
        ),
        store=parts.store,
        reader=parts.reader,
        oracle=make_oracle(args, parts),
        space=domains.space,
        method=args.method,
        write_masks=args.write_masks,
        identity=identity(args, parts),
    )
    if parts.plan.buys:
        _check_lists(args, parts)
        rounds.check((0,))
    evaluator = wiring.make_evaluator(args, domains, world, chosen)
    if (
        evaluator is not None
        and parts.plan.second_from == "best"
        and all(parts.plan.steps)
        and parts.plan.reaches("stage-2")
    ):
        warn(
            "stage 2 starts from the weights of stage 1 that are best on the very validation images that "
            "measure the result, as published; --stage-2-from last for a run without that leak"
        )
    return StagedTrainer(
        network=network,
        settings=wiring.method_settings(AnchoredSettings, args),
        anchors_shape=shape,
        plan=parts.plan,
        rounds=rounds,
        source_anchors=source_anchors,
        target_anchors=target_anchors,
        given=anchors.given(),
        make_streams=partial(make_streams, args, parts, world),
        world=world,
        loop=wiring.loop_settings(args, chosen),
        evaluator=evaluator,
        evaluation=wiring.evaluation_memory(args, domains),
    )


def identity(args: Arguments, parts: AnchoredParts) -> str:
    """Of the run, hex: rounds of another one are refused. The first half is about its settings, the second
    about its lists."""
    lists = hashlib.sha256()
    for positions in (parts.listed, parts.known):
        lists.update(b"-" if positions is None else np.asarray(positions, "<i8").tobytes())
    return settings_digest(args)[:_HALF] + lists.hexdigest()[:_HALF]


def _check_lists(args: Arguments, parts: AnchoredParts) -> None:
    """Refuses a run folder of the same settings and other lists.

    Raises:
        UserError: it is one.
    """
    begun, here = parts.store.round(0).info(), identity(args, parts)
    if begun is None or begun.run == here or begun.run[:_HALF] != here[:_HALF]:
        return
    lists = {"--image-list": args.image_list, "--labelled-list": args.labelled_list}
    given = [f"{name} {path} names" for name, path in lists.items() if path is not None]
    raise UserError(
        f"{given[0] if given else 'without --image-list or --labelled-list the run asks about'} other "
        f"images than {args.snapshot_dir} began with; give the list of then, or another --snapshot-dir"
    )


def make_oracle(args: Arguments, parts: AnchoredParts) -> Oracle:
    """Label files, or people."""
    if args.oracle == "truth":
        return wiring_active.truth_oracle(args, parts.domains)
    return people_for_images(
        args,
        parts.store,
        parts.domains.space.name,
        asked=parts.query.count,
        known=len(parts.known),
        total=len(parts.domains.target.items),
    )


def without_labels(files: FileList) -> FileList:
    """The same images, whose label files are not read and do not count for what a run compares."""
    return replace(files, items=tuple(replace(item, label=None) for item in files.items))


def make_streams(
    args: Arguments, parts: AnchoredParts, world: World, stage: int
) -> Mapping[str, SampleStream]:
    """The streams of a stage: "active" and "source", in the second also "target", whose images no loader of
    the first opens.

    Raises:
        UserError: no bought image has a label.
    """
    domains = parts.domains
    bought = set(parts.reader.bought.names_with_labels())
    items = tuple(item for item in domains.target.items if item.name in bought)
    if not items:
        raise UserError(
            f"no pixel of the bought images in {parts.store.folder} has a label, so there is nothing to "
            "train on; label some, or buy others in another --snapshot-dir",
            everywhere=True,
        )
    table = domains.source.description.label_table(domains.space.name)
    datasets = {
        "active": SegmentationDataset(
            without_labels(replace(domains.target, items=items)),
            transform=_crops(args, args.input_size_active, args.mirror),
            label_reader=parts.reader,
        ),
        "source": SegmentationDataset(
            domains.source, transform=_crops(args, args.input_size, args.mirror), label_table=table
        ),
    }
    if stage == 2:
        transform = _crops(args, args.input_size_target, args.random_mirror)
        datasets["target"] = SegmentationDataset(without_labels(domains.target), transform=transform)
    counts = ", ".join(f"{len(dataset)} {name}" for name, dataset in datasets.items())
    logger.info("stage %d, %d iterations, on images: %s", stage, args.stage_steps[stage - 1], counts)
    orders = {} if parts.source_order is None else {"source": parts.source_order}
    return wiring_data.sample_streams(args, world, datasets, orders=orders)


def _crops(args: Arguments, size: tuple[int, int], mirror: bool) -> ScaledCropTransform:
    return ScaledCropTransform(
        size=size,
        crop=args.crop_size[::-1],
        scaled_width=args.scaled_width,
        scale_range=args.scale_range,
        mirror=0.5 if mirror else 0.0,
    )


def open_store(args: Arguments, parts: AnchoredParts, trainer: StagedTrainer) -> None:
    """Checks that all ranks see the store. Collective; call it when the run folder is open."""
    check_is_shared(parts.store.folder)
    if distributed.is_main() and parts.source_order is not None:
        parts.source_order.keep(args.snapshot_dir)
