"""Crops as one COCO file per package: tasks.json goes into a tool, answers.json comes out of it.

Answers are a file of their own, so that suggestions which nobody has looked at are never taken for answers.
All crops with annotations in answers.json count as labelled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import cv2
import numpy as np

from selection.exchange import shapes
from selection.exchange.class_names import ClassNames
from selection.exchange.crops import Box, Crop
from selection.exchange.outlines import painted, suggested_outlines
from selection.exchange.packages import Package, Task
from selection.exchange.shapes import CropAnswer
from selection.rounds import UNANSWERED
from utils.errors import UserError
from utils.files import write_atomically

TASKS_FILE = "tasks.json"
ANSWERS_FILE = "answers.json"
GUIDE = """\
Import the pictures in crops/ with the annotations in tasks.json into your tool (CVAT, Label Studio, ...).
Every region is drawn with a suggested class, or with "?". Give each its class: change its category, or delete
it and draw your own polygon or mask. Shapes may reach beyond a region; two shapes of different classes must
not overlap inside one. Export as COCO (instances) and store the file here as answers.json. Every crop with
annotations in it counts as labelled, so leave out crops that nobody has looked at.
"""
WHOLE_GUIDE = """\
Import the pictures in crops/ with the annotations in tasks.json into your tool (CVAT, Label Studio, ...).
Every picture is a whole image, and every pixel of it needs a class. What the network predicts is drawn as
polygons. Annotations lie on top of each other: where several cover a pixel, the last in the file counts, so
draw what is behind first, and draw over what is wrong. The first annotation, "?", covers the picture: what
nothing else covers stays open. Make its category "cannot tell" if the rest belongs to no class. Export as
COCO (instances) and store the file here as answers.json. Every picture with annotations in it counts as
labelled, so leave out those that nobody has looked at.
"""
NOT_ANSWERED = f"{ANSWERS_FILE} has no annotation of them"


def write(
    folder: Path,
    package: Package,
    labels: Callable[[Task], np.ndarray],
    names: ClassNames,
    *,
    answered: bool = False,
) -> None:
    """Writes tasks.json, or with `answered` answers.json; arguments as `labelme.write`.

    Categories have the numbers 1 to C in the order of the classes, then "cannot tell" and "?".
    """
    categories = {name: number for number, name in enumerate(names.choices, 1)}
    annotations: list[dict[str, Any]] = []
    for task in package.tasks:
        for name, drawn in _annotations(task.crop, labels(task), names, answered=answered):
            head = {"id": len(annotations) + 1, "image_id": task.number + 1, "category_id": categories[name]}
            annotations.append({**head, **drawn})
    content = {
        "info": {"description": f"round {package.round + 1} of {package.run}, {package.annotator}"},
        "licenses": [],
        "images": [_image(task) for task in package.tasks],
        "categories": [
            {"id": number, "name": name, "supercategory": ""} for name, number in categories.items()
        ],
        "annotations": annotations,
    }
    write_atomically(folder / (ANSWERS_FILE if answered else TASKS_FILE), json.dumps(content) + "\n")


def as_read(crop: Crop, label: np.ndarray) -> np.ndarray:
    """(h, w) uint8: what the suggestion of a crop reads as when nobody has changed it."""
    return painted(crop, label) if crop.is_whole else label


class Answers:
    """The answers in a package folder; arguments as for `write`.

    Raises:
        UserError: answers.json is damaged or no COCO file.
    """

    def __init__(self, folder: Path, package: Package, names: ClassNames) -> None:
        self.path = folder / ANSWERS_FILE
        self.names = names
        self._images: dict[str, Mapping[str, Any]] = {}  # by file name
        self._drawn: dict[Any, list[Mapping[str, Any]]] = {}  # by image id
        self._categories: dict[Any, str] = {}
        self._known = {f"{task.stem}.png" for task in package.tasks}
        if self.path.exists():
            self._index()

    def problems(self) -> list[str]:
        """Pictures that are of no task, and annotations of pictures that are not listed."""
        strange = sorted(set(self._images) - self._known)
        ids = {image["id"] for image in self._images.values()}
        lost = sum(len(drawn) for image, drawn in self._drawn.items() if image not in ids)
        found = [
            f"{self.path}: no crop of this package is named {name}; restore its name" for name in strange
        ]
        if lost:
            found.append(f"{self.path}: {lost} annotations are of images that the file does not list")
        return found

    def read(self, task: Task) -> CropAnswer | None:
        """What people drew on a crop; None where there is nothing.

        Raises:
            UserError: the picture has another size, or an annotation is damaged or of an unknown class.
        """
        image = self._images.get(f"{task.stem}.png")
        drawn = [] if image is None else self._drawn.get(image["id"], [])
        if image is None or not drawn:
            return None
        where = f"{self.path}, image {task.stem}.png"
        try:
            _check_size(image, task.crop)
            answer = CropAnswer.blank(task.crop.size)
            for annotation in drawn:
                inside, class_id = _inside(task.crop, annotation), self._class_of(annotation)
                answer.paint(inside, class_id, over=task.crop.is_whole)
            return answer
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise UserError(f"{where}: an annotation is damaged ({error!r}); draw it again") from error

    def source(self, task: Task) -> Path:
        """The file with the answers of a task."""
        return self.path

    def _own_name(self, name: str) -> str:
        """The picture's exported name: tools such as Label Studio put letters and "-" before it."""
        endings = (name[place + 1 :] for place, letter in enumerate(name) if letter == "-")
        return next((known for known in (name, *endings) if known in self._known), name)

    def _class_of(self, annotation: Mapping[str, Any]) -> int:
        number = annotation["category_id"]
        if number not in self._categories:
            raise UserError(
                f"category {number} is not in the file's categories; export it from the tool again"
            )
        return self.names.parse(self._categories[number])

    def _index(self) -> None:
        try:
            content = json.loads(self.path.read_bytes())
            self._categories = {one["id"]: one["name"] for one in content["categories"]}
            for image in content["images"]:
                self._images[self._own_name(PureWindowsPath(image["file_name"]).name)] = image
                self._drawn.setdefault(image["id"], [])
            for annotation in content["annotations"]:
                self._drawn.setdefault(annotation["image_id"], []).append(annotation)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.path}: no COCO file ({error!r}); export it from the tool again"
            ) from error


def _image(task: Task) -> dict[str, Any]:
    height, width = task.crop.picture_size
    return {"id": task.number + 1, "file_name": f"{task.stem}.png", "width": width, "height": height}


def _check_size(image: Mapping[str, Any], crop: Crop) -> None:
    height, width = crop.picture_size
    if (image["height"], image["width"]) != (height, width):
        raise UserError(
            f"the picture has {image['width']}x{image['height']} pixels, the exported one {width}x{height}; "
            "label the exported picture"
        )


def _inside(crop: Crop, annotation: Mapping[str, Any]) -> np.ndarray:
    drawn = annotation.get("segmentation")
    if not drawn:
        left, top, width, height = annotation["bbox"]
        return shapes.rectangle(crop, [[left, top], [left + width, top + height]])
    if isinstance(drawn, Mapping):
        if tuple(drawn["size"]) != crop.picture_size:
            raise UserError(f"a mask has the size {drawn['size']}, the picture {list(crop.picture_size)}")
        return shapes.from_picture(crop, shapes.decode_runs(drawn["counts"], crop.picture_size))
    parts = [shapes.polygon(crop, np.asarray(part, np.float64).reshape(-1, 2)) for part in drawn]
    return np.logical_or.reduce(parts)


def _annotations(
    crop: Crop, label: np.ndarray, names: ClassNames, *, answered: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class name and drawing: a polygon for every region of one class, a mask per class for the others.

    The suggestions of a whole image are polygons over one that leaves everything open.
    """
    if crop.is_whole and not answered:
        yield names.name(UNANSWERED), _polygon(crop, (0, 0, *crop.size))
        for class_id, corners in suggested_outlines(label):
            yield names.name(class_id), _outline(corners)
        return
    for box in crop.boxes():
        top, left, bottom, right = box
        classes = np.unique(label[top:bottom, left:right]).tolist()
        for class_id in classes:
            if len(classes) == 1:
                yield names.name(class_id), _polygon(crop, box)
            else:
                inside = np.zeros(crop.size, bool)
                inside[top:bottom, left:right] = label[top:bottom, left:right] == class_id
                yield names.name(class_id), _mask(crop, inside)


def _polygon(crop: Crop, box: Box) -> dict[str, Any]:
    top, left, bottom, right = (edge * crop.scale for edge in box)
    return {
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
    }


def _outline(corners: np.ndarray) -> dict[str, Any]:
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    return {
        "segmentation": [corners.ravel().tolist()],
        "bbox": [left, top, right - left, bottom - top],
        "area": float(cv2.contourArea(corners.astype(np.int32))),
        "iscrowd": 0,
    }


def _mask(crop: Crop, inside: np.ndarray) -> dict[str, Any]:
    rows, columns = (np.flatnonzero(inside.any(axis)) * crop.scale for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    width, height = int(columns[-1]) + crop.scale - left, int(rows[-1]) + crop.scale - top
    return {
        "segmentation": {"counts": shapes.encode_runs(crop.enlarge(inside)), "size": list(crop.picture_size)},
        "bbox": [left, top, width, height],
        "area": int(inside.sum()) * crop.scale**2,
        "iscrowd": 1,  # tools take run lengths for crowds only
    }
