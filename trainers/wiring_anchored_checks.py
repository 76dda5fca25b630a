"""What MADA refuses before anything is described: missing labels, anchors that cannot be, batches of one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from data_loaders.decoding import read_image
from data_loaders.discovery import FileList
from networks.backbone_weights import holds_backbone_only
from networks.segmentation import SegmentationNetwork
from selection.rounds import RoundFolder
from trainers import wiring_active
from trainers.anchored_stages import StagePlan
from trainers.domain_anchors import check_count
from trainers.wiring_data import Arguments, Domains
from utils.arguments.anchored_checks import describes_source, describes_target
from utils.distributed import World
from utils.errors import UserError
from utils.snapshots import has_snapshots


def check_start(args: Arguments) -> None:
    """Whether --restore-from is a segmentation network, which chooses images before anything is trained.

    Raises:
        UserError: it holds ImageNet weights of a backbone alone.
    """
    if args.restore_from is None or has_snapshots(args.snapshot_dir):
        return
    if holds_backbone_only(args.restore_from):
        raise UserError(
            f"--restore-from {args.restore_from} holds a backbone alone, and --method mada chooses images "
            "with the network it starts from; give a warmed-up network (train_ms.py, train_source.py, or the "
            "published checkpoint)"
        )


def check_labels(args: Arguments, target: FileList, listed: np.ndarray | None, bought: RoundFolder) -> None:
    """Whether the label files can answer: those of all images that are or may be asked about, of the size of
    the images. Nothing is asked of them when the round is answered.

    Raises:
        UserError: one of these images has no label, or the first label has another size than its image.
    """
    if bought.has_labels():
        return
    items, which = target.items, f"{len(target.items)} target images"
    queries = bought.queries()
    if queries is not None:
        items, which = [item for item in items if item.name in queries], "images that were chosen"
    elif listed is not None:
        items, which = [items[position] for position in listed], f"images of --image-list {args.image_list}"
    missing = [item.name for item in items if item.label is None]
    if missing:
        raise UserError(
            f"{len(missing)} of the {which} have no label in {target.root}, the first is {missing[0]}; add "
            "the files, leave the images out (--target-list), or have people label them (--oracle people)"
        )
    size = read_image(items[0].image).shape[:2]
    wiring_active.check_label_size(replace(target, items=tuple(items)), size)


def check_anchors(args: Arguments, plan: StagePlan, domains: Domains) -> None:
    """Whether there can be anchors, before anything is described.

    Raises:
        UserError: more anchors than images, or a class that no source label stands for.
    """
    if plan.buys and describes_source(args):
        check_count(len(domains.source.items), args.num_anchors, f"source images in {domains.source.root}")
        _check_source_classes(args, domains)
    if describes_target(args):
        check_count(len(domains.target.items), args.num_anchors, f"target images in {domains.target.root}")


def _check_source_classes(args: Arguments, domains: Domains) -> None:
    table = domains.source.description.label_table(domains.space.name)
    occurring = set(np.unique(table).tolist())
    absent = [name for index, name in enumerate(domains.space.class_names) if index not in occurring]
    if absent and not args.allow_absent_classes:
        raise UserError(
            f"no label of {domains.source.description.name} stands for {', '.join(absent)}, which would be "
            f"rows of zeros in every anchor; take --classes without them, or --allow-absent-classes"
        )


def check_batch(args: Arguments, network: SegmentationNetwork, world: World) -> None:
    """Whether batches can be normalised, said before the images are described.

    Raises:
        UserError: a pooled branch, whose BatchNorm needs two images, will get one.
    """
    branches = [layer for layer in network.modules() if isinstance(layer, nn.Sequential) and len(layer) > 2]
    norms = [branch[2] for branch in branches if isinstance(branch[0], nn.AdaptiveAvgPool2d)]
    norms = [norm for norm in norms if isinstance(norm, nn.BatchNorm2d)]
    if args.num_steps_stop == 0 or not norms:
        return
    apart = 1 if args.batch_norm == "sync" else world.size
    if args.batch_size // args.accumulation // apart < 2:
        raise UserError(
            f"--batch-size {args.batch_size} gives one image to normalise at a time (--batch-norm "
            f"{args.batch_norm}, {world.size} process(es), --accumulation {args.accumulation}), and the "
            f"pooled branch of --network {args.network} needs two; give --batch-size {2 * args.batch_size}"
        )
