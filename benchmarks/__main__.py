"""Runs the side-by-side timings on one CPU thread and prints them as a table.

All:   OMP_NUM_THREADS=1 python -m benchmarks
Some:  python -m benchmarks label_mapping ...
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

import cv2
import torch

import benchmarks
from benchmarks.harness import Result, format_results

_NOT_BENCHMARKS = ("harness", "drawn", "peak_memory", "plain_scores", "__main__")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns 0."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name not in _NOT_BENCHMARKS
    )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run; all: {', '.join(names)}")
    chosen = parser.parse_args(argv).names or names
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(names)}")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    results: list[Result] = []
    tables: list[str] = []  # what some print besides, such as how a time grows
    for name in chosen:
        print(f"running {name} ...", file=sys.stderr, flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        results += module.run()
        if hasattr(module, "table"):
            tables.append(f"{name}:\n\n{module.table()}")
    print("\n\n".join([format_results(results), *tables]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
