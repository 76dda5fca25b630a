"""From parsed arguments to what a trainer takes: files, streams, network, run folder. The one module that
sees `args`."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from data_loaders.checking import check_first_labels
from data_loaders.dataset import SegmentationDataset
from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from data_loaders.streams import SampleStream
from data_loaders.transforms import TrainingTransform
from networks import NetworkSpec, build
from networks.apex_group_norm import use_apex_group_norm
from networks.backbone_weights import holds_backbone_only, load_backbone
from networks.factory import option_names
from networks.loading import load_weights
from networks.segmentation import SegmentationNetwork
from trainers.base import Evaluator, LoopSettings
from trainers.evaluation import check_first_label, evaluate
from trainers.labelling import check_pseudo_labels, default_pseudo_label_folder
from trainers.memory import MemorySettings
from trainers.protocols import Protocol, choose_protocol
from utils import distributed, logs, precision, seeding, stopping
from utils.arguments import FREE_TO_CHANGE, as_settings, batch_line, check_batch, check_num_classes
from utils.class_spaces import ClassSpace, class_space
from utils.distributed import World
from utils.errors import UserError
from utils.runs import Run, open_run

logger = logging.getLogger(__name__)

Arguments = argparse.Namespace


@dataclass(frozen=True, slots=True)
class Domains:
    """Files of one training run; `target` is empty for supervised training, `evaluation` where no labels are
    found."""

    space: ClassSpace
    source: FileList | None
    target: FileList | None
    evaluation: FileList | None


def prepare_process(args: Arguments, world: World) -> precision.Precision:
    """Seeds, backends and precision of this process; stops when the batch does not divide."""
    logs.configure(world.rank, None)
    check_batch(args, world.size)
    precision.configure_backends(
        device=world.device,
        tf32=args.tf32,
        deterministic=args.deterministic,
        cudnn_benchmark=not args.deterministic,
    )
    seeding.seed_everything(args.seed)
    return precision.resolve_precision(args.precision, world.device)


def find_domains(args: Arguments, *, source: bool, target: bool) -> Domains:
    """Finds and checks the images and labels that the run will read, before anything is built.

    Raises:
        UserError: a folder, list or label is not what it should be.
    """
    described_target = load_description(args.target)
    space = class_space(args.classes or described_target.default_class_space)
    check_num_classes(args, space.num_classes)
    source_files = _source_files(args, space) if source else None
    target_files = None
    if target:
        target_files = find_files(
            described_target,
            split=args.target_split,
            root=args.target_root,
            data_root=_data_root(args),
            labels="never",
            list_file=args.target_list,
            strict=args.strict,
        )
    files = Domains(space, source_files, target_files, _evaluation_files(args, described_target, space))
    for role in ("source", "target", "evaluation"):
        found = getattr(files, role)
        if found is not None:
            logger.info(
                "%s: %d images of %s %s in %s",
                role,
                len(found.items),
                found.description.name,
                found.split,
                found.root,
            )
    return files


def _source_files(args: Arguments, space: ClassSpace) -> FileList:
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


def _evaluation_files(args: Arguments, description: object, space: ClassSpace) -> FileList | None:
    """Labelled target images that measure; None, with a line in the log, where there are none."""
    asked = {"evaluation_root", "evaluation_list", "evaluation_split", "evaluate_every"} & args.given
    try:
        files = find_files(
            description,
            split=args.evaluation_split,
            root=args.evaluation_root or args.target_root,
            data_root=_data_root(args),
            labels="required",
            list_file=args.evaluation_list,
            strict=args.strict,
        )
    except UserError as error:
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
        crop=args.crop_size[::-1],
        scale_range=args.scale_range,
        crop_attempts=args.crop_attempts,
        crop_min_classes=args.crop_min_classes,
        mirror=True,
        autoaugment=args.autoaug,
    )
    if pseudo_label_root is not None:
        return SegmentationDataset(
            files, transform=transform, pseudo_label_root=pseudo_label_root, num_classes=space.num_classes
        )
    return SegmentationDataset(
        files, transform=transform, label_table=files.description.label_table(space.name)
    )


def unlabelled_dataset(args: Arguments, files: FileList) -> SegmentationDataset:
    """Samples of the unlabelled target stream."""
    transform = TrainingTransform(
        size=args.input_size_target,
        crop=args.crop_size[::-1],
        mirror=args.random_mirror,
        autoaugment=args.autoaug_target,
    )
    return SegmentationDataset(files, transform=transform)


def find_pseudo_labels(args: Arguments, domains: Domains) -> Path:
    """The checked folder of pseudo labels of the target's training images; says which labels are in force.

    Raises:
        UserError: no labels, unfinished ones, or those of another image list or class space.
    """
    files = domains.target
    folder = args.pseudo_label_dir or _default_pseudo_labels(args, files)
    folder, manifest = check_pseudo_labels(folder, files, domains.space.name)
    made = (
        "of unknown origin"
        if manifest is None
        else f"threshold {manifest['threshold']:g}, snapshot {manifest['snapshot']}"
    )
    logger.info(
        "pseudo labels: %s (%s); colour augmentation %s", folder, made, "on" if args.autoaug else "off"
    )
    return folder


def _default_pseudo_labels(args: Arguments, files: FileList) -> Path:
    """The only folder of labels for this target and split beside the snapshot of --restore-from."""
    if args.restore_from is None:
        raise UserError("stage II needs --restore-from (the snapshot of stage I) or --pseudo-label-dir")
    plain = default_pseudo_label_folder(args.restore_from, files.description.name, files.split, 0.0)
    found = sorted(path for path in plain.parent.glob(f"{plain.name}*") if path.is_dir())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(
            f"{plain.parent} holds several sets of pseudo labels ({names}); choose one by --pseudo-label-dir"
        )
    return found[0] if found else plain


def stage_two_needs_target(args: Arguments, settings: MemorySettings) -> bool:
    """Whether stage II reads plain target images beside the pseudo-labelled ones.

    With all target weights at 0, as published, their only effect is on BatchNorm's running statistics.
    """
    return settings.ever_uses_target or (args.quirks == "published" and args.batch_norm != "frozen")


def sample_streams(
    args: Arguments, world: World, datasets: Mapping[str, SegmentationDataset]
) -> dict[str, SampleStream]:
    """One endless stream per data set, all with the global batch."""
    logger.info("%s", batch_line(args, world))
    return {
        name: SampleStream(
            dataset,
            seed=args.seed,
            name=name,
            global_batch=args.batch_size,
            rank=world.rank,
            world_size=world.size,
            accumulation=args.accumulation,
            num_workers=args.num_workers,
            pin_memory=world.device.type == "cuda",
        )
        for name, dataset in datasets.items()
    }


def build_network(args: Arguments, space: ClassSpace, world: World) -> SegmentationNetwork:
    """The segmentation network with its weights, on its device, ready for training.

    Raises:
        UserError: weights that are missing, damaged, of another architecture or class count.
    """
    asked = {
        "drop_rate": args.droprate,
        "norm_style": args.norm_style,
        "use_se": args.use_se,
        "head_channels": args.head_channels,
        "bottleneck_channels": args.bottleneck_channels,
        "output_stride": args.output_stride,
    }
    options = {name: value for name, value in asked.items() if name in option_names(args.network)}
    spec = NetworkSpec(args.network, args.backbone, space.num_classes, space.name, options)
    network = build(spec)
    if args.restore_from is None:
        logger.info("%s", load_backbone(network, args.backbone_weights))
    elif holds_backbone_only(args.restore_from):
        logger.info("%s", load_backbone(network, str(args.restore_from)))
    else:
        logger.info("%s", load_weights(network, args.restore_from))
    if args.activation_checkpointing:
        network.enable_activation_checkpointing()
    network.to(world.device)
    if args.group_norm_kernel == "apex":
        logger.info("%s", use_apex_group_norm(network))
    if args.channels_last:
        network.to(memory_format=torch.channels_last)
    if args.compile:
        network.compile()
    return network


def loop_settings(args: Arguments, chosen: precision.Precision) -> LoopSettings:
    """What the loop takes from the arguments."""
    return LoopSettings(
        num_steps_stop=args.num_steps_stop,
        accumulation=args.accumulation,
        seed=args.seed,
        log_every=args.log_every,
        save_every=args.save_pred_every,
        evaluate_every=args.evaluate_every,
        pictures_every=args.pictures_every,
        precision=chosen,
        channels_last=args.channels_last,
        batch_norm=args.batch_norm,
        train_batch_norm_affine=args.train_bn,
        ema_decay=args.ema_decay,
    )


def method_settings(kind: type, args: Arguments) -> Any:
    """A method's settings dataclass filled from the options of the same names."""
    renamed = {"learning_rate_discriminator": "learning_rate_D"}
    values = {}
    for field in fields(kind):
        name = renamed.get(field.name, field.name)
        if hasattr(args, name):
            values[field.name] = getattr(args, name)
    if values.get("max_grad_norm") == 0:
        values["max_grad_norm"] = None
    return kind(**values)


def evaluation_memory(args: Arguments) -> dict[str, Any]:
    """What a snapshot remembers about how to score it: the whole protocol.

    Raises:
        UserError: no protocol of that name.
    """
    protocol = choose_protocol(args.protocol, evaluation={"input_size_target": args.input_size_target})
    return {"protocol": protocol.to_dict(), "input_size_target": list(args.input_size_target)}


def make_evaluator(
    args: Arguments, domains: Domains, world: World, chosen: precision.Precision
) -> Evaluator | None:
    """Scores a network on the labelled target images; None where there are none."""
    if domains.evaluation is None:
        return None
    protocol = Protocol.from_dict(evaluation_memory(args)["protocol"])
    check_first_label(domains.evaluation, protocol)
    return _Evaluator(domains.evaluation, domains.space, protocol, world, chosen)


@dataclass(frozen=True, slots=True)
class _Evaluator:
    files: FileList
    space: ClassSpace
    protocol: Protocol
    world: World
    precision: precision.Precision

    def __call__(self, network: SegmentationNetwork) -> dict[str, float] | None:
        result = evaluate(
            network,
            self.files,
            self.protocol,
            self.space,
            world=self.world,
            precision=self.precision,
            stop=lambda: stopping.requested() is not None,
        )
        if result is None:
            return None
        logger.info(
            "target %s: mIoU %.2f of %d images (%s)",
            self.files.split,
            result.scores.miou,
            result.images,
            result.protocol,
        )
        scored = result.scalars()
        return {name: value for name, value in scored.items() if not math.isnan(value)}  # nan: absent class


@contextmanager
def run_folder(args: Arguments, world: World) -> Iterator[Run]:
    """The run folder of these arguments, locked; dropout draws become this rank's own from here on."""
    with open_run(
        args.snapshot_dir,
        as_settings(args),
        world=world,
        keep=args.keep_snapshots,
        free_to_change=FREE_TO_CHANGE,
        resume=args.resume,
        command_line=args.command_line,
        tensorboard=args.tensorboard,
    ) as run:
        seeding.seed_dropout(args.seed, distributed.rank())
        yield run
