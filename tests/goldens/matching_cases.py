"""Cases of goldens whose entries are named `<field>_<case>` or `<case>_<field>`, or are rows of one field."""

from __future__ import annotations

import re
from typing import Any

from golden_files import NO_CASES, has_golden, load_json, load_npz


def matching_cases(method: str, name: str, pattern: str) -> list[str]:
    """What `pattern` captures in the names of an archive's arrays or a JSON file's entries, numbers in their
    order; placeholders as `golden_files.cases`."""
    if not has_golden(method, name):
        return ["missing-goldens"]
    found = {match[1] for key in _entries(method, name) if (match := re.fullmatch(pattern, key))}
    return sorted(found, key=_natural) or [NO_CASES]


def row_cases(method: str, name: str, field: str | None = None) -> list[int | str]:
    """Positions along the first axis of a field, or in a JSON file that is a list; placeholders as above."""
    if not has_golden(method, name):
        return ["missing-goldens"]
    content = _entries(method, name)
    rows = content if field is None else content.get(field, ())
    return [*range(len(rows))] or [NO_CASES]


def _entries(method: str, name: str) -> Any:
    return load_json(method, name) if name.endswith(".json") else load_npz(method, name)


def _natural(text: str) -> list[int | str]:
    """Texts and numbers by turns."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
