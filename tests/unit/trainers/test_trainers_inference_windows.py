"""Logits resized in two steps, and images seen through sliding windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from networks.spec import SegmentationOutput
from trainers import inference
from trainers.inference import Pass, Predictor, evaluation_uncertainty, fuse, fused_probability
from trainers.protocols import Protocol, protocol_named
from utils import maths

CLASSES = 5
CPU = torch.device("cpu")


def resized(x: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    return interpolate(x, size=size[::-1], mode="bilinear", align_corners=align_corners)


class Stride4(nn.Module):
    """Heads at a quarter of the size, which see the whole of their input; remembers its inputs."""

    def __init__(self, *, heads: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList(nn.Conv2d(3, CLASSES, 5, stride=4, padding=2) for _ in range(heads))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> SegmentationOutput:
        self.seen.append(images)
        x = images.float() / 64
        outputs = [head(x) + x.mean((1, 2, 3), keepdim=True) for head in self.heads]
        return SegmentationOutput(*outputs)


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("through", [None, (32, 16), (61, 33), (16, 12), (100, 64)])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(61, 33), (100, 64), (5, 1), (16, 12)])
def test_rows_of_a_resize_are_those_of_the_whole(
    size: tuple[int, int], align_corners: bool, through: tuple[int, int] | None
) -> None:
    low = torch.randn(2, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    between = low if through is None else resized(low, through, align_corners=align_corners)
    expected = resized(between, size, align_corners=align_corners)
    for step in (1, 7, size[1]):
        for first in range(0, size[1], step):
            rows = slice(first, min(first + step, size[1]))
            found = maths.upsampled_rows(low, size, rows, through=through, align_corners=align_corners)
            torch.testing.assert_close(found, expected[:, :, rows], rtol=1e-12, atol=1e-12)


def test_logits_go_to_the_size_of_the_input_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "BAND_ELEMENTS", 3 * CLASSES * 90)  # three rows
    protocol = Protocol(
        name="own", base_size=(32, 16), flip=True, upsampled="logits_twice", align_corners=False
    )
    prediction = Predictor(Stride4(), protocol, device=CPU).predict(picture(), (90, 70))
    straight, mirrored = (
        resized(resized(one.main, (32, 16)), (90, 70)).softmax(1) for one in prediction.passes
    )
    best, label = (straight + mirrored.flip(-1)).max(1)
    torch.testing.assert_close(prediction.confidence, best[0], rtol=1e-5, atol=1e-5)
    assert (prediction.label == label[0]).float().mean() > 0.99
    at_once = sum(resized(one.upright().main, (90, 70)).softmax(1) for one in prediction.passes)
    assert (best - at_once.amax(1)).abs().max() > 1e-3  # one step is something else


def test_no_more_of_the_map_in_between_is_made_than_a_band_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "BAND_ELEMENTS", 4 * CLASSES * 64)  # four rows
    made: list[int] = []
    whole = maths.upsampled_rows

    def watched(low: Tensor, size: tuple[int, int], rows: slice, **how: object) -> Tensor:
        made.append(rows.stop - rows.start)
        return whole(low, size, rows, **how)

    monkeypatch.setattr(maths, "upsampled_rows", watched)
    passes = [Pass(torch.randn(1, CLASSES, 8, 16), input_size=(32, 16))]
    fuse(passes, (64, 32), upsampled="logits_twice", align_corners=False)
    assert len(made) == 2 * 8
    assert max(made) == 4


def test_half_precision_logits_are_promoted_before_both_steps() -> None:
    low = torch.randn(1, CLASSES, 8, 16).bfloat16()
    how = {"upsampled": "logits_twice", "align_corners": False}
    half, single = (fuse([Pass(x, input_size=(32, 16))], (50, 20), **how) for x in (low, low.float()))
    assert torch.equal(half[0], single[0])
    assert torch.equal(half[1], single[1])


@pytest.mark.gpu
def test_a_device_fuses_as_the_cpu() -> None:
    protocol = protocol_named("daformer").with_aug_test().with_window((32, 32), None)
    network = Stride4()
    cpu = Predictor(network, protocol, device=CPU).predict(picture(), (90, 70))
    cuda = Predictor(network.cuda(), protocol, device=torch.device("cuda")).predict(picture(), (90, 70))
    torch.testing.assert_close(cuda.confidence.cpu(), cpu.confidence, rtol=1e-3, atol=1e-3)  # TF32 kernels
    assert (cuda.label.cpu() == cpu.label).float().mean() > 0.99


def plain_sliding(network: nn.Module, images: Tensor, protocol: Protocol) -> list[Tensor]:
    """The specification read literally: pad every window's logits, add, divide by the count."""
    height, width = images.shape[-2:]
    (window_w, window_h), (step_w, step_h) = protocol.window, protocol.stride
    sums, count = [0, 0], torch.zeros(1, 1, height, width)
    for row in range(max(height - window_h + step_h - 1, 0) // step_h + 1):
        for column in range(max(width - window_w + step_w - 1, 0) // step_w + 1):
            bottom, right = min(row * step_h + window_h, height), min(column * step_w + window_w, width)
            top, left = max(bottom - window_h, 0), max(right - window_w, 0)
            output = network(images[:, :, top:bottom, left:right])
            pad = (left, width - right, top, height - bottom)
            for head, low in enumerate((output.logits, output.auxiliary_logits)):
                full = resized(low, (right - left, bottom - top), align_corners=protocol.align_corners)
                sums[head] = sums[head] + nn.functional.pad(full, pad)
            count += nn.functional.pad(torch.ones(1, 1, bottom - top, right - left), pad)
    return [total / count for total in sums]


@pytest.mark.parametrize("name", ["daformer", "ripu", "mrnet"])
@pytest.mark.parametrize(
    ("window", "stride"), [((24, 16), (16, 12)), ((24, 100), (24, 100)), ((7, 9), (5, 9))]
)
def test_windows_give_the_mean_of_their_logits_under_any_protocol(
    name: str, window: tuple[int, int], stride: tuple[int, int]
) -> None:
    protocol = protocol_named(name).with_window(window, stride)
    network = Stride4(heads=2).eval()
    prediction = Predictor(network, protocol, device=CPU).predict(picture())
    assert len(prediction.passes) == protocol.passes
    image = torch.from_numpy(picture()).permute(2, 0, 1)[None]
    for one in prediction.passes[: 2 if protocol.flip else 1]:
        images = image.flip(-1) if one.flipped else image
        with torch.inference_mode():
            main, auxiliary = plain_sliding(network, images, protocol)
        torch.testing.assert_close(one.main, main, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.auxiliary, auxiliary, rtol=1e-5, atol=1e-5)
    total = fused_probability(
        prediction.passes,
        (60, 40),
        auxiliary_weight=protocol.auxiliary_weight,
        upsampled=protocol.upsampled,
        align_corners=protocol.align_corners,
    )
    torch.testing.assert_close(prediction.confidence, total.amax(1)[0])
    assert evaluation_uncertainty(prediction.passes).shape == (1, 40, 60)


def test_a_window_larger_than_the_image_is_the_whole_image() -> None:
    protocol = protocol_named("ripu")
    plain = Predictor(Stride4(), protocol, device=CPU).predict(picture())
    network = Stride4()
    sliding = Predictor(network, protocol.with_window((60, 64), (20, 20)), device=CPU).predict(picture())
    assert len(network.seen) == 1
    assert torch.equal(plain.confidence, sliding.confidence)
    assert torch.equal(plain.label, sliding.label)


def test_windows_of_the_image_and_of_its_mirror_image_share_a_batch() -> None:
    network = Stride4()
    protocol = Protocol(name="own", flip=True).with_window((30, 40), (30, 40))
    Predictor(network, protocol, device=CPU).predict(picture())
    assert [tuple(images.shape) for images in network.seen] == [(2, 3, 40, 30)] * 2
    assert torch.equal(network.seen[0][0], network.seen[1][1].flip(-1))


def test_aug_test_averages_every_scale_and_its_mirror_image() -> None:
    protocol = protocol_named("daformer").with_aug_test()
    prediction = Predictor(Stride4(), protocol, device=CPU).predict(picture(40, 64))
    total = torch.zeros(())
    for one, size in zip(
        prediction.passes, [s for s in protocol.input_sizes((64, 40)) for _ in (0, 1)], strict=True
    ):
        assert one.input_size == size
        full = resized(resized(one.main, size), (64, 40)).softmax(1)
        total = total + (full.flip(-1) if one.flipped else full)
    torch.testing.assert_close(prediction.confidence, total.amax(1)[0], rtol=1e-5, atol=1e-5)


def test_images_are_resized_as_the_protocol_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[int, int], str]] = []

    def record(image: np.ndarray, size: tuple[int, int], resampling: str) -> np.ndarray:
        asked.append((size, resampling))
        return np.zeros((size[1], size[0], 3), np.uint8)

    monkeypatch.setattr(inference, "resize_image", record)
    Predictor(Stride4(), protocol_named("daformer-cityscapes"), device=CPU).prepare(picture())
    assert asked == [((768, 512), "opencv_bilinear")]  # the picture's proportions within 1024x512
