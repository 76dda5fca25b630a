"""What a snapshot holds: everything from which a later process continues a run bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_loaders.streams import SampleStream
from utils import distributed, seeding, snapshots
from utils.errors import RunStopped, UserError
from utils.runs import Run
from utils.snapshots import FORMAT_VERSION, clean_keys

if TYPE_CHECKING:
    from trainers.base import Trainer

logger = logging.getLogger(__name__)


def collect(trainer: Trainer) -> dict[str, Any]:
    """The state of a run. Every rank must call it."""
    teacher = trainer.teacher
    return {
        "format_version": FORMAT_VERSION,
        "method": trainer.method,
        "iteration": trainer.iteration,
        "network": trainer.network.spec.to_dict(),
        "weights": clean_keys(trainer.network.state_dict()),
        "teacher": clean_keys(teacher.network.state_dict()) if teacher else None,
        "teacher_updates": teacher.updates if teacher else 0,
        "method_state": {name: module.state_dict() for name, module in trainer.method_modules().items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.items()},
        "scaler": trainer.scaler.state_dict(),
        "precision": trainer.loop.precision.name,
        "streams": {name: stream.consumed for name, stream in trainer.streams.items()},
        "contents": {name: stream.fingerprint for name, stream in trainer.streams.items()},
        "skipped": trainer.skipped.state(),
        "rng": distributed.all_gather_objects(seeding.rng_state()),
        "evaluation": trainer.evaluation,
        "arguments": dict(trainer.run.settings) if trainer.run else {},
        "metrics": trainer.metrics,
        "best": trainer.best,
        "best_at": trainer.best_at,
        "evaluated_at": trainer.evaluated_at,
        "waiting_event": trainer.waiting_event,
    }


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Takes over a state made by `collect`, on any number of processes.

    Raises:
        UserError: a stream reads other images or labels than it did.
    """
    trainer.iteration = state["iteration"]
    trainer.network.load_state_dict(state["weights"])
    if trainer.teacher is not None and state["teacher"] is not None:
        trainer.teacher.network.load_state_dict(state["teacher"])
        trainer.teacher.updates = state["teacher_updates"]
    for name, module in trainer.method_modules().items():
        module.load_state_dict(state["method_state"][name])
    for name, optimizer in trainer.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.renew_streams(state["streams"])
    trainer.skipped.load_state(state.get("skipped", {}))
    check_contents(trainer.streams, state.get("contents", {}))
    trainer.waiting_event = state.get("waiting_event")
    _restore_scores(trainer, state)
    _warn_about_precision(trainer.loop.precision.name, state)
    _restore_random_state(trainer, state["rng"])


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what a whole file with other content than a run's state makes of `restore` into a user's error.

    Raises:
        UserError: on every rank, which all read the same file.
    """
    try:
        yield
    except (UserError, RunStopped):
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} does not hold the state of this run ({type(error).__name__}: {reason}); delete it to "
            "continue from the snapshot before it, or give another --snapshot-dir",
            everywhere=True,
        ) from error


def check_contents(streams: Mapping[str, SampleStream], before: Mapping[str, str]) -> None:
    """Refuses to go on with other images or labels; an empty fingerprint is not compared.

    Raises:
        UserError: on every rank: names stream, files and remedy.
    """
    for name, stream in streams.items():
        known = before.get(name, "")
        if known and stream.fingerprint and known != stream.fingerprint:
            raise UserError(
                f"stream {name} reads or draws other images or labels than this run did before; now it reads "
                f"{stream.description}. Give the run's own data again, or another --snapshot-dir",
                everywhere=True,
            )


def check_alike(what: Mapping[str, str], remedy: str) -> None:
    """Compares fingerprints over the ranks, whose machines may hold different copies. Collective.

    Args:
        what: fingerprint by what it is of, for the message.

    Raises:
        UserError: on every rank: names the first that differs and the ranks that differ from rank 0.
    """
    everyone = distributed.all_gather_objects(dict(what))
    for name, expected in everyone[0].items():
        different = [rank for rank, found in enumerate(everyone) if found.get(name) != expected]
        if different:
            raise UserError(f"{name} differ on ranks {different} from rank 0's; {remedy}", everywhere=True)


def load_newest(trainer: Trainer) -> Path | None:
    """Takes over the newest good snapshot of the run folder; its path, None in a folder without any.

    Raises:
        UserError: on every rank: none of the folder's snapshots can be read, it is another method's, or a
            stream reads other data than it did.
    """
    found = newest_snapshot(trainer.run)
    if found is None:
        return None
    path, state = found
    if state.get("method") != trainer.method:
        raise UserError(
            f"{path} is a snapshot of method {state.get('method')}, this run is {trainer.method}; choose "
            "another --snapshot-dir",
            everywhere=True,
        )
    with explained(path):
        trainer.load_state(state)
    return path


def newest_snapshot(run: Run) -> tuple[Path, dict[str, Any]] | None:
    """The snapshot that rank 0 chose, on every rank; None in a folder without any.

    Raises:
        UserError: on every rank: none of the folder's snapshots can be read.
    """
    found = None

    def latest() -> Path | None:
        nonlocal found
        found = run.snapshots.latest()
        return found and found[0]

    path = distributed.from_rank_zero(latest)
    if path is None or found is not None:
        return found
    return path, snapshots.read(path)


def _restore_scores(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Scores of another protocol or other images are forgotten: they cannot be compared with new ones."""
    if state["evaluation"] != trainer.evaluation:
        logger.warning(
            "evaluation changed since the snapshot: `best` is chosen among the scores from here on"
        )
        return
    trainer.metrics = dict(state["metrics"])
    trainer.best, trainer.best_at = state["best"], state.get("best_at", -1)
    trainer.evaluated_at = state.get("evaluated_at", -1)


def _warn_about_precision(now: str, state: Mapping[str, Any]) -> None:
    before = state.get("precision", now)
    if before != now:
        logger.warning(
            "the run computed in %s, from here on it computes in %s; --precision %s keeps it as it was",
            before,
            now,
            before,
        )


def _restore_random_state(trainer: Trainer, states: list[dict[str, Any]]) -> None:
    world = trainer.world
    if world.size == len(states):
        seeding.set_rng_state(states[world.rank])
        return
    logger.warning(
        "the snapshot has random states of %d processes, this run has %d: dropout continues with new draws",
        len(states),
        world.size,
    )
    seeding.seed_dropout(trainer.loop.seed + trainer.iteration, world.rank)
