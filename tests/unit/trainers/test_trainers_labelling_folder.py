"""Which folder of pseudo labels is meant, and who may write into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from tests.toy_cityscapes import RedReader, draw_cityscapes
from trainers.labelling import (
    LOCK_FILE,
    MANIFEST,
    LabelOptions,
    LabelSource,
    default_pseudo_label_folder,
    find_pseudo_label_folder,
    write_pseudo_labels,
)
from trainers.protocols import Protocol
from utils.distributed import World
from utils.errors import UserError
from utils.folder_lock import FolderLock


@pytest.fixture
def files(tmp_path: Path) -> FileList:
    """Two images without labels."""
    draw_cityscapes(tmp_path / "cityscapes", "train", 2, labelled=False)
    return find_files(load_description("cityscapes"), split="train", data_root=tmp_path, labels="never")


def write(files: FileList, folder: Path, network: RedReader | None = None, **options: object) -> None:
    write_pseudo_labels(
        network or RedReader(),
        files,
        folder,
        protocol=Protocol(name="one look"),
        options=LabelOptions(**options),
        source=LabelSource(snapshot=Path("run/iteration_0000007.pth"), iteration=7),
        world=World(0, 1, 0, torch.device("cpu")),
    )


@pytest.mark.parametrize("threshold", [0.9, 0.004, 1e-5, 0.123456789])
def test_every_threshold_has_its_own_folder_and_it_is_found(tmp_path: Path, threshold: float) -> None:
    folder = default_pseudo_label_folder(tmp_path, "cityscapes", "train", threshold)
    assert folder != default_pseudo_label_folder(tmp_path, "cityscapes", "train", threshold * 1.0001)
    folder.mkdir(parents=True)
    assert find_pseudo_label_folder(tmp_path, "cityscapes", "train") == folder


def test_labels_of_another_split_or_target_are_not_taken(tmp_path: Path) -> None:
    plain = default_pseudo_label_folder(tmp_path, "cityscapes", "train", 0)
    for other in (
        "cityscapes_train_extra",
        "cityscapes_train_t",
        "cityscapes_train_top",
        "mycityscapes_train",
    ):
        plain.with_name(other).mkdir(parents=True)
    assert find_pseudo_label_folder(tmp_path, "cityscapes", "train") == plain
    extra = find_pseudo_label_folder(tmp_path, "cityscapes", "train_extra")
    assert extra == plain.with_name("cityscapes_train_extra")


def test_two_sets_of_labels_have_to_be_told_apart(tmp_path: Path) -> None:
    for threshold in (0.0, 0.9):
        default_pseudo_label_folder(tmp_path, "cityscapes", "train", threshold).mkdir(parents=True)
    with pytest.raises(UserError, match=r"cityscapes_train, cityscapes_train_t0\.9.*--pseudo-label-dir"):
        find_pseudo_label_folder(tmp_path, "cityscapes", "train")


def test_a_second_writer_is_refused_and_leaves_the_first_ones_files(files: FileList, tmp_path: Path) -> None:
    folder = tmp_path / "labels"

    class WatchedReader(RedReader):
        refused: str | None = None

        def forward(self, images: torch.Tensor) -> object:
            if self.refused is None:
                half_written = folder / ".first.png.1.part"
                half_written.write_bytes(b"half")
                with pytest.raises(UserError) as caught:
                    write(files, folder)
                self.refused = str(caught.value)
                assert half_written.exists()
            return super().forward(images)

    network = WatchedReader()
    write(files, folder, network)
    assert network.refused.startswith(f"pseudo-label folder {folder} is in use by process ")
    assert "give another --pseudo-label-dir" in network.refused
    assert (folder / MANIFEST).is_file()
    write(files, folder)  # the lock is given back


def test_the_lock_is_given_back_after_a_failure(files: FileList, tmp_path: Path) -> None:
    class FailingReader(RedReader):
        def forward(self, images: torch.Tensor) -> object:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write(files, tmp_path / "labels", FailingReader())
    lock = FolderLock(tmp_path / "labels" / LOCK_FILE)
    lock.acquire()
    lock.release()


def test_no_lock_file_is_left_in_a_folder_of_something_else(files: FileList, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    write(files, folder)
    for name in (MANIFEST, LOCK_FILE):
        (folder / name).unlink()
    with pytest.raises(UserError, match="without a manifest"):
        write(files, folder)
    assert not (folder / LOCK_FILE).exists()


def test_uncertainty_of_one_head_is_refused_before_the_folder_is_made(
    files: FileList, tmp_path: Path
) -> None:
    network = RedReader()
    network.has_auxiliary_head = False
    with pytest.raises(UserError, match="--extras uncertainty"):
        write(files, tmp_path / "labels", network, extras=frozenset({"uncertainty"}))
    assert not (tmp_path / "labels").exists()
