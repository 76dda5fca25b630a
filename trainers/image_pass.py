"""One pass of a network over many images: split over the processes, kept in parts, collected on rank 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import nn

from trainers.inference import ImageProgress, evaluation_mode, prefetch
from utils import distributed
from utils.precision import exact_float32
from utils.stopping import never

Loaded = TypeVar("Loaded")
Seen = TypeVar("Seen")


def pass_over(
    network: nn.Module,
    missing: Sequence[int],
    *,
    load: Callable[[int], Loaded],
    see: Callable[[Loaded], Seen],
    keep: Callable[[list[Seen]], object],
    collect: Callable[[], object],
    what: str,
    part_images: int,
    num_workers: int = 2,
    stop: Callable[[], bool] = never,
) -> bool:
    """Sees each of the missing images on one of the processes; every rank must call it.

    The network is in eval mode, computes in full float32 and has rank 0's buffers, so that it does not matter
    which process sees an image.

    Args:
        network: unwrapped, on its device.
        missing: numbers of the images, the same on all ranks.
        load: makes what `see` needs of an image; called ahead, in threads.
        see: what becomes of one image.
        keep: writes some images to disk, `part_images` at most, which is what a kill loses.
        collect: makes the result of what was kept; called on rank 0 once all ranks are done.
        what: names the work in logs, such as "describing source images".
        num_workers: threads that load images ahead.
        stop: asked before every image; true on any rank ends the work there.

    Returns:
        False when a stop signal cut it short; what is done is kept and nothing collected.
    """
    distributed.synchronize_buffers_(network)
    mine = [missing[place] for place in distributed.shard(len(missing))]
    progress = ImageProgress(what, len(mine))
    part: list[Seen] = []
    with evaluation_mode(network), exact_float32():
        for loaded in prefetch(load, mine, num_workers):
            if stop():
                break
            part.append(see(loaded))
            progress.advance()
            if len(part) == part_images:
                keep(part)
                part = []
        if part:
            keep(part)
    if distributed.any_rank(progress.done < len(mine), what=what):
        return False
    distributed.from_rank_zero(collect)
    return True
