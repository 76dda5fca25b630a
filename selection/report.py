"""What a round bought: numbers, pictures, and one static page for all rounds."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from selection.queries import ImageQuery, RoundInfo, RoundQueries, count_values, covers_image
from selection.rounds import UNANSWERED
from selection.store import AnnotationStore
from utils.class_spaces import IGNORE_LABEL, Color
from utils.files import write_atomically
from utils.pictures import colorize, contact_sheet, heat_map

logger = logging.getLogger(__name__)

PICKED: Color = (255, 230, 0)
PICTURE_HEIGHT = 384  # of each of the four pictures of an image, at most
SMALLEST_MARK = 3  # pixels of the picture; a 3x3 square of a 2048x1024 image would be one
SUMMARY = "summary.json"
CAPTIONS = "captions.json"


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """Numbers of one round.

    Attributes:
        info: settings of the round.
        decisions: different picks; one decision of an annotator each, or one whole image. The repeated ones
            of an exhausted image cost nobody anything.
        pixels: queried pixels.
        per_class: queried pixels answered with each class, C of them.
        predicted_per_class: queried pixels by the class that was predicted when they were selected.
        ignored: pixels answered "ignore" or "cannot tell" (255): paid for without a label.
        unanswered: pixels without an answer yet (254).
        agreeing: pixels whose answer is the predicted class.
        exhausted: names of images in which not all picks could be placed.
    """

    info: RoundInfo
    decisions: int
    pixels: int
    per_class: tuple[int, ...]
    predicted_per_class: tuple[int, ...]
    ignored: int
    unanswered: int
    agreeing: int
    exhausted: tuple[str, ...]

    @property
    def labelled(self) -> int:
        """Pixels that were answered with a class."""
        return sum(self.per_class)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the round's pixels that went to each class, in [0, 1]; ignored ones make up the rest."""
        return tuple(count / max(self.pixels, 1) for count in self.per_class)

    @property
    def agreement(self) -> float | None:
        """Share of the labelled pixels whose class was predicted, in [0, 1]; None without any."""
        return self.agreeing / self.labelled if self.labelled else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "info": self.info.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundSummary:
        """What `to_dict` made.

        Raises:
            ValueError, TypeError: it is something else.
        """
        if set(values) != {field.name for field in fields(cls)}:
            raise ValueError("its fields are not those of a summary")
        lists = {name: tuple(values[name]) for name in ("per_class", "predicted_per_class", "exhausted")}
        return cls(**{**values, **lists, "info": RoundInfo.from_dict(values["info"])})


def round_summary(queries: RoundQueries, classes: np.ndarray, num_classes: int) -> RoundSummary:
    """Counts a round.

    Args:
        queries: what was asked.
        classes: (P,) uint8 answers; 255 = ignored, 254 = not answered yet.
        num_classes: C.
    """
    assert classes.shape == (queries.pixels,), f"{classes.shape} classes for {queries.pixels} pixels"
    counts, agreeing, predicted = count_values(classes), np.zeros(256, np.int64), np.zeros(256, np.int64)
    for query in queries.images:  # one by one: arrays of the whole round are large where it asks whole images
        own = classes[queries.slice_of(query.name)]
        agreeing += count_values(own[own == query.predicted])
        predicted += count_values(query.predicted)
    return RoundSummary(
        info=queries.info,
        decisions=sum(len(np.unique(query.picks, axis=0)) for query in queries.images),
        pixels=queries.pixels,
        per_class=tuple(counts[:num_classes].tolist()),
        predicted_per_class=tuple(predicted[:num_classes].tolist()),
        ignored=int(counts[IGNORE_LABEL]),
        unanswered=int(counts[UNANSWERED]),
        agreeing=int(agreeing[:num_classes].sum()),
        exhausted=tuple(
            query.name for query in queries.images if is_exhausted(query, queries.info.exclusion_radius)
        ),
    )


def is_exhausted(query: ImageQuery, exclusion_radius: int) -> bool:
    """Whether not all picks could be placed: the last one is (0, 0) although that place was taken.

    A single last pick in a corner that only an earlier round had taken looks proper and is not seen.
    """
    if len(query.picks) == 0 or query.picks[-1].any():
        return False
    return bool((query.picks[:-1].max(axis=1, initial=0) <= exclusion_radius).any())


def write_summary(store: AnnotationStore, summary: RoundSummary) -> None:
    """Keeps the numbers of a round in its folder, so that the page of all rounds can be made again."""
    text = json.dumps(summary.to_dict(), indent=1) + "\n"
    write_atomically(store.round(summary.info.number).folder / SUMMARY, text)


def read_summaries(store: AnnotationStore, num_classes: int) -> list[RoundSummary]:
    """The numbers of all complete rounds; counted again where the summary is missing or damaged.

    Raises:
        UserError: the files of such a round are damaged.
    """
    return [_read_summary(store, number, num_classes) for number in range(store.complete_rounds())]


def picture_path(store: AnnotationStore, number: int, name: str) -> Path:
    """Where the picture of an image in a round is kept, for `write_index` to find it."""
    return store.round(number).folder / "pictures" / f"{_stem(name)}.png"


def write_captions(folder: Path, captions: Mapping[str, str]) -> None:
    """Says in the folder of a round which images are drawn, in this order, and a line about each."""
    write_atomically(folder / CAPTIONS, json.dumps(captions, indent=1) + "\n")


def read_captions(folder: Path) -> dict[str, str]:
    """What `write_captions` wrote; nothing where that is missing or damaged."""
    try:
        found = json.loads((folder / CAPTIONS).read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def picks_picture(
    image: np.ndarray,
    score: np.ndarray,
    query: ImageQuery,
    label_radius: int,
    *,
    answered: np.ndarray | None,
    palette: Sequence[Color],
) -> np.ndarray:
    """Four pictures side by side: image, score map, picked regions, and what was bought.

    Of a whole image the score map is the entropy, and the prediction takes the place of the picked regions.

    Args:
        image: (H, W, 3) uint8 RGB.
        score: (H, W) float; not finite where nothing could be picked.
        query: of this image.
        label_radius: of the round.
        answered: (p,) uint8 classes; None (nobody answered yet): the predictions take their place.
        palette: a colour per class; ignored pixels are black.

    Returns:
        (h, w, 3) uint8. Large images are made smaller; picks are then drawn larger than they are.
    """
    assert image.shape[:2] == query.size == score.shape, f"{image.shape}, {score.shape}, {query.size}"
    height = min(PICTURE_HEIGHT, query.size[0])
    width = max(1, round(query.size[1] * height / query.size[0]))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    heat = cv2.resize(heat_map(score), (width, height), interpolation=cv2.INTER_AREA)
    classes = query.predicted if answered is None else answered
    if covers_image(query.picks, label_radius, query.size):
        maps = [query.predicted] if answered is None else [query.predicted, answered]
        shown = [colorize(_reduced(labels.reshape(query.size), (height, width)), palette) for labels in maps]
        return contact_sheet(
            [[small, heat, *shown]], ("image", "entropy", "predicted", "bought"), height=height
        )
    picked, marked = _marks(query, label_radius, classes, (height, width))
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY) // 2 + 96  # pale, so that the colours stand out
    regions, bought = (np.repeat(grey[..., None], 3, axis=2) for _ in range(2))
    regions[picked] = PICKED
    bought[picked] = colorize(marked, palette)[picked]
    titles = ("image", "score", "picked", "predicted" if answered is None else "bought")
    return contact_sheet([[small, heat, regions, bought]], titles, height=height)


def write_index(
    folder: Path, rounds: Sequence[RoundSummary], class_names: Sequence[str], palette: Sequence[Color]
) -> Path:
    """Writes index.html: the numbers of all rounds and the pictures that lie in their folders. No script.

    Args:
        folder: `queries/` of the run.
        rounds: in order.
        class_names: C of them.
        palette: C colours.
    """
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>bought labels</title>\n'
        f"<style>{_STYLE}</style></head><body>\n<h1>Bought labels</h1>\n"
    )
    parts = [head, _overview(rounds)]
    for summary in rounds:
        parts += [_classes_table(summary, class_names, palette), _pictures(folder, summary.info.number)]
    path = folder / "index.html"
    write_atomically(path, "".join([*parts, "</body></html>\n"]))
    return path


def _read_summary(store: AnnotationStore, number: int, num_classes: int) -> RoundSummary:
    path = store.round(number).folder / SUMMARY
    try:
        return RoundSummary.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        logger.info("%s cannot be used (%s); the round is counted again", path, error)
    folder = store.round(number)
    queries = folder.queries()
    assert queries is not None  # labels() refuses labels without queries
    classes = folder.labels(queries)
    assert classes is not None
    return round_summary(queries, classes, num_classes)


def _reduced(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) classes of a label map at this size, one pixel of it each."""
    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)


def _marks(
    query: ImageQuery, label_radius: int, classes: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) bool where a picture of this size shows a queried pixel, and (h, w) uint8 its class."""
    scale = size[0] / query.size[0]
    grow = 1 if (2 * label_radius + 1) * scale < SMALLEST_MARK and scale < 1 else 0
    rows, columns = np.divmod(query.pixels(label_radius), query.size[1])
    rows, columns = rows * size[0] // query.size[0], columns * size[1] // query.size[1]
    picked, marked = np.zeros(size, bool), np.full(size, IGNORE_LABEL, np.uint8)
    steps = range(-grow, grow + 1)
    # The pixels themselves come last, over what their neighbours grew.
    for down, right in sorted(((y, x) for y in steps for x in steps), key=lambda step: step == (0, 0)):
        place = (rows + down).clip(0, size[0] - 1), (columns + right).clip(0, size[1] - 1)
        picked[place] = True
        marked[place] = classes
    return picked, marked


_STYLE = (
    "body{font:14px sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}"
    "td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #ddd}td:first-child{text-align:left}"
    ".bar{height:.8em}.bars{width:20em}img{max-width:100%;display:block}figure{margin:1em 0}"
)


def _overview(rounds: Sequence[RoundSummary]) -> str:
    if not rounds:
        return "<p>No round is complete yet.</p>\n"
    info = rounds[-1].info
    held = f" in {info.rounds} rounds" if info.rounds > 1 else ""
    text = f"{info.method}, {info.setting}, budget {info.budget}{held}, seed {info.seed}"
    rows = [_row([_round_name(one.info), *_figures(one).values()]) for one in rounds]
    return f"<p>{html.escape(text)}</p>\n" + _table(("round", *_figures(rounds[0])), rows)


def _figures(summary: RoundSummary) -> dict[str, str]:
    """The numbers of a round by their titles."""
    agreement = "" if summary.agreement is None else f"{100 * summary.agreement:.1f} %"
    figures = {
        "iteration": summary.info.iteration,
        "images": summary.info.images,
        "decisions": summary.decisions,
        "pixels": summary.pixels,
        "labelled": summary.labelled,
        "ignored": summary.ignored,
        "unanswered": summary.unanswered,
        "as predicted": agreement,
    }
    if not summary.info.whole_images:  # in which there is always room for their one pick
        figures["exhausted images"] = len(summary.exhausted)
    return {title: str(figure) for title, figure in figures.items()}


def _classes_table(summary: RoundSummary, class_names: Sequence[str], palette: Sequence[Color]) -> str:
    largest = max(*summary.shares, 1e-12) if summary.shares else 1
    rows = []
    for name, colour, count, share, predicted in zip(
        class_names, palette, summary.per_class, summary.shares, summary.predicted_per_class, strict=True
    ):
        style = f"width:{100 * share / largest:.1f}%;background:rgb{tuple(colour)}"
        cells = [html.escape(name), str(count), f"{100 * share:.2f} %", str(predicted)]
        rows.append(_row(cells, f'<td class="bars"><div class="bar" style="{style}"></div></td>'))
    ignored = f"{100 * summary.ignored / max(summary.pixels, 1):.2f} %"
    rows.append(_row(["(ignored)", str(summary.ignored), ignored, ""], "<td></td>"))
    title = f"<h2>{_round_name(summary.info)}, iteration {summary.info.iteration}</h2>\n"
    return title + _table(("class", "pixels bought", "share of budget", "pixels predicted", ""), rows)


def _pictures(folder: Path, number: int) -> str:
    """The pictures with captions in the order of these, then the others by name."""
    place = folder / f"round_{number:02d}"
    captions = {_stem(name): text for name, text in read_captions(place).items()}
    order = {stem: index for index, stem in enumerate(captions)}
    paths = sorted(
        (place / "pictures").glob("*.png"), key=lambda path: (order.get(path.stem, len(order)), path.name)
    )
    parts = []
    for path in paths:
        link = html.escape(quote(path.relative_to(folder).as_posix()))
        image = f'<a href="{link}"><img src="{link}" loading="lazy" alt=""></a>'
        caption = html.escape("; ".join(filter(None, (path.stem, captions.get(path.stem)))))
        parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>\n")
    return "".join(parts)


def _stem(name: str) -> str:
    """The name of an image as that of a file without suffix."""
    return Path(name).with_suffix("").as_posix().replace("/", "_")


def _round_name(info: RoundInfo) -> str:
    return f"round {info.number + 1}"


def _row(cells: Sequence[str], last: str = "") -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}{last}</tr>\n"


def _table(titles: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f"<table><tr>{head}</tr>\n{''.join(rows)}</table>\n"
