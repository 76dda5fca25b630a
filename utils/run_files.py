"""Names of what lies in a run folder; imports nothing heavy, so that small tools can look into one."""

from __future__ import annotations

import re

DONE = "DONE"
PREEMPTED = "PREEMPTED"
WAITING_FOR_LABELS = "WAITING_FOR_LABELS"
MARKS = (DONE, PREEMPTED, WAITING_FOR_LABELS)

ARGUMENTS_FILE = "arguments.json"
LOCK_FILE = ".lock"
LOG_FILE = "log.txt"
METRICS_FILE = "metrics.jsonl"
SNAPSHOT_NAME = re.compile(r"iteration_(\d+)\.pth")
ENDED_BY = "ended by"  # in the log, before the error that ended a run
