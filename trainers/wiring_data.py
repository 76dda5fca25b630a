"""From parsed arguments to files, data sets and streams: the data half of `trainers.wiring`."""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_loaders.balanced_order import ListedOrder
from data_loaders.checking import check_first_labels
from data_loaders.dataset import LabelReader, SegmentationDataset
from data_loaders.description import DatasetDescription, load_description
from data_loaders.discovery import FileList, NothingFoundError, find_files
from data_loaders.rare_classes import RareClassSamples
from data_loaders.streams import SampleStream
from data_loaders.transforms import TrainingTransform
from trainers.label_checks import PseudoLabels, check_pseudo_labels, check_threshold
from trainers.labelling import default_pseudo_label_folder, find_pseudo_label_folder
from trainers.memory import MemorySettings
from trainers.run_state import check_alike
from trainers.source_order import SourceOrder, class_balanced_order
from utils.arguments import batch_line, check_num_classes
from utils.class_spaces import ClassSpace, class_space
from utils.distributed import World
from utils.errors import UserError

logger = logging.getLogger(__name__)

Arguments = argparse.Namespace
StreamedData = SegmentationDataset | RareClassSamples


@dataclass(frozen=True, slots=True)
class DrawnBy:
    """What the draws of a stream depend on beside its files: a digest that a continued run compares, and in
    words what it is."""

    digest: str
    words: str


@dataclass(frozen=True, slots=True)
class Domains:
    """Files of one training run; `target` is empty for supervised training, `evaluation` where no labels are
    found."""

    space: ClassSpace
    source: FileList | None
    target: FileList | None
    evaluation: FileList | None

    def found(self) -> dict[str, FileList]:
        """The lists that there are, by role."""
        files = {"source": self.source, "target": self.target, "evaluation": self.evaluation}
        return {role: found for role, found in files.items() if found is not None}


def find_domains(
    args: Arguments,
    *,
    source: bool,
    target: bool,
    target_labels: Literal["required", "optional", "never"] = "never",
) -> Domains:
    """Finds and checks the images and labels that the run will read, before anything is built.

    Args:
        source: whether it reads the source domain.
        target: whether it trains on target images.
        target_labels: required: an oracle answers from the labels of those images; optional: of some of them.

    Raises:
        UserError: a folder, list or label is not what it should be, or differs between the ranks.
    """
    described_target = load_description(args.target)
    space = class_space(args.classes or described_target.default_class_space)
    check_num_classes(args, space.num_classes)
    source_files = find_source(args, space) if source else None
    target_files = None
    if target:
        target_files = _target_files(args, described_target, space, labels=target_labels)
    files = Domains(space, source_files, target_files, _evaluation_files(args, described_target, space))
    for role, found in files.found().items():
        logger.info(
            "%s: %d images of %s %s in %s",
            role,
            len(found.items),
            found.description.name,
            found.split,
            found.root,
        )
    roles = {role: getattr(files, role) for role in ("source", "target", "evaluation")}
    check_alike(
        {f"the {role} images": "" if found is None else found.fingerprint() for role, found in roles.items()},
        "give every machine the same copy of the data",
    )
    return files


def _target_files(
    args: Arguments,
    description: DatasetDescription,
    space: ClassSpace,
    *,
    labels: Literal["required", "optional", "never"],
) -> FileList:
    try:
        files = find_files(
            description,
            split=args.target_split,
            root=args.target_root,
            data_root=_data_root(args),
            labels=labels,
            list_file=args.target_list,
            strict=args.strict,
        )
    except NothingFoundError as error:
        if labels == "never":
            raise
        raise NothingFoundError(
            f"{error} (the ground-truth oracle reads the labels of the target; --oracle people needs none)"
        ) from None
    if labels != "never":
        files.description.label_table(space.name)
        check_first_labels(files)
    return files


def find_source(args: Arguments, space: ClassSpace) -> FileList:
    """The labelled source images, of which the first labels are looked at.

    Raises:
        UserError: a folder, list or label is not what it should be.
    """
    files = find_files(
        load_description(args.source),
        split=args.source_split,
        root=args.source_root,
        data_root=_data_root(args),
        labels="required",
        list_file=args.source_list,
        strict=args.strict,
    )
    files.description.label_table(space.name)  # there is a way from these labels to the classes in use
    check_first_labels(files)
    return files


def _evaluation_files(args: Arguments, description: DatasetDescription, space: ClassSpace) -> FileList | None:
    """Labelled target images that measure; None, with a line in the log, where there are none.

    Raises:
        UserError: there are some but not as they should be, or there are none although they are asked for.
    """
    asked = {"evaluation_root", "evaluation_list", "evaluation_split"} & args.given
    if args.evaluate_every > 0:
        asked |= {"evaluate_every"} & args.given
    try:
        if not asked and args.evaluation_split not in description.splits:
            raise NothingFoundError(f"{description.name} has no split {args.evaluation_split!r}")
        files = find_files(
            description,
            split=args.evaluation_split,
            root=args.evaluation_root or args.target_root,
            data_root=_data_root(args),
            labels="required",
            list_file=args.evaluation_list,
            strict=args.strict,
        )
    except NothingFoundError as error:
        if asked == {"evaluate_every"}:
            raise NothingFoundError(
                f"{error} (--evaluate-every {args.evaluate_every} scores them; --evaluate-every 0 trains "
                "without)"
            ) from None
        if asked:
            raise
        logger.info("no evaluation during training: %s", error)
        return None
    files.description.label_table(space.name)
    check_first_labels(files)
    return files


def _data_root(args: Arguments) -> Path | None:
    return None if args.data_root is None else Path(args.data_root)


def labelled_dataset(
    args: Arguments, files: FileList, space: ClassSpace, *, pseudo_label_root: Path | None = None
) -> SegmentationDataset:
    """Samples of the labelled stream: source labels, or the target's pseudo labels."""
    transform = TrainingTransform(
        size=args.input_size,
        crop=_crop(args),
        scale_range=args.scale_range,
        crop_attempts=args.crop_attempts,
        crop_min_classes=args.crop_min_classes,
        mirror=args.mirror,
        autoaugment=args.autoaug,
    )
    if pseudo_label_root is not None:
        return SegmentationDataset(
            files, transform=transform, pseudo_label_root=pseudo_label_root, num_classes=space.num_classes
        )
    return SegmentationDataset(
        files, transform=transform, label_table=files.description.label_table(space.name)
    )


def target_dataset(
    args: Arguments, files: FileList, *, label_reader: LabelReader | None = None
) -> SegmentationDataset:
    """Samples of the target stream: unlabelled, or with the labels that `label_reader` gives."""
    transform = TrainingTransform(
        size=args.input_size_target,
        crop=_crop(args),
        mirror=args.random_mirror,
        autoaugment=args.autoaug_target,
    )
    return SegmentationDataset(files, transform=transform, label_reader=label_reader)


def _crop(args: Arguments) -> tuple[int, int] | None:
    """(H, W) of the training crops; None: whole images."""
    return None if args.crop_size is None else args.crop_size[::-1]


def source_order(args: Arguments, files: FileList, space: ClassSpace) -> SourceOrder | None:
    """The order in which source images are drawn; None: shuffled."""
    if args.source_order == "shuffled":
        return None
    return class_balanced_order(
        files,
        space,
        table=args.label_info,
        run=Path(args.snapshot_dir),
        seed=args.seed,
        draws=args.num_steps * args.batch_size,
        num_workers=args.num_workers,
    )


def find_pseudo_labels(args: Arguments, domains: Domains) -> PseudoLabels:
    """The checked pseudo labels of the target's training images; says which labels are in force.

    Raises:
        UserError: no labels, unfinished or changed ones, those of another image list, class space or
            threshold, or other ones on another rank.
    """
    files = domains.target
    if args.pseudo_label_dir is None and args.restore_from is None:
        raise UserError("stage II needs --restore-from (the snapshot of stage I) or --pseudo-label-dir")
    if args.pseudo_label_dir is not None:
        folder = args.pseudo_label_dir
    elif args.threshold is not None:
        folder = default_pseudo_label_folder(
            args.restore_from, files.description.name, files.split, args.threshold
        )
    else:
        folder = find_pseudo_label_folder(args.restore_from, files.description.name, files.split)
    labels = check_pseudo_labels(folder, files, domains.space.name)
    check_threshold(labels, args.threshold)
    logger.info(
        "pseudo labels: %s; colour augmentation %s", labels.describe(), "on" if args.autoaug else "off"
    )
    check_alike(
        {f"the pseudo labels in {labels.folder}": labels.fingerprint},
        "give every machine the same copy of the labels",
    )
    return labels


def stage_two_needs_target(args: Arguments, settings: MemorySettings) -> bool:
    """Whether stage II reads plain target images beside the pseudo-labelled ones.

    With all target weights at 0, as published, their only effect is on BatchNorm's running statistics.
    """
    return settings.ever_uses_target or (args.quirks == "published" and args.batch_norm != "frozen")


def sample_streams(
    args: Arguments,
    world: World,
    datasets: Mapping[str, StreamedData],
    *,
    pseudo_labels: Mapping[str, PseudoLabels] | None = None,
    orders: Mapping[str, ListedOrder | None] | None = None,
    drawn_by: Mapping[str, DrawnBy | None] | None = None,
) -> dict[str, SampleStream]:
    """One endless stream per data set, all with the global batch.

    Args:
        pseudo_labels: by stream; they count for what a continued run compares.
        orders: by stream, where images are not drawn in shuffled order.
        drawn_by: by stream, where more than that decides what is drawn.
    """
    orders, drawn_by = orders or {}, drawn_by or {}
    logger.info("%s", batch_line(args, world))
    pseudo_labels = pseudo_labels or {}
    return {
        name: SampleStream(
            dataset,
            order=orders.get(name),
            seed=args.seed,
            name=name,
            global_batch=args.batch_size,
            rank=world.rank,
            world_size=world.size,
            accumulation=args.accumulation,
            num_workers=args.num_workers,
            pin_memory=world.device.type == "cuda",
            fingerprint=_fingerprint(dataset, pseudo_labels.get(name), orders.get(name), drawn_by.get(name)),
            description=_description(dataset, pseudo_labels.get(name), drawn_by.get(name)),
            skip_bad_images=args.skip_bad_images,
        )
        for name, dataset in datasets.items()
    }


def _fingerprint(
    dataset: StreamedData, labels: PseudoLabels | None, order: ListedOrder | None, drawn_by: DrawnBy | None
) -> str:
    """16 hexadecimal digits that change with the names of images and label files, their order, the pseudo
    labels and what else decides the draws; not with the folder they lie in."""
    digest = hashlib.sha256(b"" if labels is None else labels.fingerprint.encode())
    if drawn_by is not None:
        digest.update(drawn_by.digest.encode())
    if order is not None:
        digest.update(np.asarray(order.indices, np.int64).tobytes())
    for item in dataset.items:
        digest.update(f"{item.name}\t{item.label.name if item.label else ''}\n".encode())
    return digest.hexdigest()[:16]


def _description(dataset: StreamedData, labels: PseudoLabels | None, drawn_by: DrawnBy | None) -> str:
    images = f"{len(dataset.items)} images, the first {dataset.items[0].image}"
    if drawn_by is not None:
        images = f"{images}, {drawn_by.words}"
    return images if labels is None else f"{images}, with the pseudo labels in {labels.folder}"
