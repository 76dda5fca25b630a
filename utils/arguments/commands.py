"""Command lines to paste: how a run would be started with other options or another number of processes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence


def without_option(argv: Sequence[str], option: str) -> list[str]:
    """The arguments without `option` and its one value, also as `--a_b value` or `--a-b=value`."""
    kept: list[str] = []
    skip_value = False
    for word in argv:
        if skip_value:
            skip_value = False
            continue
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name.replace("_", "-") == option:
            skip_value = not equals
            continue
        kept.append(word)
    return kept


def with_option(argv: Sequence[str], option: str, value: object) -> list[str]:
    """The arguments with `option value` in the place of whatever they say about `option`."""
    return [*without_option(argv, option), option, str(value)]


def torchrun_command(
    script: str, argv: Sequence[str], num_processes: int, *, per_machine: int | None = None
) -> str:
    """The shell command that starts `script` on so many processes.

    One process needs no launcher. More than `per_machine` (default: LOCAL_WORLD_SIZE, which torchrun sets)
    becomes a command to run on every machine.
    """
    rest = shlex.join([script, *argv])
    per_machine = per_machine or int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    if num_processes == 1:
        return f"python {rest}"
    if num_processes <= per_machine:
        return f"torchrun --standalone --nproc-per-node {num_processes} {rest}"
    machines = f"--nnodes {num_processes // per_machine} --nproc-per-node {per_machine}"
    return f"torchrun {machines} --rdzv-backend c10d --rdzv-endpoint $MASTER_ADDR:29500 {rest}"


def fits_machines(num_processes: int) -> bool:
    """Whether so many processes fill whole machines, or a part of one."""
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    return num_processes <= per_machine or num_processes % per_machine == 0
