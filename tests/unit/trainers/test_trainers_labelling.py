"""Pseudo-label folders: what is written, how they are continued, and what a training run accepts."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from tests.toy_cityscapes import SIZE, RedReader, draw_cityscapes
from trainers.label_checks import (
    PseudoLabels,
    check_manifest,
    check_origin,
    check_pseudo_labels,
    check_threshold,
)
from trainers.labelling import (
    EXTRAS,
    LOCK_FILE,
    MANIFEST,
    PARTIAL_MANIFEST,
    LabelOptions,
    LabelSource,
    default_pseudo_label_folder,
    drop_below,
    output_names,
    read_manifest,
    weights_digest,
    write_pseudo_labels,
)
from trainers.protocols import Protocol
from utils.class_spaces import IGNORE_LABEL
from utils.distributed import World
from utils.errors import UserError

WORLD = World(0, 1, 0, torch.device("cpu"))
PROTOCOL = Protocol(name="two looks", flip=True)


@pytest.fixture
def files(tmp_path: Path) -> FileList:
    """Five images without labels."""
    draw_cityscapes(tmp_path / "cityscapes", "train", 5, labelled=False)
    return find_files(load_description("cityscapes"), split="train", data_root=tmp_path, labels="never")


def write(files: FileList, folder: Path, network: RedReader | None = None, **options: Any) -> dict[str, Any]:
    return write_pseudo_labels(
        network or RedReader(),
        files,
        folder,
        protocol=PROTOCOL,
        options=LabelOptions(**options),
        source=LabelSource(snapshot=Path("runs/ms/iteration_0000007.pth"), iteration=7),
        world=WORLD,
    )


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_image_gets_a_label_map_of_its_name_and_size(files: FileList, tmp_path: Path) -> None:
    manifest = write(files, tmp_path / "labels")
    for item in files.items:
        label = read(tmp_path / "labels" / item.name)
        assert label.shape == SIZE[::-1]
        assert label.dtype == np.uint8
        assert label.max() < 19
    assert manifest == json.loads((tmp_path / "labels" / MANIFEST).read_text())
    assert not (tmp_path / "labels" / PARTIAL_MANIFEST).exists()
    written = {"aachen", "bremen", MANIFEST, LOCK_FILE}
    assert {path.name for path in (tmp_path / "labels").iterdir()} == written


def test_manifest_tells_origin_settings_and_shares(files: FileList, tmp_path: Path) -> None:
    manifest = write(files, tmp_path / "labels", threshold=0.6)
    labels = np.stack([read(tmp_path / "labels" / item.name) for item in files.items])
    assert manifest["threshold"] == 0.6
    assert manifest["iteration"] == 7
    assert manifest["image_list"] == files.fingerprint()
    assert manifest["weights_sha256"] == weights_digest(RedReader())
    assert Protocol.from_dict(manifest["protocol"]) == PROTOCOL
    assert manifest["pixels"] == labels.size
    assert 0 < manifest["ignored_share"] == (labels == IGNORE_LABEL).mean()
    assert manifest["class_shares"]["road"] == (labels == 0).mean()
    assert sum(manifest["class_shares"].values()) + manifest["ignored_share"] == pytest.approx(1)


def test_threshold_drops_what_is_strictly_below_it() -> None:
    label = torch.tensor([1, 2, 3, 4], dtype=torch.uint8)
    confidence = torch.tensor([3.5999, 3.6, 3.6001, 4.0])
    kept = drop_below(label, confidence, threshold=0.9, passes=4)
    assert kept.tolist() == [IGNORE_LABEL, 2, 3, 4]
    assert drop_below(label, confidence, threshold=0, passes=4).tolist() == label.tolist()


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 3.6])
def test_threshold_is_a_mean_probability(threshold: float) -> None:
    with pytest.raises(UserError, match="--threshold"):
        LabelOptions(threshold=threshold)


def test_extra_pictures_lie_beside_the_labels(files: FileList, tmp_path: Path) -> None:
    write(files, tmp_path / "labels", extras=frozenset(EXTRAS))
    names = output_names(files.items[0].name, EXTRAS)
    assert list(names)[-1] == "label"
    shapes = {kind: read(tmp_path / "labels" / path).shape for kind, path in names.items()}
    width, height = SIZE
    assert shapes["confidence"] == shapes["label"] == (height, width)
    assert shapes["color"] == (height, width, 3)  # OpenCV expands the palette
    assert shapes["uncertainty"] == (height // 2, width // 2, 3)


def test_interrupted_labelling_continues_and_ends_with_the_same_files(
    files: FileList, tmp_path: Path
) -> None:
    write(files, tmp_path / "whole", threshold=0.6)
    whole = contents(tmp_path / "whole")

    class Killed(Exception):
        pass

    class DyingReader(RedReader):
        images = 0

        def forward(self, images: torch.Tensor) -> Any:
            self.images += 1
            if self.images == 4:
                raise Killed
            return super().forward(images)

    folder = tmp_path / "cut"
    with pytest.raises(Killed):
        write(files, folder, DyingReader(), threshold=0.6)
    assert (folder / PARTIAL_MANIFEST).exists()
    assert not (folder / MANIFEST).exists()
    with pytest.raises(UserError, match="not complete"):
        read_manifest(folder)
    (folder / "aachen" / ".left.png.123.part").write_bytes(b"half")
    images = whole.keys() - {LOCK_FILE}
    done = {name: path.stat().st_mtime_ns for name in images if (path := folder / name).exists()}
    write(files, folder, threshold=0.6)
    assert 0 < len(done) < len(files.items)
    assert all((folder / name).stat().st_mtime_ns == time for name, time in done.items())  # not written again
    assert contents(folder) == whole


def test_finished_folder_is_left_as_it_is(files: FileList, tmp_path: Path) -> None:
    first = write(files, tmp_path / "labels")
    before = contents(tmp_path / "labels")
    assert write(files, tmp_path / "labels") == first
    assert contents(tmp_path / "labels") == before


@pytest.mark.parametrize("marker", [MANIFEST, PARTIAL_MANIFEST])
def test_folder_of_other_settings_is_refused_and_kept(files: FileList, tmp_path: Path, marker: str) -> None:
    folder = tmp_path / "labels"
    write(files, folder)
    (folder / MANIFEST).rename(folder / marker)
    before = contents(folder)
    with pytest.raises(UserError, match=r"threshold 0\.0 \(now 0\.9\)"):
        write(files, folder, threshold=0.9)
    network = RedReader()
    network.sharpness.data.add_(1)
    with pytest.raises(UserError, match="weights_sha256"):
        write(files, folder, network)
    assert contents(folder) == before


def test_folder_of_unknown_label_files_is_refused(files: FileList, tmp_path: Path) -> None:
    write(files, tmp_path / "labels")
    (tmp_path / "labels" / MANIFEST).unlink()
    with pytest.raises(UserError, match="without a manifest"):
        write(files, tmp_path / "labels")


def test_labels_of_another_image_list_or_class_space_are_refused(files: FileList, tmp_path: Path) -> None:
    manifest = write(files, tmp_path / "labels")
    check_manifest(manifest, files, "cityscapes19")
    with pytest.raises(UserError, match="another image list"):
        check_manifest(manifest, dataclasses.replace(files, items=files.items[1:]), "cityscapes19")
    with pytest.raises(UserError, match="idd7"):
        check_manifest(manifest, files, "idd7")


def test_checked_folder_must_hold_every_label(files: FileList, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    with pytest.raises(UserError, match="does not exist"):
        check_pseudo_labels(folder, files, "cityscapes19")
    manifest = write(files, folder)
    found = check_pseudo_labels(folder, files, "cityscapes19")
    assert (found.folder, found.manifest) == (folder, manifest)
    (folder / files.items[2].name).unlink()
    with pytest.raises(UserError, match=f"lacks 1 of 5 labels, first {files.items[2].name}"):
        check_pseudo_labels(folder, files, "cityscapes19")


def test_folder_of_the_original_code_is_accepted_with_a_warning(
    files: FileList, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(files, tmp_path / "pseudo_FULL" / "train")
    (tmp_path / "pseudo_FULL" / "train" / MANIFEST).unlink()
    with caplog.at_level(logging.WARNING):
        found = check_pseudo_labels(tmp_path / "pseudo_FULL", files, "cityscapes19")
    assert (found.folder, found.manifest) == (tmp_path / "pseudo_FULL" / "train", None)
    assert "no manifest.json" in caplog.text


def test_labels_changed_after_the_manifest_are_refused(files: FileList, tmp_path: Path) -> None:
    write(files, tmp_path / "labels")
    path = tmp_path / "labels" / files.items[1].name
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=f"were changed after {MANIFEST} was written"):
        check_pseudo_labels(tmp_path / "labels", files, "cityscapes19")


def test_fingerprint_tells_labels_of_another_threshold_network_or_program(
    files: FileList, tmp_path: Path
) -> None:
    other = RedReader()
    other.sharpness.data.add_(1)
    write(files, tmp_path / "a")
    write(files, tmp_path / "copy")
    write(files, tmp_path / "thresholded", threshold=0.6)
    write(files, tmp_path / "network", other)
    write(files, tmp_path / "plain")
    (tmp_path / "plain" / MANIFEST).unlink()
    prints = [
        check_pseudo_labels(tmp_path / name, files, "cityscapes19").fingerprint
        for name in ("a", "copy", "thresholded", "network", "plain")
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_given_threshold_must_be_that_of_the_labels(
    files: FileList, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(files, tmp_path / "labels", threshold=0.6)
    labels = check_pseudo_labels(tmp_path / "labels", files, "cityscapes19")
    check_threshold(labels, None)
    check_threshold(labels, 0.6)
    with pytest.raises(UserError, match=r"--threshold 0\.9, but the labels in .* were made with 0\.6"):
        check_threshold(labels, 0.9)
    check_threshold(PseudoLabels(tmp_path, None, ""), 0.9)
    assert "--threshold 0.9 cannot be compared" in caplog.text


def test_labels_of_another_network_are_refused_unless_they_were_named(
    files: FileList, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(files, tmp_path / "labels")
    labels = check_pseudo_labels(tmp_path / "labels", files, "cityscapes19")
    check_origin(labels, weights_digest(RedReader()), Path("runs/ms"), named=False)
    assert "not made by" not in caplog.text
    with pytest.raises(UserError, match=r"not made by the weights of --restore-from runs/b .*--pseudo-label"):
        check_origin(labels, "0" * 64, Path("runs/b"), named=False)
    check_origin(labels, "0" * 64, Path("runs/b"), named=True)
    assert "not made by the weights of --restore-from runs/b" in caplog.text


def test_damaged_manifest_is_reported(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=MANIFEST):
        read_manifest(tmp_path)


def test_labels_lie_beside_the_snapshot_by_target_split_and_threshold(tmp_path: Path) -> None:
    expected = tmp_path / "pseudo_labels" / "cityscapes_train"
    assert (
        default_pseudo_label_folder(tmp_path / "iteration_0000007.pth", "cityscapes", "train", 0) == expected
    )
    assert default_pseudo_label_folder(tmp_path, "cityscapes", "train", 0) == expected
    thresholded = default_pseudo_label_folder(tmp_path, "cityscapes", "train", 0.9)
    assert thresholded == expected.with_name("cityscapes_train_t0.9")
