"""Cases of archives whose arrays are named `<field>_<case>` or `<case>_<field>`."""

from __future__ import annotations

import re

from golden_files import NO_CASES, has_golden, load_npz


def matching_cases(method: str, name: str, pattern: str) -> list[str]:
    """What `pattern` captures in the names of an archive's arrays; placeholders as `golden_files.cases`."""
    if not has_golden(method, name):
        return ["missing-goldens"]
    found = {match[1] for key in load_npz(method, name) if (match := re.fullmatch(pattern, key))}
    return sorted(found) or [NO_CASES]
