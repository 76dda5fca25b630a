"""Damaged, hostile and foreign files: every loader reads them or says in one line what is wrong."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability.damage import DAMAGES, hostile_files
from tests.reliability.loaders import LOADERS
from utils.errors import RunStopped, UserError, format_message

FEW = 6  # inputs per loader in the everyday test
FOREIGN = 5  # other loaders' files
FORGIVING = ("last", "metrics.jsonl", ".lock")  # whatever they hold, the run goes on without them
MANY = 10_000 // len(LOADERS) + 1


@dataclass(frozen=True, slots=True)
class Good:
    """A folder with an undamaged file, and its content."""

    folder: Path
    file: Path
    content: bytes


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Good]:
    """The undamaged files by loader; each is read without an error."""
    found = {}
    for name, loader in LOADERS.items():
        folder = tmp_path_factory.mktemp("good")
        file = loader.make(folder)
        found[name] = Good(folder, file.relative_to(folder), file.read_bytes())
    return found


def read(name: str, good: Good, content: bytes, folder: Path) -> str | None:
    """What the loader says about this content; None where it reads it. Any other exception passes."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good.folder, folder)
    (folder / good.file).write_bytes(content)
    try:
        LOADERS[name].read(folder / good.file)
    except (UserError, RunStopped) as error:
        return str(error)
    return None


def assert_one_line(message: str | None) -> None:
    """As a user reads it."""
    if message is not None:
        assert message.strip()
        assert "\n" not in format_message(message)
        assert len(message) < 1500


def attack(name: str, good: dict[str, Good], folder: Path, count: int) -> int:
    """Damages the loader's file so many times; the number of inputs that were refused."""
    refused = 0
    for number in range(count):
        drawn = random.Random(f"{name} {number}")
        content = drawn.choice(DAMAGES)(good[name].content, drawn)
        (folder / "input").write_bytes(content)  # to look at after a failure
        message = read(name, good[name], content, folder / "case")
        assert_one_line(message)
        refused += message is not None
    return refused


@pytest.mark.parametrize("name", LOADERS)
def test_undamaged_files_are_read(name: str, good: dict[str, Good], tmp_path: Path) -> None:
    assert read(name, good[name], good[name].content, tmp_path / "case") is None


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files(name: str, good: dict[str, Good], tmp_path: Path) -> None:
    assert attack(name, good, tmp_path, FEW) > 0 or name in FORGIVING


@pytest.mark.parametrize("name", LOADERS)
def test_hostile_and_foreign_files(name: str, good: dict[str, Good], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    others = {other.content for key, other in good.items() if key != name and len(other.content) < 100_000}
    foreign = random.Random(name).sample(sorted(others), FOREIGN)
    for content in (*hostile_files(trace), *foreign):
        (tmp_path / "input").write_bytes(content)
        assert_one_line(read(name, good[name], content, tmp_path / "case"))
        assert not trace.exists()


@pytest.mark.long
@pytest.mark.parametrize("name", LOADERS)
def test_ten_thousand_damaged_files(name: str, good: dict[str, Good], tmp_path: Path) -> None:
    assert attack(name, good, tmp_path, MANY) > 0 or name in FORGIVING
