"""Protocols: presets, what a snapshot remembers, how one is chosen, and what options make of it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from networks.published import LAYOUTS, Layout
from trainers.protocols import (
    AUG_TEST_SCALES,
    PROTOCOLS,
    Protocol,
    choose_protocol,
    labelling_protocol,
    protocol_named,
)
from utils.errors import UserError


@pytest.mark.parametrize(
    ("name", "sizes", "output", "passes"),
    [
        ("mrnet-cityscapes", [(1024, 512), (1280, 640)], (2048, 1024), 4),
        ("mrnet-robotcar", [(1280, 960), (1024, 768)], (1280, 960), 4),
        ("mrnet-robotcar-labels", [(1280, 960), (1600, 1200)], (1280, 960), 4),
        ("mrnet-gta5", [(1280, 640)], (1280, 640), 1),
        ("mrnet", [(320, 240), (400, 300)], None, 4),
        ("ripu-cityscapes", [(1280, 640)], None, 2),
        ("ripu-cityscapes-1024", [(1024, 512)], None, 2),
        ("ripu", [(320, 240)], None, 2),
        ("daformer-cityscapes", [(683, 512)], None, 1),  # fits inside 1024x512, proportions kept
        ("daformer", [(320, 240)], None, 1),
        ("mada-cityscapes", [(2048, 1024)], None, 1),
        ("mada", [(320, 240)], None, 1),
        ("common", [(320, 240)], None, 1),
    ],
)
def test_presets_have_the_published_sizes(
    name: str, sizes: list[tuple[int, int]], output: tuple[int, int] | None, passes: int
) -> None:
    protocol = protocol_named(name)
    assert protocol.input_sizes((320, 240)) == sizes
    assert protocol.output_size == output
    assert protocol.passes == passes


def test_self_training_sees_images_of_any_shape_as_it_was_trained() -> None:
    protocol = protocol_named("daformer-cityscapes")
    for size, fitted in (((2048, 1024), (1024, 512)), ((1920, 1080), (910, 512)), ((512, 1024), (512, 1024))):
        for keep_aspect in (False, True):
            assert protocol.input_sizes(size, keep_aspect=keep_aspect) == [fitted]
    assert protocol.with_aug_test().input_sizes((2048, 1024))[1:3] == [(512, 256), (768, 384)]


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=str)
def test_protocol_survives_plain_values(protocol: Protocol) -> None:
    assert Protocol.from_dict(protocol.to_dict()) == protocol


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=str)
def test_each_methods_presets_resize_fuse_and_count_as_published(protocol: Protocol) -> None:
    ripu, daformer, mada = (protocol.name.startswith(method) for method in ("ripu", "daformer", "mada"))
    logits = "logits" if ripu or mada else "logits_twice"
    assert protocol.upsampled == (logits if ripu or daformer or mada else "probabilities")
    assert protocol.align_corners == (not daformer)
    bilinear = "opencv_bilinear" if daformer else "pillow_bilinear"
    assert protocol.resampling == (bilinear if daformer or mada else "pillow_bicubic")
    assert protocol.absent == ("zero" if ripu else "nan")
    assert protocol.flip or not ripu
    assert not (protocol.flip and (daformer or mada))
    assert protocol.window is None


def test_protocols_of_older_snapshots_upsample_probabilities() -> None:
    values = protocol_named("mrnet-cityscapes").to_dict()
    del values["upsampled"]
    assert Protocol.from_dict(values) == protocol_named("mrnet-cityscapes")
    assert choose_protocol(None, evaluation={"protocol": values}).upsampled == "probabilities"


def test_labels_are_made_by_ripus_own_protocol() -> None:
    own = choose_protocol("ripu", evaluation={}, base_size=(64, 32))
    assert labelling_protocol(own) == own
    assert own.upsampled == "logits"


def test_a_published_files_own_protocol_wins_over_the_targets() -> None:
    remembered = {"protocol": "ripu-cityscapes"}
    assert choose_protocol(None, evaluation=remembered, target="cityscapes").base_size == (1280, 640)
    small = choose_protocol(None, evaluation=remembered, target="cityscapes", base_size=(64, 32))
    assert (small.name, small.base_size, small.absent) == ("ripu-cityscapes", (64, 32), "zero")


def test_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean mrnet-cityscapes"):
        protocol_named("mrnet-cityscape")


def test_protocol_is_the_asked_one_else_the_remembered_else_the_published_one_of_the_target() -> None:
    own = Protocol(name="own", base_size=(8, 4))
    assert choose_protocol("common", evaluation={"protocol": own.to_dict()}).name == "common"
    assert choose_protocol(None, evaluation={"protocol": own.to_dict()}, target="cityscapes") == own
    assert choose_protocol(None, evaluation={"protocol": "common"}, target="cityscapes").name == "common"
    assert choose_protocol(None, evaluation={}, target="cityscapes").name == "mrnet-cityscapes"
    assert choose_protocol(None, evaluation={}, target="camvid").name == "mrnet"


def test_open_base_size_is_the_asked_one_else_the_training_runs() -> None:
    trained = {"input_size_target": [320, 240]}
    assert choose_protocol("common", evaluation=trained).base_size == (320, 240)
    assert choose_protocol("common", evaluation=trained, base_size=(64, 32)).base_size == (64, 32)
    assert choose_protocol("mrnet-gta5", evaluation=trained).base_size == (1280, 640)
    assert choose_protocol("common", evaluation={}).base_size is None


def test_robotcar_labels_are_made_at_the_published_larger_size() -> None:
    assert labelling_protocol(protocol_named("mrnet-robotcar")).name == "mrnet-robotcar-labels"
    assert labelling_protocol(protocol_named("mrnet-cityscapes")).name == "mrnet-cityscapes"


def test_a_base_size_of_the_users_own_stays_in_the_labelling_protocol() -> None:
    own = choose_protocol("mrnet-robotcar", evaluation={}, base_size=(640, 480))
    labels = labelling_protocol(own)
    assert labels.name == "mrnet-robotcar-labels"
    assert labels.input_sizes((1280, 960)) == [(640, 480), (800, 600)]
    assert labels.output_size == own.output_size


@pytest.mark.parametrize(
    "layout", [layout for layout in LAYOUTS if layout.protocol], ids=lambda one: one.name
)
def test_published_checkpoints_are_scored_at_their_published_size(layout: Layout) -> None:
    assert protocol_named(layout.protocol).base_size is not None


def test_later_fields_are_written_only_where_they_say_something() -> None:
    later = {"align_corners", "window", "stride"}
    for name in ("mrnet-cityscapes", "ripu", "common"):  # equal to what older manifests and run folders hold
        assert not later & set(protocol_named(name).to_dict())
    sliding = protocol_named("daformer").with_window((64, 32), None)
    values = json.loads(json.dumps(sliding.to_dict()))
    assert later <= set(values)
    assert values["window"] == [64, 32]
    assert Protocol.from_dict(values) == sliding
    assert choose_protocol(None, evaluation={"protocol": values}) == sliding


@pytest.mark.parametrize("name", ["daformer-cityscapes", "ripu-cityscapes", "mrnet", "common"])
def test_aug_test_replaces_scales_and_flip_of_any_protocol(name: str) -> None:
    protocol = protocol_named(name)
    augmented = protocol.with_aug_test()
    assert sorted(augmented.scales) == [0.5, 0.75, 1, 1.25, 1.5, 1.75]
    assert augmented.scales[0] == 1  # uncertainty maps are made at the base size
    assert augmented.flip
    assert augmented.passes == 12
    assert dataclasses.replace(augmented, scales=protocol.scales, flip=protocol.flip) == protocol


def test_aug_test_sizes_and_its_line_in_a_table() -> None:
    augmented = protocol_named("daformer-cityscapes").with_aug_test()
    assert sorted(augmented.input_sizes((2048, 1024))) == [
        *((512, 256), (768, 384), (1024, 512)),
        *((1280, 640), (1536, 768), (1792, 896)),
    ]
    assert augmented.describe() == "daformer-cityscapes aug-test (1024x512 x 1+0.5+0.75+1.25+1.5+1.75, flip)"


def test_aug_test_stays_when_labels_are_made() -> None:
    augmented = protocol_named("mrnet-robotcar").with_aug_test()
    labels = labelling_protocol(augmented)
    assert (labels.name, labels.scales) == ("mrnet-robotcar-labels", AUG_TEST_SCALES)


def plain_windows(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """The specification read literally, along one axis."""
    found = []
    for number in range(max(length - window + stride - 1, 0) // stride + 1):
        end = min(number * stride + window, length)
        found.append((max(end - window, 0), end))
    return found


@pytest.mark.parametrize(
    ("size", "window", "stride", "count"),
    [
        ((128, 64), (48, 48), (32, 32), 8),
        ((1024, 512), (512, 512), (341, 341), 3),
        ((1024, 512), (512, 512), (512, 512), 2),
        ((100, 50), (30, 20), (7, 20), 33),
        ((33, 16), (32, 16), (32, 16), 2),
        ((100, 20), (30, 90), (20, 60), 5),  # higher than the image: all of its rows
    ],
)
def test_windows_cover_the_input_and_are_shifted_inside(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], count: int
) -> None:
    windows = protocol_named("daformer").with_window(window, stride).windows(size)
    columns, rows = (plain_windows(*axis) for axis in zip(size, window, stride, strict=True))
    assert [((row.start, row.stop), (column.start, column.stop)) for row, column in windows] == [
        (row, column) for row in rows for column in columns
    ]
    assert len(set(map(str, windows))) == count
    covered = np.zeros(size[::-1], bool)
    for place in windows:
        covered[place] = True
    assert covered.all()


@pytest.mark.parametrize("window", [(64, 32), (65, 32), (1000, 1000)])
def test_an_input_no_larger_than_the_window_is_seen_at_once(window: tuple[int, int]) -> None:
    assert protocol_named("daformer").with_window(window, None).windows((64, 32)) == []


def test_window_and_stride_are_the_asked_ones_else_the_protocols_else_two_thirds() -> None:
    plain = protocol_named("daformer")
    assert plain.with_window((512, 512), None).stride == (341, 341)
    assert plain.with_window((1, 1), None).stride == (1, 1)
    sliding = plain.with_window((60, 30), (20, 10))
    assert sliding.describe() == "daformer (image size, windows 60x30 every 20x10)"
    assert sliding.with_window(None, (30, 30)).window == (60, 30)
    assert sliding.with_window((90, 90), None).stride == (60, 60)


def test_a_stride_without_a_window_or_with_gaps_is_refused() -> None:
    plain = protocol_named("daformer")
    with pytest.raises(UserError, match="add --window W,H"):
        plain.with_window(None, (20, 20))
    with pytest.raises(UserError, match=r"--stride 60,40 leaves gaps .* at most --stride 60,30"):
        plain.with_window((60, 30), (60, 40))
