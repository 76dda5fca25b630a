"""Online self-training: a teacher labels the target, the student learns from a mixture of both domains
(DAFormer, Hoyer et al., CVPR 2022; DIDA, Yao & Li, ICCVW 2023; DACS, Tranheden et al., WACV 2021).

What rare class sampling reads, once:
                   python prepare_data.py statistics gta5 --data-root DATA
A published one:   python train_st.py @launch/recipes/gta5_to_cityscapes_daformer.args \\
                       --data-root DATA --backbone-weights mit_b5.pth
DIDA:              python train_st.py @launch/recipes/gta5_to_cityscapes_dida.args \\
                       --data-root DATA --backbone-weights mit_b5.pth --instance-bank BANK
Its bank:          python fill_bank.py --source gta5 --data-root DATA --restore-from RUN --output BANK
Other networks:    python train_st.py --network deeplab_v3plus --backbone mobilenet_v2 ...
Ablations:         python train_st.py --no-rare-class-sampling --feature-distance-weight 0 ...
One node, 2 GPUs:  torchrun --standalone --nproc-per-node 2 train_st.py ...        (the same numbers)

No label of the target's training images is ever read.
"""

from __future__ import annotations

from utils import stopping

stopping.install()  # before torch is imported: a signal during start-up must not kill the run

import sys
from collections.abc import Sequence

from trainers import wiring, wiring_self_training
from utils import arguments, distributed
from utils.errors import alike_everywhere, entry_point

PUBLISHED = {
    "network": "daformer",
    "backbone": "mit_b5",
    "optimizer": "adamw",
    "learning_rate": 6e-5,
    "weight_decay": 0.01,
    "backbone_norm_decay": False,
    "power": 1.0,
    "num_steps": 40_000,
    "warm_up": 1500,
    "warm_up_schedule": "decaying",
    "batch_size": 2,
    "ema_decay": None,
    "save_pred_every": 1600,
}  # what DAFormer and DIDA do alike, in place of the defaults of the other methods


def parse_args(argv: Sequence[str] | None = None) -> wiring.Arguments:
    """Options of self-training."""
    parser = arguments.make_parser(__doc__, prog="train_st.py")
    arguments.add_self_training_arguments(parser)
    arguments.add_source_arguments(parser, fitted=True)
    arguments.add_target_arguments(parser, fitted=True)
    arguments.add_evaluation_arguments(parser)
    arguments.add_aspect_crop_arguments(parser)
    arguments.add_network_arguments(parser)
    arguments.add_optimizer_arguments(parser, needs_teacher=True)
    arguments.add_training_arguments(parser, protocol="daformer")
    parser.set_defaults(**PUBLISHED)
    return arguments.parse(parser, argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns the exit code."""
    args = parse_args(argv)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        with alike_everywhere():  # nothing is written before all of this is right
            chosen = wiring.prepare_process(args, world)
            parts = wiring_self_training.prepare(args)
            network = wiring.build_network(args, parts.domains.space, world)
            trainer = wiring_self_training.make_trainer(args, parts, network, world, chosen)
            facts = wiring.facts_in_force(args, world, parts.domains, chosen)
        with wiring.run_folder(args, world, facts) as trainer.run:
            return trainer.fit()


if __name__ == "__main__":
    sys.exit(main())
