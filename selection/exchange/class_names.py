"""The words of annotation files: class names, "cannot tell", and "?" for a region without an answer."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from selection.rounds import UNANSWERED
from utils.class_spaces import IGNORE_LABEL, ClassSpace, Color
from utils.errors import UserError

CANNOT_TELL = "cannot tell"
OPEN = "?"
_ALSO_IGNORED = ("ignore", "void")

OPEN_COLOR: Color = (255, 0, 255)  # of no class in any of our spaces
IGNORED_COLOR: Color = (0, 0, 0)


class ClassNames:
    """Classes by the names that people see.

    Args:
        space: the classes of the round. A class of the name "void" or "ignore" is that class.
    """

    def __init__(self, space: ClassSpace) -> None:
        self.space = space
        self._ids = {CANNOT_TELL: IGNORE_LABEL, OPEN: UNANSWERED}
        self._ids |= dict.fromkeys(_ALSO_IGNORED, IGNORE_LABEL)
        self._ids |= {name: index for index, name in enumerate(space.class_names)}
        self._names = {UNANSWERED: OPEN, IGNORE_LABEL: CANNOT_TELL, **dict(enumerate(space.class_names))}

    @property
    def choices(self) -> tuple[str, ...]:
        """What people choose from: the classes, "cannot tell", and last "?"."""
        return (*self.space.class_names, CANNOT_TELL, OPEN)

    def palette(self) -> list[Color]:
        """256 colours of a label picture."""
        unused = [IGNORED_COLOR] * (256 - self.space.num_classes)
        colors = [*self.space.palette, *unused]
        colors[UNANSWERED] = OPEN_COLOR
        return colors

    def name(self, class_id: int) -> str:
        """The name of a train id, of 255 ("cannot tell") or 254 ("?")."""
        return self._names[class_id]

    def parse(self, name: object) -> int:
        """The train id of a name; 255 for "cannot tell", 254 for "?".

        Raises:
            UserError: no class has this name; says which one is nearest. Spelling and case must be right.
        """
        if isinstance(name, str) and name.strip() in self._ids:
            return self._ids[name.strip()]
        nearest = self._nearest(str(name))
        hint = f"did you mean {nearest!r}?" if nearest else f"known: {', '.join(self.choices)}"
        raise UserError(f"{name!r} is no class of {self.space.name}; {hint}")

    def unknown_values(self, values: Sequence[int]) -> list[int]:
        """Those numbers that stand for no class, "cannot tell" or an open pixel."""
        return [value for value in values if value not in self._names]

    def _nearest(self, name: str) -> str | None:
        plain = {_plain(known): known for known in self._ids}
        close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.5)
        return plain[close[0]] if close else None


def _plain(name: str) -> str:
    """Lower-case words with single spaces; "?" stays."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()
