"""MRNet stage I: train on source labels and target images with memory regularisation (Zheng & Yang, IJCAI
2020).

One process:       python train_ms.py --source gta5 --target cityscapes --data-root DATA \\
                       --backbone-weights FILE
One node, 2 GPUs:  torchrun --standalone --nproc-per-node 2 train_ms.py \\
                       @launch/recipes/gta5_to_cityscapes_mrnet.args ...
Next:              python generate_plabel.py --restore-from RUN_FOLDER
                   python train_ft.py --restore-from RUN_FOLDER ...

No label of the target's training images is ever read.
"""

from __future__ import annotations

from utils import stopping

stopping.install()  # before torch is imported: a signal during start-up must not kill the run

import sys
from collections.abc import Sequence

from trainers import wiring, wiring_data
from trainers.memory import MemoryRegularizedTrainer, MemorySettings, make_discriminators
from utils import arguments, distributed
from utils.errors import alike_everywhere, entry_point


def parse_args(argv: Sequence[str] | None = None) -> wiring.Arguments:
    """Options of stage I."""
    parser = arguments.make_parser(__doc__, prog="train_ms.py")
    arguments.add_source_arguments(parser)
    arguments.add_target_arguments(parser)
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
            domains = wiring_data.find_domains(args, source=True, target=True)
            datasets = {
                "source": wiring_data.labelled_dataset(args, domains.source, domains.space),
                "target": wiring_data.target_dataset(args, domains.target),
            }
            network = wiring.build_network(args, domains.space, world)
            trainer = MemoryRegularizedTrainer(
                network=network,
                discriminators=make_discriminators(network),
                settings=wiring.method_settings(MemorySettings, args),
                world=world,
                loop=wiring.loop_settings(args, chosen),
                streams=wiring_data.sample_streams(args, world, datasets),
                evaluator=wiring.make_evaluator(args, domains, world, chosen),
                evaluation=wiring.evaluation_memory(args, domains),
            )
            facts = wiring.facts_in_force(args, world, domains, chosen)
        with wiring.run_folder(args, world, facts) as trainer.run:
            return trainer.fit()


if __name__ == "__main__":
    sys.exit(main())
