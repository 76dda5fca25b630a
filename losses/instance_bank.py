"""The bank of source instances that DIDA compares every pixel with (Yao & Li, ICCV Workshops 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.class_balance import class_counts
from utils import distributed
from utils.precision import exact_float32

EMPTY = -1  # label of an entry that nothing was written to
# The authors' order of the Cityscapes classes, rarest first.
CITYSCAPES_RARE_FIRST = (18, 12, 17, 16, 7, 6, 11, 15, 4, 5, 14, 3, 9, 13, 8, 1, 10, 2, 0)


def rare_first(pixels: Sequence[int]) -> tuple[int, ...]:
    """Ids of the classes that have pixels, from the fewest to the most; equal numbers by id."""
    occurring = [index for index, count in enumerate(pixels) if count > 0]
    return tuple(sorted(occurring, key=lambda index: pixels[index]))


def non_negative(features: Tensor) -> Tensor:
    """Features as the bank stores and compares them: dot products are shares only where nothing is below 0.

    DAFormer's head ends in a ReLU, which this leaves as it is; the heads of other networks end in a
    normalisation.
    """
    return F.relu(features)


def label_weights(labels: Tensor, size: tuple[int, int], num_classes: int, dtype: torch.dtype) -> Tensor:
    """How much each position of a feature map counts in the classes' sums at label size.

    Features are resized bilinearly (corners not aligned) to the labels and summed over the positions of a
    class. Both are linear, so the same sum is a product of the features with the transposed resizing of the
    label counts, and no feature map at label size is made.

    Args:
        labels: (N, H, W) train ids; a position that several images label alike counts several times.
        size: (h, w) of the feature map.
        num_classes: C; other ids are ignored.
        dtype: of the result, at least float32.

    Returns:
        (C, h, w); over a class it sums to its number of pixels.
    """
    height, width = labels.shape[-2:]
    counts = _position_counts(labels, num_classes, dtype)
    if (height, width) == tuple(size):
        return counts
    rows, columns = (_resizing(*pair, counts) for pair in zip(size, (height, width), strict=True))
    return rows @ (counts @ columns.T)  # (h, H) x (C, H, W) x (W, w)


def _position_counts(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Images of (N, H, W) labels that label each position with each class: (C, H, W)."""
    shape = labels.shape[-2:]
    if labels.is_cuda:  # torch has no scattered addition there that repeats bit for bit
        classes = torch.arange(num_classes, dtype=labels.dtype, device=labels.device)[:, None, None]
        counts = torch.zeros((num_classes, *shape), dtype=dtype, device=labels.device)
        for image in labels:
            counts += image == classes
        return counts
    places = labels.flatten(1).long().clamp_max(num_classes)  # the last row takes what is ignored
    counts = torch.zeros((num_classes + 1, places.shape[1]), dtype=dtype)
    counts.scatter_add_(0, places, counts.new_ones(()).expand_as(places))
    return counts[:num_classes].view(num_classes, *shape)


def _resizing(source: int, target: int, like: Tensor) -> Tensor:
    """(source, target): share of each source value in each target value of a linear resize."""
    unit = torch.eye(source, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(unit, size=target, mode="linear", align_corners=False)[0]


def class_means(weights: Tensor, features: Tensor) -> Tensor:
    """Mean feature of every class: (..., C, D) from `label_weights` (..., C, h, w) and (..., D, h, w).

    Classes without pixels get 0.
    """
    flat = weights.flatten(-2)
    total = flat.sum(-1, keepdim=True)
    return flat @ features.flatten(-2).transpose(-1, -2) / torch.where(total > 0, total, 1)


def within_class_cosine(features: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine over all pairs of different entries of one class, a scalar; 0 without such a pair."""
    directions = F.normalize(features, dim=1)
    pairs = (labels[:, None] == labels).fill_diagonal_(False)
    return ((directions @ directions.T) * pairs).sum() / pairs.sum().clamp_min(1)


class InstanceBank(nn.Module):
    """K features of source instances, each with its class; all ranks hold the same bank.

    The bank is empty at first. It is filled from a file (`set`) or from class means (`add`); once it is full,
    `update` moves the features and keeps the labels. `pointer` is the entry that the next write goes to, K
    when the last one was just written.

    All buffers are part of snapshots; the features have the type the module is moved to (`.double()`).

    Source: the authors' released code, which `tests/goldens/test_dida_instance_bank.py` pins.
    """

    features: Tensor
    labels: Tensor
    pointer: Tensor
    updated_at: Tensor

    def __init__(self, size: int, channels: int, num_classes: int) -> None:
        """`size` is K, `channels` the width D of the network's features."""
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("features", torch.zeros(size, channels))
        self.register_buffer("labels", torch.full((size,), EMPTY))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("updated_at", torch.full((), -1))
        # What the training loop asks for, known to the host so that it does not wait for a device.
        self._full = False
        self._updated_at = -1
        self.register_load_state_dict_pre_hook(_take_size)
        self.register_load_state_dict_post_hook(_read_state)

    @property
    def is_full(self) -> bool:
        """Whether every entry holds an instance."""
        return self._full

    def extra_repr(self) -> str:
        """Sizes, for the log."""
        size, channels = self.features.shape
        return f"size={size}, channels={channels}, num_classes={self.num_classes}"

    def histogram(self) -> Tensor:
        """Entries of each class: (C,) int64."""
        return class_counts(self.labels, self.num_classes)

    def scalars(self) -> dict[str, Tensor]:
        """What a log shows of a full bank: norms of the features, and the mean cosine within classes."""
        with torch.autocast(self.features.device.type, enabled=False):
            norm = self.features.norm(dim=1)
            cosine = within_class_cosine(self.features, self.labels)
        return {
            "bank/norm_mean": norm.mean(),
            "bank/norm_min": norm.min(),
            "bank/cosine_within_class": cosine,
        }

    @torch.no_grad()
    def set(self, features: Tensor, labels: Tensor) -> None:
        """Replaces all entries: (K, D) features, (K,) labels in [0, C)."""
        assert features.shape == self.features.shape, (features.shape, self.features.shape)
        assert labels.shape == self.labels.shape, (labels.shape, self.labels.shape)
        self.features.copy_(features)
        self.labels.copy_(labels)
        self.pointer.fill_(len(labels))
        _read_state(self)

    @torch.no_grad()
    def write(self, feature: Tensor, label: int) -> None:
        """Writes one (D,) feature to the entry at the pointer, which goes round.

        As released: the write that finds the pointer behind the last entry only sets it back to the first,
        and is lost.
        """
        place = int(self.pointer)
        if place == len(self.labels):
            self.pointer.zero_()
            return
        self.features[place] = feature
        self.labels[place] = label
        self.pointer += 1
        self._full = self._full or place + 1 == len(self.labels)

    def add(self, features: Tensor, labels: Sequence[int], *, most: int | None = None) -> int:
        """Appends (M, D) features in their order until the bank is full; returns how many.

        Args:
            features: of the entries.
            labels: their M classes.
            most: of a class; what would be more is left out. None: no limit.
        """
        counts = self.histogram().tolist()
        added = 0
        for feature, label in zip(features, labels, strict=True):
            if self.is_full:
                break
            if most is None or counts[label] < most:
                self.write(feature, label)
                counts[label] += 1
                added += 1
        return added

    @torch.no_grad()
    def update(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        iteration: int,
        momentum: float = 0.999,
        own_image_only: bool = False,
        keep_absent: bool = False,
    ) -> None:
        """Moves every entry towards the mean source feature of its class. Collective; the bank must be full.

        With n_c(p), the number of images of the global batch that label position p as c, and e the features
        of its first image, resized to label size:

            mean_c = sum over p of n_c(p) e(p) / sum over p of n_c(p), 0 for a class that is absent
            feature_k = momentum * feature_k + (1 - momentum) * mean_(label k)

        Labels of other images at features of the first, and the shrinking of absent classes, are accidents of
        the released code that shaped the published results; both can be switched off.

        Args:
            features: (N, D, h, w) of this rank's source images, at network stride.
            labels: (N, H, W) of them, 255 ignored.
            iteration: a second call with the same one does nothing: with accumulation, the first micro-batch
                updates the bank.
            momentum: share of the old feature.
            own_image_only: n_c counts the first image only.
            keep_absent: entries of absent classes stay as they are.
        """
        assert self.is_full, "an empty entry has no class to move towards"
        if iteration == self._updated_at:
            return
        self._updated_at = iteration
        self.updated_at.fill_(iteration)
        with torch.autocast(features.device.type, enabled=False), exact_float32():
            weights = self._weights(labels[:1] if own_image_only else labels, features)
            if not own_image_only:
                weights = distributed.all_reduce_sum(weights)
            if distributed.is_main():
                means = class_means(weights, features[0].to(weights.dtype))[self.labels]
                moved = momentum * self.features + (1 - momentum) * means
                if keep_absent:
                    present = weights.flatten(1).any(1)[self.labels]
                    moved = torch.where(present[:, None], moved, self.features)
                self.features.copy_(moved)
        distributed.broadcast_([self.features])

    def _weights(self, labels: Tensor, features: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        return label_weights(labels, (height, width), self.num_classes, self.features.dtype)


def _take_size(bank: InstanceBank, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """A bank that goes on has the number of entries it had, whatever was read at the start."""
    size = len(state[prefix + "labels"])
    if size != len(bank.labels):
        bank.features = bank.features.new_zeros(size, bank.features.shape[1])
        bank.labels = bank.labels.new_full((size,), EMPTY)


def _read_state(bank: InstanceBank, _: object = None) -> None:
    """What the host must know of buffers that were just filled."""
    bank._full = bool((bank.labels != EMPTY).all())
    bank._updated_at = int(bank.updated_at)
