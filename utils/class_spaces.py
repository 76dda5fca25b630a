"""Class names, colours and subsets, and how the predictions of one set of classes are merged into another.

A *class space* is the list of classes a network predicts: train ids 0..C-1 index into it, 255 is ignored.
This is the only place that knows names and palettes; data descriptions (data_loaders/descriptions) only say
how raw label ids become train ids of a space. A description file of the user's own may add a space with
`register_class_space`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from utils.errors import UserError

IGNORE_LABEL = 255
TABLE_SIZE = 256  # one entry for every uint8 id

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ClassSpace:
    """The classes of a network's output, in the order of its train ids.

    `palette` holds one RGB colour per class; `subsets` names groups of train ids over which a second mean is
    reported; `things` are the train ids of countable objects, such as cars, unlike roads or sky.
    """

    name: str
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    subsets: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    things: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        """C: train ids are 0..C-1."""
        return len(self.class_names)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # A read-only mapping cannot be pickled, and loader workers get the description by pickle.
        return ClassSpace, (self.name, self.class_names, self.palette, dict(self.subsets), self.things)


def _without(num_classes: int, *missing: int) -> tuple[int, ...]:
    return tuple(index for index in range(num_classes) if index not in missing)


_CITYSCAPES: tuple[tuple[str, Color], ...] = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("light", (250, 170, 30)),
    ("sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
# The objects whose features DAFormer keeps near their start; poles and fences count as stuff there.
_CITYSCAPES_THINGS = ("light", "sign", *(name for name, _ in _CITYSCAPES[11:]))
_SYNTHIA_CLASSES = _without(19, 9, 14, 16)  # SYNTHIA has no terrain, truck and train

_ROBOTCAR: tuple[tuple[str, Color], ...] = (
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("two-wheel", (119, 11, 32)),
    ("automobile", (0, 0, 142)),
    ("sign", (220, 220, 0)),
    ("light", (250, 170, 30)),
    ("building", (70, 70, 70)),
    ("sidewalk", (244, 35, 232)),
    ("road", (128, 64, 128)),
)

_CAMVID: tuple[tuple[str, Color], ...] = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)

_IDD: tuple[tuple[str, Color], ...] = (
    ("drivable", (128, 64, 128)),
    ("non-drivable", (244, 35, 232)),
    ("living things", (220, 20, 60)),
    ("vehicles", (0, 0, 142)),
    ("roadside objects", (220, 220, 0)),
    ("far objects", (107, 142, 35)),
    ("sky", (70, 130, 180)),
)


def _space(
    name: str,
    classes: Sequence[tuple[str, Color]],
    subsets: Mapping[str, tuple[int, ...]] | None = None,
    *,
    things: Sequence[str],
) -> ClassSpace:
    names, colors = zip(*classes, strict=True)
    ids = tuple(names.index(thing) for thing in things)
    return ClassSpace(name, tuple(names), tuple(colors), MappingProxyType(dict(subsets or {})), ids)


_spaces: dict[str, ClassSpace] = {
    space.name: space
    for space in (
        _space(
            "cityscapes19",
            _CITYSCAPES,
            {"16 classes": _SYNTHIA_CLASSES, "13 classes": _without(19, 3, 4, 5, 9, 14, 16)},
            things=_CITYSCAPES_THINGS,
        ),
        _space(
            "synthia16",
            [_CITYSCAPES[index] for index in _SYNTHIA_CLASSES],
            {"13 classes": _without(16, 3, 4, 5)},
            things=[name for name in _CITYSCAPES_THINGS if name not in ("truck", "train")],
        ),
        _space("robotcar9", _ROBOTCAR, things=("person", "two-wheel", "automobile", "sign", "light")),
        _space("camvid11", _CAMVID, things=("sign", "car", "pedestrian", "bicyclist")),
        _space("idd7", _IDD, things=("living things", "vehicles", "roadside objects")),
    )
}
CLASS_SPACES: Mapping[str, ClassSpace] = MappingProxyType(_spaces)

# (source space, target space) -> for each source train id the target train id. 255: the target does not know
# the class, so such a prediction is right nowhere.
_merges: dict[tuple[str, str], tuple[int, ...]] = {
    ("cityscapes19", "synthia16"): (0, 1, 2, 3, 4, 5, 6, 7, 8, 255, 9, 10, 11, 12, 255, 13, 255, 14, 15),
    ("synthia16", "cityscapes19"): _SYNTHIA_CLASSES,
    ("cityscapes19", "robotcar9"): (8, 7, 6, 255, 255, 255, 5, 4, 255, 255, 0, 1, 1, 3, 3, 3, 255, 2, 2),
    ("cityscapes19", "camvid11"): (3, 4, 1, 1, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10),
    ("cityscapes19", "idd7"): (0, 1, 5, 4, 4, 4, 4, 4, 5, 1, 6, 2, 2, 3, 3, 3, 3, 3, 3),
    # CamVid's bicyclist holds the rider (living thing) and the bicycle (vehicle) together: no class of idd7.
    ("camvid11", "idd7"): (6, 5, 4, 0, 1, 5, 4, 4, 3, 2, 255),
}
_HUB = "cityscapes19"  # a merge that is not listed may go through it


def class_space(name: str) -> ClassSpace:
    """The class space of this name.

    Raises:
        UserError: no space has this name; names the nearest one.
    """
    if name in _spaces:
        return _spaces[name]
    near = difflib.get_close_matches(name, _spaces, n=1, cutoff=0.4)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else "give the description file (.toml) that defines it as a data set."
    )
    raise UserError(f"unknown class space {name!r}, known: {', '.join(_spaces)}; {hint}")


def register_class_space(space: ClassSpace, merges: Mapping[str, Sequence[int]] | None = None) -> None:
    """Adds a space of the user's own.

    `merges` maps the name of a known space to the new train id of each of its classes.
    Registering the same space again changes nothing.

    Raises:
        UserError: the name is taken by another space, names and colours differ in number, or a merge does not
        fit.
    """
    known = _spaces.get(space.name)
    if known is not None and known != space:
        raise UserError(
            f"class space {space.name!r} is already defined with other classes; choose another name."
        )
    if space.num_classes == 0 or space.num_classes > IGNORE_LABEL:
        raise UserError(
            f"class space {space.name!r} has {space.num_classes} classes; 1 to {IGNORE_LABEL} are possible."
        )
    if len(space.palette) != space.num_classes:
        raise UserError(
            f"class space {space.name!r} has {space.num_classes} class names but {len(space.palette)} "
            "colours in palette."
        )
    for name, members in space.subsets.items():
        if not all(0 <= member < space.num_classes for member in members):
            raise UserError(
                f"class space {space.name!r}: subset {name!r} has ids outside 0..{space.num_classes - 1}."
            )
    if not all(0 <= thing < space.num_classes for thing in space.things):
        raise UserError(
            f"class space {space.name!r}: things {list(space.things)} has ids outside "
            f"0..{space.num_classes - 1}."
        )
    for source, ids in (merges or {}).items():
        _check_merge(class_space(source), space, ids)
    _spaces[space.name] = space
    for source, ids in (merges or {}).items():
        _merges[source, space.name] = tuple(ids)


def _check_merge(source: ClassSpace, target: ClassSpace, ids: Sequence[int]) -> None:
    allowed = {*range(target.num_classes), IGNORE_LABEL}
    if len(ids) != source.num_classes or not set(ids) <= allowed:
        raise UserError(
            f"class space {target.name!r}: the merge from {source.name} needs {source.num_classes} ids, each "
            f"0..{target.num_classes - 1} or {IGNORE_LABEL}; found {list(ids)}."
        )


def merge_table(source: str, target: str) -> np.ndarray:
    """(256,) uint8 table from train ids of `source` to train ids of `target`; every other entry is 255.

    Equal names give the identity on the space's classes. Meant for *predictions* in a cross-dataset
    evaluation, and for labels of a set whose raw ids have no table of their own for `target`. A merge that is
    not listed goes through cityscapes19 where both halves exist.

    Raises:
        UserError: an unknown name, or no merge between the two.
    """
    source_space, target_space = class_space(source), class_space(target)
    if source_space.name == target_space.name:
        return expand_table(range(source_space.num_classes))
    if (source, target) in _merges:
        return expand_table(_merges[source, target])
    if (source, _HUB) in _merges and (_HUB, target) in _merges:
        return merge_table(_HUB, target)[merge_table(source, _HUB)]
    possible = sorted({name for name, end in _merges if end == target})
    raise UserError(
        f"no merge from class space {source} to {target}; into {target} go: {', '.join(possible) or 'none'}. "
        f"A description file can define one under [class_space.merge]."
    )


def expand_table(ids: Sequence[int] | Mapping[int, int]) -> np.ndarray:
    """(256,) uint8 table with `ids` (by position, or raw id -> train id) filled in, else 255."""
    table = np.full(TABLE_SIZE, IGNORE_LABEL, np.uint8)
    pairs = ids.items() if isinstance(ids, Mapping) else enumerate(ids)
    for raw, train in pairs:
        table[raw] = train
    return table
