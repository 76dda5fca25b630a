"""Vectors on disk: parts, the matrix made of them, and files that do not belong there or are damaged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selection import vector_folder
from selection.vector_folder import VectorFolder
from utils.errors import UserError

COUNT, CLASSES, CHANNELS = 5, 3, 4
CONTENT: dict[str, str | int] = {"weights": "a", "images": "list"}
CONTENT |= {"count": COUNT, "classes": CLASSES, "channels": CHANNELS}
VECTORS = np.random.default_rng(0).standard_normal((COUNT, CLASSES, CHANNELS)).astype(np.float32)
ENTROPIES = np.arange(COUNT) / 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "source_vectors"


def begun(path: Path, **changes: str | int) -> tuple[VectorFolder, list[bool]]:
    """The folder of a new process, and what it finds finished."""
    folder = VectorFolder(path)
    return folder, folder.begin({**CONTENT, **changes}).tolist()


def write(folder: VectorFolder, *positions: int) -> None:
    chosen = list(positions)
    folder.write_part(np.array(chosen), VECTORS[chosen], ENTROPIES[chosen])


def complete(path: Path) -> VectorFolder:
    folder, _ = begun(path)
    write(folder, 3, 0)
    write(folder, 4, 1, 2)
    folder.assemble()
    return folder


def flip_a_byte(file: Path, place: int = -5) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 255
    file.write_bytes(content)


def test_parts_in_any_order_become_one_matrix(path: Path) -> None:
    folder = complete(path)
    assert folder.is_complete()
    assert sorted(file.name for file in path.iterdir()) == [
        "description.json",
        "entropies.npy",
        "vectors.npy",
    ]
    vectors, entropies = folder.vectors(), folder.entropies()
    assert isinstance(vectors, np.memmap)
    assert (vectors.dtype, entropies.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(vectors, VECTORS)
    np.testing.assert_array_equal(entropies, ENTROPIES)


def test_restarted_process_finds_what_is_finished(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, finished = begun(path)
    assert finished == [False] * COUNT
    assert not folder.is_complete()
    write(folder, 3, 0)
    assert begun(path)[1] == [True, False, False, True, False]
    complete(path)
    assert begun(path)[1] == [True] * COUNT
    assert not caplog.records


def test_other_ranks_write_parts_of_what_rank_zero_has_begun(path: Path) -> None:
    folder, _ = begun(path)
    other = VectorFolder(path)
    other.join(CONTENT)
    write(other, 1, 2)
    assert folder.finished().tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("stage", ["parts", "matrix"])
@pytest.mark.parametrize("changes", [{"weights": "b"}, {"images": "other", "count": 2}, {"labelled": 1}])
def test_other_content_removes_everything_with_one_warning(
    path: Path, changes: dict[str, Any], stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    if stage == "matrix":
        complete(path)
    else:
        write(begun(path)[0], 0, 1)
    folder, finished = begun(path, **changes)
    assert not any(finished)
    assert not folder.is_complete()
    assert [file.name for file in path.iterdir()] == ["description.json"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"other {', '.join(sorted(changes))}" in record.getMessage()
    assert str(path) in record.getMessage()
    assert len(finished) == changes.get("count", COUNT)


@pytest.mark.parametrize("damage", ["cut off", "changed", "no archive"])
def test_damaged_part_is_left_out_with_a_warning(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = begun(path)
    write(folder, 0, 1)
    (part,) = (path / "parts").iterdir()
    if damage == "cut off":
        part.write_bytes(part.read_bytes()[:-30])
    elif damage == "changed":
        flip_a_byte(part, len(part.read_bytes()) // 2)
    else:
        part.write_text("part")
    write(folder, 2)
    assert begun(path)[1] == [False, False, True, False, False]
    assert f"{part} is damaged" in caplog.text


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"positions": np.array([COUNT])}, "not those of 5 images"),
        ({"vectors": VECTORS[:1, :2]}, "another shape"),
        ({"vectors": VECTORS[:1].astype(np.float64)}, "another type"),
        ({"entropies": None}, "entropies"),
    ],
)
def test_part_with_other_arrays_is_damaged(
    path: Path, flaw: dict[str, np.ndarray | None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = begun(path)
    write(folder, 0)
    (part,) = (path / "parts").iterdir()
    with np.load(part) as archive:
        arrays = {**archive, **flaw}
    np.savez(part, **{name: array for name, array in arrays.items() if array is not None})
    assert not folder.finished().any()
    assert words in caplog.text


def test_part_of_another_content_is_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, _ = begun(path)
    late = VectorFolder(path)
    late.join({**CONTENT, "weights": "b"})
    write(late, 0)
    assert not folder.finished().any()
    assert "another network" in caplog.text


@pytest.mark.parametrize(
    "damage", ["cut off", "changed", "no entropies", "other entropies", "no description"]
)
def test_damaged_matrix_is_made_anew(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = complete(path)
    file = folder.vectors_path
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "changed":
        flip_a_byte(file)
    elif damage == "no entropies":
        folder.entropies_path.unlink()
    elif damage == "other entropies":
        np.save(folder.entropies_path, ENTROPIES[:-1])
    else:
        folder.description_path.write_text("{")
    folder, finished = begun(path)
    assert not any(finished)
    assert not folder.is_complete()
    assert len(caplog.records) == 1
    np.testing.assert_array_equal(complete(path).vectors(), VECTORS)


def test_killed_before_the_description_says_complete(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts are still there and the matrix is made from them again."""

    def killed(*paths: Path) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(vector_folder, "_check_sum", killed)
        with pytest.raises(KeyboardInterrupt):
            complete(path)
    folder, finished = begun(path)
    assert all(finished)
    assert not folder.is_complete()
    folder.assemble()
    np.testing.assert_array_equal(folder.vectors(), VECTORS)
    assert begun(path)[0].is_complete()


def test_matrix_with_an_image_missing_is_our_mistake(path: Path) -> None:
    folder, _ = begun(path)
    write(folder, 0, 1)
    with pytest.raises(AssertionError, match="3 images are not described"):
        folder.assemble()
    assert not folder.vectors_path.exists()


def test_folder_that_cannot_be_written(path: Path) -> None:
    path.write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        begun(path)


def test_damaged_entropies_are_found(tmp_path: Path) -> None:
    content = {"images": "a", "count": 2, "classes": 2, "channels": 3}
    folder = VectorFolder(tmp_path)
    folder.begin(content)
    folder.write_part(np.arange(2), np.ones((2, 2, 3), np.float32), np.array([0.1, 0.2]))
    folder.assemble()
    raw = bytearray(folder.entropies_path.read_bytes())
    raw[-1] ^= 1
    folder.entropies_path.write_bytes(raw)
    assert not VectorFolder(tmp_path).begin(content).any()
