"""Stage II: fine-tune on pseudo labels, rectified by uncertainty or plain (Zheng & Yang, IJCV 2021 and IJCAI
2020).

One process:       python train_ft.py --target cityscapes --data-root DATA --restore-from RUN_OF_STAGE_I
One node, 3 GPUs:  torchrun --standalone --nproc-per-node 3 train_ft.py \\
                       @launch/recipes/gta5_to_cityscapes_rectified.args ...

The pseudo labels are those that `generate_plabel.py --restore-from RUN_OF_STAGE_I` wrote (--pseudo-label-dir
names others).
Source images are not needed; labels of the target's training images are never read.
"""

from __future__ import annotations

from utils import stopping

stopping.install()  # before torch is imported: a signal during start-up must not kill the run

import sys
from collections.abc import Sequence

from trainers import wiring, wiring_data
from trainers.memory import MemoryRegularizedTrainer, MemorySettings, make_discriminators
from trainers.rectified import RectifiedTrainer
from utils import arguments, distributed
from utils.errors import alike_everywhere, entry_point

TRAINERS = {"rectified": RectifiedTrainer, "plain": MemoryRegularizedTrainer}


def parse_args(argv: Sequence[str] | None = None) -> wiring.Arguments:
    """Options of stage II."""
    parser = arguments.make_parser(__doc__, prog="train_ft.py")
    arguments.add_target_arguments(parser, only_domain=True)
    arguments.add_pseudo_label_arguments(parser)
    arguments.add_labelled_size_argument(parser.add_argument, "1280,640")
    arguments.add_evaluation_arguments(parser)
    arguments.add_data_arguments(parser)
    arguments.add_network_arguments(parser)
    arguments.add_optimizer_arguments(parser)
    arguments.add_segmentation_loss_arguments(parser)
    arguments.add_memory_arguments(parser)
    arguments.add_training_arguments(parser)
    return arguments.parse(parser, argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns the exit code."""
    args = parse_args(argv)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        with alike_everywhere():  # nothing is written before all of this is right
            chosen = wiring.prepare_process(args, world)
            domains = wiring_data.find_domains(args, source=False, target=True)
            settings = wiring.method_settings(MemorySettings, args)
            pseudo_labels = wiring_data.find_pseudo_labels(args, domains)
            datasets = {
                "source": wiring_data.labelled_dataset(
                    args, domains.target, domains.space, pseudo_label_root=pseudo_labels.folder
                )
            }
            if wiring_data.stage_two_needs_target(args, settings):
                datasets["target"] = wiring_data.target_dataset(args, domains.target)
            network = wiring.build_network(args, domains.space, world)
            wiring.check_label_origin(args, pseudo_labels, network)
            trainer = TRAINERS[args.pseudo_label_loss](
                network=network,
                discriminators=make_discriminators(network),
                settings=settings,
                world=world,
                loop=wiring.loop_settings(args, chosen),
                streams=wiring_data.sample_streams(
                    args, world, datasets, pseudo_labels={"source": pseudo_labels}
                ),
                evaluator=wiring.make_evaluator(args, domains, world, chosen),
                evaluation=wiring.evaluation_memory(args, domains),
            )
            facts = wiring.facts_in_force(args, world, domains, chosen, pseudo_labels)
        with wiring.run_folder(args, world, facts) as trainer.run:
            return trainer.fit()


if __name__ == "__main__":
    sys.exit(main())
