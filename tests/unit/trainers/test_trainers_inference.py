"""Passes, their fusion, uncertainty maps, and the loop helpers around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from networks.spec import SegmentationOutput
from trainers import inference
from trainers.inference import Pass, Predictor, evaluation_mode, fuse, fused_probability, prefetch
from trainers.protocols import Protocol
from utils import maths
from utils.errors import UserError

CLASSES = 5


def random_logits(
    height: int, width: int, *, seed: int, batch: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, CLASSES, height, width, generator=generator, dtype=dtype) * 2


def four_passes(dtype: torch.dtype = torch.float32, batch: int = 1) -> list[Pass]:
    """Two sizes, each with its mirrored pass."""
    maps = [random_logits(5, 9, seed=seed, batch=batch, dtype=dtype) for seed in range(4)]
    maps += [random_logits(7, 11, seed=seed, batch=batch, dtype=dtype) for seed in range(4, 8)]
    return [Pass(maps[2 * j], maps[2 * j + 1], flipped=j % 2 == 1) for j in range(4)]


def plain_sum(passes: list[Pass], size: tuple[int, int]) -> Tensor:
    """The specification read literally: softmax, mirror back, upsample each, add."""
    total = torch.zeros(())
    for one in passes:
        probability = (0.5 * one.auxiliary + one.main).softmax(1)
        probability = probability.flip(-1) if one.flipped else probability
        total = total + interpolate(probability, size=size[::-1], mode="bilinear", align_corners=True)
    return total


@pytest.mark.parametrize("size", [(37, 23), (9, 5), (64, 1), (1, 8)])
@pytest.mark.parametrize("band_elements", [1, 1000, 1 << 20])
def test_fusion_in_bands_equals_the_plain_sum(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], band_elements: int
) -> None:
    monkeypatch.setattr(maths, "BAND_ELEMENTS", band_elements)
    passes = four_passes(batch=2)
    expected = plain_sum(passes, size)
    torch.testing.assert_close(fused_probability(passes, size), expected, rtol=1e-6, atol=1e-6)
    label, confidence = fuse(passes, size)
    torch.testing.assert_close(confidence, expected.amax(1), rtol=1e-6, atol=1e-6)
    assert label.dtype == torch.uint8
    assert label.shape == (2, size[1], size[0])
    picked = expected.gather(1, label.long()[:, None])[:, 0]
    torch.testing.assert_close(picked, expected.amax(1), rtol=1e-6, atol=1e-6)


def plain_sum_of_upsampled_logits(passes: list[Pass], size: tuple[int, int]) -> Tensor:
    """RIPU's order: upsample the raw logits, softmax, mirror back, add."""
    total = torch.zeros(())
    for one in passes:
        logits = 0.5 * one.auxiliary + one.main
        full = interpolate(logits, size=size[::-1], mode="bilinear", align_corners=True).softmax(1)
        total = total + (full.flip(-1) if one.flipped else full)
    return total


@pytest.mark.parametrize("size", [(37, 23), (9, 5), (64, 1), (1, 8)])
@pytest.mark.parametrize("band_elements", [1, 1000, 1 << 20])
def test_upsampled_logits_are_fused_in_bands_as_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], band_elements: int
) -> None:
    monkeypatch.setattr(maths, "BAND_ELEMENTS", band_elements)
    passes = four_passes(torch.float64, batch=2)
    expected = plain_sum_of_upsampled_logits(passes, size)
    found = fused_probability(passes, size, upsampled="logits")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    label, confidence = fuse(passes, size, upsampled="logits")
    best, index = expected.max(1)
    torch.testing.assert_close(confidence, best, rtol=1e-12, atol=1e-12)
    assert torch.equal(label.long(), index)
    assert best.max() <= len(passes)


def test_the_order_of_softmax_and_upsampling_matters() -> None:
    passes, size = four_passes(), (37, 23)
    one, other = (fuse(passes, size, upsampled=how)[1] for how in ("probabilities", "logits"))
    assert (one - other).abs().max() > 0.1


def test_the_whole_probability_volume_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "BAND_ELEMENTS", 2 * CLASSES * 40)  # two rows
    largest: list[int] = []

    def watched(logits: Tensor) -> Tensor:
        largest.append(logits.numel())
        return logits.softmax(1)

    monkeypatch.setattr(maths, "softmax", watched)
    fuse(four_passes(), (40, 30), upsampled="logits")
    assert max(largest) == 2 * CLASSES * 40
    assert len(largest) == 4 * 15


def test_half_precision_logits_are_promoted_before_they_are_upsampled() -> None:
    half = [Pass(one.main.bfloat16(), one.auxiliary.bfloat16(), one.flipped) for one in four_passes()]
    single = [Pass(one.main.float(), one.auxiliary.float(), one.flipped) for one in half]
    for left, right in zip(*(fuse(p, (20, 12), upsampled="logits") for p in (half, single)), strict=True):
        assert torch.equal(left, right)


def test_fusion_keeps_float64_and_promotes_half_precision() -> None:
    double = four_passes(torch.float64)
    torch.testing.assert_close(
        fused_probability(double, (20, 12)), plain_sum(double, (20, 12)), rtol=1e-12, atol=1e-12
    )
    half = [Pass(one.main.bfloat16(), one.auxiliary.bfloat16(), one.flipped) for one in four_passes()]
    assert fuse(half, (20, 12))[1].dtype == torch.float32


def test_probabilities_of_all_passes_sum_to_their_number() -> None:
    total = fused_probability(four_passes(), (30, 20)).sum(1)
    torch.testing.assert_close(total, torch.full_like(total, 4.0))


def test_network_with_one_head_is_fused_from_its_logits_alone() -> None:
    logits = random_logits(4, 6, seed=0)
    expected = logits.softmax(1).amax(1)
    torch.testing.assert_close(fuse([Pass(logits)], (6, 4))[1], expected)


def test_uncertainty_is_zero_where_the_heads_agree_and_one_where_they_differ_most() -> None:
    logits = random_logits(4, 6, seed=0)
    agreeing = [Pass(logits, logits)]
    assert not inference.labelling_uncertainty(agreeing).any()
    assert not inference.evaluation_uncertainty(agreeing).any()
    for uncertainty in (inference.labelling_uncertainty, inference.evaluation_uncertainty):
        values = uncertainty(four_passes())
        assert values.shape == (1, 5, 9)
        assert values.min() >= 0
        assert values.max() == 1


def test_uncertainty_of_a_single_head_is_refused() -> None:
    with pytest.raises(UserError, match="two heads"):
        inference.labelling_uncertainty([Pass(random_logits(4, 6, seed=0))])


def test_score_map_is_zero_at_the_surest_pixel() -> None:
    confidence = torch.tensor([[[1.0, 2.0], [4.0, 3.0]]])
    torch.testing.assert_close(inference.score_map(confidence), torch.tensor([[[0.75, 0.5], [0.0, 0.25]]]))


class Smoother(nn.Module):
    """Logits at half size; treats left and right alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classes = nn.Conv2d(3, CLASSES, 1)
        self.norm = nn.BatchNorm2d(CLASSES)

    def forward(self, images: Tensor) -> SegmentationOutput:
        self.batch = len(images)
        small = interpolate(images.float() / 32, scale_factor=0.5, mode="area")
        return SegmentationOutput(self.norm(self.classes(small)))


def picture(height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def predictor(protocol: Protocol) -> Predictor:
    return Predictor(Smoother().eval(), protocol, device=torch.device("cpu"))


def test_prediction_has_the_protocols_size_else_the_asked_one_else_the_images() -> None:
    fixed = Protocol(name="fixed", output_size=(10, 6))
    assert predictor(fixed).predict(picture(), (8, 4)).label.shape == (6, 10)
    free = Protocol(name="free", base_size=(32, 16))
    assert predictor(free).predict(picture(), (8, 4)).label.shape == (4, 8)
    assert predictor(free).predict(picture()).label.shape == (16, 24)


def test_passes_follow_the_protocol_and_mirror_images_share_a_batch() -> None:
    protocol = Protocol(name="two", base_size=(32, 16), scales=(1.0, 1.5), flip=True)
    engine = predictor(protocol)
    prediction = engine.predict(picture())
    assert [one.main.shape[-2:] for one in prediction.passes] == [(8, 16), (8, 16), (12, 24), (12, 24)]
    assert [one.flipped for one in prediction.passes] == [False, True, False, True]
    assert engine.network.batch == 2
    assert 0 < prediction.confidence.max() <= protocol.passes == 4


def test_prediction_upsamples_what_the_protocol_says() -> None:
    flip = Protocol(name="flip", base_size=(32, 16), flip=True, upsampled="logits")
    prediction = predictor(flip).predict(picture(), (11, 7))
    label, confidence = fuse(prediction.passes, (11, 7), upsampled="logits")
    assert torch.equal(prediction.label, label[0])
    assert torch.equal(prediction.confidence, confidence[0])
    assert not torch.equal(confidence, fuse(prediction.passes, (11, 7))[1])


def test_mirror_image_gets_the_mirrored_labels() -> None:
    engine = predictor(Protocol(name="flip", scales=(1.0, 1.5), flip=True))
    straight, mirrored = engine.predict(picture()), engine.predict(picture()[:, ::-1].copy())
    torch.testing.assert_close(straight.confidence, mirrored.confidence.flip(-1), rtol=1e-5, atol=1e-5)
    assert (straight.label == mirrored.label.flip(-1)).float().mean() > 0.99


def test_evaluation_mode_restores_every_modules_own_mode() -> None:
    network = Smoother().train()
    network.norm.eval()  # frozen while the rest trains
    with evaluation_mode(network):
        assert not network.training
        assert not network.classes.weight.sum().requires_grad
    assert network.training
    assert not network.norm.training


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_prefetch_keeps_the_order(workers: int) -> None:
    assert list(prefetch(lambda value: value * value, range(20), workers)) == [
        value * value for value in range(20)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetch_passes_on_the_error_of_an_item(workers: int) -> None:
    def load(value: int) -> int:
        if value == 3:
            raise UserError("image 3 is damaged")
        return value

    with pytest.raises(UserError, match="image 3"):
        list(prefetch(load, range(6), workers))


def test_progress_tells_rate_and_time_left() -> None:
    progress = inference.ImageProgress("evaluation", 10)
    for _ in range(4):
        progress.advance()
    assert progress.line(8.0) == "evaluation 4/10, 0.50 images/s, 0:00:12 left"


@pytest.mark.parametrize(
    ("image", "expected"), [((2048, 1024), (1024, 512)), ((512, 1024), (512, 1024)), ((800, 600), (836, 627))]
)
def test_an_image_that_keeps_its_aspect_gets_the_area_of_the_base_size(
    image: tuple[int, int], expected: tuple[int, int]
) -> None:
    protocol = Protocol(name="own", base_size=(1024, 512), scales=(1.0, 0.5))
    full, half = protocol.input_sizes(image, keep_aspect=True)
    assert full == expected
    assert half == (round(expected[0] / 2), round(expected[1] / 2))
    assert protocol.input_sizes(image)[0] == (1024, 512)
    engine = Predictor(Smoother().eval(), protocol, device=torch.device("cpu"), keep_aspect=True)
    height, width = engine.prepare(picture(image[1], image[0])).inputs[0].shape[1:]
    assert (width, height) == expected
