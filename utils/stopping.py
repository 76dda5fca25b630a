"""Stop signals as a flag: SIGTERM, SIGUSR1 and SIGUSR2 ask for a snapshot and an orderly end.

Imports nothing heavy, so that an entry point can install the handlers before torch is imported: a scheduler's
signal during those seconds must not kill the run.
"""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")

_received: str | None = None


def install() -> None:
    """Makes the stop signals set the flag that `requested` reads. Call it first, from the main thread."""
    for name in STOP_SIGNALS:
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), _note)


def requested() -> str | None:
    """The name of the first stop signal this process received, or None."""
    return _received


def never() -> bool:
    """No stop signal ever comes: what long work asks that nobody interrupts."""
    return False


def clear() -> None:
    """Forgets a received signal; for runs that share a process, as in tests."""
    global _received
    _received = None


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    if _received is None:
        _received = signal.Signals(number).name
