"""The phases of a run of MADA, in order, and which of them come."""

from __future__ import annotations

PHASES = ("source-anchors", "selection", "labels", "stage-1", "target-anchors", "stage-2")


def reaches(stop_after: str, phase: str) -> bool:
    """Whether a run that ends after one phase comes to another."""
    return PHASES.index(phase) <= PHASES.index(stop_after)
