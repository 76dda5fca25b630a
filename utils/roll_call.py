"""Who is missing after a collective failed: ranks answer through a key-value store that outlives it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from utils.errors import RunStopped

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0  # how long a rank that saw a collective fail waits for the others' answers
STORE_S = 10.0  # how long the store may take beyond that: behind a cut wire it would never answer
FAILURE_MARKS = ("gloo", "nccl", "timed out", "closed by peer", "connection")  # in the backends' own errors


class StalledRankError(RunStopped):
    """Some ranks did not take part in something that all ranks must reach; the message names them."""

    everywhere = False


class Store(Protocol):
    """The part of a launcher's key-value store that processes need to find and to miss each other."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def add(self, key: str, amount: int, /) -> int: ...
    def check(self, keys: list[str], /) -> bool: ...
    def delete_key(self, key: str, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class RollCall:
    """The answers of one run's ranks."""

    store: Store
    rank: int
    size: int

    def answer(self, what: str) -> None:
        """Says that this rank lives and waits for the others in `what`."""
        self.store.set(f"present/{self.rank}", what)

    def withdraw(self) -> None:
        """Takes the answer back once the wait is over.

        Rank 0 may hold the store, and may have left with it after the last barrier.
        """
        try:
            self.store.delete_key(f"present/{self.rank}")
        except RuntimeError:
            logger.debug("the store is gone already: nobody is left to ask")

    def leave(self, error: BaseException) -> None:
        """Tells the other ranks why this one goes, so that they name the cause and not only the rank."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]

        def tell() -> None:
            try:
                self.store.set(f"left/{self.rank}", reason)
            except RuntimeError:
                logger.debug("the store is gone already: nobody is left to tell")

        _within(STORE_S, tell)

    def missing(self, what: str, seconds: float) -> StalledRankError | None:
        """Asks which ranks are still there after `what` failed; None when all of them are.

        A rank is there when it saw the failure too, and so calls the roll itself, or waits in a barrier.
        """
        found: list[StalledRankError | None] = []
        if not _within(PATIENCE_S + STORE_S, lambda: found.append(self._ask(what, seconds))):
            return StalledRankError(
                f"{what} failed: rank 0 cannot be reached from rank {self.rank} on {socket.gethostname()}; "
                "its machine or the network between them is gone."
            )
        return found[0] if found else None

    def _ask(self, what: str, seconds: float) -> StalledRankError | None:
        try:
            self.answer(what)
            silent = self._silent()
            left = {r: self.store.get(f"left/{r}").decode() for r in self._others() if self._left(r)}
        except RuntimeError:  # rank 0, or the launcher, holds the store
            return StalledRankError(f"rank 0 is gone while rank {self.rank} was in {what}; see its log.")
        parts = [f"rank {r} left with {reason}" for r, reason in left.items()]
        if silent:
            names = f"rank {silent[0]}" if len(silent) == 1 else f"ranks {', '.join(map(str, silent))}"
            parts.append(f"{names} did not reach it (time-out {seconds:g} s): stalled or killed")
        return StalledRankError(f"{what} failed: {'; '.join(parts)}.") if parts else None

    def _others(self) -> list[int]:
        return [r for r in range(self.size) if r != self.rank]

    def _left(self, rank: int) -> bool:
        return self.store.check([f"left/{rank}"])

    def _silent(self) -> list[int]:
        """The ranks that did not answer in time."""
        deadline = time.monotonic() + PATIENCE_S
        silent = self._others()
        while True:
            silent = [r for r in silent if not self._left(r) and not self.store.check([f"present/{r}"])]
            if not silent or time.monotonic() > deadline:
                return silent
            time.sleep(0.05)


def _within(seconds: float, action: Callable[[], object]) -> bool:
    """Whether the action ends in time; if not, a thread that keeps no process alive is left."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def looks_like_lost_peers(error: BaseException) -> bool:
    """Whether an error comes from a collective that lost a peer, judged by the backends' wording."""
    return isinstance(error, RuntimeError) and any(mark in str(error).lower() for mark in FAILURE_MARKS)
