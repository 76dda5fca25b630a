"""The run whose rounds people label, as annotate.py finds it: its rounds, classes, images and command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_loaders.decoding import read_image
from data_loaders.description import load_description
from data_loaders.discovery import find_files
from selection.exchange.class_names import ClassNames
from selection.rounds import RoundFolder, RoundQueries
from selection.store import AnnotationStore
from utils.arguments.commands import torchrun_command
from utils.class_spaces import CLASS_SPACES, class_space
from utils.errors import UserError
from utils.runs import ARGUMENTS_FILE


def choose_round(run: Path, wanted: int | None = None, *, must_wait: bool = False) -> RoundFolder:
    """Round `wanted` (from 1), or the newest that waits, or where none has to the newest that was asked.

    Raises:
        UserError: there is no such round.
    """
    store = AnnotationStore(run / "queries")
    numbers = sorted(int(path.name[6:]) for path in store.folder.glob("round_*") if path.name[6:].isdigit())
    asked = [number for number in numbers if store.round(number).queries() is not None]
    waiting = [number for number in asked if not store.round(number).has_labels()]
    if wanted is not None:
        if wanted - 1 not in (waiting if must_wait else asked):
            state = "does not wait for labels" if wanted - 1 in asked else "has no queries"
            listed = ", ".join(str(number + 1) for number in (waiting if must_wait else asked)) or "none"
            raise UserError(f"--round {wanted} of {run} {state}; possible: {listed}")
        return store.round(wanted - 1)
    if not waiting and (must_wait or not asked):
        raise UserError(
            f"no round of {run} waits for labels; start the training (train_al.py --oracle people), "
            "which selects what is to be labelled and then waits"
        )
    return store.round((waiting or asked)[-1])


def queries_of(chosen: RoundFolder) -> RoundQueries:
    """The queries of a round that `choose_round` gave."""
    queries = chosen.queries()
    assert queries is not None, "a round without queries was chosen"
    return queries


def class_names(run: Path, chosen: RoundFolder) -> ClassNames:
    """The classes of a round; those of a description of the user's own are known once that is read."""
    info = chosen.info()
    assert info is not None, "a round without settings was chosen"
    if info.class_space not in CLASS_SPACES:
        load_description(_record(run)["arguments"]["target"])
    return ClassNames(class_space(info.class_space))


def image_reader(
    run: Path, queries: RoundQueries, target_root: Path | None, data_root: Path | None
) -> Callable[[str], np.ndarray]:
    """Reads target images by name, from these folders, or where None from those of the run.

    Raises:
        UserError: they are not found where the run found them, or are not those of the round.
    """
    settings = _record(run)["arguments"]
    files = find_files(
        load_description(settings["target"]),
        split=settings["target_split"],
        root=target_root or _path(settings.get("target_root")),
        data_root=data_root or _path(settings.get("data_root")),
        labels="never",
        list_file=_path(settings.get("target_list")),
    )
    paths = {item.name: item.image for item in files.items}
    missing = [query.name for query in queries.images if query.name not in paths]
    if missing:
        raise UserError(
            f"{len(missing)} images of the round are not in {files.root}, the first {missing[0]}; name their "
            "folder by --target-root"
        )
    return lambda name: read_image(paths[name])


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _record(run: Path) -> dict[str, Any]:
    """What the run wrote about its start.

    Raises:
        UserError: the folder is none of a run.
    """
    file = run / ARGUMENTS_FILE
    try:
        record = json.loads(file.read_bytes())
        if isinstance(record["arguments"], dict) and {"target", "target_split"} <= set(record["arguments"]):
            return record
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; name the folder of a run") from error
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{file} is no record of a run; name the folder of a run of train_al.py")


def training_command(run: Path) -> str:
    """The command that started the run last, on as many processes.

    Without --accept-partial, which was meant for the round of that time: it would buy the next one unseen.
    """
    record = _record(run)
    last = record["starts"][-1] if record.get("starts") else record
    words = shlex.split(last.get("command_line") or record.get("command_line") or "train_al.py")
    words = [word for word in words if word != "--accept-partial"]
    return torchrun_command(words[0], words[1:], int(last.get("world_size") or 1))
