"""Every command that a reader may copy is one that the scripts understand."""

from __future__ import annotations

import logging
import re
from itertools import pairwise, zip_longest
from pathlib import Path

import pytest

import annotate
import evaluate
import fill_bank
import generate_plabel
import predict
import prepare_data
import train_al
import train_ft
import train_ms
import train_source
import train_st
from utils.arguments import Parser, existing_file, existing_folder, existing_path
from utils.arguments.parser import expand

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = {
    module.__name__: module
    for module in (
        *(annotate, evaluate, fill_bank, generate_plabel, predict, prepare_data),
        *(train_al, train_ft, train_ms, train_source, train_st),
    )
}
COMMAND = re.compile(rf"(?<![\w/])({'|'.join(SCRIPTS)})\.py((?: +[^\s`]+)*)")
DOCUMENTS = (
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "launch" / "recipes").glob("*.args")),
)


class Built(Exception):
    """Carries a parser out of a script's `parse_args`."""


@pytest.fixture(scope="module")
def parsers() -> dict[str, Parser]:
    """The parser of every script, as it is when the script starts to parse."""

    def stop(parser: Parser, *_: object) -> None:
        raise Built(parser)

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", stop)
        for name, script in SCRIPTS.items():
            with pytest.raises(Built) as caught:
                script.parse_args([])
            found[name] = caught.value.args[0]
    return found


def documented() -> list[tuple[str, str, list[str]]]:
    """(document, script, words after it) of all commands; lines that end in a backslash are joined."""
    texts = {str(path.relative_to(REPOSITORY)): path.read_text() for path in DOCUMENTS}
    texts |= {f"{name}.py": script.__doc__ for name, script in SCRIPTS.items()}
    commands = []
    for document, text in texts.items():
        joined = re.sub(r"\\\n[ #]*", " ", text)
        for script, rest in COMMAND.findall(joined):
            commands.append((document, script, re.sub(r"\s#.*", "", rest).split()))
    return commands


def of_mada() -> list[tuple[str, str, list[str]]]:
    """Those that begin with a recipe of MADA: what a reader copies as it is, save for where the data lie."""
    return [
        (document, script, words)
        for document, script, words in documented()
        if document.endswith((".md", ".args")) and words and re.fullmatch(r"@.*mada.*\.args", words[0])
    ]


def make_what_exists(parser: Parser, words: list[str]) -> None:
    """Makes the files and folders that the command takes for granted, here."""
    for name, value in pairwise(words):
        kind = getattr(parser._option_string_actions.get(name), "type", None)
        if kind is existing_folder:
            Path(value).mkdir(parents=True)
        elif kind in (existing_file, existing_path):
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).touch()


def parser_of(parsers: dict[str, Parser], script: str, words: list[str]) -> Parser:
    """The parser of the script, or of its sub-command that the first word names."""
    parser = parsers[script]
    for action in parser._actions:
        if isinstance(action.choices, dict) and words:
            return action.choices.get(words[0], parser)
    return parser


def mistakes(parser: Parser, words: list[str]) -> list[str]:
    """Options that the parser does not know, and values that are not among an option's choices."""
    texts = [word.text for word in expand(words)]
    wrong = []
    for text, following in zip_longest(texts, texts[1:], fillvalue=""):
        if not re.match(r"--\w", text):
            continue
        name, equals, value = text.partition("=")
        action = parser._option_string_actions.get(name)
        if action is None:
            wrong.append(name)
        elif action.choices and (value if equals else following) not in map(str, action.choices):
            wrong.append(f"{name} {value if equals else following}")
    return wrong


def test_commands_are_found_in_readme_docs_docstrings_and_recipes() -> None:
    documents = {document for document, _, _ in documented()}
    assert {"README.md", "docs/datasets.md", "launch/recipes/gta5_to_cityscapes_mrnet.args"} <= documents
    assert {f"{name}.py" for name in SCRIPTS} <= documents
    long = [words for document, _, words in documented() if document == "README.md" and len(words) > 5]
    assert len(long) >= 3


@pytest.mark.parametrize(
    ("document", "script", "words"),
    [pytest.param(*command, id=f"{command[0]}:{number}") for number, command in enumerate(documented())],
)
def test_a_documented_command_has_only_known_options_and_recipes(
    parsers: dict[str, Parser], document: str, script: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert mistakes(parser_of(parsers, script, words), words) == [], f"{document}: {script}.py {words}"


@pytest.mark.parametrize(
    ("document", "script", "words"),
    [pytest.param(*command, id=f"{command[0]}:{number}") for number, command in enumerate(of_mada())],
)
def test_a_documented_command_of_mada_runs_as_written_and_without_a_warning(
    parsers: dict[str, Parser],
    document: str,
    script: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_what_exists(parsers[script], words)
    args = SCRIPTS[script].parse_args(words)
    assert str(args.snapshot_dir) == words[words.index("--snapshot-dir") + 1]
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_phase_of_mada_has_a_command_of_its_own() -> None:
    commands = [words for document, _, words in of_mada() if document == "docs/active_learning.md"]
    assert len(commands) >= 12
    phases = {"--stop-after", "--start-at"}
    files = {
        "--source-anchors",
        "--source-vectors",
        "--image-list",
        "--labelled-list",
        "--target-anchors",
    }
    assert phases | files <= {word for words in commands for word in words}


def test_the_check_finds_a_wrong_option_value_and_recipe(parsers: dict[str, Parser]) -> None:
    parser = parsers["train_ft"]
    words = ["--restore-form", "x", "--pseudo-label-loss", "rectify", "--seed", "1"]
    assert mistakes(parser, words) == ["--restore-form", "--pseudo-label-loss rectify"]
    with pytest.raises(ValueError, match="does not exist"):
        mistakes(parser, ["@launch/recipes/gta5_source_only.args"])
