"""The formats that annotation tools read and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from selection.exchange import coco, label_png, labelme
from selection.exchange.class_names import ClassNames
from selection.exchange.crops import Crop
from selection.exchange.packages import Package, Task
from selection.exchange.shapes import CropAnswer


class AnswerFiles(Protocol):
    """The answers in the folder of a package."""

    def problems(self) -> list[str]:
        """What is wrong with the files as a whole, in a line each."""
        ...

    def read(self, task: Task) -> CropAnswer | None:
        """The answer of a task; None: not answered yet. UserError: its file cannot be used."""
        ...

    def source(self, task: Task) -> Path:
        """The file with the answer of a task."""
        ...


class Tool(Protocol):
    """A module for one format.

    Attributes:
        GUIDE: what annotators are to do.
        WHOLE_GUIDE: the same, where whole images are labelled.
        NOT_ANSWERED: why a crop counts as not answered, after "N crops are not answered: ".
        Answers: (folder, package, names) -> AnswerFiles.
    """

    GUIDE: str
    WHOLE_GUIDE: str
    NOT_ANSWERED: str
    Answers: Callable[[Path, Package, ClassNames], AnswerFiles]

    def write(
        self,
        folder: Path,
        package: Package,
        labels: Callable[[Task], np.ndarray],
        names: ClassNames,
        *,
        answered: bool = False,
    ) -> None:
        """Writes labels of all tasks, as suggestions or as answers; see `labelme.write`."""
        ...

    def as_read(self, crop: Crop, label: np.ndarray) -> np.ndarray:
        """(h, w) uint8: what the suggestion of a crop reads as when nobody has changed it."""
        ...


_TOOLS: dict[str, Any] = {"labelme": labelme, "coco": coco, "png": label_png}
TOOLS: Mapping[str, Tool] = MappingProxyType(_TOOLS)
