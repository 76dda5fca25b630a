"""From the words of a command line to checked settings."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.arguments.checks import check_arguments
from utils.arguments.commands import torchrun_command, without_option
from utils.arguments.parser import ORIGINAL_PREFIX, Parser, published_batch_of, recipe_of, warn
from utils.errors import UserError


class _NotGiven(list):
    """Stands for "not on the command line"; a list, so that appending actions copy it instead of failing."""


def parse(parser: Parser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses, translates original option names, and checks combinations.

    Returns:
        The namespace with, besides the options:
        `given` (destinations on the command line or in argument files), `recipe` (stem of the first argument
        file or None), `script` (as started), `argv` (as given), `command_line` (the two joined for a shell),
        `published_batch` (the recipe's --batch-size or None).
        `snapshot_dir` and `num_steps_stop` are resolved.

    Raises:
        UserError: anything wrong, in one line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    args.argv = argv
    args.script = _script_path(parser.prog)
    args.command_line = shlex.join([args.script, *argv])
    args.recipe = recipe_of(argv)
    args.published_batch = published_batch_of(argv)
    args.given = _given(parser, argv)
    _translate_originals(parser, args)
    if getattr(args, "snapshot_dir", 0) is None:
        args.snapshot_dir = Path("runs") / f"{args.recipe or Path(args.script).stem}-seed{args.seed}"
    check_arguments(args)
    return args


def _given(parser: Parser, argv: Sequence[str]) -> frozenset[str]:
    """Destinations set by the command line: parse again with a mark in the place of every default."""
    marks = {
        action.dest: _NotGiven()
        for action in parser._actions
        if action.default is not argparse.SUPPRESS and action.dest is not argparse.SUPPRESS
    }
    parsed = vars(parser.parse_args(argv, argparse.Namespace(**marks)))
    defaults = {action.dest: action.default for action in parser._actions if not action.option_strings}
    return frozenset(
        name
        for name, value in parsed.items()
        if value is not marks.get(name) and not (name in defaults and value is defaults[name])
    )


def _translate_originals(parser: Parser, args: argparse.Namespace) -> None:
    """Replaces options of the originals by ours, with one warning each."""
    given = {name for name in args.given if not name.startswith(ORIGINAL_PREFIX)}
    by_destination = {action.dest: action.option_strings for action in parser._actions}
    for destination, original in parser.originals.items():
        if not hasattr(args, destination):
            continue
        value = getattr(args, destination)
        delattr(args, destination)
        if original.option == "--gpu-ids":
            _check_gpu_ids(value, args)
        translated = original.translate(value)
        if translated is not None:
            name, new = translated
            if name in given and getattr(args, name) != new:
                other = f"{by_destination[name][0]} {getattr(args, name)}"
                raise UserError(f"{original.option} contradicts {other}; keep one of them", everywhere=True)
            setattr(args, name, new)
            given.add(name)
        warn(f"{original.option}: {original.note.format(value=value)}")
    args.given = frozenset(given)


def _check_gpu_ids(value: str, args: argparse.Namespace) -> None:
    """Stops with the command that uses the wanted GPUs; `--gpu-ids 0` is what one process does anyway.

    Raises:
        UserError: more than one id, or one that is not 0.
    """
    ids = [part.strip() for part in value.split(",") if part.strip() and part.strip() != "-1"]
    if ids == ["0"] or not ids:
        return
    rest = without_option(args.argv, "--gpu-ids")
    if len(ids) > 1:
        command = torchrun_command(args.script, rest, len(ids), per_machine=len(ids))
        raise UserError(f"--gpu-ids {value}: use torchrun: {command}", everywhere=True)
    command = f"CUDA_VISIBLE_DEVICES={ids[0]} {torchrun_command(args.script, rest, 1)}"
    raise UserError(f"--gpu-ids {value}: choose the GPU by the environment: {command}", everywhere=True)


def _script_path(prog: str) -> str:
    started = Path(sys.argv[0])
    return str(started) if started.name == prog else prog
