"""Instance banks on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainers.bank_files import FEATURES_FILE, LABELS_FILE, describe_bank, read_bank, report_bank, write_bank
from utils.errors import UserError

NAMES = ("road", "sky", "car")
NETWORK: dict[str, Any] = {"num_classes": 3, "channels": 4, "class_names": NAMES}


def _features(size: int = 5, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(0).random((size, channels), np.float32)


def _write_pair(folder: Path, features: object, labels: object) -> Path:
    folder.mkdir()
    np.savez(folder / FEATURES_FILE, features)
    np.savez(folder / LABELS_FILE, labels)
    return folder


def _refusal(path: Path) -> str:
    """The one line with which a bank is refused."""
    with pytest.raises(UserError) as error:
        read_bank(path, **NETWORK)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_written_bank_is_read_back(tmp_path: Path) -> None:
    features, labels = torch.from_numpy(_features()), torch.tensor([2, 0, 1, 1, 0])
    write_bank(tmp_path / "bank", features.double(), labels)
    read = read_bank(tmp_path / "bank", **NETWORK)
    assert torch.equal(read[0], features)
    assert torch.equal(read[1], labels)
    assert (read[0].dtype, read[1].dtype) == (torch.float32, torch.int64)


def test_a_written_bank_has_the_published_form(tmp_path: Path) -> None:
    write_bank(tmp_path, torch.from_numpy(_features()), torch.tensor([2, 0, 1, 1, 0], dtype=torch.int32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f_buffer_s.npz", "l_buffer_s.npz"]
    with np.load(tmp_path / "f_buffer_s.npz") as one, np.load(tmp_path / "l_buffer_s.npz") as two:
        assert (one.files, two.files) == (["arr_0"], ["arr_0"])
        assert (one["arr_0"].dtype, two["arr_0"].dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("named", ["", FEATURES_FILE, LABELS_FILE])
def test_either_file_of_a_pair_names_the_bank(tmp_path: Path, named: str) -> None:
    folder = _write_pair(tmp_path / "bank", _features(), np.array([0, 1, 2, 0, 1]))
    assert read_bank(folder / named, **NETWORK)[1].tolist() == [0, 1, 2, 0, 1]


def test_a_single_archive_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "bank.npz", features=_features(), labels=np.array([0, 1, 2, 0, 1], np.uint8))
    features, labels = read_bank(tmp_path / "bank.npz", **NETWORK)
    assert torch.equal(features, torch.from_numpy(_features()))
    assert labels.tolist() == [0, 1, 2, 0, 1]


def test_missing_classes_are_accepted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _write_pair(tmp_path / "bank", _features(), np.array([0, 2, 0, 2, 2]))
    with caplog.at_level(logging.INFO):
        read_bank(folder, **NETWORK)
    assert f"instance bank {folder}: 5 entries, 2 to 3 a class; none of sky" in caplog.text


def test_a_bank_with_all_classes_names_none() -> None:
    assert describe_bank(np.array([0, 1, 2, 2]), NAMES) == "4 entries, 1 to 2 a class"


def test_the_report_counts_every_class_and_gives_the_norms() -> None:
    features = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, 2.0]])
    assert report_bank("of a test", features, torch.tensor([2, 0, 2, 0]), NAMES) == [
        "instance bank of a test: 4 entries, 2 to 2 a class; none of sky",
        "entries of the bank: road 2, sky 0, car 2",
        "norms of its features: 1 to 10, mean 4.5",
    ]


GOOD = np.array([0, 1, 2, 0, 1])


@pytest.mark.parametrize(
    ("features", "labels", "expected"),
    [
        (_features(), GOOD[:4], "5 features but 4 labels"),
        (_features(channels=6), GOOD, "features have 6 channels, the network's have 4"),
        (_features(2), GOOD[:2], "2 entries cannot stand for 3 classes"),
        (_features(), np.array([0, 1, 3, -1, 255]), "labels -1, 3, 255 are not train ids 0..2"),
        (_features() * np.float32("nan"), GOOD, "5 of 5 features are not finite, the first is entry 0"),
        (np.zeros_like(_features()), GOOD, "all features are 0"),
        (_features().astype(np.int32), GOOD, "features are int32 and labels int64"),
        (_features(), GOOD.astype(np.float32), "features are float32 and labels float32"),
        (_features()[None], GOOD, r"features of shape (1, 5, 4)"),
        (_features(), GOOD[:, None], r"labels of shape (5, 1)"),
    ],
)
def test_what_is_no_bank_of_this_network_is_refused(
    tmp_path: Path, features: np.ndarray, labels: np.ndarray, expected: str
) -> None:
    message = _refusal(_write_pair(tmp_path / "bank", features, labels))
    assert expected in message
    assert "fill_bank.py" in message


def test_the_first_broken_entry_is_named(tmp_path: Path) -> None:
    features = _features()
    features[3, 1] = np.inf
    assert "1 of 5 features are not finite, the first is entry 3" in _refusal(
        _write_pair(tmp_path / "bank", features, GOOD)
    )


@pytest.mark.parametrize("missing", [FEATURES_FILE, LABELS_FILE])
def test_a_missing_file_of_the_pair_is_named(tmp_path: Path, missing: str) -> None:
    folder = _write_pair(tmp_path / "bank", _features(), GOOD)
    (folder / missing).unlink()
    assert f"{missing} does not exist" in _refusal(folder)


def test_a_bank_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "does not exist" in _refusal(tmp_path / "nowhere")


def test_an_archive_of_something_else_is_refused_with_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", centroids=_features())
    assert "no array features, only centroids" in _refusal(tmp_path / "other.npz")


def test_of_many_arrays_few_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **{f"array_{number}": _features() for number in range(40)})
    message = _refusal(tmp_path / "other.npz")
    assert "only array_0, array_1, array_2, array_3, array_4, ... (40 in all)" in message
    assert "array_5" not in message


def test_a_checkpoint_of_a_network_is_told_from_a_bank(tmp_path: Path) -> None:
    torch.save({str(number): torch.zeros(1) for number in range(40)}, tmp_path / "latest.pth")
    message = _refusal(tmp_path / "latest.pth")
    assert "latest.pth is a checkpoint of a network and no instance bank" in message
    assert f"fill_bank.py --restore-from {tmp_path / 'latest.pth'}" in message
    assert len(message) < 300 + 2 * len(str(tmp_path))


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    folder = _write_pair(tmp_path / "bank", np.array([{"a": 1}], dtype=object), GOOD)
    assert "cannot be read as .npz" in _refusal(folder)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_damaged_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = _write_pair(tmp_path / "bank", _features(), GOOD)
    (folder / FEATURES_FILE).write_bytes(content)
    assert "cannot be read as .npz" in _refusal(folder)


def test_an_archive_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    folder = _write_pair(tmp_path / "bank", _features(500), np.arange(500) % 3)
    content = bytearray((folder / FEATURES_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / FEATURES_FILE).write_bytes(bytes(content))
    assert "cannot be read as .npz" in _refusal(folder)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "bank.npz").open("wb") as file:
        np.save(file, _features())
    assert "is one array" in _refusal(tmp_path / "bank.npz")
