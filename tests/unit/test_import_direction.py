"""Imports point one way, one module speaks to torch.distributed, and functions stay short."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MIDDLE = ("networks", "losses", "selection", "data_loaders")
PACKAGES = ("trainers", *MIDDLE, "utils")
ALLOWED = {"trainers": {"trainers", *MIDDLE, "utils"}, "utils": {"utils"}}
ALLOWED |= {package: {package, "utils"} for package in MIDDLE}
ENTRY_POINTS = tuple(file.stem for file in REPOSITORY.glob("*.py"))
OURS = {*PACKAGES, *ENTRY_POINTS, "launch", "benchmarks", "tests"}
MAX_FUNCTION_LINES = 80


def python_files(*folders: str) -> list[Path]:
    """Source files of the folders, relative to the repository."""
    found = (file for folder in folders for file in (REPOSITORY / folder).rglob("*.py"))
    return sorted(file.relative_to(REPOSITORY) for file in found)


PACKAGE_FILES = python_files(*PACKAGES)
PROGRAM_FILES = [
    *PACKAGE_FILES,
    *python_files("launch", "benchmarks"),
    *(Path(f"{e}.py") for e in ENTRY_POINTS),
]


def imported_modules(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full name of every imported module or name, also inside functions; relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def forbidden_imports(source: str, file: Path) -> list[str]:
    """The imports of ours that a file of a package may not have."""
    allowed = ALLOWED[file.parts[0]]
    modules = imported_modules(ast.parse(source), file.parts[:-1])
    tops = ((line, name, name.split(".")[0]) for line, name in modules)
    return [f"{file}:{line} imports {name}" for line, name, top in tops if top in OURS - allowed]


def process_group_uses(source: str, file: Path) -> list[str]:
    """Where a file imports or names torch.distributed."""
    tree = ast.parse(source)
    lines = [line for line, name in imported_modules(tree, file.parts[:-1]) if is_process_group(name)]
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    lines += [node.lineno for node in attributes if ast.unparse(node) == "torch.distributed"]
    return [f"{file}:{line} uses torch.distributed" for line in lines]


def is_process_group(name: str) -> bool:
    """Whether a dotted name is torch.distributed or inside it."""
    return f"{name}.".startswith("torch.distributed.")


def long_functions(source: str, file: Path) -> list[str]:
    """Functions over the limit, counted from `def` to the last line."""
    functions = (
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = ((node, node.end_lineno - node.lineno + 1) for node in functions)
    return [f"{file}:{node.lineno} {node.name}: {n} lines" for node, n in lengths if n > MAX_FUNCTION_LINES]


def findings(check: Callable[[str, Path], list[str]], files: Iterable[Path]) -> list[str]:
    """What a check of (source, file) finds in all files."""
    return [finding for file in files for finding in check((REPOSITORY / file).read_text(), file)]


def test_a_package_imports_only_what_lies_below_it() -> None:
    assert findings(forbidden_imports, PACKAGE_FILES) == []


def test_only_the_distributed_module_speaks_to_torch_distributed() -> None:
    others = [file for file in PROGRAM_FILES if file != Path("utils/distributed.py")]
    assert findings(process_group_uses, others) == []


def test_functions_are_short() -> None:
    assert findings(long_functions, PROGRAM_FILES) == []


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("from networks import spec", "losses/memory.py"),
        ("def f():\n    import data_loaders.samples", "networks/heads.py"),
        ("import trainers.base", "selection/scores.py"),
        ("from losses.memory import x", "utils/maths.py"),
        ("import tests.unit", "trainers/base.py"),
    ],
)
def test_upward_and_sideways_imports_are_found(source: str, file: str) -> None:
    assert len(forbidden_imports(source, Path(file))) == 1


@pytest.mark.parametrize(
    "source",
    ["import utils.maths", "from .segmentation import f", "import torch", "from utils import metrics"],
)
def test_downward_and_own_imports_are_free(source: str) -> None:
    assert forbidden_imports(source, Path("losses/memory.py")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch.distributed as dist",
        "from torch import distributed",
        "from torch.distributed import all_reduce",
        "import torch\ntorch.distributed.barrier()",
    ],
)
def test_every_way_to_torch_distributed_is_found(source: str) -> None:
    assert len(process_group_uses(source, Path("trainers/base.py"))) == 1
    assert process_group_uses("from utils import distributed", Path("trainers/base.py")) == []


def test_a_long_function_is_found() -> None:
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert len(long_functions(f"def f():\n{body}", Path("losses/memory.py"))) == 1
