"""What an import found, for people: counts, and lists that are never cut in the report file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import UserError
from utils.files import write_atomically

REPORT_FILE = "import_report.txt"
SHOWN = 20  # lines of a list before "and so many more"


@dataclass(slots=True)
class ImportReport:
    """What was found in the packages.

    Attributes:
        unit: what is answered at a time, for people: "crops" or (whole) "images".
        crops: with answers that were taken over.
        pixels: queried pixels in them that have an answer.
        cannot_tell: pixels among these that were answered "cannot tell".
        outside: labelled pixels outside of the regions, which count for nothing.
        problems: files that cannot be used, in a line each.
        conflicts: pixels labelled twice with different classes that were settled, in a line per crop.
        gaps: queried pixels without a label in crops that are answered, in a line per crop.
        withdrawn: crops answered in an earlier import and not now, whose stored answers stay, in a line each.
        contradictions: pixels that two annotators see differently, in a line per image.
        waiting: crops that are not answered yet, by the reason.
        changed: by annotator, stored answers that the packages contradict.
        found: whose packages were read.
    """

    unit: str = "crops"
    crops: int = 0
    pixels: int = 0
    cannot_tell: int = 0
    outside: int = 0
    problems: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)

    def refuse_problems(self, path: Path | None = None) -> None:
        """Stops where a file cannot be used; `path` holds the complete list.

        Raises:
            UserError: lists the problems.
        """
        if self.problems:
            cut = len(self.problems) > SHOWN and path is not None
            everything = f"\nall of them: {path}" if cut else ""
            raise UserError(
                f"{len(self.problems)} problem(s), so nothing is stored; repair the files, or store the rest "
                f"by --skip-bad-files:\n{shown_list(self.problems)}{everything}"
            )

    def refuse_changes(self) -> None:
        """Stops where stored answers would be replaced.

        Raises:
            UserError: says whose, and how many.
        """
        if self.changed:
            raise UserError(
                f"{self.changes_text()}, so nothing is stored: is this an older copy, or another person's "
                "work? Name the newest folder, or replace the stored answers by --replace"
            )

    def changes_text(self) -> str:
        """Whose stored answers change, and how many."""
        return ", ".join(f"{count} answers of {name} change" for name, count in sorted(self.changed.items()))

    def write(self, folder: Path) -> Path:
        """Writes all lists completely into a round's folder; returns the file."""
        path = folder / REPORT_FILE
        write_atomically(path, "\n".join([*self._counts(), *self._listed(limit=None)]) + "\n")
        return path

    def text(self) -> str:
        """For the screen: the beginning of every list, problems aside."""
        return "\n".join([*self._counts(), *self._listed(limit=SHOWN, problems=False)])

    @property
    def is_cut(self) -> bool:
        """Whether the screen does not show everything."""
        lists = (self.problems, self.conflicts, self.gaps, self.withdrawn, self.contradictions)
        return any(len(lines) > SHOWN for lines in lists)

    def _counts(self) -> list[str]:
        outside = f"; {self.outside} labelled pixels lie outside of the regions and count for nothing"
        return [
            f"{self.crops} {self.unit} answered: {self.pixels} queried pixels, {self.cannot_tell} of them "
            f"cannot be told{outside if self.unit == 'crops' else ''}",
            *(f"{count} {self.unit} are not answered: {reason}" for reason, count in self.waiting.items()),
        ]

    def _listed(self, *, limit: int | None, problems: bool = True) -> list[str]:
        titles = {
            "problems in {} files": self.problems if problems else [],
            f"settled contradictions in {{}} {self.unit}": self.conflicts,
            f"gaps in {{}} {self.unit}, which stay open": self.gaps,
            f"{{}} {self.unit} were answered before and are not any more; their stored answers stay": (
                self.withdrawn
            ),
            "annotators contradict each other in {} images": self.contradictions,
        }
        return [
            f"{title.format(len(lines))}:\n{shown_list(lines, limit)}"
            for title, lines in titles.items()
            if lines
        ]


def shown_list(lines: Sequence[str], limit: int | None = SHOWN) -> str:
    """The first lines, indented, and how many more there are; None: all."""
    shown = lines[:limit]
    more = [f"  ... and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
    return "\n".join([*(f"  {' '.join(line.split())}" for line in shown), *more])
