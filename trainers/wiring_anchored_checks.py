"""What MADA refuses before anything is described: missing labels, anchors that cannot be, batches of one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from data_loaders.decoding import read_image
from data_loaders.discovery import FileList
from networks.segmentation import SegmentationNetwork
from trainers import wiring_active
from trainers.anchored_stages import StagePlan
from trainers.domain_anchors import check_count
from trainers.wiring_data import Arguments, Domains
from utils.distributed import World
from utils.errors import UserError


def check_labels(args: Arguments, target: FileList, listed: np.ndarray | None) -> None:
    """Whether the oracle can answer: labels of all images that are asked about, of the size of the images.

    Raises:
        UserError: a listed image has no label, or the first label has another size than its image.
    """
    items = target.items
    if listed is not None:
        items = tuple(items[position] for position in listed)
        missing = [item.name for item in items if item.label is None]
        if missing:
            raise UserError(
                f"--image-list {args.image_list}: {len(missing)} of its {len(items)} images have no label in "
                f"{target.root}, the first is {missing[0]}; add the files, or have people label the images "
                "(--oracle people)"
            )
    size = read_image(items[0].image).shape[:2]
    wiring_active.check_label_size(replace(target, items=items), size)


def check_anchors(args: Arguments, plan: StagePlan, domains: Domains) -> None:
    """Whether there can be anchors, before anything is described.

    Raises:
        UserError: more anchors than images, or a class that no source label stands for.
    """
    if plan.buys and _describes_source(args):
        check_count(len(domains.source.items), args.num_anchors, f"source images in {domains.source.root}")
        _check_source_classes(args, domains)
    aligned = args.stop_after == "stage-2" and args.lambda_alignment > 0
    if (aligned or args.stop_after == "target-anchors") and args.target_anchors is None:
        check_count(len(domains.target.items), args.num_anchors, f"target images in {domains.target.root}")


def _describes_source(args: Arguments) -> bool:
    """Whether the source's images are what its anchors are made of."""
    if args.source_anchors is not None or args.source_vectors is not None:
        return False
    chosen_by_them = args.image_list is None and args.score == "published"
    return chosen_by_them or args.stop_after == "source-anchors"


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
    if args.num_steps_stop == 0 or args.batch_norm == "frozen":
        return
    share = args.batch_size // args.accumulation // (1 if args.batch_norm == "sync" else world.size)
    if share < 2 and any(isinstance(layer, nn.AdaptiveAvgPool2d) for layer in network.modules()):
        raise UserError(
            f"--batch-size {args.batch_size} gives one image to normalise at a time (--batch-norm "
            f"{args.batch_norm}, {world.size} process(es), --accumulation {args.accumulation}), and the "
            f"pooled branch of --network {args.network} needs two; give --batch-size {2 * args.batch_size}"
        )
