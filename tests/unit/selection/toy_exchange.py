"""Exports, answers and imports of toy rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selection.exchange.answers import RoundAnswers
from selection.exchange.importing import ImportReport, read_packages
from selection.exchange.packages import Package
from selection.rounds import RoundQueries
from tests.toy_annotation import (
    CLASS_NAMES,
    answer,
    asked,
    export,
    truth_of,
)


def read(out: Path, queries: RoundQueries, on_conflict: Any = "error") -> tuple[RoundAnswers, ImportReport]:
    """The answers in a folder."""
    answers = RoundAnswers(queries)
    return answers, read_packages([out], answers, CLASS_NAMES, on_conflict=on_conflict, accept_unchanged=True)


def exported(out: Path, tool: str, *, done: bool = True, **options: Any) -> tuple[RoundQueries, Package]:
    """Two 3x3 regions of one crop, answered if `done`, and their package."""
    queries = asked([[[20, 20], [20, 25]]], 1)
    (package,) = export(queries, tool, out, **options)
    if done:
        answer(out, truth_of(queries))
    return queries, package


def edit(out: Path, change: Callable[[Any], None], name: str = "crops/*.json") -> Path:
    """Changes the JSON file of a package."""
    (path,) = out.glob(f"*/{name}")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path
