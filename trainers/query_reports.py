"""What people see of a query round: pictures, curves, and the page `queries/index.html`."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from selection.queries import RoundQueries
from selection.report import (
    RoundSummary,
    picks_picture,
    picture_path,
    read_captions,
    read_summaries,
    round_summary,
    write_index,
    write_summary,
)
from selection.rounds import RoundFolder
from selection.store import AnnotationStore
from trainers.target_images import TargetImages
from utils.class_spaces import ClassSpace
from utils.pictures import write_png
from utils.runs import Run

logger = logging.getLogger(__name__)


def write_score_map(folder: RoundFolder, name: str, score: Tensor) -> None:
    """Keeps the (H, W) scores of an image as an 8-bit PNG from the lowest to the highest, for its picture."""
    values = score.detach().cpu().numpy()
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    share = np.where(finite, (values - low) / max(float(high - low), 1e-12), 0.0)
    write_png(_score_path(folder, name), np.round(255 * share).astype(np.uint8))


def report_round(
    store: AnnotationStore,
    queries: RoundQueries,
    *,
    space: ClassSpace,
    images: TargetImages,
    pictures: int,
    run: Run | None,
) -> RoundSummary:
    """Draws and counts a round that is complete, logs it, and brings the page up to date. Rank 0 only."""
    folder = store.round(queries.info.number)
    classes = folder.labels(queries)
    assert classes is not None, "only complete rounds are reported"
    summary = round_summary(queries, classes, space.num_classes)
    write_summary(store, summary)
    named = [name for name in read_captions(folder.folder) if name in queries]
    names = named or [query.name for query in queries.images]
    drawn = {name: _draw(store, queries, name, classes, images, space) for name in names[:pictures]}
    write_index(store.folder, read_summaries(store, space.num_classes), space.class_names, space.palette)
    _say(summary, space)
    if run is not None:
        iteration = queries.info.iteration
        run.log.scalars(iteration, _scalars(summary, space))
        for name, picture in drawn.items():
            run.log.picture(iteration, f"queries/{Path(name).stem}", picture)
    return summary


def _draw(
    store: AnnotationStore,
    queries: RoundQueries,
    name: str,
    classes: np.ndarray,
    images: TargetImages,
    space: ClassSpace,
) -> np.ndarray:
    """Image, score, picks and what was bought, also written into the round's folder."""
    query = queries[name]
    folder = store.round(queries.info.number)
    path = _score_path(folder, name)
    score = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
    picture = picks_picture(
        images.picture(name),
        np.zeros(query.size, np.float32) if score is None else score.astype(np.float32),
        query,
        queries.info.label_radius,
        answered=classes[queries.slice_of(name)],
        palette=space.palette,
    )
    write_png(picture_path(store, queries.info.number, name), picture)
    return picture


def _say(summary: RoundSummary, space: ClassSpace) -> None:
    info = summary.info
    shares = sorted(zip(summary.shares, space.class_names, strict=True), reverse=True)
    logger.info(
        "round %d of %d: %d %s, %d pixels bought, %d of them ignored; %s",
        info.number + 1,
        info.rounds,
        summary.decisions,
        "whole images" if info.whole_images else "regions",
        summary.pixels,
        summary.ignored,
        ", ".join(f"{name} {100 * share:.1f} %" for share, name in shares if share > 0),
    )
    if summary.exhausted:
        logger.warning(
            "the budget is larger than what fits into %d images, the first %s: their remaining picks fall on "
            "the top left corner",
            len(summary.exhausted),
            summary.exhausted[0],
        )
    if summary.labelled == 0:
        logger.warning("no pixel of this round has a label: everything that was asked is ignored (255)")


def _scalars(summary: RoundSummary, space: ClassSpace) -> dict[str, float]:
    scalars = {
        "queries/pixels": float(summary.pixels),
        "queries/ignored": float(summary.ignored),
        "queries/images" if summary.info.whole_images else "queries/regions": float(summary.decisions),
    }
    if summary.agreement is not None:
        scalars["queries/agreement"] = 100 * summary.agreement
    shares = zip(space.class_names, summary.shares, strict=True)
    return scalars | {f"queries/share/{name}": 100 * share for name, share in shares}


def _score_path(folder: RoundFolder, name: str) -> Path:
    stem = Path(name).with_suffix("").as_posix().replace("/", "_")
    return folder.folder / "scores" / f"{stem}.png"
