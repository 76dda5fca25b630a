"""Stop signals set a flag, at no import cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils import stopping


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Puts the process's own handlers back."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in stopping.STOP_SIGNALS}
    stopping.clear()
    yield
    stopping.clear()
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_each_stop_signal_is_noted_by_name(name: str) -> None:
    stopping.install()
    assert stopping.requested() is None
    os.kill(os.getpid(), getattr(signal, name))
    assert stopping.requested() == name


def test_the_first_signal_is_the_one_reported() -> None:
    stopping.install()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stopping.requested() == "SIGUSR1"


def test_installing_does_not_import_torch() -> None:
    program = "import sys; from utils import stopping; stopping.install(); sys.exit('torch' in sys.modules)"
    root = Path(stopping.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
