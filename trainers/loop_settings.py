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
    batch_norm: str = "local"  # local, sync, frozen
    train_batch_norm_affine: bool = False
    ema_decay: float = 0.0  # in [0, 1); 0: no teacher
    ema_copies_buffers: bool = True  # the teacher's BatchNorm statistics are the student's; False: the first


@dataclass(frozen=True, slots=True)
class WaitForLabels:
    """Outcome of an event that cannot go on before people have worked, such as on an annotation task.

    Attributes:
        text: what is to be done and where, for the log and the mark in the run folder.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Outcome of an event that a stop signal cut short: the run ends there, the next start calls it again."""


@dataclass(frozen=True, slots=True)
class EndOfRun:
    """Outcome of an event after which the user wants the run to end, as done; a later start that is to go
    further (a larger --num-steps-stop) calls the event again.

    Attributes:
        text: what is done, for the log and the mark in the run folder.
    """

    text: str


Outcome = WaitForLabels | Interrupted | EndOfRun | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something a method does between iterations, on all ranks: a query round, a bank fill.

    Attributes:
        name: for the log; unique in a trainer.
        due: whether it happens after that many updates (0: before the first).
        action: called on every rank with the number of updates; a snapshot is taken after it. None: go on.
            Any other outcome (rank 0's counts): the run ends there with exit code 0, and the next start calls
            this action again.
        rebuild_streams: it changed what the streams read: batches loaded ahead are dropped and
            `Trainer.rebuild_streams` is asked for the streams, which go on from their positions.
        snapshot_first: it takes long: a snapshot is taken before it too, so that a run killed in it starts
            again with it.
    """

    name: str
    due: Callable[[int], bool]
    action: Callable[[int], Outcome]
    rebuild_streams: bool = False
    snapshot_first: bool = False
