"""Cases of the JSON goldens."""

from __future__ import annotations

from collections.abc import Iterable

from golden_files import NO_CASES, has_golden, load_json


def json_cases(method: str, name: str, fields: Iterable[str] = ()) -> list[str]:
    """Top-level keys without a leading underscore whose entry has all `fields`; placeholders as `cases`."""
    if not has_golden(method, name):
        return ["missing-goldens"]
    content = load_json(method, name)
    found = [
        case
        for case, entry in content.items()
        if not case.startswith("_") and all(field in entry for field in fields)
    ]
    return sorted(found) or [NO_CASES]
