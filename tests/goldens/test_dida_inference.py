"""Whole-image, mirrored, averaged and sliding inference against the reference's framework."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import golden_files
import numpy as np
import pytest
import torch
from dida_networks import golden_network, golden_noise
from torch import Tensor, nn

from networks.spec import SegmentationOutput
from trainers.inference import Pass, Predictor, PreparedImage, fuse, fused_probability
from trainers.protocols import Size, protocol_named
from utils.maths import upsample

ARCHIVE = ("dida", "inference.npz")
ATOL = 1e-5  # of the README; closer than this to a tie a label may differ
PROBABILITY_STEP = (5, 7)  # of the stored probabilities, down and across
LOGIT_STEP = (3, 3)
PROTOCOL = protocol_named("daformer")
CPU = torch.device("cpu")


def stored() -> dict[str, np.ndarray]:
    return golden_files.load_npz(*ARCHIVE)


def present(*fields: str) -> list[str]:
    """Those fields that the archive has; all of them where it is missing, so that their tests say so."""
    if not golden_files.has_golden(*ARCHIVE):
        return list(fields)
    return [name for name in fields if name in stored()] or [golden_files.NO_CASES]


class Normalised(nn.Module):
    """The golden network, fed with what its first layer would make of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.network = golden_network("mit_b0")

    def forward(self, images: Tensor) -> SegmentationOutput:
        return self.network.forward_normalized(images)


def window_and_stride() -> tuple[Size, Size]:
    """(W, H) each; stored as (H, W)."""
    (height, width), (down, across) = (stored()[name].tolist() for name in ("slide_crop", "slide_stride"))
    return (width, height), (across, down)


@lru_cache(maxsize=2)
def passes(*, sliding: bool) -> tuple[Pass, Pass]:
    """Logits of the images and of their mirror images, seen whole or through the stored windows."""
    protocol = replace(PROTOCOL, flip=True)
    if sliding:
        protocol = protocol.with_window(*window_and_stride())
    images = golden_noise(int(stored()["input_seed"]), tuple(stored()["shape"].tolist()))
    predictor = Predictor(Normalised(), protocol, device=CPU)
    found = [predictor.predict(PreparedImage((image,), output_size())).passes for image in images]
    straight, mirrored = (
        replace(kind[0], main=torch.cat([one.main for one in kind])) for kind in zip(*found, strict=True)
    )
    return straight, mirrored


def output_size() -> Size:
    height, width = stored()["ori_shape"][:2].tolist()
    return width, height


def probability(*of: Pass) -> Tensor:
    """Mean over passes at the size of the label map, as the protocol makes it."""
    how = {"upsampled": PROTOCOL.upsampled, "align_corners": PROTOCOL.align_corners}
    return fused_probability(of, output_size(), **how) / len(of)


def sub(values: Tensor, steps: tuple[int, int]) -> np.ndarray:
    return values[:, :, :: steps[0], :: steps[1]].numpy()


@pytest.mark.parametrize("field", present("whole_prob_sub", "flip_prob_sub", "slide_prob_sub"))
def test_probabilities_of_each_kind_of_pass_agree(field: str) -> None:
    expected = stored()[field]
    straight, mirrored = passes(sliding=field.startswith("slide"))
    found = probability(mirrored if field.startswith("flip") else straight)
    np.testing.assert_allclose(sub(found, PROBABILITY_STEP), expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("field", present("whole_argmax", "aug_argmax"))
def test_label_maps_agree_wherever_they_are_decided(field: str) -> None:
    width, height = output_size()
    expected = stored()[field].reshape(-1, height, width)
    both = passes(sliding=False)
    chosen = both if field.startswith("aug") else both[:1]
    label, confidence = fuse(
        chosen, output_size(), upsampled=PROTOCOL.upsampled, align_corners=PROTOCOL.align_corners
    )
    mean = probability(*chosen)
    torch.testing.assert_close(confidence / len(chosen), mean.amax(1))
    top = mean.topk(2, dim=1).values
    decided = (top[:, 0] - top[:, 1] > ATOL).numpy()[: len(expected)]
    assert decided.mean() > 0.9
    np.testing.assert_array_equal(label.numpy()[: len(expected)][decided], expected[decided])


@pytest.mark.parametrize("field", present("whole_margin_min"))
def test_closest_decision_is_as_close(field: str) -> None:
    top = probability(passes(sliding=False)[0]).topk(2, dim=1).values
    assert float((top[:, 0] - top[:, 1]).min()) == pytest.approx(float(stored()[field]), abs=ATOL)


@pytest.mark.parametrize("field", present("slide_logits_sub"))
def test_mean_logits_of_the_windows_agree_before_the_final_resize(field: str) -> None:
    logits = upsample(passes(sliding=True)[0].main, tuple(stored()["shape"][-2:]), align_corners=False)
    np.testing.assert_allclose(sub(logits, LOGIT_STEP), stored()[field], rtol=0, atol=ATOL)


@pytest.mark.parametrize("field", present("slide_grid"))
def test_there_are_as_many_windows(field: str) -> None:
    height, width = stored()["shape"][-2:].tolist()
    windows = PROTOCOL.with_window(*window_and_stride()).windows((width, height))
    rows, columns = ({place[axis].start for place in windows} for axis in (0, 1))
    assert [max(len(rows), 1), max(len(columns), 1)] == stored()[field].tolist()  # none: seen at once
    assert len(windows) == len(rows) * len(columns)
