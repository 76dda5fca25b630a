"""Crops as label pictures: 8-bit PNGs of train ids, 255 = cannot tell, 254 = not answered.

The suggestions lie in suggestions/, the answers are expected in labels/ under the same names, so that
suggestions which nobody has looked at are never taken for answers. A picture in labels/ counts as answered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from selection.exchange import shapes
from selection.exchange.class_names import ClassNames
from selection.exchange.crops import Crop
from selection.exchange.packages import Package, Task, left_by_system
from selection.exchange.shapes import CropAnswer
from selection.queries import count_values
from selection.rounds import UNANSWERED
from utils.errors import UserError
from utils.files import write_atomically
from utils.pictures import write_png

SUGGESTIONS = "suggestions"
LABELS = "labels"
CLASSES_FILE = "classes.txt"
GUIDE = """\
The pictures are in crops/, with the regions outlined in previews/. suggestions/ has a label picture for each:
the predicted class inside the regions, 254 (magenta) where you are to find it yourself and outside.
Store yours in labels/ under the same name and in the same size: 8-bit, palette or grey, one value of
classes.txt per pixel. Only the regions are read; 255 says that you cannot tell, 254 that it is still open.
A picture in labels/ counts as labelled.
"""
WHOLE_GUIDE = """\
The pictures in crops/ are whole images, and every pixel of them needs a class. suggestions/ has a label
picture for each: the class that the network predicts, or 254 (magenta) where you are to find it yourself.
Store yours in labels/ under the same name and in the same size: 8-bit, palette or grey, one value of
classes.txt per pixel; 255 says that you cannot tell, 254 that it is still open. A picture in labels/ counts
as labelled.
"""
NOT_ANSWERED = f"{LABELS}/ has no picture of them"


def write(
    folder: Path,
    package: Package,
    labels: Callable[[Task], np.ndarray],
    names: ClassNames,
    *,
    answered: bool = False,
) -> None:
    """Writes a picture per task into suggestions/, or with `answered` into labels/; see `labelme.write`.

    classes.txt says which value and colour stands for which class.
    """
    palette = names.palette()
    write_atomically(folder / CLASSES_FILE, _classes_text(names))
    (folder / LABELS).mkdir(parents=True, exist_ok=True)
    for task in package.tasks:
        label, shown = labels(task), np.full(task.crop.size, UNANSWERED, np.uint8)
        for top, left, bottom, right in task.crop.boxes():
            shown[top:bottom, left:right] = label[top:bottom, left:right]
        path = folder / (LABELS if answered else SUGGESTIONS) / f"{task.stem}.png"
        write_png(path, task.crop.enlarge(shown), palette)


def as_read(crop: Crop, label: np.ndarray) -> np.ndarray:
    """(h, w) uint8: what the suggestion of a crop reads as when nobody has changed it."""
    return label


class Answers:
    """The answers in a package folder; arguments as for `write`."""

    def __init__(self, folder: Path, package: Package, names: ClassNames) -> None:
        self.folder = folder / LABELS
        self.names = names
        self._known = {f"{task.stem}.png" for task in package.tasks}

    def problems(self) -> list[str]:
        """Pictures that are of no task: renamed, or from elsewhere."""
        strange = sorted(
            path
            for path in self.folder.glob("*")
            if path.name not in self._known and not left_by_system(path.name)
        )
        return [
            f"{path}: no crop of this package has that name; give it its old name back" for path in strange
        ]

    def read(self, task: Task) -> CropAnswer | None:
        """The classes of a crop; None where there is no picture.

        Raises:
            UserError: the picture is damaged, in colour, of another size, or has values of no class.
        """
        path = self.source(task)
        if not path.exists():
            return None
        try:
            values = self._values(path, task.crop)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: cannot be decoded ({error}); save it again as PNG") from error
        label = np.ascontiguousarray(shapes.from_picture(task.crop, values))
        return CropAnswer(label, np.full(task.crop.size, UNANSWERED, np.uint8))

    def source(self, task: Task) -> Path:
        """The file with the answers of a task."""
        return self.folder / f"{task.stem}.png"

    def _values(self, path: Path, crop: Crop) -> np.ndarray:
        with Image.open(path) as picture:
            _check_header(picture, crop)  # before anything is decoded
            values, mode, colors = np.asarray(picture), picture.mode, picture.getpalette()
        used = np.flatnonzero(count_values(values.reshape(-1))).tolist()
        unknown = self.names.unknown_values(used)
        if unknown:
            raise UserError(
                f"its values {unknown} are no train ids of {self.names.space.name}; see {CLASSES_FILE}"
            )
        if mode == "P":
            self._check_palette(used, colors or [])
        return values

    def _check_palette(self, used: list[int], colors: list[int]) -> None:
        """Some programs sort the colours when they save, which changes every id."""
        expected = self.names.palette()
        moved = [
            value for value in used if tuple(colors[3 * value : 3 * value + 3]) != tuple(expected[value])
        ]
        if moved:
            raise UserError(
                f"the colours of its values {moved} are not those of {CLASSES_FILE}: the program that saved "
                "it has changed the palette, so the ids mean nothing; keep the palette, or save as 8-bit grey"
            )


def _check_header(picture: Image.Image, crop: Crop) -> None:
    if picture.mode not in ("L", "P"):
        raise UserError(
            f"it is a colour picture (mode {picture.mode}), not ids; save it as indexed or 8-bit grey"
        )
    height, width = crop.picture_size
    if picture.size != (width, height):
        raise UserError(
            f"it has {picture.width}x{picture.height} pixels, the exported picture {width}x{height}; keep "
            "the size"
        )


def _classes_text(names: ClassNames) -> str:
    palette = names.palette()
    ids = [names.parse(name) for name in names.choices]
    return "".join(
        f"{number}\t{name}\t{','.join(map(str, palette[number]))}\n"
        for number, name in zip(ids, names.choices, strict=True)
    )
