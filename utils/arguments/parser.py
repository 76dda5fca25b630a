"""The argument parser of all entry points: argument files, one-line errors, original option names."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import UserError

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
ORIGINAL_PREFIX = "original:"  # destination of an option that exists only for command lines of the originals


@dataclasses.dataclass(frozen=True, slots=True)
class Original:
    """An option of an original release that ours replaces or ignores.

    `translate(value)` gives (destination, new value), or None when the option has no effect; it raises
    UserError for values that cannot be honoured. `note` is the warning; it may contain {value}.
    """

    option: str
    note: str
    translate: Callable[[Any], tuple[str, Any] | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """One word of the command line; `file` is the argument file it comes from."""

    text: str
    file: Path | None = None


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of description and epilog; names a default only where there is one to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        unset = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        if text is None or unset or "%(default)" in text or "(default:" in text:
            return text
        if action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction):
            return text
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are UserErrors of one line.

    `@FILE` is replaced by the words of the file: `--flag value` on one line, `#` comments, blank lines,
    quotes, and nested `@FILE` relative to the including file. `--flag_name` is read as `--flag-name`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.originals: dict[str, Original] = {}
        self._original_group: argparse._ArgumentGroup | None = None

    def add_original(
        self,
        option: str,
        note: str,
        translate: Callable[[Any], tuple[str, Any] | None] = lambda value: None,
        **settings: Any,
    ) -> None:
        """Accepts an option of an original release; `settings` go to add_argument."""
        if self._original_group is None:
            self._original_group = self.add_argument_group("original option names")
        destination = ORIGINAL_PREFIX + option
        self.originals[destination] = Original(option, note, translate)
        self._original_group.add_argument(
            option, dest=destination, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **settings
        )

    def format_help(self) -> str:
        """Adds the names of the accepted original options in one paragraph."""
        if self._original_group is not None:
            names = [original.option for original in self.originals.values()]
            self._original_group.description = (
                f"also accepted; each says what it becomes:\n{wrap(names, width=100)}"
            )
        return super().format_help()

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, after argument files and underscored names."""
        words = expand(sys.argv[1:] if args is None else args)
        return super().parse_known_args([self._known_spelling(word.text) for word in words], namespace)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's, but names the nearest option for each unknown one."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._describe_unknown(unknown))
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raises a UserError of one line, the same on every process."""
        raise UserError(f"{message} (see {self.prog} --help)", everywhere=True)

    def _known_spelling(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or "_" not in name or name in self._option_string_actions:
            return word
        spelled = "--" + name[2:].replace("_", "-")
        return spelled + equals + value if spelled in self._option_string_actions else word

    def _describe_unknown(self, unknown: Sequence[str]) -> str:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        if not options:
            return f"unexpected argument {shlex.join(unknown)}"
        described = []
        for option in options:
            nearest = difflib.get_close_matches(option.replace("_", "-"), known, n=1, cutoff=0.6)
            nearest = nearest or [name for name in known if len(option) > 4 and name.startswith(option)][:1]
            hint = f", did you mean {nearest[0]}?" if nearest else ""
            described.append(f"unknown option {option}{hint}")
        return "; ".join(described)


def make_parser(description: str, epilog: str | None = None, *, prog: str | None = None) -> Parser:
    """The parser every entry point starts from.

    Args:
        description: usually the module's docstring; its lines are kept.
        epilog: lines after the options, for example commands to copy.
        prog: script name; default as argparse finds it.
    """
    return Parser(
        prog=prog,
        usage="%(prog)s [@FILE.args ...] [options]",
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def expand(argv: Sequence[str]) -> list[Word]:
    """The words of the command line with every `@FILE` replaced by the words of that file."""
    words: list[Word] = []
    for text in argv:
        words += _read_argument_file(text[1:], folder=Path(), inside=()) if text[:1] == "@" else [Word(text)]
    return words


def recipe_of(argv: Sequence[str]) -> str | None:
    """The stem of the first argument file on the command line."""
    return next((Path(text[1:]).stem for text in argv if text.startswith("@")), None)


def typed_options(argv: Sequence[str]) -> frozenset[str]:
    """The names of the options on the command line itself, not in its argument files, such as `--seed`."""
    names = (word.text.partition("=")[0] for word in expand(argv) if word.file is None)
    return frozenset(name.replace("_", "-") for name in names if name.startswith("--"))


def published_batch_of(argv: Sequence[str]) -> int | None:
    """The --batch-size that the argument files ask for, whatever follows on the command line."""
    texts = [word.text for word in expand(argv) if word.file is not None]
    values = [value for name, value in itertools.pairwise(texts) if name == "--batch-size"]
    values += [text.partition("=")[2] for text in texts if text.startswith("--batch-size=")]
    return int(values[-1]) if values and values[-1].isdigit() else None


def wrap(texts: Sequence[str], *, width: int) -> str:
    """The texts in lines of about `width` characters, none of them broken."""
    lines = [""]
    for text in texts:
        if len(lines[-1]) + len(text) > width:
            lines.append("")
        lines[-1] += text + "  "
    return "\n".join(line.strip() for line in lines)


def warn(message: str) -> None:
    """A warning about the command line, once per run and not once per process."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning("warning: %s", message)


def _read_argument_file(name: str, *, folder: Path, inside: tuple[Path, ...]) -> list[Word]:
    path = _find_argument_file(name, folder)
    if path in inside:
        raise UserError(f"argument file {path} includes itself", everywhere=True)
    words: list[Word] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"argument file {path} cannot be read: {error}", everywhere=True) from error
    for number, line in enumerate(lines, start=1):
        try:
            texts = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(f"argument file {path}, line {number}: {error}", everywhere=True) from error
        for text in texts:
            if text.startswith("@"):
                words += _read_argument_file(text[1:], folder=path.parent, inside=(*inside, path))
            else:
                words.append(Word(text, path))
    return words


def _find_argument_file(name: str, folder: Path) -> Path:
    """The file below `folder`, or below the repository when the command was started elsewhere."""
    for path in (folder / name, REPOSITORY / name):
        if path.is_file():
            return path.resolve()
    wanted = folder / name
    beside = [path.name for start in (folder, REPOSITORY) for path in (start / name).parent.glob("*.args")]
    nearest = difflib.get_close_matches(wanted.name, beside, n=1, cutoff=0.5)
    hint = f"; did you mean @{wanted.parent / nearest[0]}?" if nearest else ""
    raise UserError(f"argument file {wanted} does not exist{hint}", everywhere=True)
