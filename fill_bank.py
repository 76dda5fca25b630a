"""Fill DIDA's instance bank from a snapshot: class means of source images in the features of its network.

From a run:        python fill_bank.py --restore-from runs/daformer --source gta5 --data-root DATA \\
                       --output banks/gta5
Then:              python train_st.py --method dida --instance-bank banks/gta5 ...

The network should have been trained on the source, or be warmed up there: any run of this project, or a
published checkpoint. `train_st.py --instance-bank fill` does the same within a run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from networks.loading import load_network
from trainers import wiring_data, wiring_self_training
from trainers.bank_files import FEATURES_FILE, describe_bank, write_bank
from trainers.bank_filling import fill_bank, filling_order
from trainers.inference_arguments import prepare_device
from utils import arguments, distributed, logs
from utils.class_spaces import class_space
from utils.errors import UserError, alike_everywhere, entry_point
from utils.files import check_writable

logger = logging.getLogger(__name__)


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
    arguments.add_source_arguments(parser)
    arguments.add_aspect_crop_arguments(parser, target=False)
    arguments.add_distributed_arguments(parser)
    args = arguments.parse(parser, argv)
    arguments.warn_about_switched_off(args)
    return args


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the bank and says what is in it."""
    args = parse_args(argv)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        logs.configure(world.rank, None)
        with alike_everywhere():
            _check_empty(args.output)
            loaded = load_network(args.restore_from, weights=args.weights, class_space=args.classes)
            space = class_space(loaded.spec.class_space)
            wiring_self_training.check_bank_size(args.bank_size, space)
            files = wiring_data.find_source(args, space)
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
        )
        if world.is_main:
            write_bank(args.output, *filled)
            print(f"{describe_bank(filled[1], space.class_names)}\nwrote {args.output}")
    return 0


def _check_empty(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--output {folder} holds files already; name an empty or new folder")


if __name__ == "__main__":
    sys.exit(main())
