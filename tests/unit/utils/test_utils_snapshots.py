"""Snapshots are whole or absent, read without running code, and found again after damage."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import snapshots
from utils.errors import UserError


def state(value: float = 1.0) -> dict:
    """A small snapshot in our format."""
    weights = {"weight": torch.full((50, 50), value)}
    return {
        "format_version": 1,
        "network": weights,
        "iteration": 3,
        "arguments": {"seed": 7, "sizes": [1, 2.5, None]},
    }


class Hostile:
    """Its pickle creates a file when it is read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


class HostileBuiltin(Hostile):
    """The same with a builtin, which has no module in its name."""

    def __reduce__(self) -> tuple:
        return eval, (f"__import__('os').mkdir({str(self.path)!r})",)


def test_a_snapshot_reads_back_with_equal_tensors_and_values(tmp_path: Path) -> None:
    snapshots.save(tmp_path / "a.pth", state(2.0))
    read = snapshots.read(tmp_path / "a.pth")
    assert snapshots.is_snapshot(read)
    assert torch.equal(read["network"]["weight"], torch.full((50, 50), 2.0))
    assert read["arguments"] == {"seed": 7, "sizes": [1, 2.5, None]}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_other_projects_weights_are_read_but_are_no_snapshot(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "zip.pth")
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "old.pth"):
        read = snapshots.read(tmp_path / name)
        assert read["layer.weight"].tolist() == [1.0, 1.0]
        assert not snapshots.is_snapshot(read)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    snapshots.save(path, state(1.0))

    def full_disk(_: dict, file: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*a\.pth: No space left on device"):
        snapshots.save(path, state(2.0))
    monkeypatch.undo()
    assert snapshots.read(path)["network"]["weight"][0, 0] == 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def whole_file(folder: Path) -> bytes:
    snapshots.save(folder / "whole.pth", state())
    return (folder / "whole.pth").read_bytes()


def flip(data: bytes) -> bytes:
    """One bit changed in the middle, among the weights."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: bytes(500), "is empty"),
        (
            lambda data: b"learning_rate: 0.1\nsteps: 3\n",
            r"is not a snapshot: it starts with 'learning_rate: 0.1'",
        ),
        (lambda data: data[: len(data) // 2], "is cut off"),
        (lambda data: data[: len(data) // 2] + bytes(len(data) // 2), "is cut off"),
        (flip, "is damaged .check sum"),
    ],
    ids=["empty", "zeros", "text", "truncated", "zero_tail", "flipped_bit"],
)
def test_damage_is_one_clear_line(tmp_path: Path, damage: Callable[[bytes], bytes], expected: str) -> None:
    path = tmp_path / "damaged.pth"
    path.write_bytes(damage(whole_file(tmp_path)))
    with pytest.raises(snapshots.DamagedSnapshotError, match=f"damaged.pth {expected}") as caught:
        snapshots.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "named"), [(Hostile, r"posix\.mkdir"), (HostileBuiltin, "eval")])
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_asks_to_run_code_is_refused_and_not_run(
    tmp_path: Path, zip_format: bool, kind: type[Hostile], named: str
) -> None:
    path, trace = tmp_path / "hostile.pth", tmp_path / "trace"
    torch.save({"network": kind(trace)}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError, match=rf"hostile.pth is refused: .* would run {named};"):
        snapshots.read(path)
    assert not trace.exists()


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_a_float64_of_numpy_is_read(tmp_path: Path, zip_format: bool) -> None:
    path = tmp_path / "best_model.pkl"
    torch.save({"best_iou": np.float64(0.625)}, path, _use_new_zipfile_serialization=zip_format)
    value = snapshots.read(path)["best_iou"]
    assert type(value) is np.float64
    assert value == 0.625


def test_a_float64_that_numpy_1_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pkl"
    torch.save({"best_iou": np.float64(0.625)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray\nscalar" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    assert snapshots.read(path)["best_iou"] == 0.625


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.arange(3.0), r"numpy\._core\.multiarray\._reconstruct"),
        (np.float32(0.5), r"numpy\.dtypes\.Float32DType"),
    ],
    ids=["array", "float32"],
)
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_nothing_else_of_numpy_is_read(tmp_path: Path, zip_format: bool, value: object, named: str) -> None:
    path = tmp_path / "best_model.pkl"
    torch.save({"best_iou": value}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError, match=rf"best_model.pkl is refused: .*{named};") as caught:
        snapshots.read(path)
    assert "\n" not in str(caught.value)


def test_reading_leaves_torchs_own_allow_list_alone(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    snapshots.save(tmp_path / "a.pth", state())
    snapshots.read(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "hostile.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"network": Hostile(trace)}))
    with pytest.raises(UserError, match=r"is refused: a pickle that torch\.save did not write"):
        snapshots.read(path)
    assert not trace.exists()


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_an_unknown_format_version_is_refused(tmp_path: Path, version: object) -> None:
    snapshots.save(tmp_path / "new.pth", {**state(), "format_version": version})
    with pytest.raises(UserError, match=r"has format_version .*reads up to 1"):
        snapshots.read(tmp_path / "new.pth")


def test_missing_files_folders_and_bare_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        snapshots.read(tmp_path / "none.pth")
    with pytest.raises(UserError, match="is a folder"):
        snapshots.read(tmp_path)
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    with pytest.raises(UserError, match="holds a Tensor"):
        snapshots.read(tmp_path / "tensor.pth")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.pth"))


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    folder = snapshots.SnapshotFolder(tmp_path, keep=2)
    folder.mark("best", folder.write(state(), 10), "selected on target val, mIoU 45.20")
    for iteration in (20, 30, 40):
        folder.write(state(), iteration)
    assert names(tmp_path) == ["iteration_0000010.pth", "iteration_0000030.pth", "iteration_0000040.pth"]
    assert folder.path_of("last") == tmp_path / "iteration_0000040.pth"
    assert folder.path_of("best") == tmp_path / "iteration_0000010.pth"
    assert (tmp_path / "best").read_text() == "iteration_0000010.pth\nselected on target val, mIoU 45.20\n"


def test_rotation_removes_half_written_files_of_killed_runs(tmp_path: Path) -> None:
    (tmp_path / ".iteration_0000005.pth.123.tmp").write_bytes(b"half")
    snapshots.SnapshotFolder(tmp_path, keep=1).write(state(), 10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["iteration_0000010.pth", "last"]


def test_an_empty_folder_has_no_latest(tmp_path: Path) -> None:
    assert snapshots.SnapshotFolder(tmp_path, keep=1).latest() is None
    assert snapshots.SnapshotFolder(tmp_path / "absent", keep=1).latest() is None


def test_a_damaged_newest_snapshot_falls_back_to_the_one_before_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = snapshots.SnapshotFolder(tmp_path, keep=3)
    for iteration in (10, 20, 30):
        folder.write(state(float(iteration)), iteration)
    newest = tmp_path / "iteration_0000030.pth"
    newest.write_bytes(newest.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        path, read = folder.latest()
    assert path.name == "iteration_0000020.pth"
    assert read["network"]["weight"][0, 0] == 20.0
    assert "iteration_0000030.pth is cut off" in caplog.text


def test_files_newer_than_last_are_not_continued_from(tmp_path: Path) -> None:
    folder = snapshots.SnapshotFolder(tmp_path, keep=3)
    folder.write(state(), 10)
    snapshots.save(tmp_path / "iteration_0000099.pth", state())  # of an abandoned continuation
    assert folder.latest()[0].name == "iteration_0000010.pth"
    (tmp_path / "last").unlink()
    assert folder.latest()[0].name == "iteration_0000099.pth"


def test_a_folder_of_only_damaged_snapshots_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    (tmp_path / "iteration_0000010.pth").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 snapshots"):
        snapshots.SnapshotFolder(tmp_path, keep=1).latest()


def test_a_newer_format_is_not_skipped(tmp_path: Path) -> None:
    folder = snapshots.SnapshotFolder(tmp_path, keep=3)
    folder.write(state(), 10)
    folder.write({**state(), "format_version": 2}, 20)
    with pytest.raises(UserError, match="format_version 2"):
        folder.latest()


def test_files_run_folders_and_pointers_resolve_to_the_snapshot(tmp_path: Path) -> None:
    folder = snapshots.SnapshotFolder(tmp_path, keep=3)
    first = folder.write(state(), 10)
    second = folder.write(state(), 20)
    folder.mark("best", first, "selected on target val")
    assert snapshots.resolve(first) == first
    assert snapshots.resolve(tmp_path) == second
    assert snapshots.resolve(tmp_path / "last") == second
    assert snapshots.resolve(tmp_path / "best") == first
    (tmp_path / "last").unlink()
    assert snapshots.resolve(tmp_path) == second


def test_what_does_not_lead_to_a_snapshot_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no snapshots"):
        snapshots.resolve(tmp_path)
    with pytest.raises(UserError, match="does not exist; give"):
        snapshots.resolve(tmp_path / "absent.pth")
    with pytest.raises(UserError, match="only where target labels are evaluated"):
        snapshots.resolve(tmp_path / "best")
    (tmp_path / "best").write_text("../../elsewhere.pth\n")
    with pytest.raises(UserError, match="does not name a snapshot"):
        snapshots.resolve(tmp_path / "best")


def test_wrapper_prefixes_are_stripped_and_doubles_refused() -> None:
    wrapped = {"module.a": 1, "module._orig_mod.b": 2, "c._orig_mod.module.d": 3, "e": 4}
    assert snapshots.clean_keys(wrapped) == {"a": 1, "b": 2, "c.module.d": 3, "e": 4}
    with pytest.raises(UserError, match="hold a twice"):
        snapshots.clean_keys({"a": 1, "module.a": 2})
