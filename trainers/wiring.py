"""From parsed arguments to what a trainer takes: precision, network, settings, evaluator, run folder. With
its data half, `trainers.wiring_data`, the only module that sees `args`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch

from data_loaders.dataset import LabelReader
from data_loaders.discovery import FileList
from networks import NetworkSpec, build
from networks.apex_group_norm import use_apex_group_norm
from networks.backbone_weights import holds_backbone_only, load_backbone
from networks.factory import option_names
from networks.loading import load_weights
from networks.mit import MIT_VARIANTS, check_size
from networks.segmentation import SegmentationNetwork
from trainers.base import Evaluator, LoopSettings
from trainers.evaluation import check_first_label, evaluate
from trainers.label_checks import PseudoLabels, check_origin
from trainers.labelling import weights_digest
from trainers.protocols import Protocol, choose_protocol
from trainers.wiring_data import Arguments, Domains
from utils import distributed, logs, precision, seeding, stopping
from utils.arguments import USED_AT_START, as_settings, batch_line, check_batch, free_to_change, warn
from utils.class_spaces import ClassSpace
from utils.distributed import World
from utils.runs import Run, check_arguments, open_run

logger = logging.getLogger(__name__)


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


def build_network(args: Arguments, space: ClassSpace, world: World) -> SegmentationNetwork:
    """The segmentation network with its weights, on its device, ready for training.

    Raises:
        UserError: weights that are missing, damaged, of another architecture or class count; crops that are
            too small for the backbone.
    """
    check_crop_of_backbone(args, args.backbone)
    asked = {
        "drop_rate": args.droprate,
        "norm_style": args.norm_style,
        "use_se": args.use_se,
        "head_channels": args.head_channels,
        "bottleneck_channels": args.bottleneck_channels,
        "output_stride": args.output_stride,
    }
    known = option_names(args.network)
    # None: the architecture's own default, as is what only the CLI default of the two-head network says
    options = {name: value for name, value in asked.items() if name in known and value is not None}
    _warn_about_dropped(args, set(asked) - known)
    spec = NetworkSpec(args.network, args.backbone, space.num_classes, space.name, options)
    network = build(spec)
    for name in ("lambda_seg", "lambda_adv_target1"):
        if not network.has_auxiliary_head and name in args.given:
            warn(f"--{name.replace('_', '-')} has no effect: --network {args.network} has one head")
    if args.restore_from is None:
        logger.info("%s", load_backbone(network, args.backbone_weights))
    elif holds_backbone_only(args.restore_from):
        _warn_about_backbone_only(args)
        logger.info("%s", load_backbone(network, str(args.restore_from)))
    else:
        weights = getattr(args, "restore_weights", "student")
        logger.info("%s", load_weights(network, args.restore_from, weights=weights))
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


def check_crop_of_backbone(args: Arguments, backbone: str) -> None:
    """Compares --crop-size, where there is one, with what the backbone can see.

    Raises:
        UserError: it is too small.
    """
    if args.crop_size is not None and backbone in MIT_VARIANTS:
        width, height = args.crop_size
        check_size((width, height), f"--crop-size {width},{height}", "one")


def _warn_about_backbone_only(args: Arguments) -> None:
    """Options that say nothing where --restore-from is a file of ImageNet weights."""
    for name in ("backbone_weights", "restore_weights"):
        if name in args.given:
            warn(
                f"--{name.replace('_', '-')} has no effect: --restore-from {args.restore_from} holds the "
                "ImageNet weights that the backbone starts from"
            )


def _warn_about_dropped(args: Arguments, names: set[str]) -> None:
    flags = {"drop_rate": "droprate"}
    for name in sorted({flags.get(name, name) for name in names} & args.given):
        warn(f"--{name.replace('_', '-')} has no effect: --network {args.network} has no such option")


def check_label_origin(args: Arguments, labels: PseudoLabels, network: SegmentationNetwork) -> None:
    """Compares the network that --restore-from just filled with the one that made the pseudo labels.

    Raises:
        UserError: they differ, and the labels were not named by --pseudo-label-dir.
    """
    if args.restore_from is not None:
        named = args.pseudo_label_dir is not None
        check_origin(labels, weights_digest(network), args.restore_from, named=named)


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


def protocol_of(args: Arguments) -> Protocol:
    """How the run's snapshots are scored.

    Raises:
        UserError: no protocol of that name.
    """
    return choose_protocol(args.protocol, evaluation={"input_size_target": args.input_size_target})


def evaluation_memory(args: Arguments, domains: Domains) -> dict[str, Any]:
    """What a snapshot remembers about its scores: the whole protocol, and which images were scored.

    Raises:
        UserError: no protocol of that name.
    """
    return {
        "protocol": protocol_of(args).to_dict(),
        "input_size_target": list(args.input_size_target),
        "images": None if domains.evaluation is None else domains.evaluation.fingerprint(),
    }


def make_evaluator(
    args: Arguments,
    domains: Domains,
    world: World,
    chosen: precision.Precision,
    *,
    read_truth: LabelReader | None = None,
) -> Evaluator | None:
    """Scores a network on the labelled images of `domains.evaluation`; None where there are none.

    Args:
        read_truth: labels to score on, at image size, in place of the label files.
    """
    if domains.evaluation is None:
        return None
    protocol = protocol_of(args)
    if read_truth is None:
        check_first_label(domains.evaluation, protocol)
    return _Evaluator(
        domains.evaluation, domains.space, protocol, world, chosen, args.num_workers, read_truth
    )


@dataclass(frozen=True, slots=True)
class _Evaluator:
    files: FileList
    space: ClassSpace
    protocol: Protocol
    world: World
    precision: precision.Precision
    num_workers: int
    read_truth: LabelReader | None = None

    def __call__(self, network: SegmentationNetwork) -> dict[str, float] | None:
        result = evaluate(
            network,
            self.files,
            self.protocol,
            self.space,
            world=self.world,
            precision=self.precision,
            num_workers=self.num_workers,
            read_truth=self.read_truth,
            stop=lambda: stopping.requested() is not None,
        )
        if result is None:
            return None
        logger.info(
            "%s %s: mIoU %.2f of %d images (%s)",
            self.files.description.name,
            self.files.split,
            result.scores.miou,
            result.images,
            result.protocol,
        )
        scored = result.scalars()
        return {name: value for name, value in scored.items() if not math.isnan(value)}  # nan: absent class


def facts_in_force(
    args: Arguments,
    world: World,
    domains: Domains,
    chosen: precision.Precision,
    pseudo_labels: PseudoLabels | None = None,
) -> dict[str, Any]:
    """What the arguments came to, for the record of this start: batch, precision, files, pseudo labels."""
    files = {
        role: {"images": len(found.items), "root": str(found.root), "fingerprint": found.fingerprint()}
        for role, found in domains.found().items()
    }
    labels = {} if pseudo_labels is None else {"pseudo_labels": pseudo_labels.facts()}
    return {"batch": batch_line(args, world), "precision": chosen.name, "files": files, **labels}


def check_run_folder(args: Arguments) -> None:
    """Refuses the folder of a run with other arguments before anything of it is read. Collective.

    Raises:
        UserError: it is one.
    """
    distributed.from_rank_zero(
        lambda: check_arguments(
            args.snapshot_dir,
            as_settings(args),
            free_to_change=free_to_change(args),
            used_at_start=USED_AT_START,
        )
    )


@contextmanager
def run_folder(args: Arguments, world: World, facts: Mapping[str, Any] | None = None) -> Iterator[Run]:
    """The run folder of these arguments, locked; dropout draws become this rank's own from here on."""
    with open_run(
        args.snapshot_dir,
        as_settings(args),
        world=world,
        keep=args.keep_snapshots,
        free_to_change=free_to_change(args),
        used_at_start=USED_AT_START,
        resume=args.resume,
        command_line=args.command_line,
        facts=facts,
        tensorboard=args.tensorboard,
    ) as run:
        seeding.seed_dropout(args.seed, distributed.rank())
        yield run
