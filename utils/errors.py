"""Errors that a user can repair, and how an entry point reports them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

EntryPoint = Callable[..., int]


class UserError(ValueError):
    """What the user can repair. The message is one line: the file or flag, the value found, and the remedy.

    Lines that begin with two spaces are commands to paste and keep their place; see `format_message`.

    Args:
        message: as above.
        everywhere: all processes of the run raise it together, so one process per machine reports it.
    """

    def __init__(self, message: str, *, everywhere: bool = False) -> None:
        super().__init__(message)
        self.everywhere = everywhere


class BadFileError(UserError):
    """A file of a data set that is missing, damaged or cannot be read; other files may be good."""


class RunStopped(RuntimeError):
    """A run that cannot go on: one line, exit code 1; its snapshots are good.

    `everywhere` says that all ranks found it together, so one process per machine reports it.
    """

    everywhere = True


def reason(error: object, longest: int = 200) -> str:
    """What another library's error says, on one line and not too long, for a message of ours."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


@contextmanager
def alike_everywhere() -> Iterator[None]:
    """Marks UserErrors from inside: all processes read the same arguments and files and find them alike.

    So one process per machine reports them. Also a decorator: `@alike_everywhere()`.
    """
    try:
        yield
    except UserError as error:
        error.everywhere = True
        raise


def format_message(message: str) -> str:
    """The message on one line, except that lines indented by two spaces (commands to paste) stay so."""
    parts: list[str] = []
    previous_is_command = False
    for line in message.splitlines():
        is_command = line.startswith("  ")
        text = line.rstrip() if is_command else " ".join(line.split())
        if not text:
            continue
        if parts:
            parts.append("\n" if is_command or previous_is_command else " ")
        parts.append(text)
        previous_is_command = is_command
    return "".join(parts)


def entry_point(main: EntryPoint) -> EntryPoint:
    """Makes `main(argv=None)` answer a UserError with one line on stderr and exit code 2.

    Ctrl-C gives 130. Every other exception keeps its traceback: it is our mistake, not the user's.
    Under a launcher, errors that every process finds alike are reported once per machine; a process that
    fails alone says which rank it is.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            rank = os.environ.get("RANK", "0")
            where = "" if rank == "0" else f" [rank {rank}]"
            if not error.everywhere or os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"error{where}: {format_message(str(error))}", file=sys.stderr, flush=True)
            return 2
        except RunStopped as stop:
            where = "" if stop.everywhere else f" [rank {os.environ.get('RANK', '0')}]"
            if not stop.everywhere or os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"stopped{where}: {format_message(str(stop))}", file=sys.stderr, flush=True)
            return 1
        except KeyboardInterrupt:
            return 130

    return guarded
