"""The instance bank: class means at label size, momentum updates, filling, and what snapshots keep."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.instance_bank import (
    InstanceBank,
    class_means,
    label_weights,
    rare_first,
    within_class_cosine,
)

CLASSES, CHANNELS = 4, 3


def _drawn(
    images: int = 2, label_size: tuple[int, int] = (10, 13), size: tuple[int, int] = (5, 4), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Float64 features (N, D, h, w) and labels (N, H, W) without class 3, with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(images, CHANNELS, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (images, *label_size), generator=generator, dtype=torch.uint8)
    return features, labels.masked_fill(labels == 3, 255)


def _full_bank(labels: tuple[int, ...] = (0, 1, 2, 3, 1)) -> InstanceBank:
    bank = InstanceBank(len(labels), CHANNELS, CLASSES).double()
    generator = torch.Generator().manual_seed(9)
    entries = torch.rand(len(labels), CHANNELS, generator=generator, dtype=torch.float64)
    bank.set(entries, torch.tensor(labels))
    return bank


def _plain_means(features: Tensor, labels: Tensor) -> Tensor:
    """Class means of one image's features at label size, written out."""
    size = labels.shape[-2:]
    full = F.interpolate(features[:1], size=size, mode="bilinear", align_corners=False)[0]
    means = torch.zeros(CLASSES, CHANNELS, dtype=features.dtype)
    for index in range(CLASSES):
        pixels = torch.cat([full[:, image == index] for image in labels], dim=1)
        if pixels.shape[1]:
            means[index] = pixels.mean(1)
    return means


def _update(bank: InstanceBank, features: Tensor, labels: Tensor, **options: object) -> Tensor:
    bank.update(features, labels, **{"iteration": 0, "momentum": 0.9, **options})
    return bank.features


@pytest.mark.parametrize("size", [(5, 4), (3, 13), (10, 13), (1, 1)])
def test_class_means_equal_those_of_the_resized_features(size: tuple[int, int]) -> None:
    features, labels = _drawn(size=size)
    weights = label_weights(labels, size, CLASSES, torch.float64)
    means = class_means(weights, features[0])
    torch.testing.assert_close(means, _plain_means(features, labels), rtol=1e-12, atol=1e-14)
    assert weights.sum((1, 2)).tolist() == pytest.approx([int((labels == i).sum()) for i in range(CLASSES)])


def test_labels_of_either_integer_type_weigh_alike() -> None:
    _, labels = _drawn()
    weights = [label_weights(each, (5, 4), CLASSES, torch.float64) for each in (labels, labels.long())]
    assert torch.equal(*weights)


def test_an_update_uses_the_first_image_s_features_at_the_labels_of_all() -> None:
    bank, (features, labels) = _full_bank(), _drawn()
    before = bank.features.clone()
    expected = 0.9 * before + 0.1 * _plain_means(features, labels)[bank.labels]
    torch.testing.assert_close(_update(bank, features, labels), expected, rtol=1e-12, atol=0)
    assert bank.labels.tolist() == [0, 1, 2, 3, 1]


def test_entries_of_absent_classes_shrink_as_published() -> None:
    bank = _full_bank()
    before = bank.features.clone()
    torch.testing.assert_close(_update(bank, *_drawn())[3], 0.9 * before[3], rtol=1e-12, atol=0)


def test_entries_of_absent_classes_stay_with_keep_absent() -> None:
    bank, other = _full_bank(), _full_bank()
    before = bank.features.clone()
    kept, published = _update(bank, *_drawn(), keep_absent=True), _update(other, *_drawn())
    assert torch.equal(kept[3], before[3])
    present = bank.labels != 3
    assert torch.equal(kept[present], published[present])


def test_labels_of_other_images_do_not_count_with_own_image_only() -> None:
    features, labels = _drawn()
    labels[0][labels[0] == 2] = 255  # only the second image has class 2
    bank = _full_bank()
    expected = 0.9 * bank.features + 0.1 * _plain_means(features, labels[:1])[bank.labels]
    moved = _update(bank, features, labels, own_image_only=True)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=0)


def test_a_second_update_in_the_same_iteration_does_nothing() -> None:
    bank = _full_bank()
    first = _update(bank, *_drawn(), iteration=50).clone()
    assert torch.equal(_update(bank, *_drawn(seed=1), iteration=50), first)
    assert not torch.equal(_update(bank, *_drawn(seed=1), iteration=100), first)


def test_a_batch_without_labels_only_shrinks_the_bank() -> None:
    bank, (features, labels) = _full_bank(), _drawn()
    before = bank.features.clone()
    moved = _update(bank, features, torch.full_like(labels, 255))
    torch.testing.assert_close(moved, 0.9 * before, rtol=1e-12, atol=0)


def test_features_of_half_precision_are_averaged_in_the_bank_s_type() -> None:
    features, labels = _drawn()
    half = features.to(torch.bfloat16)
    bank, other = _full_bank(), _full_bank()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved = _update(bank, half, labels)
    assert torch.equal(moved, _update(other, half.double(), labels))


def test_features_keep_the_type_of_the_module() -> None:
    bank = _full_bank().float()
    assert _update(bank, *_drawn()).dtype == torch.float32
    assert bank.labels.dtype == torch.int64


def test_state_resumes_a_full_bank_and_its_last_iteration() -> None:
    bank, resumed = _full_bank(), InstanceBank(5, CHANNELS, CLASSES).double()
    assert not resumed.is_full
    first = _update(bank, *_drawn(), iteration=50).clone()
    resumed.load_state_dict(copy.deepcopy(bank.state_dict()))
    assert resumed.is_full
    assert torch.equal(_update(resumed, *_drawn(), iteration=50), first)  # it knows that 50 is done
    assert torch.equal(_update(resumed, *_drawn(), iteration=51), _update(bank, *_drawn(), iteration=51))


def test_state_resumes_a_bank_that_is_half_filled() -> None:
    bank, resumed = (InstanceBank(3, 1, CLASSES) for _ in range(2))
    bank.add(torch.tensor([[1.0], [2.0]]), [2, 0])
    resumed.load_state_dict(bank.state_dict())
    resumed.add(torch.tensor([[3.0]]), [1])
    assert resumed.is_full
    assert resumed.labels.tolist() == [2, 0, 1]
    assert resumed.features.flatten().tolist() == [1, 2, 3]


def test_the_limit_per_class_leaves_out_what_would_be_more() -> None:
    bank = InstanceBank(4, 1, CLASSES)
    features = torch.arange(6.0)[:, None]
    assert bank.add(features, [0, 0, 0, 1, 0, 1], most=2) == 4
    assert bank.features.flatten().tolist() == [0, 1, 3, 5]
    assert bank.histogram().tolist() == [2, 2, 0, 0]
    assert bank.add(features, [2] * 6) == 0  # it is full


def test_rare_classes_come_first_and_absent_ones_not_at_all() -> None:
    assert rare_first([50, 0, 7, 50, 3]) == (4, 2, 0, 3)


def test_cosine_is_over_pairs_of_one_class() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [5.0, 5.0]])
    labels = torch.tensor([0, 0, 0, 1])
    assert within_class_cosine(features, labels).item() == pytest.approx(1 / 3)
    assert within_class_cosine(features[2:], labels[2:]).item() == 0


def test_scalars_describe_norms_and_cosine() -> None:
    bank = InstanceBank(2, 2, CLASSES)
    bank.set(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    values = {name: value.item() for name, value in bank.scalars().items()}
    assert values == pytest.approx({"bank/norm_mean": 3, "bank/norm_min": 1, "bank/cosine_within_class": 0.8})


def test_an_empty_bank_is_not_updated() -> None:
    with pytest.raises(AssertionError, match="empty entry"):
        _update(InstanceBank(3, CHANNELS, CLASSES).double(), *_drawn())


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"own_image_only": True, "keep_absent": True}])
def test_an_update_on_cuda_equals_the_cpu_s_without_waiting_for_the_device(options: dict[str, bool]) -> None:
    bank, on_gpu = _full_bank(), _full_bank().cuda()
    features, labels = _drawn()
    inputs = features.cuda(), labels.cuda()
    _update(on_gpu, *inputs, iteration=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = _update(on_gpu, *inputs, iteration=1, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    _update(bank, features, labels, iteration=0)
    expected = _update(bank, features, labels, iteration=1, **options)
    torch.testing.assert_close(moved.cpu(), expected, rtol=1e-12, atol=0)
