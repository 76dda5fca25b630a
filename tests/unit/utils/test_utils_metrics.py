"""Confusion matrix, scores and the comparison table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from utils import distributed
from utils.class_spaces import IGNORE_LABEL, ClassSpace, class_space
from utils.errors import UserError
from utils.metrics import ConfusionMatrix, TableRow, format_table, scores, table_records

C = 4


def _maps(pixels: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(prediction, label) as uint8 tensors."""
    predictions, labels = zip(*pixels, strict=True) if pixels else ((), ())
    return torch.tensor(predictions, dtype=torch.uint8), torch.tensor(labels, dtype=torch.uint8)


def _count(pixels: list[tuple[int, int]], **options: object) -> ConfusionMatrix:
    matrix = ConfusionMatrix(C, **options)
    matrix.update(*_maps(pixels))
    return matrix


VALID = st.lists(st.tuples(st.integers(0, C - 1), st.integers(0, C - 1) | st.just(IGNORE_LABEL)), max_size=60)


@given(pixels=VALID)
@settings(deadline=None, max_examples=60)
def test_counts_equal_a_loop_and_scikit_learn(pixels: list[tuple[int, int]]) -> None:
    labelled = [(prediction, label) for prediction, label in pixels if label < C]
    expected = np.zeros((C, C), dtype=np.int64)
    for prediction, label in labelled:
        expected[label, prediction] += 1
    counts = _count(pixels).counts
    assert counts.dtype == torch.int64
    assert np.array_equal(counts.numpy(), expected)
    if labelled:
        predictions, labels = zip(*labelled, strict=True)
        assert np.array_equal(confusion_matrix(labels, predictions, labels=range(C)), expected)


@given(pixels=VALID, cut=st.integers(0, 60))
@settings(deadline=None, max_examples=40)
def test_any_split_of_the_pixels_adds_up(pixels: list[tuple[int, int]], cut: int) -> None:
    whole = _count(pixels).counts
    assert torch.equal((_count(pixels[:cut]) + _count(pixels[cut:])).counts, whole)
    in_turn = _count(pixels[:cut])
    in_turn.update(*_maps(pixels[cut:]))
    assert torch.equal(in_turn.counts, whole)


@given(pixels=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=60))
@settings(deadline=None, max_examples=40)
def test_ids_of_both_types_and_any_shape_count_alike(pixels: list[tuple[int, int]]) -> None:
    prediction, label = _maps(pixels)
    wide = ConfusionMatrix(C, invalid="wrong")
    wide.update(prediction.long()[None, :, None], label.long()[None, :, None])
    assert torch.equal(wide.counts, _count(pixels, invalid="wrong").counts)


def test_labels_outside_the_classes_are_dropped() -> None:
    matrix = ConfusionMatrix(C)
    matrix.update(torch.tensor([0, 0, 0, 1]), torch.tensor([-1, C, 1000, 2]))
    assert matrix.counts.sum() == 1
    assert matrix.counts[2, 1] == 1


@pytest.mark.parametrize(("prediction", "shown"), [(C, C), (255, 255), (300, 255), (-1, 255)])
def test_an_invalid_prediction_on_a_labelled_pixel_is_an_error(prediction: int, shown: int) -> None:
    matrix = ConfusionMatrix(C)
    matrix.update(torch.tensor([prediction, 0]), torch.tensor([IGNORE_LABEL, 0]))
    with pytest.raises(UserError, match=rf"\{{{shown}\}} on 1 labelled pixels"):
        matrix.update(torch.tensor([prediction]), torch.tensor([1]))
    assert matrix.counts.sum() == 1


def test_invalid_predictions_can_count_as_wrong() -> None:
    result = scores(_count([(0, 0), (255, 0), (9, 0), (1, 1)], invalid="wrong").counts)
    assert result.iou[:2].tolist() == pytest.approx([100 / 3, 100])
    assert result.accuracy == pytest.approx(50)
    assert result.mean_accuracy == pytest.approx(100 * (1 / 3 + 1) / 2)


def test_predictions_are_merged_before_they_are_compared() -> None:
    table = np.full(256, 255, dtype=np.uint8)
    table[[0, 1, 2, 7]] = [0, 0, 1, 3]
    matrix = _count([(0, 0), (1, 0), (2, 1), (7, 3), (5, 3)], prediction_table=table)
    expected = torch.zeros(C, C + 1, dtype=torch.int64)
    expected[0, 0], expected[1, 1], expected[3, 3], expected[3, C] = 2, 1, 1, 1
    assert torch.equal(matrix.counts, expected)


def test_merging_predictions_equals_merging_the_prediction_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    table = np.arange(256, dtype=np.uint8) % C
    prediction = torch.randint(0, 256, (500,), generator=generator, dtype=torch.uint8)
    label = torch.randint(0, C, (500,), generator=generator, dtype=torch.uint8)
    merged, direct = ConfusionMatrix(C, prediction_table=table), ConfusionMatrix(C, invalid="wrong")
    merged.update(prediction, label)
    direct.update(torch.from_numpy(table)[prediction.long()], label)
    assert torch.equal(merged.counts, direct.counts)


def test_maps_of_different_size_are_an_error() -> None:
    with pytest.raises(UserError, match=r"\(2, 3\).*\(3, 2\)"):
        ConfusionMatrix(C).update(torch.zeros(2, 3), torch.zeros(3, 2))


def test_matrices_of_different_rules_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        ConfusionMatrix(C) + ConfusionMatrix(C, invalid="wrong")


def test_counts_are_summed_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = _count([(0, 0), (1, 2)])
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda t: 2 * t)
    assert matrix.all_reduce_().counts.sum() == 4


def _scores(pixels: list[tuple[int, int]], **options: object) -> dict[str, object]:
    result = scores(_count(pixels).counts, **options)
    return {name: getattr(result, name) for name in ("iou", "miou", "mean_accuracy", "accuracy", "fwiou")}


def test_scores_worked_by_hand() -> None:
    result = _scores([(0, 0), (0, 0), (1, 0), (1, 1)])
    assert result["iou"].tolist() == pytest.approx([200 / 3, 50, math.nan, math.nan], nan_ok=True)
    assert result["miou"] == pytest.approx((200 / 3 + 50) / 2)
    assert result["mean_accuracy"] == pytest.approx((200 / 3 + 100) / 2)
    assert result["accuracy"] == pytest.approx(75)
    assert result["fwiou"] == pytest.approx(0.75 * 200 / 3 + 0.25 * 50)


def test_a_class_that_is_only_predicted_has_iou_zero_and_no_accuracy() -> None:
    result = _scores([(0, 0), (3, 0)])
    assert result["iou"][3] == 0
    assert result["miou"] == pytest.approx(25)
    assert result["mean_accuracy"] == pytest.approx(50)


def test_absent_classes_can_count_as_zero() -> None:
    pixels = [(0, 0), (1, 1)]
    assert _scores(pixels)["miou"] == 100
    assert _scores(pixels, absent="zero")["miou"] == 50


def test_nothing_labelled_has_no_scores() -> None:
    result = _scores([(0, IGNORE_LABEL)])
    assert np.isnan(result["iou"]).all()
    assert all(math.isnan(result[name]) for name in ("miou", "mean_accuracy", "accuracy", "fwiou"))


def test_subsets_are_means_over_their_classes_and_keep_other_errors() -> None:
    space = class_space("cityscapes19")
    matrix = ConfusionMatrix(19)
    generator = torch.Generator().manual_seed(1)
    matrix.update(*torch.randint(0, 19, (2, 4000), generator=generator, dtype=torch.uint8))
    result = scores(matrix.counts, space)
    assert set(result.subsets) == {"16 classes", "13 classes"}
    for name, members in space.subsets.items():
        assert result.subsets[name] == pytest.approx(result.iou[list(members)].mean())


TOY = ClassSpace("toy", ("road", "sky", "car", "bus"), ((0, 0, 0),) * C, {"2 classes": (0, 1)})


def _rows() -> list[TableRow]:
    first = scores(_count([(0, 0), (0, 0), (1, 0), (1, 1)]).counts, TOY)
    second = scores(_count([(0, 0), (1, 1), (2, 2), (3, 3)]).counts, TOY)
    return [TableRow("runs/a", "mrnet", first), TableRow("runs/long-name", "common", second)]


def test_table_has_a_line_per_class_and_mean_and_a_column_per_run() -> None:
    lines = format_table(_rows(), TOY).splitlines()
    assert lines[0].split() == ["runs/a", "runs/long-name"]
    assert lines[1].split() == ["protocol", "mrnet", "common"]
    names = [line.split("  ")[0].strip() for line in lines if not line.startswith("-")][2:]
    assert names == [*TOY.class_names, "mIoU", "mIoU (2 classes)", "mAcc", "aAcc", "FWIoU"]
    assert len({len(line) for line in lines}) == 1
    assert next(line for line in lines if line.startswith("road")).split() == ["road", "66.67", "100.00"]
    assert next(line for line in lines if line.startswith("bus")).split() == ["bus", "-", "100.00"]


def test_class_names_alone_make_the_same_table() -> None:
    assert format_table(_rows(), TOY.class_names) == format_table(_rows(), TOY)


def test_records_are_valid_json_with_the_figures_of_the_table() -> None:
    records = json.loads(json.dumps(table_records(_rows(), TOY), allow_nan=False))
    assert [record["run"] for record in records] == ["runs/a", "runs/long-name"]
    assert records[0]["protocol"] == "mrnet"
    assert records[0]["bus"] is None
    assert records[0]["mIoU"] == pytest.approx((200 / 3 + 50) / 2)
    assert records[1]["mIoU (2 classes)"] == 100
