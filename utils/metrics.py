"""Confusion matrix on the device, the scores computed from it, and the table that compares runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from utils import distributed
from utils.class_spaces import IGNORE_LABEL, ClassSpace
from utils.errors import UserError

IDS = IGNORE_LABEL + 1  # label maps hold uint8 ids


class ConfusionMatrix:
    """Counts of (label, predicted id) over all labelled pixels, as integers on the device.

    Sums of matrices are exact, so any split of the images over ranks or batches gives the same scores.
    """

    def __init__(
        self,
        num_classes: int,
        device: torch.device | str = "cpu",
        *,
        invalid: Literal["error", "wrong"] = "error",
        prediction_table: np.ndarray | None = None,
    ) -> None:
        """An empty matrix.

        Args:
            num_classes: C, at most 255.
            device: where to count.
            invalid: what a predicted id outside [0, C) on a labelled pixel is: a UserError, or a wrong pixel
                (it adds to its label's misses and to no other class).
            prediction_table: (256,) ids; predictions are sent through it before they are compared (merged
                classes). Ids that it sends outside [0, C) are wrong pixels, whatever `invalid` says.
        """
        self.num_classes = num_classes
        self.invalid = "wrong" if prediction_table is not None else invalid
        # One column per raw predicted id; `counts` merges them.
        self._pixels = torch.zeros(num_classes, IDS, dtype=torch.int64, device=device)
        table = np.arange(IDS) if prediction_table is None else np.asarray(prediction_table, dtype=np.int64)
        columns = np.where((table >= 0) & (table < num_classes), table, num_classes)
        self._columns = torch.from_numpy(columns).to(device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Adds the pixels of two equally shaped uint8 or int64 tensors.

        Pixels whose label is outside [0, C) are dropped.

        Raises:
            UserError: shapes differ, or a labelled pixel has an invalid prediction and `invalid` is "error".
        """
        if prediction.shape != label.shape:
            raise UserError(
                f"prediction has shape {tuple(prediction.shape)} but its label {tuple(label.shape)}; "
                "both must have the size the protocol evaluates at"
            )
        rows = _ids(label.to(self._pixels.device)).clamp_max(self.num_classes)
        cells = rows.to(torch.int32).mul_(IDS).add_(_ids(prediction.to(self._pixels.device)))
        counted = torch.bincount(cells.reshape(-1), minlength=(self.num_classes + 1) * IDS)
        pixels = counted.view(self.num_classes + 1, IDS)[: self.num_classes]
        if self.invalid == "error":
            self._check(pixels)
        self._pixels += pixels

    @property
    def counts(self) -> Tensor:
        """(C, C) int64, rows are labels; (C, C + 1) where invalid ids count as wrong, in the last column."""
        merged = self._pixels.new_zeros(self.num_classes, self.num_classes + 1)
        merged.index_add_(1, self._columns, self._pixels)
        return merged if self.invalid == "wrong" else merged[:, : self.num_classes]

    def all_reduce_(self) -> Self:
        """Replaces the counts by their sum over all ranks."""
        self._pixels = distributed.all_reduce_sum(self._pixels)
        return self

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The matrix of both sets of pixels."""
        same = self.num_classes == other.num_classes and self.invalid == other.invalid
        if not same or not torch.equal(self._columns.cpu(), other._columns.cpu()):
            raise ValueError("confusion matrices of different classes or rules cannot be added")
        total = copy.copy(self)
        total._pixels = self._pixels + other._pixels.to(self._pixels.device)
        return total

    def _check(self, pixels: Tensor) -> None:
        wrong = pixels.sum(0).masked_fill(self._columns < self.num_classes, 0)
        if not wrong.any():
            return
        ids = wrong.nonzero().flatten().tolist()
        shown = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
        raise UserError(
            f"predicted ids {{{shown}}} on {int(wrong.sum())} labelled pixels are not among the "
            f"{self.num_classes} classes; score in the network's class space, or count such pixels as wrong"
        )


def _ids(labels: Tensor) -> Tensor:
    """Ids in [0, 255]; whatever does not fit a label map becomes 255, which is no class."""
    if labels.dtype == torch.uint8:
        return labels
    return labels.where((labels >= 0) & (labels < IDS), IGNORE_LABEL)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of one confusion matrix in percent; NaN where there is nothing to score."""

    iou: np.ndarray  # (C,) intersection over union
    class_accuracy: np.ndarray  # (C,) share of each class's pixels that are right
    miou: float
    mean_accuracy: float
    accuracy: float  # share of all labelled pixels that are right
    fwiou: float  # IoU weighted by the class's share of the labelled pixels
    counts: np.ndarray  # (C, C) or (C, C + 1) int64, as given
    subsets: Mapping[str, float] = field(default_factory=dict)  # mean IoU over some of the classes


def scores(
    counts: Tensor, space: ClassSpace | None = None, *, absent: Literal["nan", "zero"] = "nan"
) -> Scores:
    """All scores of a confusion matrix.

    Args:
        counts: (C, C) integers, rows are labels; a further column holds pixels that count as wrong for every
            class.
        space: names the class subsets whose mean IoU is wanted.
        absent: a class neither labelled nor predicted has the IoU NaN and no part in means, or the IoU 0.
            Likewise the accuracy of a class without labels: it stays out of `mean_accuracy`, or counts as 0.
    """
    table = counts.detach().cpu().numpy()
    right = np.diagonal(table).astype(np.float64)
    labelled = table.sum(1).astype(np.float64)
    predicted = table[:, : len(table)].sum(0)
    iou = _ratio(right, labelled + predicted - right)
    if absent == "zero":
        iou = np.where(np.isnan(iou), 0.0, iou)
    class_accuracy = _ratio(right, labelled)
    if absent == "zero":
        class_accuracy = np.where(np.isnan(class_accuracy), 0.0, class_accuracy)
    total = labelled.sum()
    return Scores(
        iou=100 * iou,
        class_accuracy=100 * class_accuracy,
        miou=100 * _mean(iou),
        mean_accuracy=100 * _mean(class_accuracy),
        accuracy=100 * float(right.sum() / total) if total else math.nan,
        fwiou=100 * float(np.nansum(labelled * iou) / total) if total else math.nan,
        counts=table,
        subsets={} if space is None else {k: 100 * _mean(iou[list(v)]) for k, v in space.subsets.items()},
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), math.nan), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


@dataclass(frozen=True, slots=True)
class TableRow:
    """One scored run: its name, the protocol it was evaluated under, and its scores."""

    label: str
    protocol: str
    scores: Scores


def format_table(rows: Sequence[TableRow], classes: ClassSpace | Sequence[str]) -> str:
    """One aligned text table in percent: a column per run, rows for its protocol, the classes, the means."""
    first = ["", *(row.label for row in rows)]
    protocol = ["protocol", *(row.protocol for row in rows)]
    records = [_figures(row.scores, _names(classes)) for row in rows]
    names = list(dict.fromkeys(name for record in records for name in record))
    body = [[name, *(_percent(record.get(name, math.nan)) for record in records)] for name in names]
    lines = [first, protocol, *body]
    widths = [max(len(line[column]) for line in lines) for column in range(len(first))]
    rule = ["-" * width for width in widths]
    lines = [first, protocol, rule, *body[: len(_names(classes))], rule, *body[len(_names(classes)) :]]
    return "\n".join(_aligned(line, widths) for line in lines)


def table_records(
    rows: Sequence[TableRow], classes: ClassSpace | Sequence[str]
) -> list[dict[str, str | float | None]]:
    """The table as one flat record per run, for JSON and CSV: percent, None where there is no figure."""
    return [
        {"run": row.label, "protocol": row.protocol}
        | {
            name: None if math.isnan(value) else value
            for name, value in _figures(row.scores, _names(classes)).items()
        }
        for row in rows
    ]


def _names(classes: ClassSpace | Sequence[str]) -> tuple[str, ...]:
    return classes.class_names if isinstance(classes, ClassSpace) else tuple(classes)


def _figures(result: Scores, class_names: Sequence[str]) -> dict[str, float]:
    """Everything the table shows of one run, in its order."""
    iou = {name: float(value) for name, value in zip(class_names, result.iou, strict=True)}
    subsets = {f"mIoU ({name})": value for name, value in result.subsets.items()}
    means = {"mAcc": result.mean_accuracy, "aAcc": result.accuracy, "FWIoU": result.fwiou}
    return iou | {"mIoU": result.miou} | subsets | means


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
