"""Fill DIDA's instance bank from a snapshot: class means of source images in the features of its network.

From a run:        python fill_bank.py --restore-from runs/daformer --source gta5 --data-root DATA \\
                       --output banks/gta5
Then:              python train_st.py --method dida --instance-bank banks/gta5 ...

A published file:  python fill_bank.py --restore-from latest.pth --source synthia --input-size 1280,760 \\
                       --data-root DATA --output banks/synthia

The network should have been trained on the source, or be warmed up there: any run of this project, or a
published checkpoint. Images are read as a run of train_st.py read them, unless options say otherwise.
`train_st.py --instance-bank fill` does the same within a run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from networks.loading import load_network
from trainers import wiring, wiring_data, wiring_self_training
from trainers.bank_files import FEATURES_FILE, describe_bank, write_bank
from trainers.bank_filling import fill_bank, filling_order
from trainers.inference_arguments import prepare_device
from utils import arguments, distributed, logs, snapshots
from utils.class_spaces import class_space
from utils.errors import UserError, alike_everywhere, entry_point
from utils.files import check_writable

logger = logging.getLogger(__name__)

READING = (
    "input_size", "crop_size", "crop_largest_share", "crop_attempts", "mirror", "rare_class_sampling",
    "rare_class_temperature", "rare_class_min_pixels", "rare_class_min_crop_share",
)  # fmt: skip


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this script."""
    parser = arguments.make_parser(__doc__ or "", prog="fill_bank.py")
    add = parser.add_argument_group("bank").add_argument
    add(
        "--restore-from",
        type=arguments.existing_path,
        required=True,
        metavar="PATH",
        help="run folder (its last), snapshot or published checkpoint whose features are stored",
    )
    add(
        "--weights",
        choices=("student", "teacher"),
        default="student",
        help="which network of the snapshot",
    )
    add("--output", type=arguments.folder, required=True, metavar="DIR", help="folder to write")
    add("--bank-size", type=arguments.positive_int, default=300, metavar="K", help="entries of the bank")
    add(
        "--seed",
        type=arguments.non_negative_int,
        default=0,
        metavar="N",
        help="which images and crops are looked at",
    )
    add(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="fp32",
        help="autocast type of the network",
    )
    arguments.add_source_arguments(parser, fitted=True)
    arguments.add_aspect_crop_arguments(parser, target=False)
    arguments.add_distributed_arguments(parser)
    return arguments.parse(parser, argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the bank and says what is in it."""
    args = parse_args(argv)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        logs.configure(world.rank, None)
        with alike_everywhere():
            _check_empty(args.output)
            read_as_the_run(args, arguments_of(args.restore_from))
            arguments.warn_about_switched_off(args)
            loaded = load_network(args.restore_from, weights=args.weights, class_space=args.classes)
            space = class_space(loaded.spec.class_space)
            wiring_self_training.check_bank_size(args.bank_size, space)
            files = wiring_data.find_source(args, space)
            wiring.check_crop_of_backbone(args, loaded.spec.backbone)
            wiring_self_training.check_crop(args, "source", files, args.input_size)
            source = wiring_self_training.source_samples(args, files, space)
            chosen = prepare_device(args, world)
            check_writable(args.output / FEATURES_FILE)
        filled = fill_bank(
            loaded.network.to(world.device),
            source.samples,
            size=args.bank_size,
            order=filling_order(space, source.pixels),
            seed=args.seed,
            world=world,
            precision=chosen,
            num_workers=args.num_workers,
            skip_bad_images=args.skip_bad_images,
        )
        if world.is_main:
            write_bank(args.output, *filled)
            print(f"{describe_bank(filled[1], space.class_names)}\nwrote {args.output}")
    return 0


def arguments_of(path: Path) -> dict[str, Any]:
    """The options of the run of train_st.py that wrote a snapshot; none for any other file."""
    state = snapshots.read(snapshots.resolve(path))
    stored = state.get("arguments") if snapshots.is_snapshot(state) else None
    return dict(stored) if isinstance(stored, dict) and stored.get("script") == "train_st.py" else {}


def read_as_the_run(args: argparse.Namespace, stored: Mapping[str, Any]) -> None:
    """Options of reading the source that were not given become the run's; others are compared with them."""
    taken = []
    for name in (name for name in ("source", *READING) if name in stored):
        value = tuple(stored[name]) if isinstance(stored[name], list) else stored[name]
        differs = getattr(args, name) != value
        if differs and (name == "source" or name in args.given):
            arguments.warn(f"{_option(name, getattr(args, name))}, but the run had {_option(name, value)}")
        elif differs:
            setattr(args, name, value)
            taken.append(_option(name, value))
    if taken:
        logger.info("as the run of %s read the source: %s", args.restore_from, " ".join(taken))


def _option(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {','.join(map(str, value)) if isinstance(value, tuple) else value}"


def _check_empty(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--output {folder} holds files already; name an empty or new folder")


if __name__ == "__main__":
    sys.exit(main())
