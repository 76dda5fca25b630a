"""What the training loop itself is told: lengths, rhythms, precision, and a method's scheduled events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from utils.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """What the loop itself needs to know; iterations are optimizer updates."""

    num_steps_stop: int  # the run ends after this many updates
    accumulation: int = 1  # micro-batches per update and process
    seed: int = 0
    log_every: int = 10
    save_every: int = 5000
    evaluate_every: int = 0  # 0: only at the end
    pictures_every: int = 0  # 0: none
    precision: Precision = field(default_factory=lambda: Precision("fp32"))
    channels_last: bool = False
    batch_norm: str = "local"  # local, sync, frozen
    train_batch_norm_affine: bool = False
    ema_decay: float = 0.0  # 0: no teacher


@dataclass(frozen=True, slots=True)
class Event:
    """Something a method does between iterations, on all ranks: a query round, a bank fill.

    Attributes:
        name: for the log.
        due: whether it happens after that many updates (0: before the first).
        action: called with the number of updates; a snapshot is taken after it.
    """

    name: str
    due: Callable[[int], bool]
    action: Callable[[int], None]
