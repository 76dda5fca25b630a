"""The annotation folders of the original RIPU and DWACA releases, written and read.

Per image a mask (8-bit PNG of train ids, 255 where nothing is labelled; the file name says labelIds all the
same) and an indicator file (`torch.save` of two bool maps: `active`, True where nothing may be picked any
more, and `selected`, True where a label was asked for). A fresh indicator has one False for each map.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selection.bought_labels import BoughtLabels, Size
from selection.imported import PublishedAnnotation
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError
from utils.files import write_atomically
from utils.pictures import write_png

logger = logging.getLogger(__name__)

_IMAGE_ENDING = "_leftImg8bit"
_COPY_AGAIN = "copy it again from the original run"


def mask_path(root: Path, name: str) -> Path:
    """Where the originals keep the mask of an image: gtMask/train/<city>/<stem>_gtFine_labelIds.png."""
    return _path(root / "gtMask", name, "_gtFine_labelIds.png")


def indicator_path(root: Path, name: str) -> Path:
    """Where the originals keep the indicator of an image: gtIndicator/train/<city>/<stem>_indicator.pth."""
    return _path(root / "gtIndicator", name, "_indicator.pth")


def write(
    root: Path, name: str, mask: np.ndarray, active: np.ndarray | None, selected: np.ndarray | None
) -> None:
    """Writes the two files of an image; older ones are replaced.

    Args:
        root: the originals' OUTPUT_DIR.
        name: of the image, such as aachen/aachen_000000_000019_leftImg8bit.png.
        mask: (H, W) uint8 train ids.
        active: (H, W) bool; None for an image that was never selected, whose indicator has one element.
        selected: likewise.
    """
    indicator = {"active": _indicator(active, mask.shape), "selected": _indicator(selected, mask.shape)}
    write_png(mask_path(root, name), mask)
    write_atomically(indicator_path(root, name), lambda file: torch.save(indicator, file))


def read(root: Path, name: str, num_classes: int) -> PublishedAnnotation:
    """Reads the two files of an image; a fresh indicator becomes maps of False.

    Raises:
        UserError: a file is missing or damaged, the two do not fit together, or the mask has values other
            than 0..C-1 and 255.
    """
    mask = _read_mask(mask_path(root, name), num_classes)
    path = indicator_path(root, name)
    indicator = _read_indicator(path)
    active, selected = (_full_size(indicator[key], mask.shape, path) for key in ("active", "selected"))
    unasked = int(((mask != IGNORE_LABEL) & ~selected).sum())
    if unasked:
        raise UserError(
            f"{mask_path(root, name)} labels {unasked} pixels that {path} does not mark as selected; the two "
            "are of different runs: copy both again."
        )
    return PublishedAnnotation(name, mask, active, selected)


def import_folder(root: Path, names: Sequence[str], num_classes: int) -> Iterator[PublishedAnnotation]:
    """The annotations of all images of a list, read one by one; for `AnnotationStore.import_annotations`.

    Raises:
        UserError: the folder has no gtMask and gtIndicator, or as `read`.
    """
    for folder in ("gtMask", "gtIndicator"):
        if not (root / folder / "train").is_dir():
            raise UserError(f"{root} has no {folder}/train; name the OUTPUT_DIR of a RIPU or DWACA run.")
    return (read(root, name, num_classes) for name in names)


def export_store(
    bought: BoughtLabels,
    names: Sequence[str],
    root: Path,
    *,
    size_of: Callable[[str], Size] | None = None,
) -> int:
    """Writes the bought labels as the folders of an original run; the radii are those of the rounds.

    Args:
        bought: what was bought.
        names: of the images to write.
        root: becomes the originals' OUTPUT_DIR.
        size_of: (H, W) of an image that was never queried, which gets the files of a fresh run; None: such
            images are left out with a warning.

    Returns:
        how many images were written.
    """
    left_out = []
    for name in names:
        if bought.size_of(name) is not None:
            write(root, name, bought.mask(name), bought.blocked(name), bought.selected(name))
        elif size_of is not None:
            write(root, name, np.full(size_of(name), IGNORE_LABEL, np.uint8), None, None)
        else:
            left_out.append(name)
    if left_out:
        logger.warning(
            "%d images were never queried and are left out, such as %s", len(left_out), left_out[0]
        )
    return len(names) - len(left_out)


def _path(folder: Path, name: str, ending: str) -> Path:
    relative = PurePosixPath(name)
    assert not relative.is_absolute(), name
    assert ".." not in relative.parts, name
    stem = relative.stem.split(_IMAGE_ENDING)[0]
    return folder / "train" / relative.parent / f"{stem}{ending}"


def _indicator(values: np.ndarray | None, size: tuple[int, ...]) -> Tensor:
    if values is None:
        return torch.zeros(1, dtype=torch.bool)
    assert values.dtype == bool, values.dtype
    assert values.shape == size, f"an indicator of {values.shape} for a mask of {size}"
    return torch.from_numpy(np.ascontiguousarray(values))


def _read_mask(path: Path, num_classes: int) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            mode, mask = picture.mode, np.array(picture)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"mask {path} is damaged ({error}); {_COPY_AGAIN}.") from error
    if mode not in ("L", "P"):
        raise UserError(f"mask {path} has Pillow mode {mode}, not 8-bit ids (L); {_COPY_AGAIN}.")
    unknown = np.unique(mask[(mask >= num_classes) & (mask != IGNORE_LABEL)]).tolist()
    if unknown:
        raise UserError(
            f"mask {path} has values {unknown}, which are not train ids 0..{num_classes - 1} or "
            f"{IGNORE_LABEL}; is it of a run with other classes?"
        )
    return mask


def _read_indicator(path: Path) -> dict[str, Tensor]:
    try:
        indicator = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except Exception as error:  # damage can surface as any error of the unpickler or the zip reader
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"indicator {path} is damaged ({reason}); {_COPY_AGAIN}.") from error
    if not isinstance(indicator, dict) or not all(
        isinstance(indicator.get(key), Tensor) and indicator[key].dtype == torch.bool
        for key in ("active", "selected")
    ):
        raise UserError(f"indicator {path} holds no bool maps 'active' and 'selected'; {_COPY_AGAIN}.")
    return indicator


def _full_size(values: Tensor, size: tuple[int, ...], path: Path) -> np.ndarray:
    if tuple(values.shape) == size:
        return values.numpy()
    if tuple(values.shape) == (1,) and not bool(values[0]):
        return np.zeros(size, bool)
    raise UserError(
        f"indicator {path} has shape {tuple(values.shape)} but its mask has {size}; the two are of different "
        "images: copy both again."
    )


def _missing(path: Path) -> UserError:
    return UserError(f"{path} is missing; the folder is of another image list, or was not copied completely.")
