"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from utils.errors import UserError
from utils.files import check_writable, write_atomically


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("content", [b"new \xc3\xa4", "new \xe4", lambda file: file.write(b"new \xc3\xa4")])
def test_the_file_is_replaced_and_nothing_else_is_left(
    tmp_path: Path, content: bytes | str, durable: bool
) -> None:
    path = tmp_path / "deep" / "folder" / "x.txt"
    for _ in range(2):
        write_atomically(path, content, durable=durable)
        assert path.read_text(encoding="utf-8") == "new \xe4"
    assert [file.name for file in path.parent.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, durable: bool) -> None:
    def fill_the_disk(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(UserError, match=r"cannot write .*x\.txt: No space left on device; free space"):
        write_atomically(path, fill_the_disk, durable=durable)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(file: BinaryIO) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x.txt", interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for attempt in (lambda path: write_atomically(path, b""), check_writable):
        with pytest.raises(UserError, match=r"cannot write .*file/x\.txt: "):
            attempt(tmp_path / "file" / "x.txt")


def test_a_path_is_checked_without_touching_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.txt"
    check_writable(path)
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    check_writable(path)
    assert path.read_text() == "old"
    with pytest.raises(UserError, match=r"cannot write .*folder: it is a folder"):
        check_writable(path.parent)
