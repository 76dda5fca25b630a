"""From parsed arguments to people who label whole images: what is asked of them, what another run has."""

from __future__ import annotations

import logging
from pathlib import Path

from selection.budget import WHOLE_IMAGE_HOURS, ImagePrice
from selection.exchange.earlier_run import EarlierLabels
from selection.store import AnnotationStore
from trainers.oracles import PeopleOracle
from trainers.wiring_data import Arguments
from utils.errors import UserError

logger = logging.getLogger(__name__)


def people_for_images(
    args: Arguments, store: AnnotationStore, class_space: str, *, asked: int, known: int, total: int
) -> PeopleOracle:
    """People as the oracle of the one round of `store`; what that asks of them is said now.

    Args:
        class_space: name of the classes in use.
        asked: how many images the round asks about.
        known: of these, how many --labelled-list names.
        total: images of the target.

    Raises:
        UserError: --labels-from names a folder without labels of whole images in these classes.
    """
    seconds = args.seconds_per_decision
    hours = WHOLE_IMAGE_HOURS if seconds is None else seconds / 3600
    price = price_sentence(args, hours, asked=asked, known=known, total=total)
    logger.info("people are the oracle: %s", price)
    return PeopleOracle(
        str(args.snapshot_dir),
        price,
        accept_partial=args.accept_partial,
        hours_per_image=hours,
        earlier=earlier_labels(args, store, class_space),
    )


def price_sentence(args: Arguments, hours_per_image: float, *, asked: int, known: int, total: int) -> str:
    """What is asked of people, by the option that asks it; the rest as `people_for_images`."""
    if args.image_list is not None:
        wanted = f"--image-list {args.image_list} asks people for all pixels of the {asked} listed images"
    else:
        wanted = f"--budget {args.budget} asks people for all pixels of {asked - known} of {total} images"
    if args.labels_from is not None:  # among them those of the list of known images
        work = ImagePrice(asked - known, hours_per_image).words()
        return f"{wanted}: {work}, less what --labels-from {args.labels_from} has"
    if known:
        wanted += f", --labelled-list {args.labelled_list} for those of {known} more"
    return f"{wanted}: {ImagePrice(asked, hours_per_image).words()}"


def earlier_labels(args: Arguments, store: AnnotationStore, class_space: str) -> EarlierLabels | None:
    """The labels of --labels-from, as long as the round has not all of its own.

    Raises:
        UserError: that is the run folder itself, or has no labels of whole images in these classes.
    """
    if args.labels_from is None or store.round(0).has_labels():
        return None
    run = Path(args.labels_from)
    if run.resolve() == Path(args.snapshot_dir).resolve():
        raise UserError(
            f"--labels-from {run} is the folder of this very run, which keeps its labels anyway; name "
            "another run, or leave the option out"
        )
    earlier = EarlierLabels(run)
    earlier.check(class_space)
    return earlier
