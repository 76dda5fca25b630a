"""Reads and checks one description file (TOML); every mistake is one line with the file and the key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from data_loaders.decoding import LABEL_ENCODINGS
from data_loaders.layouts import Layout, check_pattern
from utils.class_spaces import IGNORE_LABEL, TABLE_SIZE, ClassSpace, class_space, register_class_space
from utils.errors import UserError

_IMAGE_PLACEHOLDERS = frozenset({"split", "group", "name", "ext"})
_LABEL_PLACEHOLDERS = frozenset({"split", "group", "name"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptionContent:
    """The checked content of one file; keys as in docs/datasets.md, defaults filled in.

    `image_size` is (width, height), nominal. `split_folders`, `file_counts` and `lists` are by split;
    `folders` are the data set's usual folder names below a data root, `subfolders` what may lie between such
    a folder and the patterns. `label_info` is the file name of RIPU's table of this data set. `root` is the
    data set's folder as written in the file.
    """

    name: str
    title: str
    default_class_space: str
    splits: tuple[str, ...]
    split_folders: Mapping[str, str]
    folders: tuple[str, ...]
    subfolders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    label_tables: Mapping[str, Mapping[int, int]]
    void_ids: frozenset[int]
    image_size: tuple[int, int] | None
    file_counts: Mapping[str, int]
    lists: Mapping[str, str]
    label_info: str
    root: str | None


class _Section:
    """Typed access to one TOML table; remembers what was asked for, so that misspelt keys can be reported."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self._asked: set[str] = set()

    def get(self, key: str, kind: type | UnionType, default: Any) -> Any:
        self._asked.add(key)
        value = self.values.get(key, default)
        if key in self.values and (not isinstance(value, kind) or isinstance(value, bool)):
            raise UserError(f"{self.where}: {key} = {value!r} should be a {_kind_name(kind)}.")
        return value

    def require(self, key: str, kind: type | UnionType) -> Any:
        if key not in self.values:
            raise UserError(
                f"{self.where}: the key {key!r} is missing; docs/datasets.md shows a complete file."
            )
        return self.get(key, kind, None)

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        values = self.get(key, list, list(default))
        if not all(isinstance(value, str) for value in values):
            raise UserError(f"{self.where}: {key} = {values!r} should be a list of texts.")
        return tuple(values)

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return _integers(self.get(key, list, list(default)), f"{self.where}: {key}")

    def mapping(self, key: str, kind: type) -> dict[str, Any]:
        values = self.get(key, dict, {})
        if not all(isinstance(value, kind) for value in values.values()):
            raise UserError(
                f"{self.where}: every value of [{key}] should be a {_kind_name(kind)}; found {values!r}."
            )
        return dict(values)

    def finish(self) -> None:
        """Refuses keys that nobody asked for."""
        for key in self.values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1)
                hint = (
                    f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(self._asked))}."
                )
                raise UserError(f"{self.where}: unknown key {key!r}; {hint}")


def read_description_file(path: Path) -> DescriptionContent:
    """The content of a description file; registers the class space it defines.

    Raises:
        UserError: the file is missing, is no TOML, or a key is missing, unknown or of the wrong type.
    """
    top = _Section(_read_toml(path), str(path))
    space = _read_class_space(top)
    splits = top.texts("splits", ("train",))
    content = DescriptionContent(
        name=top.get("name", str, path.stem),
        title=top.get("title", str, top.get("name", str, path.stem)),
        default_class_space=space,
        splits=splits,
        split_folders=top.mapping("split_folders", str),
        folders=top.texts("folders", ()),
        subfolders=top.texts("subfolders", ("",)),
        layouts=_read_layouts(top, splits),
        label_tables=_read_label_tables(top),
        void_ids=frozenset(top.integers("void_ids", ())),
        image_size=_read_image_size(top),
        file_counts=top.mapping("file_counts", int),
        lists=top.mapping("lists", str),
        label_info=top.get("label_info", str, f"{top.get('name', str, path.stem)}_label_info.p"),
        root=top.get("root", str, None),
    )
    top.finish()
    return content


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"data description {path} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"data description {path} is not valid TOML: {error}.") from None


def _read_class_space(top: _Section) -> str:
    """Name of the space, given by name or defined in a table."""
    value = top.require("class_space", str | dict)
    if isinstance(value, str):
        return class_space(value).name
    section = _Section(value, f"{top.where} [class_space]")
    colors = section.require("palette", list)
    subsets = section.mapping("subsets", list)
    merges = section.mapping("merge", list)
    names = section.texts("names", ())
    space = ClassSpace(
        name=section.require("name", str),
        class_names=names,
        palette=tuple(_read_color(color, section.where) for color in colors),
        subsets={name: _integers(ids, f"{section.where} subsets.{name}") for name, ids in subsets.items()},
        things=_read_things(section.get("things", list, []), names, f"{section.where}: things"),
    )
    section.finish()
    register_class_space(
        space, {name: _integers(ids, f"{section.where} merge.{name}") for name, ids in merges.items()}
    )
    return space.name


def _read_things(values: list[Any], names: tuple[str, ...], where: str) -> tuple[int, ...]:
    """Train ids of the countable classes, each given by name or by id; in ascending order, each once."""
    things = set()
    for value in values:
        thing = names.index(value) if value in names else value
        if not isinstance(thing, int) or isinstance(thing, bool) or not 0 <= thing < len(names):
            raise UserError(
                f"{where}: no class is {value!r}; give names of the space ({', '.join(names)}) or train ids "
                f"0..{len(names) - 1}."
            )
        things.add(thing)
    return tuple(sorted(things))


def _read_color(values: Any, where: str) -> tuple[int, int, int]:
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(0 <= v <= 255 for v in _integers(values, where))
    ):
        raise UserError(
            f"{where}: palette entry {values!r} should be three numbers 0..255 (red, green, blue)."
        )
    red, green, blue = values
    return red, green, blue


def _read_layouts(top: _Section, splits: tuple[str, ...]) -> tuple[Layout, ...]:
    tables = top.require("layouts", list)
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{top.where}: at least one [[layouts]] with image = '...' is needed.")
    encoding = top.get("label_encoding", str, "index")
    ids = top.get("label_ids", str, "raw")
    return tuple(
        _read_layout(_Section(table, f"{top.where} [[layouts]] {number}"), encoding, ids, splits)
        for number, table in enumerate(tables, 1)
    )


def _read_layout(section: _Section, encoding: str, ids: str, splits: tuple[str, ...]) -> Layout:
    image = check_pattern(section.require("image", str), _IMAGE_PLACEHOLDERS, f"{section.where} image")
    label_text = section.get("label", str, None)
    label = None
    if label_text is not None:
        label = check_pattern(label_text, _LABEL_PLACEHOLDERS, f"{section.where} label")
        if "group" in label.placeholders - image.placeholders:
            raise UserError(f"{section.where}: label has {{group}} but image has not.")
    layout = Layout(
        name=section.get("name", str, image.text),
        image=image,
        label=label,
        label_encoding=section.get("label_encoding", str, encoding),
        label_ids=section.get("label_ids", str, ids),
        splits=section.texts("splits", ()),
    )
    section.finish()
    if layout.label_encoding not in LABEL_ENCODINGS:
        raise UserError(
            f"{section.where}: label_encoding = {layout.label_encoding!r}; choose one of "
            f"{', '.join(LABEL_ENCODINGS)}."
        )
    unknown = set(layout.splits) - set(splits)
    if unknown:
        raise UserError(
            f"{section.where}: splits {sorted(unknown)} are not among the data set's {list(splits)}."
        )
    return layout


def _read_label_tables(top: _Section) -> dict[str, dict[int, int]]:
    tables = top.get("label_tables", dict, {})
    return {name: _read_label_table(name, values, top.where) for name, values in tables.items()}


def _read_label_table(name: str, values: Any, where: str) -> dict[int, int]:
    """raw id -> train id, from a table `raw = train` or a list whose positions are the raw ids."""
    where = f"{where} [label_tables.{name}]"
    classes = class_space(name).num_classes
    if isinstance(values, list):
        pairs = dict(enumerate(_integers(values, where)))
    elif isinstance(values, dict) and all(key.isdigit() for key in values):
        pairs = dict(zip(map(int, values), _integers(list(values.values()), where), strict=True))
    else:
        raise UserError(
            f"{where}: give lines `raw id = train id`, or a list of train ids in the order of raw ids."
        )
    for raw, train in pairs.items():
        if not 0 <= raw < TABLE_SIZE or not (0 <= train < classes or train == IGNORE_LABEL):
            raise UserError(
                f"{where}: {raw} = {train}; raw ids are 0..255, train ids 0..{classes - 1} or 255."
            )
    return pairs


def _read_image_size(top: _Section) -> tuple[int, int] | None:
    size = top.integers("image_size", ())
    if not size:
        return None
    if len(size) != 2 or min(size) <= 0:
        raise UserError(f"{top.where}: image_size = {list(size)} should be [width, height].")
    return size[0], size[1]


def _integers(values: Any, where: str) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(
        isinstance(v, int) and not isinstance(v, bool) for v in values
    ):
        raise UserError(f"{where}: {values!r} should be a list of whole numbers.")
    return tuple(values)


def _kind_name(kind: type | UnionType) -> str:
    names = {str: "text", int: "whole number", list: "list", dict: "table", str | dict: "text or table"}
    return names[kind]
