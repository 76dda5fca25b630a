"""Label the target's training images with a snapshot: pseudo labels for stage II (train_ft.py).

From a run:        python generate_plabel.py --restore-from runs/ms --target cityscapes --data-root data
SYNTHIA's setting: python generate_plabel.py --restore-from runs/ms --threshold 0.9
Several GPUs:      torchrun --standalone --nproc-per-node 4 generate_plabel.py --restore-from runs/ms ...

The labels go where train_ft.py looks: pseudo_labels/<target>_<split> beside the snapshot. Stopped at any
moment, the same command continues. The published thresholds are 0 for GTA5 and RobotCar, 0.9 for SYNTHIA.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from data_loaders.description import DatasetDescription, load_description
from data_loaders.discovery import FileList, find_files
from trainers.inference_arguments import add_inference_arguments, open_snapshot, prepare_device
from trainers.labelling import (
    EXTRAS,
    MANIFEST,
    LabelOptions,
    LabelSource,
    default_pseudo_label_folder,
    write_pseudo_labels,
)
from trainers.protocols import labelling_protocol
from utils import distributed, logs
from utils.arguments import (
    add_distributed_arguments,
    add_labelling_arguments,
    add_reading_arguments,
    add_target_arguments,
    existing_path,
    make_parser,
    parse,
    size_wh,
)
from utils.errors import alike_everywhere, entry_point

logger = logging.getLogger(__name__)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of this script."""
    parser = make_parser(__doc__ or "", prog="generate_plabel.py")
    parser.add_argument(
        "--restore-from",
        type=existing_path,
        required=True,
        metavar="PATH",
        help="run folder (its last) or file",
    )
    add_target_arguments(parser, only_domain=True, input_size=None)
    add_reading_arguments(parser)
    add_labelling_arguments(parser)
    parser.add_argument(
        "--extras",
        nargs="+",
        choices=EXTRAS,
        metavar="KIND",
        help="also write beside each label: color (palette PNG), confidence (255 = certain), uncertainty "
        "(where the two heads disagree)",
    )
    add_inference_arguments(parser)
    add_distributed_arguments(parser)
    parser.add_original(
        "--input-size-target", "read as --base-size", lambda size: ("base_size", size), type=size_wh
    )
    return parse(parser, argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the labels and says how the classes share the pixels."""
    args = parse_args(argv)
    options = LabelOptions(threshold=args.threshold, extras=frozenset(args.extras or ()))
    description = load_description(args.target)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        logs.configure(world.rank, None)
        cv2.setNumThreads(0)
        with alike_everywhere():
            files = _find(args, description)
            snapshot = open_snapshot(
                args.restore_from, args, target=description.name, class_space=args.classes
            )
            precision = prepare_device(args, world)
        protocol = snapshot.protocol if args.protocol else labelling_protocol(snapshot.protocol)
        folder = args.pseudo_label_dir or default_pseudo_label_folder(
            args.restore_from, description.name, files.split, options.threshold
        )
        logger.info("%s, protocol %s, threshold %g", snapshot.file, protocol.describe(), options.threshold)
        manifest = write_pseudo_labels(
            snapshot.network.to(world.device),
            files,
            folder,
            protocol=protocol,
            options=options,
            source=LabelSource(
                snapshot=snapshot.file, iteration=snapshot.loaded.iteration, command_line=args.command_line
            ),
            world=world,
            precision=precision,
            num_workers=args.num_workers,
        )
        if world.is_main:
            print(_summary(manifest, folder))
    return 0


def _find(args: argparse.Namespace, description: DatasetDescription) -> FileList:
    return find_files(
        description,
        split=args.target_split,
        root=args.target_root,
        data_root=args.data_root,
        labels="never",
        list_file=args.target_list,
        strict=args.strict,
    )


def _summary(manifest: dict[str, object], folder: Path) -> str:
    shares = manifest["class_shares"] | {"ignored": manifest["ignored_share"]}
    lines = [f"{name:<16} {100 * share:6.2f} %" for name, share in shares.items()]
    return "\n".join([*lines, f"{manifest['images']} label maps in {folder} ({MANIFEST})"])


if __name__ == "__main__":
    sys.exit(main())
