"""fill_bank.py from a snapshot to the two files that DIDA's training reads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import fill_bank
import prepare_data
import train_st
from tests.official_formats import daformer_checkpoint, write_synthia
from tests.toy_self_training import SIZE, bank_command, command, write_domains
from trainers.bank_files import FEATURES_FILE, LABELS_FILE, read_bank
from utils.class_spaces import class_space

SPACE = class_space("cityscapes19")
Fill = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight source images with statistics, and what training needs besides."""
    root = tmp_path_factory.mktemp("data")
    write_domains(root)
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one iteration."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train_st.main(command(data, folder, "--num-steps-stop", 1, "--learning-rate", 0.01)) == 0
    return folder


@pytest.fixture
def fill(data: Path, run: Path, tmp_path: Path) -> Fill:
    """Fills a bank with these further words; returns the two arrays as they are in the files."""
    made: list[Path] = []

    def filled(*words: object, snapshot: Path = run) -> tuple[np.ndarray, np.ndarray]:
        made.append(tmp_path / str(len(made)))
        assert fill_bank.main(bank_command(data, snapshot, made[-1], *words)) == 0
        assert sorted(path.name for path in made[-1].iterdir()) == [FEATURES_FILE, LABELS_FILE]
        return tuple(np.load(made[-1] / name)["arr_0"] for name in (FEATURES_FILE, LABELS_FILE))

    return filled


def test_files_are_in_the_published_format_with_all_classes(
    fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, labels = fill()
    assert (features.shape, features.dtype) == ((38, 16), np.float32)
    assert (labels.shape, labels.dtype) == ((38,), np.int64)
    assert np.bincount(labels).tolist() == [2] * 19
    assert features.min() >= 0  # behind a ReLU
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["38 entries, 2 to 2 a class", f"wrote {tmp_path / '0'}"]
    read = read_bank(tmp_path / "0", num_classes=19, channels=16, class_names=SPACE.class_names)
    assert np.array_equal(read[0].numpy(), features)


def test_source_is_read_as_in_the_run(
    fill: Fill, data: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        given = fill()
        assert "as the run" not in caplog.text
        words = ["--data-root", data, "--restore-from", run, "--output", tmp_path / "new"]
        words += ["--bank-size", 38, "--num-workers", 0, "--device", "cpu"]
        assert fill_bank.main([str(word) for word in words]) == 0
    taken = "--input-size 96,64 --crop-size 64,64 --rare-class-min-pixels 100"
    assert f"as the run of {run} read the source: {taken}" in caplog.messages
    assert np.array_equal(np.load(tmp_path / "new" / FEATURES_FILE)["arr_0"], given[0])


def test_same_seed_gives_the_same_bank(fill: Fill) -> None:
    first, again, other = fill(), fill(), fill("--seed", 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_teacher_and_student_have_other_features(fill: Fill) -> None:
    student, teacher = fill(), fill("--weights", "teacher")
    assert np.array_equal(student[1], teacher[1])
    assert not np.allclose(student[0], teacher[0])


def test_published_checkpoint_and_uniform_sampling(fill: Fill, tmp_path: Path) -> None:
    torch.save(daformer_checkpoint("mit_b0"), tmp_path / "latest.pth")
    features, labels = fill("--no-rare-class-sampling", "--bank-size", 57, snapshot=tmp_path / "latest.pth")
    assert features.shape == (57, 256)
    assert np.bincount(labels).tolist() == [3] * 19


def test_source_without_some_classes_gives_a_bank_without_them(
    fill: Fill, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_synthia(data, 8, SIZE)
    for path in (data / "synthia" / "GT" / "LABELS").iterdir():
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # the class is red, the last channel
        label[np.isin(label[..., 2], (16, 18, 20))] = 3  # terrain, truck and train become road
        assert cv2.imwrite(str(path), label)
    words = ["statistics", "synthia", "--data-root", str(data), "--num-workers", "0"]
    assert prepare_data.main(words) == 0
    capsys.readouterr()
    _, labels = fill("--source", "synthia", "--bank-size", 32)
    assert np.bincount(labels, minlength=19).tolist() == [
        2 * (train not in (9, 14, 16)) for train in range(19)
    ]
    assert "none of terrain, truck, train" in capsys.readouterr().out
