"""DIDA's instance loss against all K maps at full size, and what smoothing adds to pseudo labels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from losses import instance
from losses.instance import aggregated_similarity, instance_loss

MODES = ("plain", "logits", "softmax")
# images, channels, entries, classes, low height and width, size
SHAPES = [
    (2, 8, 11, 4, 7, 9, (28, 36)),
    (1, 16, 40, 19, 13, 5, (51, 20)),  # 40 entries of 16 channels; no multiple of the low size
    (1, 8, 3, 19, 5, 4, (83, 70)),  # classes without an entry; two bands and several tiles
    (2, 6, 9, 4, 6, 7, (6, 7)),  # nothing to resize
    (1, 6, 9, 4, 30, 40, (20, 17)),  # smaller than the features
    (1, 6, 9, 4, 1, 1, (20, 17)),
    (1, 3, 1, 2, 4, 5, (16, 20)),  # one entry
]


def _case(
    shape: tuple[int, int, int, int, int, int, tuple[int, int]], mode: str = "logits", *, seed: int = 0
) -> tuple[Tensor, dict[str, Any]]:
    """Float64 student features with gradient, and the other arguments; features above 0, raw logits of both
    signs."""
    images, channels, entries, classes, height, width, size = shape
    generator = torch.Generator().manual_seed(seed)

    def drawn(*of: int) -> Tensor:
        return torch.randn(*of, generator=generator, dtype=torch.float64)

    student = drawn(images, channels, height, width).relu().add(0.01).requires_grad_()
    arguments = {
        "teacher_features": drawn(images, channels, height, width).relu() + 0.01,
        "bank_features": drawn(entries, channels).relu() + 0.05,
        "bank_labels": torch.randint(0, classes, (entries,), generator=generator),
        "size": size,
        "class_logits": None if mode == "plain" else 3 * drawn(images, classes, height, width),
        "softmax": mode == "softmax",
    }
    return student, arguments


def _cast(arguments: dict[str, Any], to: torch.dtype | str) -> dict[str, Any]:
    return {
        name: value.to(to) if isinstance(value, Tensor) and name != "bank_labels" else value
        for name, value in arguments.items()
    }


def _plain(student: Tensor, arguments: dict[str, Any]) -> Tensor:
    """The loss of every pixel, (N, H, W), from all K maps at full size."""

    def resized(x: Tensor) -> Tensor:
        return F.interpolate(x, size=arguments["size"], mode="bilinear", align_corners=False)

    bank = arguments["bank_features"]
    target = torch.einsum("kd,ndhw->nkhw", bank, resized(arguments["teacher_features"]))
    if arguments["class_logits"] is not None:
        scores = resized(arguments["class_logits"])
        scores = scores.softmax(1) if arguments["softmax"] else scores
        target = target * scores[:, arguments["bank_labels"]]
    share = torch.einsum("kd,ndhw->nkhw", bank, resized(student))
    share = share / share.sum(1, keepdim=True)
    return -(target / target.sum(1, keepdim=True) * torch.log(share + 1e-10)).sum(1)


def _with_gradient(loss: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss, student)[0]


def _check(ours: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> None:
    """Values, relatively; gradients, relatively to their largest (that of a single entry is rounding)."""
    torch.testing.assert_close(ours[0], expected[0].to(ours[0].dtype), rtol=tolerance, atol=tolerance)
    largest = max(expected[1].abs().max().item(), 1e-4)
    torch.testing.assert_close(ours[1], expected[1].to(ours[1].dtype), rtol=0, atol=tolerance * largest)


def test_one_pixel_worked_by_hand() -> None:
    # z = (1, 3), hence s = (1/4, 3/4); u = (2, 2) with scores (3, -1) gives t = (6, -2) / 4
    student = torch.tensor([1.0, 3.0], dtype=torch.float64).view(1, 2, 1, 1).requires_grad_()
    loss = instance_loss(
        student,
        torch.full((1, 2, 1, 1), 2.0, dtype=torch.float64),
        torch.eye(2, dtype=torch.float64),
        torch.tensor([0, 1]),
        size=(1, 1),
        class_logits=torch.tensor([3.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1),
    )
    loss.backward()
    assert loss.item() == pytest.approx(-1.5 * math.log(0.25) + 0.5 * math.log(0.75), rel=1e-9)
    # d/dz_k = (a_k - sum_j s_j a_j) / 4 with a = -t / s = (-6, 2/3) and sum_j s_j a_j = -1
    assert student.grad.flatten().tolist() == pytest.approx([-5 / 4, (2 / 3 + 1) / 4], rel=1e-8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_all_maps_at_full_size(
    shape: tuple[int, int, int, int, int, int, tuple[int, int]], mode: str
) -> None:
    student, arguments = _case(shape, mode)
    expected = _with_gradient(_plain(student, arguments).mean(), student)
    _check(_with_gradient(instance_loss(student, **arguments), student), expected, 1e-10)


@pytest.mark.parametrize("mode", ["plain", "softmax"])
def test_float32_is_within_1e_5_of_float64(mode: str) -> None:
    student, arguments = _case((2, 64, 70, 19, 16, 24, (64, 96)), mode)
    expected = _with_gradient(_plain(student, arguments).mean(), student)
    single = student.detach().float().requires_grad_()
    _check(_with_gradient(instance_loss(single, **_cast(arguments, torch.float32)), single), expected, 1e-5)


def test_targets_in_the_thousands_are_not_clamped() -> None:
    student, arguments = _case((1, 8, 6, 2, 1, 1, (1, 1)))
    teacher, bank = arguments["teacher_features"][0, :, 0, 0] + 0.1, arguments["bank_features"]
    arguments["teacher_features"] = teacher.view(1, 8, 1, 1)
    arguments["bank_labels"] = torch.tensor([0, 0, 0, 1, 1, 1])
    sums = (bank @ teacher).view(2, 3).sum(1)
    scores = torch.stack([1 / sums[0], -(1 - 1e-3) / sums[1]])  # the denominator is 1 - (1 - 1e-3)
    arguments["class_logits"] = scores.view(1, 2, 1, 1)
    assert ((bank @ teacher).view(2, 3) * scores[:, None] * 1000).abs().sum() > 1900
    expected = _with_gradient(_plain(student, arguments).mean(), student)
    _check(_with_gradient(instance_loss(student, **arguments), student), expected, 1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_right(mode: str) -> None:
    student, arguments = _case((1, 3, 4, 2, 3, 2, (7, 5)), mode)
    assert torch.autograd.gradcheck(lambda features: instance_loss(features, **arguments), student)


@pytest.mark.parametrize("side", ["student", "teacher", "logits"])
def test_pixels_without_a_denominator_count_with_loss_and_gradient_0(side: str) -> None:
    student, arguments = _case((2, 6, 9, 4, 5, 6, (5, 6)))
    expected_pixels = _plain(student, arguments)
    void = {
        "student": student.detach(),
        "teacher": arguments["teacher_features"],
        "logits": arguments["class_logits"],
    }[side]
    void[1, :, 2, 3] = 0
    counts = torch.ones(2, 5, 6, dtype=torch.float64)
    counts[1, 2, 3] = 0
    expected, gradient = _with_gradient((expected_pixels * counts).mean(), student)
    loss, ours = _with_gradient(instance_loss(student, **arguments), student)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, gradient)
    assert not ours[1, :, 2, 3].any()


def test_all_zero_features_cost_no_nan() -> None:
    student, arguments = _case((2, 6, 9, 4, 5, 6, (20, 24)))
    student = torch.zeros_like(student).requires_grad_()
    loss, gradient = _with_gradient(instance_loss(student, **arguments), student)
    assert loss.item() == 0
    assert not gradient.any()


def test_a_similarity_of_0_is_cut_by_the_epsilon_in_the_logarithm() -> None:
    student, arguments = _case((1, 4, 4, 3, 4, 4, (4, 4)), "plain")
    arguments["bank_features"] = torch.eye(4, dtype=torch.float64)
    student = student.detach()
    student[:, 1] = 0
    student.requires_grad_()
    expected = _with_gradient(_plain(student, arguments).mean(), student)
    assert expected[1].abs().max() > 1e6
    _check(_with_gradient(instance_loss(student, **arguments), student), expected, 1e-10)


def test_half_precision_and_autocast_change_neither_type_nor_value() -> None:
    student, arguments = _case((1, 32, 40, 19, 8, 8, (32, 32)), "softmax")
    half = student.detach().bfloat16().requires_grad_()
    rounded = _cast(arguments, torch.bfloat16)
    expected = instance_loss(half.detach().float(), **_cast(rounded, torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = instance_loss(half, **rounded)
        bank = rounded["bank_features"], rounded["bank_labels"]
        aggregated = aggregated_similarity(half, *bank, num_classes=19, size=(9, 9))
    assert aggregated.dtype == torch.float32
    loss.backward()
    assert (loss.dtype, half.grad.dtype) == (torch.float32, torch.bfloat16)
    assert loss.item() == expected.item()


def test_a_float32_bank_does_not_reduce_float64_features() -> None:
    student, arguments = _case((1, 8, 9, 4, 6, 6, (24, 24)))
    arguments["bank_features"] = arguments["bank_features"].float()
    loss = instance_loss(student, **arguments)
    arguments["bank_features"] = arguments["bank_features"].double()
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, _plain(student, arguments).mean(), rtol=1e-10, atol=0)


def test_only_the_student_gets_a_gradient_and_only_when_it_wants_one() -> None:
    student, arguments = _case((1, 8, 9, 4, 6, 6, (24, 24)))
    others = [arguments[name].requires_grad_() for name in ("teacher_features", "class_logits")]
    (3 * instance_loss(student, **arguments)).backward()
    once = torch.autograd.grad(instance_loss(student, **arguments), student)[0]
    torch.testing.assert_close(student.grad, 3 * once)
    assert all(other.grad is None for other in others)
    with torch.no_grad():
        without = instance_loss(student, **arguments)
    assert not without.requires_grad
    assert not instance_loss(student.detach(), **arguments).requires_grad
    torch.testing.assert_close(without, _plain(student, arguments).mean())


@pytest.mark.parametrize("threads", [1, 3, 1000])  # the last takes all tiles at once, as a GPU does
def test_the_number_of_tiles_at_once_changes_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    student, arguments = _case((2, 8, 9, 4, 20, 17, (80, 68)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(instance, "_CPU_BAND", 16 * threads)
    expected = _with_gradient(_plain(student, arguments).mean(), student)
    _check(_with_gradient(instance_loss(student, **arguments), student), expected, 1e-10)


def test_the_mean_over_ranks_is_the_loss_of_the_global_batch() -> None:
    student, arguments = _case((4, 8, 9, 4, 5, 6, (20, 24)))
    parts = []
    for images in (slice(0, 2), slice(2, 4)):
        own = {name: arguments[name][images] for name in ("teacher_features", "class_logits")}
        parts.append(instance_loss(student[images], **{**arguments, **own}))
    torch.testing.assert_close(torch.stack(parts).mean(), instance_loss(student, **arguments))


class _LargestResult(TorchDispatchMode):
    """Remembers how many values the largest result of any operation holds."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.values = max(self.values, result.untyped_storage().nbytes() // result.element_size())
        return result


def test_no_array_holds_all_entries_at_full_size() -> None:
    student, arguments = _case((1, 8, 200, 4, 32, 32, (128, 128)))
    with _LargestResult() as largest:
        instance_loss(student, **arguments).backward()
    assert 200 * 256 <= largest.values <= 200 * 128 * 128 / 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_aggregated_similarities_are_sums_of_shares(dtype: torch.dtype) -> None:
    arguments = _case((2, 8, 11, 4, 5, 6, (13, 24)))[1]
    teacher, bank = arguments["teacher_features"] + 0.1, arguments["bank_features"]
    labels = arguments["bank_labels"] % 3  # class 3 has no entry
    full = F.interpolate(teacher, size=(13, 24), mode="bilinear", align_corners=False)
    share = torch.einsum("kd,ndhw->nkhw", bank, full)
    share = share / share.sum(1, keepdim=True)
    expected = torch.stack([share[:, labels == index].sum(1) for index in range(4)], 1)
    ours = aggregated_similarity(teacher.to(dtype), bank, labels, num_classes=4, size=(13, 24))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))
    assert not ours[:, 3].any()


def test_aggregated_similarities_of_a_zero_feature_are_0() -> None:
    teacher = torch.ones(1, 3, 2, 2).requires_grad_()
    with torch.no_grad():
        teacher[0, :, 1, 1] = 0
    ours = aggregated_similarity(teacher, torch.ones(2, 3), torch.tensor([0, 1]), num_classes=2, size=(2, 2))
    assert ours[0, 0].tolist() == [[0.5, 0.5], [0.5, 0.0]]
    assert not ours.requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temporary", [1, 96 << 20])
def test_a_gpu_agrees_with_the_cpu_waits_for_nothing_and_repeats_itself(
    mode: str, temporary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "_GPU_TEMPORARY", temporary)
    student, arguments = _case((2, 32, 40, 19, 16, 20, (64, 80)), mode)
    expected = _with_gradient(instance_loss(student, **arguments), student)
    on_gpu = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in arguments.items()}
    features = student.detach().cuda().requires_grad_()
    instance_loss(features, **on_gpu).backward()  # first calls may allocate and wait
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        runs = [_with_gradient(instance_loss(features, **on_gpu), features) for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    assert torch.equal(runs[0][1], runs[1][1])
    _check((runs[0][0].cpu(), runs[0][1].cpu()), expected, 1e-10)
