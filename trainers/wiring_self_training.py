"""From parsed arguments to what self-training takes: crops, rare classes, reference, instance bank."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_loaders.aspect_crops import AspectCropTransform, fitted_size
from data_loaders.dataset import SegmentationDataset
from data_loaders.decoding import read_image
from data_loaders.discovery import FileList
from data_loaders.image_statistics import statistics_for, statistics_place
from data_loaders.rare_classes import RareClassSampler, RareClassSamples
from data_loaders.streams import SampleSource
from losses.instance_bank import InstanceBank
from networks import build
from networks.backbone_weights import holds_backbone_only, load_backbone
from networks.normalization import tracks_statistics
from networks.segmentation import SegmentationNetwork
from trainers import wiring, wiring_data
from trainers.bank_files import read_bank
from trainers.bank_filling import fill_bank, filling_order
from trainers.dida import DidaSettings, DidaTrainer
from trainers.labelling import weights_digest
from trainers.reference import BackboneReference
from trainers.run_state import check_alike
from trainers.self_training import SelfTrainingSettings, SelfTrainingTrainer
from trainers.wiring_data import Arguments, Domains, DrawnBy
from utils import distributed, stopping
from utils.arguments import warn
from utils.class_spaces import ClassSpace
from utils.distributed import World
from utils.errors import UserError
from utils.precision import Precision
from utils.snapshots import has_snapshots

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SelfTrainingParts:
    """What is made and checked before the network: data and the bank's entries. Nothing is written.

    Attributes:
        drawn_by: by stream, what its draws depend on beside its files.
        source_pixels: of each class in the source; None where they were not counted.
        distance_classes: train ids on which the feature distance is measured.
    """

    domains: Domains
    datasets: Mapping[str, SampleSource]
    drawn_by: Mapping[str, DrawnBy | None]
    source_pixels: tuple[int, ...] | None
    distance_classes: tuple[int, ...]


def prepare(args: Arguments) -> SelfTrainingParts:
    """Finds the data and checks sizes and statistics against it.

    Raises:
        UserError: data or statistics that are not as they should be, a crop that the resized images cannot
            fill, classes that are not known.
    """
    domains = wiring_data.find_domains(args, source=True, target=True)
    for role, files, limit in (
        ("source", domains.source, args.input_size),
        ("target", domains.target, args.input_size_target),
    ):
        check_crop(args, role, files, limit)
    source = source_samples(args, domains.source, domains.space)
    target = SegmentationDataset(
        domains.target,
        transform=AspectCropTransform(
            limit=args.input_size_target, crop=args.crop_size[::-1], mirror=args.random_mirror
        ),
        pad_to=args.crop_size[::-1],
    )
    classes = ()
    if args.feature_distance_weight > 0:
        classes = distance_classes(args.feature_distance_classes, domains.space)
    return SelfTrainingParts(
        domains,
        {"source": source.samples, "target": target},
        {"source": source.drawn_by},
        source.pixels,
        classes,
    )


@dataclass(frozen=True, slots=True)
class SourceSamples:
    """Labelled crops of the source, what their draws depend on beside the files, and the pixels of each class
    (None: not counted)."""

    samples: SampleSource
    drawn_by: DrawnBy | None = None
    pixels: tuple[int, ...] | None = None


def source_samples(args: Arguments, files: FileList, space: ClassSpace) -> SourceSamples:
    """Labelled crops of the source; of rare classes more often where that is asked for.

    Raises:
        UserError: class statistics that are missing or not of these files.
    """
    dataset = SegmentationDataset(
        files,
        transform=AspectCropTransform(
            limit=args.input_size,
            crop=args.crop_size[::-1],
            largest_share=args.crop_largest_share or None,
            attempts=args.crop_attempts,
            mirror=args.mirror,
        ),
        label_table=files.description.label_table(space.name),
        pad_to=args.crop_size[::-1],
    )
    if not args.rare_class_sampling:
        return SourceSamples(dataset)
    place = statistics_place(files, space, args.class_statistics)
    counts = statistics_for(files, space, args.class_statistics)
    sampler = RareClassSampler(
        counts,
        temperature=args.rare_class_temperature,
        min_pixels=args.rare_class_min_pixels,
        class_names=space.class_names,
        origin=str(place),
    )
    for line in sampler.summary():
        logger.info("%s", line)
    samples = RareClassSamples(dataset, sampler, min_crop_share=args.rare_class_min_crop_share)
    pixels = tuple(sampler.pixels_per_class.get(train, 0) for train in range(space.num_classes))
    digest = hashlib.sha256(repr(counts).encode()).hexdigest()
    check_alike({"the class statistics of the source": digest}, "give every machine the same copy of them")
    words = f"drawn by the class statistics in {place}"
    return SourceSamples(samples, DrawnBy(digest, words), pixels)


def check_crop(args: Arguments, role: str, files: FileList, limit: tuple[int, int]) -> None:
    """The first image of a domain stands for all: a crop that none can fill is a mistake.

    Raises:
        UserError: it is smaller than the crop within `limit` (W, H).
    """
    path = files.items[0].image
    height, width = read_image(path).shape[:2]
    fitted = fitted_size((width, height), limit)
    if args.crop_size[0] <= fitted[0] and args.crop_size[1] <= fitted[1]:
        return
    option = "--input-size" if role == "source" else "--input-size-target"
    raise UserError(
        f"--crop-size {args.crop_size[0]},{args.crop_size[1]} is larger than the {role} images: {path} is "
        f"{width}x{height} and {fitted[0]}x{fitted[1]} within {option} {limit[0]},{limit[1]}, proportions "
        f"kept; give a smaller --crop-size or a larger {option}"
    )


def distance_classes(text: str | None, space: ClassSpace) -> tuple[int, ...]:
    """Train ids of the named classes, or the things of the class space.

    Raises:
        UserError: no class or an unknown one, or a space without things.
    """
    if text is None:
        if not space.things:
            raise UserError(
                f"class space {space.name} does not say which classes are things; name some with "
                "--feature-distance-classes, or give --feature-distance-weight 0"
            )
        return space.things
    if not text.strip():
        raise UserError(
            "--feature-distance-classes names no class; leave it out for the things, or give "
            "--feature-distance-weight 0 for none"
        )
    names = {name: train for train, name in enumerate(space.class_names)}
    ids = {str(train): train for train in range(space.num_classes)}
    chosen = []
    for word in (part.strip() for part in text.split(",")):
        if word not in names and word not in ids:
            raise UserError(
                f"--feature-distance-classes: {word!r} is no class of {space.name}; there are "
                f"{', '.join(space.class_names)}"
            )
        chosen.append(names.get(word, ids.get(word)))
    return tuple(sorted(set(chosen)))


def make_reference(args: Arguments, network: SegmentationNetwork) -> BackboneReference | None:
    """The ImageNet backbone of the feature distance: the network's own, or read from --backbone-weights where
    the network starts from something else.

    Raises:
        UserError: there are no such weights, or the crop does not fit the stride.
    """
    if args.feature_distance_weight == 0:
        return None
    _check_stride(args, network)
    if args.restore_from is None or holds_backbone_only(args.restore_from):
        return BackboneReference(network)
    if args.backbone_weights is None:
        raise UserError(
            f"the feature distance compares with the ImageNet backbone, which {args.restore_from} does not "
            "hold; give --backbone-weights too, or --feature-distance-weight 0"
        )
    fresh = build(network.spec)
    logger.info("reference of the feature distance: %s", load_backbone(fresh, args.backbone_weights))
    return BackboneReference(fresh.to(next(network.parameters()).device))


def _check_stride(args: Arguments, network: SegmentationNetwork) -> None:
    stride = 32 if network.spec.architecture == "daformer" else network.spec.options.get("output_stride", 1)
    if any(side % stride for side in args.crop_size):
        raise UserError(
            f"--crop-size {args.crop_size[0]},{args.crop_size[1]} is no multiple of {stride}, the stride of "
            f"{network.spec.backbone}'s last stage, as the feature distance needs; change it, or give "
            "--feature-distance-weight 0"
        )


def make_trainer(
    args: Arguments,
    parts: SelfTrainingParts,
    network: SegmentationNetwork,
    world: World,
    chosen: Precision,
) -> SelfTrainingTrainer:
    """The trainer of the method.

    Raises:
        UserError: a bank that does not fit the network, and what `make_reference` raises.
    """
    kind = DidaSettings if args.method == "dida" else SelfTrainingSettings
    settings = replace(wiring.method_settings(kind, args), feature_distance_classes=parts.distance_classes)
    loop = replace(wiring.loop_settings(args, chosen), ema_copies_buffers=args.teacher_buffers == "copied")
    reference = make_reference(args, network)
    _check_weights(network, reference)
    common = {
        "network": network,
        "settings": settings,
        "reference": reference,
        "world": world,
        "loop": loop,
        "streams": wiring_data.sample_streams(args, world, parts.datasets, drawn_by=parts.drawn_by),
        "evaluator": wiring.make_evaluator(args, parts.domains, world, chosen),
        "evaluation": wiring.evaluation_memory(args, parts.domains),
    }
    if args.method == "dida":
        bank = make_bank(args, parts, network)
        fill = None
        if args.instance_bank == "fill":
            fill = partial(_fill, args, parts, world, chosen, network)
        trainer = DidaTrainer(**common, bank=bank.to(world.device), fill_bank=fill)
    else:
        trainer = SelfTrainingTrainer(**common)
    if args.teacher_buffers == "copied" and not tracks_statistics(trainer.network):
        warn("--teacher-buffers copied has no effect: the network has no BatchNorm whose statistics move")
    return trainer


def _check_weights(network: SegmentationNetwork, reference: BackboneReference | None) -> None:
    """The teacher and the reference are copied on every rank, before anything is broadcast."""
    digests = {"the weights that the network starts from": weights_digest(network)}
    if reference is not None:
        digests["the backbone weights of the feature distance"] = str(reference.digest.tolist())
    check_alike(digests, "give every machine the same files")


def make_bank(args: Arguments, parts: SelfTrainingParts, network: SegmentationNetwork) -> InstanceBank:
    """The bank of the given files, or an empty one: to be filled, or to take over a snapshot's.

    Raises:
        UserError: files that are missing, damaged or do not fit network and classes, or too few entries.
    """
    space = parts.domains.space
    empty = InstanceBank(args.bank_size, network.feature_channels, space.num_classes)
    if args.instance_bank == "fill":
        check_bank_size(args.bank_size, space)
        _check_start_of_filling(args)
        return empty
    if _continues(args):
        logger.info("instance bank: the snapshot's; %s is not read", args.instance_bank)
        return empty
    features, labels = read_bank(
        Path(args.instance_bank).expanduser(),
        num_classes=space.num_classes,
        channels=network.feature_channels,
        class_names=space.class_names,
    )
    bank = InstanceBank(len(labels), network.feature_channels, space.num_classes)
    bank.set(features, labels)
    digest = hashlib.sha256(features.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    check_alike({f"the instance bank {args.instance_bank}": digest}, "give every machine the same copy of it")
    return bank


def _continues(args: Arguments) -> bool:
    """Whether the run folder has a snapshot, which holds the bank whatever its size; rank 0's answer."""
    return distributed.from_rank_zero(lambda: has_snapshots(args.snapshot_dir))


def _check_start_of_filling(args: Arguments) -> None:
    """A network with ImageNet weights has no features of classes yet."""
    if args.bank_fill_at > 0 or args.restore_from is None or not holds_backbone_only(args.restore_from):
        return
    if not _continues(args):
        raise UserError(
            f"--bank-fill-at 0 fills the bank with features of an untrained head: --restore-from "
            f"{args.restore_from} holds a backbone only; give a trained network, or a later --bank-fill-at"
        )


def check_bank_size(size: int, space: ClassSpace) -> None:
    """Refuses --bank-size where classes would be left without an entry.

    Raises:
        UserError: it is below the number of classes.
    """
    if size < space.num_classes:
        raise UserError(
            f"--bank-size {size} is below the {space.num_classes} classes of {space.name}; give at least one "
            "entry for each"
        )


def _fill(
    args: Arguments,
    parts: SelfTrainingParts,
    world: World,
    chosen: Precision,
    network: SegmentationNetwork,
    bank: InstanceBank,
) -> bool:
    """Fills the bank from the network as it is; False when a stop signal cut it short."""
    filled = fill_bank(
        network,
        parts.datasets["source"],
        size=len(bank.labels),
        order=filling_order(parts.domains.space, parts.source_pixels),
        seed=args.seed,
        world=world,
        precision=chosen,
        num_workers=args.num_workers,
        skip_bad_images=args.skip_bad_images,
        stop=lambda: stopping.requested() is not None,
    )
    if filled is not None:
        bank.set(*filled)
    return filled is not None
