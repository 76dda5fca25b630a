"""From parsed arguments to what active learning takes: settings, oracle, query rounds, class scores."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_loaders.dataset import SegmentationDataset
from data_loaders.decoding import read_image, read_raw_label
from data_loaders.discovery import FileList
from networks.segmentation import SegmentationNetwork
from selection import budget as budgets
from selection.budget import Budget
from selection.imported import PublishedAnnotation
from selection.published_masks import import_folder
from selection.store import AnnotationStore
from trainers import wiring, wiring_data
from trainers.active import ActiveSettings, ActiveTrainer
from trainers.base import Evaluator
from trainers.evaluation import truth_reader
from trainers.oracles import PeopleOracle, TruthOracle
from trainers.query_round import QueryRound, QuerySettings
from trainers.query_rounds import Oracle, QueryRounds
from trainers.shared_folder import check_is_shared
from trainers.source_order import SourceOrder
from trainers.target_images import BoughtLabelReader, FileImages
from trainers.wiring_data import Arguments, Domains
from utils import distributed, stopping
from utils.arguments import settings_digest, warn
from utils.distributed import World
from utils.errors import UserError
from utils.precision import Precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveParts:
    """What is made and checked before the network: data, budget, annotations. Nothing is written.

    Attributes:
        image_size: (H, W) of the first target image, which stands for all in estimates.
    """

    domains: Domains
    query: QuerySettings
    store: AnnotationStore
    reader: BoughtLabelReader
    datasets: Mapping[str, SegmentationDataset]
    source_order: SourceOrder | None
    image_size: tuple[int, int]


def prepare(args: Arguments) -> ActiveParts:
    """Finds the data and checks the budget against it.

    Raises:
        UserError: data that is not as it should be, a budget or radius that an image cannot hold, label files
            that the oracle needs and that are not there, annotations that cannot be read, a folder that
            cannot take them.
    """
    domains = wiring_data.find_domains(
        args,
        source=not args.source_free,
        target=True,
        target_labels="required" if args.oracle == "truth" else "never",
    )
    if args.input_size_query is None:  # settled here, so that a later --protocol cannot change the selection
        args.input_size_query = wiring.protocol_of(args).base_size or args.input_size_target
    query = query_settings(args)
    size = read_image(domains.target.items[0].image).shape[:2]
    _check_query(query, domains.target, size)
    if args.oracle == "truth":
        check_label_size(domains.target, size)
    store = AnnotationStore(Path(args.snapshot_dir) / "queries")
    check_store(args, store, domains)
    reader = BoughtLabelReader(store.load(0))
    datasets = {"target": wiring_data.target_dataset(args, domains.target, label_reader=reader)}
    order = None
    if domains.source is not None:
        source = wiring_data.labelled_dataset(args, domains.source, domains.space)
        datasets = {"source": source, **datasets}
        order = wiring_data.source_order(args, domains.source, domains.space)
    return ActiveParts(domains, query, store, reader, datasets, order, size)


def query_settings(args: Arguments) -> QuerySettings:
    """How regions are chosen, from the arguments."""
    return QuerySettings(
        setting=args.setting,
        budget=Budget.parse(args.budget),
        radius=args.radius,
        rounds=len(args.select_iterations),
        training_size=args.input_size_target,
        network_input="x".join(map(str, args.input_size_query)),
        score=args.score,
        seed=args.seed,
        pictures=args.query_pictures,
    )


def _check_query(query: QuerySettings, files: FileList, size: tuple[int, int]) -> None:
    if query.radius >= max(size):
        raise UserError(
            f"--radius {query.radius} is larger than the image: {files.items[0].image} is "
            f"{size[1]}x{size[0]}; give a smaller radius"
        )
    query.budget.check_fits(
        size,
        label_radius=query.label_radius,
        rounds=query.rounds,
        training_size=query.training_size,
        exclusion_radius=query.exclusion_radius,
    )


def check_label_size(files: FileList, size: tuple[int, int]) -> None:
    """The oracle answers at image size: the first label stands for all."""
    item = files.items[0]
    label = read_raw_label(item.label, files.description.label_encoding)
    if label.shape != tuple(size):
        raise UserError(
            f"{item.label} is {label.shape[1]}x{label.shape[0]}, its image {size[1]}x{size[0]}: the oracle "
            "needs labels of the size of the images; give images and labels of one size (--target-root)"
        )


def check_store(args: Arguments, store: AnnotationStore, domains: Domains) -> None:
    """Whether annotations can be written, and imported where that is asked for; reads the first of these."""
    folder = store.folder
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(
            f"{folder} is no folder that can be written, and queries and labels are kept there; fix its "
            "rights or move it away, or name another --snapshot-dir"
        )
    if args.annotations_from is not None and not store.has_imported():
        next(_annotations(args, domains))


def _annotations(args: Arguments, domains: Domains) -> Iterator[PublishedAnnotation]:
    names = [item.name for item in domains.target.items]
    return import_folder(args.annotations_from, names, domains.space.num_classes)


def make_trainer(
    args: Arguments, parts: ActiveParts, network: SegmentationNetwork, world: World, chosen: Precision
) -> ActiveTrainer:
    """The trainer of `--method` with everything it needs but its run folder.

    Raises:
        UserError: as the parts; the run folder holds rounds of another run.
    """
    domains = parts.domains
    evaluator = wiring.make_evaluator(args, domains, world, chosen)
    orders = {}
    if parts.source_order is not None:
        orders["source"] = parts.source_order
    rounds = QueryRounds(
        query=QueryRound(
            network,
            FileImages(domains.target, args.input_size_query),
            parts.query,
            world,
            num_workers=args.num_workers,
            stop=stop_asked,
        ),
        store=parts.store,
        reader=parts.reader,
        oracle=make_oracle(args, parts),
        space=domains.space,
        method=args.method,
        class_weights_from=args.class_weights_from,
        write_masks=args.write_masks,
        identity=settings_digest(args),
    )
    rounds.check(args.select_iterations)
    return ActiveTrainer(
        network=network,
        settings=wiring.method_settings(ActiveSettings, args),
        rounds=rounds,
        class_evaluator=class_evaluator(args, parts, world, chosen, evaluator),
        world=world,
        loop=wiring.loop_settings(args, chosen),
        streams=wiring_data.sample_streams(args, world, parts.datasets, orders=orders),
        evaluator=evaluator,
        evaluation=wiring.evaluation_memory(args, domains),
    )


def stop_asked() -> bool:
    """Whether a stop signal has come to this process."""
    return stopping.requested() is not None


def make_oracle(args: Arguments, parts: ActiveParts) -> Oracle:
    """Label files, or people; for people the price of the run is said now."""
    domains = parts.domains
    if args.oracle == "truth":
        return truth_oracle(args, domains)
    seconds = {}
    if args.seconds_per_decision is not None:
        seconds["seconds_per_decision"] = args.seconds_per_decision
    price = budgets.price(
        parts.query.budget,
        sizes=[parts.image_size] * len(domains.target.items),
        label_radius=parts.query.label_radius,
        rounds=parts.query.rounds,
        training_size=parts.query.training_size,
        **seconds,
    )
    logger.info("people are the oracle: %s", price.sentence())
    return PeopleOracle(str(args.snapshot_dir), price.sentence(), accept_partial=args.accept_partial)


def truth_oracle(args: Arguments, domains: Domains) -> TruthOracle:
    """Answers from the label files of the target."""
    read = truth_reader(domains.target, domains.space)
    items = {item.name: item for item in domains.target.items}
    return TruthOracle(lambda name: read(items[name]), num_workers=args.num_workers, stop=stop_asked)


def class_evaluator(
    args: Arguments, parts: ActiveParts, world: World, chosen: Precision, evaluator: Evaluator | None
) -> Evaluator | None:
    """Scores the classes for DWACA's weights where that is not the evaluation of the run itself.

    Raises:
        UserError: the weights come from validation labels and there are none.
    """
    domains = parts.domains
    if args.class_weights_from == "none":
        return None
    if args.class_weights_from == "validation":
        if evaluator is None:
            raise UserError(
                "--class-weights-from validation needs the target's labelled validation images and finds "
                "none; give --evaluation-root, or choose labelled, source or none"
            )
        warn(
            "class weights come from the labels of the very validation images that measure the result, as "
            "published; --class-weights-from labelled, source or none for a run without that leak"
        )
        return None
    bought = args.class_weights_from == "labelled"
    files = spread(domains.target if bought else domains.source, args.class_weight_images)
    scored = replace(domains, evaluation=files)
    return wiring.make_evaluator(args, scored, world, chosen, read_truth=parts.reader if bought else None)


def spread(files: FileList, count: int) -> FileList:
    """At most `count` images of a list, evenly spread over it."""
    total = len(files.items)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    return replace(files, items=tuple(files.items[index] for index in chosen))


def open_store(args: Arguments, parts: ActiveParts, trainer: ActiveTrainer) -> None:
    """Checks that all ranks see the store, takes over the annotations of an original run, once, and keeps the
    counted classes of the source.

    Collective; call it when the run folder is open.
    """
    check_is_shared(parts.store.folder)
    if distributed.is_main() and parts.source_order is not None:
        parts.source_order.keep(args.snapshot_dir)
    if args.annotations_from is None:
        return

    def import_once() -> None:
        if not parts.store.has_imported():
            parts.store.import_annotations(_annotations(args, parts.domains))

    distributed.from_rank_zero(import_once)
    trainer.rounds.take_over(parts.store.load(0))
