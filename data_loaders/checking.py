"""Looks into the files of a data set: are the ids known, do sizes agree, can every file be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from data_loaders.decoding import read_image, read_raw_label, unknown_table, unknown_values
from data_loaders.description import DatasetDescription
from data_loaders.file_list import SKIPPED_SHARE, FileList, Item, join_names
from data_loaders.parallel import ProgressLine, map_files
from utils.class_spaces import IGNORE_LABEL, TABLE_SIZE, class_space
from utils.errors import UserError, alike_everywhere

_TRAIN_IDS, _LABEL_IDS = "labelTrainIds", "labelIds"
_OTHER_KINDS = {  # how the stem of a file ends -> what it holds
    "instanceIds": "instance ids",
    "labelColor": "colours",
    "_color": "colours",
}


def check_label_values(raw: np.ndarray, description: DatasetDescription, path: Path) -> None:
    """Refuses a label map with ids that the description does not know, or whose file name says other ids.

    Args:
        raw: (H, W) uint8 as read by `read_raw_label`.
        description: of the layout that the file belongs to.
        path: the file, for the message.

    Raises:
        UserError: says which values, which file, and which file was probably meant.
    """
    _check_file_name(description, path)
    unknown = unknown_values(raw, unknown_table(description.known_ids()))
    if unknown:
        values, pixels = join_names(list(unknown), 8), sum(unknown.values())
        raise UserError(
            f"label values {{{values}}} ({pixels} of {raw.size} pixels) in {path} are not "
            f"{_expected_ids(description)}; {_remedy(description, path)}"
        )


@alike_everywhere()
def check_first_labels(files: FileList, number: int = 3) -> None:
    """Checks the first, the last and evenly spaced labels in between, before a long run starts.

    Raises:
        UserError: as `check_label_values` and `read_raw_label`.
    """
    labelled = [item.label for item in files.items if item.label is not None]
    places = np.linspace(0, len(labelled) - 1, min(number, len(labelled))).round().astype(int)
    for place in dict.fromkeys(places.tolist()):
        path = labelled[place]
        raw = read_raw_label(path, files.description.label_encoding)
        check_label_values(raw, files.description, path)


def _check_file_name(description: DatasetDescription, path: Path) -> None:
    stem = path.stem
    for mark, kind in _OTHER_KINDS.items():
        if stem.endswith(mark):
            separator = "_" if mark.startswith("_") else ""
            meant = f"{stem.removesuffix(mark)}{separator}{_LABEL_IDS}{path.suffix}"
            raise UserError(f"label {path} holds {kind}, not class ids; did you mean {meant}?")
    if description.label_ids == "train" and stem.endswith(_LABEL_IDS):
        meant = f"{stem.removesuffix(_LABEL_IDS)}{_TRAIN_IDS}{path.suffix}"
        raise UserError(
            f"label {path} holds raw label ids, but data set {description.name} is read as train ids; did "
            "you mean "
            f"{meant}? Otherwise set label_ids = 'raw' in its description."
        )
    if description.label_ids != "train" and stem.endswith(_TRAIN_IDS):
        meant = f"{stem.removesuffix(_TRAIN_IDS)}{_LABEL_IDS}{path.suffix}"
        raise UserError(
            f"label {path} holds train ids, but data set {description.name} is read as raw label ids; did "
            "you mean "
            f"{meant}? Otherwise set label_ids = 'train' in its description."
        )


def _expected_ids(description: DatasetDescription) -> str:
    if description.label_ids == "train":
        last = class_space(description.default_class_space).num_classes - 1
        return f"train ids 0..{last} or {IGNORE_LABEL}"
    numbering = description.name if description.label_ids == "raw" else description.label_ids
    return f"label ids of {numbering} ({_ranges(sorted(description.known_ids()))})"


def _remedy(description: DatasetDescription, path: Path) -> str:
    if description.label_ids == "train":
        return f"did you mean *_{_TRAIN_IDS}.png, or label_ids = 'raw' in the description?"
    ends = [layout.label.suffix() for layout in description.layouts if layout.label is not None]
    usual = "" if any(path.name.endswith(end) for end in ends) or not ends else f"did you mean *{ends[0]}? "
    return (
        f"{usual}is it a label of another data set? If it is right, add the ids to void_ids of a description."
    )


def _ranges(ids: Sequence[int]) -> str:
    """0..34, 255"""
    breaks = [place for place in range(1, len(ids)) if ids[place] != ids[place - 1] + 1]
    runs = [ids[start:end] for start, end in zip([0, *breaks], [*breaks, len(ids)], strict=True)]
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


@dataclass(frozen=True, slots=True)
class PairFinding:
    """What one image and its label hold; `problem` is empty when both could be read."""

    name: str
    image_size: tuple[int, int] | None = None  # W, H
    label_size: tuple[int, int] | None = None
    raw_counts: np.ndarray | None = None  # (256,) int64 pixels per id in the file
    problem: str = ""


@dataclass(slots=True)
class CheckReport:
    """The findings of a whole list."""

    files: FileList
    findings: list[PairFinding] = field(default_factory=list)

    @property
    def unreadable(self) -> list[PairFinding]:
        """Pairs with a file that cannot be decoded."""
        return [finding for finding in self.findings if finding.problem]

    @property
    def other_size(self) -> list[PairFinding]:
        """Pairs whose label has another size than the image; both are resized on their own in training."""
        return [f for f in self.findings if f.label_size is not None and f.label_size != f.image_size]

    @property
    def raw_counts(self) -> np.ndarray:
        """(256,) int64 pixels per id over all labels."""
        return sum(
            (finding.raw_counts for finding in self.findings if finding.raw_counts is not None),
            start=np.zeros(TABLE_SIZE, np.int64),
        )

    @property
    def unknown_ids(self) -> dict[int, tuple[int, str]]:
        """Ids that no table knows: id -> (pixels, first file)."""
        counts, known = self.raw_counts, self.files.description.known_ids()
        unknown = [value for value in np.flatnonzero(counts).tolist() if value not in known]
        return {value: (int(counts[value]), self._first_with(value)) for value in unknown}

    @property
    def image_sizes(self) -> Counter[tuple[int, int]]:
        """How many images have each size (W, H)."""
        return Counter(finding.image_size for finding in self.findings if finding.image_size is not None)

    def good_names(self) -> list[str]:
        """Names of the images that can be read, with labels that can be read and hold known ids only."""
        unknown = list(self.unknown_ids)
        return [
            finding.name
            for finding in self.findings
            if not finding.problem and (finding.raw_counts is None or not finding.raw_counts[unknown].any())
        ]

    def verdict(self, *, strict: bool) -> None:
        """The 0.5 % rule over incomplete and unreadable pairs.

        Raises:
            UserError: unknown ids, or too many bad pairs (with `strict`: any).
        """
        bad = [*self.files.skipped, *(finding.name for finding in self.unreadable)]
        total = len(self.findings) + len(self.files.skipped)
        allowed = 0 if strict else SKIPPED_SHARE * total
        if self.unknown_ids:
            value, (_, name) = next(iter(self.unknown_ids.items()))
            raise UserError(
                f"{self.files.root}: {len(self.unknown_ids)} ids are not "
                f"{_expected_ids(self.files.description)}, "
                f"first {value} in {name}; see the table above."
            )
        if len(bad) > allowed:
            raise UserError(
                f"{self.files.root}: {len(bad)} of {total} pairs are incomplete or unreadable "
                f"({join_names(bad, 3)}), "
                f"{'--strict allows none' if strict else f'at most {SKIPPED_SHARE:.1%} may be'}; "
                "--write-list writes "
                f"a list of the good ones."
            )

    def _first_with(self, value: int) -> str:
        return next(f.name for f in self.findings if f.raw_counts is not None and f.raw_counts[value])


def inspect_pair(item: Item, encoding: str) -> PairFinding:
    """Decodes one image and its label."""
    try:
        image = read_image(item.image)
        raw = None if item.label is None else read_raw_label(item.label, encoding)
    except UserError as error:
        return PairFinding(item.name, problem=str(error))
    size = (image.shape[1], image.shape[0])
    if raw is None:
        return PairFinding(item.name, size)
    return PairFinding(
        item.name, size, (raw.shape[1], raw.shape[0]), np.bincount(raw.ravel(), minlength=TABLE_SIZE)
    )


def check_files(files: FileList, *, num_workers: int, progress: ProgressLine | None = None) -> CheckReport:
    """Decodes every image and label of a list."""
    inspect = partial(inspect_pair, encoding=files.description.label_encoding)
    findings = map_files(inspect, files.items, num_workers=num_workers, progress=progress)
    return CheckReport(files, list(findings))


def format_report(report: CheckReport, space: str) -> str:
    """The report as text: counts, sizes, problems, and a table of ids."""
    files = report.files
    lines = [
        f"{files.description.title}, split {files.split}: {len(files)} images in {files.root} (layout "
        f"{files.layout})",
        *_problem_lines(report),
        "image sizes: " + join_names([f"{w}x{h} ({n})" for (w, h), n in report.image_sizes.most_common()]),
    ]
    if report.raw_counts.any():
        lines += ["", *_id_table(report, space)]
    return "\n".join(lines)


def _problem_lines(report: CheckReport) -> list[str]:
    expected = report.files.description.file_counts.get(report.files.split)
    found = len(report.files) + len(report.files.skipped)
    lines = []
    if expected is not None and found != expected:
        lines.append(f"note: the complete split has {expected} images")
    problems = {
        "incomplete": list(report.files.skipped),
        "unreadable": [finding.problem for finding in report.unreadable],
        "label size differs": [
            f"{f.name} (image {f.image_size}, label {f.label_size})" for f in report.other_size
        ],
        "unknown ids": [
            f"{value} ({pixels} pixels, first in {name})"
            for value, (pixels, name) in report.unknown_ids.items()
        ],
    }
    for title, entries in problems.items():
        lines.append(f"{title}: {len(entries)}")
        lines += [f"  {entry}" for entry in entries[:20]]
        if len(entries) > 20:
            lines.append(f"  ... {len(entries) - 20} more")
    return lines


def _id_table(report: CheckReport, space: str) -> list[str]:
    """One line per id that occurs: raw id, train id, class, pixels, share, images."""
    counts, known = report.raw_counts, report.files.description.known_ids()
    table, names = report.files.label_table(space), class_space(space).class_names
    with_counts = [f.raw_counts for f in report.findings if f.raw_counts is not None]
    images = sum((c > 0 for c in with_counts), start=np.zeros(TABLE_SIZE, np.int64))
    lines = [f"{'id':>4} {'train id':>8}  {'class':<18} {'pixels':>15} {'share':>8} {'images':>7}"]
    for value in np.flatnonzero(counts).tolist():
        train = int(table[value])
        name = names[train] if train < len(names) else ("ignored" if value in known else "UNKNOWN")
        share = counts[value] / counts.sum()
        lines.append(
            f"{value:>4} {train:>8}  {name:<18} {counts[value]:>15} {share:>8.3%} {images[value]:>7}"
        )
    return lines
