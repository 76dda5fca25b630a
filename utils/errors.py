"""Errors that a user can repair, and how an entry point reports them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence

EntryPoint = Callable[..., int]


class UserError(ValueError):
    """What the user can repair. The message is one line: the file or flag, the value found, and the remedy."""


def entry_point(main: EntryPoint) -> EntryPoint:
    """Makes `main(argv=None)` answer a UserError with one line on stderr and exit code 2.

    Ctrl-C gives 130. Every other exception keeps its traceback: it is our mistake, not the user's.
    Under a launcher only rank 0 speaks of errors that every rank finds alike; a rank that fails alone says who it is.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            rank = os.environ.get("RANK", "0")
            where = "" if rank == "0" else f" [rank {rank}]"
            print(f"error{where}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            return 2
        except KeyboardInterrupt:
            return 130

    return guarded
