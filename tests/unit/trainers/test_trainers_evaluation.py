"""Scores of networks and label folders on a drawn data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data_loaders.decoding import write_label_png
from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from tests.toy_cityscapes import SIZE, RedReader, draw_cityscapes
from trainers.evaluation import (
    LABEL_PNGS,
    check_first_label,
    doubt_maps,
    evaluate,
    find_label_png,
    label_folder_inspector,
    label_png_index,
    network_inspector,
    score_label_folder,
    truth_reader,
    write_worst,
)
from trainers.inference import Pass, Prediction
from trainers.protocols import Protocol
from utils.class_spaces import class_space
from utils.distributed import World
from utils.errors import UserError

WORLD = World(0, 1, 0, torch.device("cpu"))
SPACE = class_space("cityscapes19")
PROTOCOL = Protocol(name="one look", base_size=(2 * SIZE[0], 2 * SIZE[1]), resampling="opencv_bilinear")


@pytest.fixture
def files(tmp_path: Path) -> FileList:
    """Five labelled images."""
    draw_cityscapes(tmp_path / "cityscapes", "val", 5)
    return find_files(load_description("cityscapes"), split="val", data_root=tmp_path, labels="required")


def accuracy(files: FileList, network: RedReader, **changes: object) -> float:
    return evaluate(
        network, files, dataclasses.replace(PROTOCOL, **changes), SPACE, world=WORLD
    ).scores.accuracy


def write_truth(files: FileList, folder: Path) -> None:
    read = truth_reader(files, SPACE)
    for item in files.items:
        write_label_png(folder / item.name, read(item))


def test_network_that_reads_the_classes_is_nearly_perfect_and_a_wrong_class_costs_its_pixels(
    files: FileList,
) -> None:
    result = evaluate(RedReader(), files, PROTOCOL, SPACE, world=WORLD)
    assert result.scores.accuracy > 80  # block borders are interpolated
    worse = evaluate(RedReader(wrong_class=3), files, PROTOCOL, SPACE, world=WORLD)
    assert worse.scores.iou[3] == 0
    assert worse.counts[3, 4] > result.counts[3, 4]
    assert worse.scores.miou < result.scores.miou


def test_every_labelled_pixel_is_counted_once(files: FileList) -> None:
    read = truth_reader(files, SPACE)
    labelled = sum(int((read(item) < 19).sum()) for item in files.items)
    result = evaluate(RedReader(), files, PROTOCOL, SPACE, world=WORLD)
    assert int(result.counts.sum()) == labelled
    assert result.counts.dtype == torch.int64
    assert result.images == len(files.items) == 5


def test_number_of_threads_changes_nothing(files: FileList) -> None:
    results = [evaluate(RedReader(), files, PROTOCOL, SPACE, world=WORLD, num_workers=n) for n in (0, 3)]
    assert torch.equal(results[0].counts, results[1].counts)
    assert results[0].image_miou == results[1].image_miou


def test_training_mode_is_restored(files: FileList) -> None:
    network = RedReader().train()
    evaluate(network, files, PROTOCOL, SPACE, world=WORLD)
    assert network.training


def test_predictions_are_merged_into_another_set_of_classes(files: FileList) -> None:
    merged = evaluate(RedReader(), files, PROTOCOL, class_space("idd7"), world=WORLD)
    assert merged.counts.shape[0] == 7
    assert (
        merged.scores.accuracy >= evaluate(RedReader(), files, PROTOCOL, SPACE, world=WORLD).scores.accuracy
    )


def test_output_of_another_size_than_the_label_is_refused_with_both_sizes(files: FileList) -> None:
    with pytest.raises(UserError, match=r"64x32.*predicts 32x16.*--protocol mrnet"):
        accuracy(files, RedReader(), output_size=(32, 16))


def test_a_protocol_that_does_not_fit_the_labels_is_found_before_a_run(files: FileList) -> None:
    check_first_label(files, PROTOCOL)
    with pytest.raises(UserError, match=r"64x32.*predicts 32x16.*--protocol mrnet"):
        check_first_label(files, dataclasses.replace(PROTOCOL, output_size=(32, 16)))


def test_image_without_a_label_is_refused(files: FileList) -> None:
    items = tuple(dataclasses.replace(item, label=None) for item in files.items)
    with pytest.raises(UserError, match="has no label file"):
        evaluate(RedReader(), dataclasses.replace(files, items=items), PROTOCOL, SPACE, world=WORLD)


def test_scalars_name_the_means_and_every_class(files: FileList) -> None:
    scalars = evaluate(RedReader(), files, PROTOCOL, SPACE, world=WORLD).scalars()
    assert {"val/miou", "val/miou_16_classes", "val/miou_13_classes", "val/iou/road"} <= set(scalars)


def test_folder_with_the_truth_scores_100(files: FileList, tmp_path: Path) -> None:
    write_truth(files, tmp_path / "labels")
    result = score_label_folder(tmp_path / "labels", files, SPACE)
    assert result.scores.miou == 100
    assert result.protocol == LABEL_PNGS


def test_folder_with_the_networks_labels_scores_as_the_network(files: FileList, tmp_path: Path) -> None:
    inspect = network_inspector(RedReader(), PROTOCOL, SPACE, WORLD, None)
    for item in files.items:
        write_label_png(tmp_path / "flat" / Path(item.name).name, inspect(item, SIZE).label)
    ours = evaluate(RedReader(), files, PROTOCOL, SPACE, world=WORLD)
    theirs = score_label_folder(tmp_path / "flat", files, SPACE)
    assert torch.equal(ours.counts, theirs.counts)
    assert ours.image_miou == theirs.image_miou


def test_ids_that_are_no_class_are_refused_or_count_as_wrong(files: FileList, tmp_path: Path) -> None:
    write_truth(files, tmp_path / "labels")
    path = tmp_path / "labels" / files.items[0].name
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    label[10:14] = 255
    write_label_png(path, label)
    with pytest.raises(UserError, match=r"predicted ids .*255"):
        score_label_folder(tmp_path / "labels", files, SPACE)
    assert score_label_folder(tmp_path / "labels", files, SPACE, invalid="wrong").scores.accuracy < 100


def test_folder_of_finer_classes_is_merged_into_those_that_are_scored(
    files: FileList, tmp_path: Path
) -> None:
    write_truth(files, tmp_path / "labels")
    coarse = class_space("idd7")
    result = score_label_folder(tmp_path / "labels", files, coarse, label_space=SPACE)
    assert result.scores.accuracy == 100
    assert result.counts.shape[0] == 7
    inspect = label_folder_inspector(tmp_path / "labels", SPACE, coarse)
    truth = truth_reader(files, coarse)(files.items[0])
    np.testing.assert_array_equal(inspect(files.items[0], SIZE).label[truth < 7], truth[truth < 7])
    path = tmp_path / "labels" / files.items[0].name
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    label[10:14] = 200
    write_label_png(path, label)
    with pytest.raises(UserError, match=r"ids 200 .* no classes of cityscapes19"):
        score_label_folder(tmp_path / "labels", files, coarse, label_space=SPACE)
    wrong = score_label_folder(tmp_path / "labels", files, coarse, label_space=SPACE, invalid="wrong")
    assert wrong.scores.accuracy < 100


def test_label_map_of_another_size_is_refused(files: FileList, tmp_path: Path) -> None:
    for item in files.items:
        write_label_png(tmp_path / "labels" / item.name, np.zeros((8, 16), np.uint8))
    with pytest.raises(UserError, match=r"16x8 but the truth .* is 64x32"):
        score_label_folder(tmp_path / "labels", files, SPACE)


def test_label_maps_are_found_by_path_then_by_name(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "c/y.png"):
        write_label_png(tmp_path / name, np.zeros((2, 2), np.uint8))
    index = label_png_index(tmp_path)
    assert find_label_png(tmp_path, "b/x.jpg", index) == tmp_path / "b/x.png"
    assert find_label_png(tmp_path, "elsewhere/y.png", index) == tmp_path / "c/y.png"
    with pytest.raises(UserError, match="2 files"):
        find_label_png(tmp_path, "x.png", index)
    with pytest.raises(UserError, match=r"no z\.png"):
        find_label_png(tmp_path, "z.png", index)


def test_worst_images_are_drawn_in_order(files: FileList, tmp_path: Path) -> None:
    result = evaluate(RedReader(wrong_class=3), files, PROTOCOL, SPACE, world=WORLD)
    worst = result.worst(2)
    assert (
        result.image_miou[worst[0]]
        <= result.image_miou[worst[1]]
        <= min(value for name, value in result.image_miou.items() if name not in worst)
    )
    inspect = network_inspector(RedReader(wrong_class=3), PROTOCOL, SPACE, WORLD, None)
    write_worst(result, files, tmp_path / "pictures", 2, inspect)
    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == [f"0{place}_{Path(name).stem}.png" for place, name in enumerate(worst, start=1)]


def test_doubt_maps_have_the_size_of_the_label_and_one_head_has_no_uncertainty() -> None:
    logits = torch.randn(1, 5, 4, 8, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(8, 16, dtype=torch.uint8)
    confidence = torch.linspace(0.5, 1, 128).view(8, 16)
    two = doubt_maps(Prediction(label, confidence, (Pass(logits, logits.flip(1)),)))
    assert {title: values.shape for title, values in two.items()} == {
        "uncertainty": (8, 16),
        "score map": (8, 16),
    }
    for values in two.values():
        assert values.min() >= 0
        assert 0 < values.max() <= 1
    assert two["score map"][-1, -1] == 0
    assert set(doubt_maps(Prediction(label, confidence, (Pass(logits),)))) == {"score map"}


def test_worst_pictures_of_a_network_are_wider_by_its_two_maps(files: FileList, tmp_path: Path) -> None:
    result = evaluate(RedReader(), files, PROTOCOL, SPACE, world=WORLD)
    write_truth(files, tmp_path / "labels")
    inspectors = {
        "network": network_inspector(RedReader(), PROTOCOL, SPACE, WORLD, None),
        "folder": label_folder_inspector(tmp_path / "labels", SPACE, SPACE),
    }
    widths = {}
    for name, inspect in inspectors.items():
        write_worst(result, files, tmp_path / name, 1, inspect)
        widths[name] = cv2.imread(str(next((tmp_path / name).iterdir()))).shape[1]
    assert widths["network"] > widths["folder"] * 1.4
