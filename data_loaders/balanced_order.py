"""RIPU's source order: a list in which classes that were shown rarely are drawn more often.

Source: the authors' released code of Xie et al., CVPR 2022; DWACA trains on the same list.
`tests/goldens/test_ripu_source_sampling.py` pins it, down to the number of random draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_loaders.statistics import LabelInfo
from data_loaders.streams import ShuffledOrder
from utils.errors import UserError

SUB_EPOCH = 3000  # draws after which the counts of shown classes start anew
OFFSET = 1.01  # keeps the logarithm of a class that was never shown above zero


def class_balanced_list(
    info: LabelInfo, *, seed: int | np.random.RandomState, length: int, per_sub_epoch: int = SUB_EPOCH
) -> list[str]:
    """Names of the images to train on, in the order drawn: the full sub-epochs in `length`, and one more.

    Each draw takes class c with a weight 1 / log(1.01 + f_c), f_c being its share of all classes that the
    images drawn in this sub-epoch hold, and then the next image of that class. A class whose images are used
    up is shuffled and goes on with its second image, as in the authors' code.

    Args:
        info: which image holds which classes; not changed.
        seed: of NumPy's legacy generator (modulo 2**32), or that generator, which is drawn from; the original
            runs have 0.
        length: images that are needed, batch size x iterations.
        per_sub_epoch: draws in a sub-epoch.

    Raises:
        UserError: a class in fewer than two images, or tables that contradict each other.
    """
    # The list is defined by this generator's stream, so the newer one cannot replace it.
    generator = seed if isinstance(seed, np.random.RandomState) else np.random.RandomState(seed % 2**32)
    names, queues, holds = _as_arrays(info)
    positions = [0] * len(queues)
    chosen: list[int] = []
    for _ in range(length // per_sub_epoch + 1):
        shown = np.zeros(len(queues))
        for _ in range(per_sub_epoch):
            label = _draw_class(shown, generator)
            image = _next_image(label, queues, positions, generator)
            chosen.append(image)
            shown += holds[image]
    return [names[image] for image in chosen]


class ListedOrder:
    """Endless order of the samples in a list: every pass over it is a new permutation of its entries.

    Args:
        indices: of the samples; an index may occur several times, and is then drawn as often in every pass.
        seed: the seed of the run.
        stream: name of the stream of samples.
    """

    def __init__(self, indices: Sequence[int], seed: int, stream: str) -> None:
        assert len(indices) > 0, "an endless order needs samples"
        self.indices = tuple(indices)
        self._places = ShuffledOrder(len(indices), seed, stream)

    def __call__(self, draw: int) -> int:
        """Index of the sample that draw number `draw` shows."""
        return self.indices[self._places(draw)]


def _as_arrays(info: LabelInfo) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """Names, the numbers of each class's images in its order, and which image holds which class, (n, C)."""
    num_classes = len(info.label_to_file)
    names = list(info.file_to_label)
    number = {name: place for place, name in enumerate(names)}
    queues = []
    for label, files in enumerate(info.label_to_file):
        _check_class(label, files, number)
        queues.append(np.array([number[name] for name in files]))
    holds = np.zeros((len(names), num_classes))
    for name, labels in info.file_to_label.items():
        holds[number[name], labels] = 1
    return names, queues, holds


def _check_class(label: int, files: Sequence[str], known: dict[str, int]) -> None:
    if len(files) < 2:
        raise UserError(
            f"a class-balanced source list needs two images of every class, but train id {label} is in "
            f"{f'only {files[0]}' if files else 'none'}; use more images, a class space without this class, "
            "or --source-order shuffled"
        )
    stranger = next((name for name in files if name not in known), None)
    if stranger is not None:
        raise UserError(
            f"the label table lists {stranger} under train id {label} but not among its files; it is "
            "damaged: write it again with prepare_data.py statistics"
        )


def _draw_class(shown: np.ndarray, generator: np.random.RandomState) -> int:
    """What `generator.choice(C, p=weights)` draws, without its checks of the weights."""
    total = shown.sum()
    weights = 1 / np.log(OFFSET + (shown / total if total else shown))
    weights /= weights.sum()
    bounds = weights.cumsum()
    bounds /= bounds[-1]
    return int(bounds.searchsorted(generator.random_sample(), side="right"))


def _next_image(
    label: int, queues: list[np.ndarray], positions: list[int], generator: np.random.RandomState
) -> int:
    """The class's next image; a class that is used up is shuffled in place first."""
    queue = queues[label]
    if positions[label] == len(queue):
        generator.shuffle(queue)
        positions[label] %= len(queue) - 1  # 1, or 0 where the class has two images
    image = int(queue[positions[label]])
    positions[label] += 1
    return image
