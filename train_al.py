"""Active learning: choose the best places of the target images, have them labelled, train on them. Regions
(RIPU, Xie et al., CVPR 2022; DWACA, Guan & Yuan) or whole images (MADA, Ning et al., ICCV 2021).

A published one:   python train_al.py @launch/recipes/gta5_to_cityscapes_ripu_region.args \\
                       --data-root DATA --backbone-weights FILE
Pixels, DWACA:     python train_al.py --method ripu --setting pixel --budget 40px ...
                   python train_al.py --method dwaca --network deeplab_v3plus --budget 5% ...
Source-free:       python train_al.py --source-free --restore-from runs/source ...
Whole images:      python train_al.py @launch/recipes/gta5_to_cityscapes_mada.args \\
                       --data-root DATA --restore-from WARM-UP   (anchors, choice, both stages)
One node, 4 GPUs:  torchrun --standalone --nproc-per-node 4 train_al.py ...    (the same selections)
With people:       python train_al.py --oracle people --setting pixel --budget 40px ...
                   python annotate.py export RUN --to labelme --out DIR       (RUN is the run folder)
                   python annotate.py import RUN DIR
                   and the first command again

Queries and what was bought are in the run folder: queries/index.html shows them. The target's labels are read
by the ground-truth oracle alone, where it asks.
"""

from __future__ import annotations

from utils import stopping

stopping.install()  # before torch is imported: a signal during start-up must not kill the run

import sys
from collections.abc import Sequence

from trainers import wiring, wiring_active, wiring_anchored
from utils import arguments, distributed
from utils.errors import alike_everywhere, entry_point

PUBLISHED = {
    "network": "deeplab_v2",
    "backbone": "resnet101",
    "optimizer": "sgd-plain",
    "num_steps": 62_500,
    "batch_size": 2,
    "crop_size": "none",
    "scale_range": "none",
    "mirror": False,
    "batch_norm": "frozen",
    "save_pred_every": 2000,
}  # what RIPU and DWACA do alike, in place of the defaults of the other methods
SCALED_BY_MADA = ", with --method mada all training images to --scaled-width times it"
ALL_STEPS = "--num-steps, with --method mada both --stage-steps"


def parse_args(argv: Sequence[str] | None = None) -> wiring.Arguments:
    """Options of active learning."""
    parser = arguments.make_parser(__doc__, prog="train_al.py")
    arguments.add_active_arguments(parser)
    arguments.add_source_arguments(parser)
    arguments.add_source_order_arguments(parser, order="class-balanced")
    arguments.add_target_arguments(parser, input_size="1280,640")
    arguments.add_evaluation_arguments(parser)
    arguments.add_data_arguments(parser, scaled_otherwise=SCALED_BY_MADA)
    arguments.add_network_arguments(parser)
    arguments.add_optimizer_arguments(parser, all_steps=ALL_STEPS)
    arguments.add_training_arguments(parser, protocol="ripu")
    parser.set_defaults(**PUBLISHED)
    return arguments.parse(parser, argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns the exit code, 0 also where the run waits for people."""
    args = parse_args(argv)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        with alike_everywhere():  # nothing is written before all of this is right
            chosen = wiring.prepare_process(args, world)
            method = wiring_anchored if args.method == "mada" else wiring_active
            parts = method.prepare(args)
            wiring.check_run_folder(args)
            network = wiring.build_network(args, parts.domains.space, world)
            trainer = method.make_trainer(args, parts, network, world, chosen)
            facts = wiring.facts_in_force(args, world, parts.domains, chosen)
        with wiring.run_folder(args, world, facts) as trainer.run:
            method.open_store(args, parts, trainer)
            return trainer.fit()


if __name__ == "__main__":
    sys.exit(main())
