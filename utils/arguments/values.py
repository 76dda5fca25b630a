"""Type functions for argparse: each turns one word into one checked value or says what is wrong with it."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from pathlib import Path

TRUE_WORDS = frozenset({"true", "1", "on", "yes"})
FALSE_WORDS = frozenset({"false", "0", "off", "no"})


def integer(text: str) -> int:
    """A whole number; `1e5` and `100_000` are accepted."""
    try:
        return int(text)
    except ValueError:
        pass
    value = number(text)
    if value != int(value):
        raise ArgumentTypeError(f"must be a whole number, got {text}")
    return int(value)


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    value = integer(text)
    if value < 1:
        raise ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def non_negative_int(text: str) -> int:
    """A whole number of at least 0."""
    value = integer(text)
    if value < 0:
        raise ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not math.isfinite(value):
        raise ArgumentTypeError(f"must be a finite number, got {text}")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value <= 0:
        raise ArgumentTypeError(f"must be above 0, got {text}")
    return value


def non_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    value = number(text)
    if value < 0:
        raise ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def fraction(text: str) -> float:
    """A share in [0, 1]."""
    value = number(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def decay(text: str) -> float:
    """A share in [0, 1): at 1 an average would never move, and a mask would leave nothing."""
    value = number(text)
    if not 0 <= value < 1:
        raise ArgumentTypeError(f"must be 0 or more and below 1, got {text}")
    return value


def at_most_half(text: str) -> float:
    """A number in [0, 0.5], such as half of a circle of hues."""
    value = number(text)
    if not 0 <= value <= 0.5:
        raise ArgumentTypeError(f"must be between 0 and 0.5, got {text}")
    return value


def percentile(text: str) -> float:
    """A percentage in [0, 100]."""
    value = number(text)
    if not 0 <= value <= 100:
        raise ArgumentTypeError(f"must be between 0 and 100, got {text}")
    return value


def size_wh(text: str) -> tuple[int, int]:
    """(width, height) in pixels from `1024,512` or `1024x512`, both at least 1."""
    parts = text.lower().replace("x", ",").split(",")
    if len(parts) != 2:
        raise ArgumentTypeError(f"must be WIDTH,HEIGHT such as 1024,512, got {text!r}")
    width, height = (positive_int(part.strip()) for part in parts)
    return width, height


def scale_range(text: str) -> tuple[float, float] | None:
    """(lowest, highest) factor from `0.8,1.2`; `none` means no scaling."""
    if text.lower() in {"none", "off"}:
        return None
    parts = text.split(",")
    if len(parts) != 2:
        raise ArgumentTypeError(f"must be LOWEST,HIGHEST such as 0.8,1.2, or none; got {text!r}")
    lowest, highest = (positive_float(part.strip()) for part in parts)
    if lowest > highest:
        raise ArgumentTypeError(f"the lowest factor comes first, got {text}")
    return lowest, highest


def optional_size_wh(text: str) -> tuple[int, int] | None:
    """As `size_wh`; `none` means there is none."""
    return None if text.lower() in {"none", "off"} else size_wh(text)


def iterations(text: str) -> tuple[int, ...]:
    """Ascending iteration numbers from `10000,12000,14000`, each once."""
    chosen = tuple(non_negative_int(part.strip()) for part in text.split(","))
    if list(chosen) != sorted(set(chosen)):
        raise ArgumentTypeError(f"must be ascending, each once, got {text}")
    return chosen


def stage_steps(text: str) -> tuple[int, int]:
    """Steps of two stages from `37150,37150`, each at least 1."""
    parts = text.split(",")
    if len(parts) != 2:
        raise ArgumentTypeError(f"must be STEPS,STEPS of the two stages such as 37150,37150; got {text!r}")
    first, second = (positive_int(part.strip()) for part in parts)
    return first, second


def boolean_word(text: str) -> bool:
    """True or False from True/False, 1/0, on/off or yes/no in any case."""
    word = text.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ArgumentTypeError(f"must be True or False (or on/off, 1/0), got {text!r}")


def existing_path(text: str) -> Path:
    """A file or folder that is there; web addresses are refused because nothing is downloaded here."""
    if text.startswith(("http://", "https://")):
        raise ArgumentTypeError(
            f"{text} is a web address and nothing is downloaded here; "
            "python prepare_data.py weights says how to get the file"
        )
    path = Path(text).expanduser()
    if not path.exists():
        raise ArgumentTypeError(f"{text} does not exist{_nearest_existing(path)}")
    return path


def existing_file(text: str) -> Path:
    """A file that is there."""
    path = existing_path(text)
    if not path.is_file():
        raise ArgumentTypeError(f"{text} is a folder; a file is needed")
    return path


def existing_folder(text: str) -> Path:
    """A folder that is there."""
    path = existing_path(text)
    if not path.is_dir():
        raise ArgumentTypeError(f"{text} is a file; a folder is needed")
    return path


def folder(text: str) -> Path:
    """A folder that may not be there yet."""
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ArgumentTypeError(f"{text} is a file; a folder is needed")
    return path


def _nearest_existing(path: Path) -> str:
    parent = next((parent for parent in path.parents if parent.exists()), None)
    return f" (found only {parent}/)" if parent is not None and parent != Path() else ""
