"""Supervised training on one labelled domain: the source-only baseline, a warm-up, or the fully supervised
upper bound.

One process:       python train_source.py --source gta5 --target cityscapes --data-root DATA \\
                       --backbone-weights FILE
One node, 4 GPUs:  torchrun --standalone --nproc-per-node 4 train_source.py ...
A published one:   python train_source.py @launch/recipes/gta5_to_cityscapes_source_only.args \\
                       --data-root DATA --backbone-weights FILE

The target domain only measures: its labelled split is scored at the end (and every --evaluate-every
iterations).
"""

from __future__ import annotations

from utils import stopping

stopping.install()  # before torch is imported: a signal during start-up must not kill the run

import sys
from collections.abc import Sequence

from trainers import wiring, wiring_data
from trainers.supervised import SupervisedSettings, SupervisedTrainer
from utils import arguments, distributed
from utils.errors import alike_everywhere, entry_point


def parse_args(argv: Sequence[str] | None = None) -> wiring.Arguments:
    """Options of supervised training."""
    parser = arguments.make_parser(__doc__, prog="train_source.py")
    arguments.add_source_arguments(parser)
    arguments.add_source_order_arguments(parser)
    arguments.add_target_arguments(parser)
    arguments.add_evaluation_arguments(parser)
    arguments.add_data_arguments(parser)
    arguments.add_network_arguments(parser)
    arguments.add_optimizer_arguments(parser)
    arguments.add_segmentation_loss_arguments(parser)
    arguments.add_training_arguments(parser)
    return arguments.parse(parser, argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns the exit code."""
    args = parse_args(argv)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        with alike_everywhere():  # nothing is written before all of this is right
            chosen = wiring.prepare_process(args, world)
            domains = wiring_data.find_domains(args, source=True, target=False)
            datasets = {"source": wiring_data.labelled_dataset(args, domains.source, domains.space)}
            order = wiring_data.source_order(args, domains.source, domains.space)
            network = wiring.build_network(args, domains.space, world)
            trainer = SupervisedTrainer(
                network=network,
                settings=wiring.method_settings(SupervisedSettings, args),
                world=world,
                loop=wiring.loop_settings(args, chosen),
                streams=wiring_data.sample_streams(args, world, datasets, orders={"source": order}),
                evaluator=wiring.make_evaluator(args, domains, world, chosen),
                evaluation=wiring.evaluation_memory(args, domains),
            )
            facts = wiring.facts_in_force(args, world, domains, chosen)
        with wiring.run_folder(args, world, facts) as trainer.run:
            if world.is_main and order is not None:
                order.keep(args.snapshot_dir)
            return trainer.fit()


if __name__ == "__main__":
    sys.exit(main())
