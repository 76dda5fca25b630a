"""Crops as LabelMe files: a JSON beside each picture, which people edit in place.

The flag "done" of a file says that its crop is labelled. Without it a file counts as not answered, because a
suggestion that nobody has looked at is no answer.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from selection.exchange import shapes
from selection.exchange.class_names import ClassNames
from selection.exchange.crops import Box, Crop
from selection.exchange.outlines import painted, suggested_outlines
from selection.exchange.packages import PICTURES, Package, Task, left_by_system
from selection.exchange.shapes import CropAnswer
from selection.rounds import UNANSWERED
from utils.errors import UserError
from utils.files import write_atomically

DONE = "done"
LABELS_FILE = "labels.txt"
GUIDE = """\
    labelme crops --labels labels.txt --validate-label exact

Every region is drawn with a suggested class, or with "?". Give each its class: correct the label (double
click on it in the label list), or delete the shape and draw your own. Shapes may reach beyond a region; two
shapes of different classes must not overlap inside one. When a crop is finished, tick the flag "done".
"""
WHOLE_GUIDE = """\
    labelme crops --labels labels.txt --validate-label exact

Every picture is a whole image, and every pixel of it needs a class. What the network predicts is drawn as
polygons. Shapes lie on top of each other: where several cover a pixel, the last of the list counts, so
draw what is behind first, and draw over what is wrong. The first shape, "?", covers the picture: what nothing
else covers stays open. Rename it to "cannot tell" if the rest belongs to no class. When a picture is
finished, tick the flag "done".
"""
NOT_ANSWERED = "their flag 'done' is not ticked"
_VERSION = "5.5.0"  # of the file format: LabelMe writes its own when it saves


def write(
    folder: Path,
    package: Package,
    labels: Callable[[Task], np.ndarray],
    names: ClassNames,
    *,
    answered: bool = False,
) -> None:
    """Writes one file per task, and labels.txt for LabelMe's list of classes.

    Args:
        folder: of the package.
        package: its tasks.
        labels: (h, w) uint8 of a task: what its regions are labelled as; 254: "?".
        names: of the classes.
        answered: the labels are answers and not suggestions.
    """
    write_atomically(folder / LABELS_FILE, "".join(f"{name}\n" for name in names.choices))
    for task in package.tasks:
        content = {
            "version": _VERSION,
            "flags": {DONE: answered},
            "shapes": list(_shapes(task.crop, labels(task), names, answered=answered)),
            "imagePath": f"{task.stem}.png",
            "imageData": None,
            "imageHeight": task.crop.picture_size[0],
            "imageWidth": task.crop.picture_size[1],
        }
        write_atomically(_path(folder, task), json.dumps(content, indent=1) + "\n")


def as_read(crop: Crop, label: np.ndarray) -> np.ndarray:
    """(h, w) uint8: what the suggestion of a crop reads as when nobody has changed it."""
    return painted(crop, label) if crop.is_whole else label


class Answers:
    """The answers in a package folder; arguments as for `write`."""

    def __init__(self, folder: Path, package: Package, names: ClassNames) -> None:
        self.folder = folder
        self.package = package
        self.names = names

    def problems(self) -> list[str]:
        """Files that are of no task: renamed, or from elsewhere."""
        known = {_path(self.folder, task) for task in self.package.tasks}
        strange = sorted(set((self.folder / PICTURES).glob("*.json")) - known)
        strange = [path for path in strange if not left_by_system(path.name)]
        return [
            f"{path}: no crop of this package has that name; give it its old name back" for path in strange
        ]

    def read(self, task: Task) -> CropAnswer | None:
        """What people drew on a crop; None where it is not marked as done.

        Raises:
            UserError: the file is gone, damaged, of another picture, or names an unknown class.
        """
        path = _path(self.folder, task)
        if not path.exists():
            raise UserError(f"{path}: the file of a crop is gone; bring it back from the exported folder")
        try:
            content = json.loads(path.read_bytes())
            if not (content.get("flags") or {}).get(DONE, False):
                return None
            _check_picture(path, content, task)
            return self._answer(task.crop, content["shapes"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            OverflowError,
            RecursionError,
        ) as error:
            raise UserError(f"{path}: no LabelMe file ({error!r}); export it again or restore it") from error

    def source(self, task: Task) -> Path:
        """The file with the answers of a task."""
        return _path(self.folder, task)

    def _answer(self, crop: Crop, drawn: list[Mapping[str, Any]]) -> CropAnswer:
        answer = CropAnswer.blank(crop.size)
        for number, shape in enumerate(drawn, 1):
            class_id = self.names.parse(shape["label"])
            try:
                answer.paint(_inside(crop, shape), class_id, over=crop.is_whole)
            except UserError:
                raise
            except ValueError as error:
                raise UserError(f"shape {number} ({shape['label']}): {error}; draw it again") from error
        return answer


def _path(folder: Path, task: Task) -> Path:
    return folder / PICTURES / f"{task.stem}.json"


def _check_picture(path: Path, content: Mapping[str, Any], task: Task) -> None:
    picture = PureWindowsPath(content["imagePath"]).name  # understands both separators
    if picture != f"{task.stem}.png":
        raise UserError(f"it is about the picture {picture}, not {task.stem}.png; restore the names")
    height, width = task.crop.picture_size
    found = content.get("imageHeight"), content.get("imageWidth")
    if None not in found and found != (height, width):
        raise UserError(
            f"its picture has {found[1]}x{found[0]} pixels, the exported one {width}x{height}; label the "
            "exported picture"
        )


def _inside(crop: Crop, shape: Mapping[str, Any]) -> np.ndarray:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind in ("polygon", "oriented_rectangle"):
        return shapes.polygon(crop, points)
    if kind == "rectangle":
        return shapes.rectangle(crop, points)
    if kind == "circle":
        return shapes.circle(crop, points)
    if kind in ("point", "points"):
        return shapes.dots(crop, points)
    if kind == "mask":
        left, top = shapes.coordinates(points)[0].round().tolist()
        return shapes.bitmap(crop, _decode_mask(shape["mask"], crop), (int(left), int(top)))
    raise UserError(
        f"a shape is a {kind}, which covers no area; draw polygons, rectangles, circles, points or masks"
    )


def _shapes(crop: Crop, label: np.ndarray, names: ClassNames, *, answered: bool) -> Iterator[dict[str, Any]]:
    """A rectangle for every region of one class; a mask per class for the others.

    The suggestions of a whole image are polygons over a rectangle that leaves everything open.
    """
    if crop.is_whole and not answered:
        yield _rectangle(crop, (0, 0, *crop.size), names.name(UNANSWERED))
        for class_id, corners in suggested_outlines(label):
            yield _shape(names.name(class_id), corners.tolist(), "polygon", None)
        return
    for box in crop.boxes():
        top, left, bottom, right = box
        inside = label[top:bottom, left:right]
        classes = np.unique(inside).tolist()
        for class_id in classes:
            name = names.name(class_id)
            yield (
                _rectangle(crop, box, name)
                if len(classes) == 1
                else _mask(crop, box, inside == class_id, name)
            )


def _rectangle(crop: Crop, box: Box, name: str) -> dict[str, Any]:
    top, left, bottom, right = (edge * crop.scale for edge in box)
    return _shape(name, [[left, top], [right, bottom]], "rectangle", None)


def _mask(crop: Crop, box: Box, inside: np.ndarray, name: str) -> dict[str, Any]:
    top, left, bottom, right = (edge * crop.scale for edge in box)
    points = [[left, top], [right - 1, bottom - 1]]  # LabelMe's masks include both corners
    return _shape(name, points, "mask", _encode_mask(crop.enlarge(inside)))


def _shape(name: str, points: list[list[int]], kind: str, mask: str | None) -> dict[str, Any]:
    return {
        "label": name,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": mask,
    }


def _encode_mask(inside: np.ndarray) -> str:
    """A PNG of zeros and ones in base 64."""
    stream = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8)).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _decode_mask(text: str, crop: Crop) -> np.ndarray:
    height, width = crop.picture_size
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            if picture.width > width or picture.height > height:  # before anything is decoded
                raise UserError(
                    f"a mask has {picture.width}x{picture.height} pixels, the picture {width}x{height}"
                )
            values = np.asarray(picture)
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise UserError(f"a mask cannot be decoded ({error}); draw it again") from error
    if values.ndim != 2:
        raise UserError("a mask has colours; draw it again")
    return values.astype(bool)
