"""The training transform: what is drawn when, and what a crop may be."""

from __future__ import annotations

import numpy as np
import pytest

from data_loaders.transforms import TrainingTransform, distinct_values
from utils.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
LABEL = np.random.default_rng(1).integers(0, 19, (40, 60), dtype=np.uint8)


class Recorder:
    """Gives fixed draws and keeps what was asked."""

    def __init__(self, uniform: float = 0.75, integer: str = "low") -> None:
        self.uniform = uniform
        self.integer = integer
        self.asked: list[str | tuple[int, int]] = []

    def random(self) -> float:
        self.asked.append("random")
        return self.uniform

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        assert endpoint
        self.asked.append((low, high))
        return low if self.integer == "low" else high


def test_draws_come_in_the_order_scale_top_left_mirror() -> None:
    transform = TrainingTransform(size=(60, 40), crop=(20, 30), scale_range=(0.8, 1.2), mirror=True)
    generator = Recorder(uniform=0.75)  # scale 1.1
    image, label = transform(IMAGE, LABEL, generator)
    assert generator.asked == ["random", (0, 44 - 20), (0, 66 - 30), "random"]
    assert image.shape == (20, 30, 3)
    assert label is not None
    assert label.shape == (20, 30)


def test_nothing_is_drawn_for_what_is_switched_off() -> None:
    generator = Recorder()
    image, label = TrainingTransform(size=(60, 40), crop=None)(IMAGE, LABEL, generator)
    assert generator.asked == []
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)


def test_the_last_row_and_column_can_be_cropped() -> None:
    image, label = TrainingTransform(size=(60, 40), crop=(20, 30))(IMAGE, LABEL, Recorder(integer="high"))
    np.testing.assert_array_equal(image, IMAGE[20:, 30:])
    np.testing.assert_array_equal(label, LABEL[20:, 30:])


@pytest.mark.parametrize(("uniform", "mirrored"), [(0.49, True), (0.5, False)])
def test_image_and_label_are_mirrored_together(uniform: float, mirrored: bool) -> None:
    image, label = TrainingTransform(size=(60, 40), crop=None, mirror=True)(IMAGE, LABEL, Recorder(uniform))
    step = -1 if mirrored else 1
    np.testing.assert_array_equal(image, IMAGE[:, ::step])
    np.testing.assert_array_equal(label, LABEL[:, ::step])


@pytest.mark.parametrize(("values", "tries"), [(4, 10), (5, 1)])
def test_crops_are_drawn_until_one_holds_more_classes_than_the_threshold(values: int, tries: int) -> None:
    label = (np.arange(60, dtype=np.uint8) % values)[None].repeat(40, 0)
    generator = Recorder()
    TrainingTransform(size=(60, 40), crop=(20, 30), crop_attempts=10, crop_min_classes=4)(
        IMAGE, label, generator
    )
    assert len(generator.asked) == 2 * tries


def test_an_unlabelled_image_takes_its_first_crop() -> None:
    generator = Recorder()
    image, label = TrainingTransform(size=(60, 40), crop=(20, 30), crop_attempts=10, crop_min_classes=4)(
        IMAGE, None, generator
    )
    assert label is None
    assert image.shape == (20, 30, 3)
    assert len(generator.asked) == 2


def test_image_and_label_of_different_size_meet_in_the_resized_size() -> None:
    image, label = TrainingTransform(size=(30, 20), crop=None)(IMAGE, LABEL[:35, :50], Recorder())
    assert image.shape[:2] == (20, 30)
    assert label is not None
    assert label.shape == (20, 30)


def test_colour_policies_see_the_whole_image_and_leave_the_label_alone() -> None:
    plain = TrainingTransform(size=(60, 40), crop=(20, 30))
    colour = TrainingTransform(size=(60, 40), crop=(20, 30), autoaugment=True)
    generator = Recorder(uniform=0.3, integer="high")  # the last policy: equalize, equalize
    image, label = colour(IMAGE, LABEL, generator)
    unchanged, same_label = plain(IMAGE, LABEL, Recorder(integer="high"))
    assert generator.asked == [(0, 17), "random", "random", (0, 20), (0, 30)]
    assert not np.array_equal(image, unchanged)
    np.testing.assert_array_equal(label, same_label)


@pytest.mark.parametrize("crop", [(41, 30), (40, 61)])
def test_a_crop_larger_than_the_image_is_refused(crop: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="does not fit into images resized to 60,40"):
        TrainingTransform(size=(60, 40), crop=crop)


def test_a_crop_larger_than_the_smallest_jittered_image_is_refused() -> None:
    TrainingTransform(size=(60, 40), crop=(32, 48), scale_range=(0.8, 1.2))
    with pytest.raises(UserError, match=r"smallest is 48,32, as the scale jitter goes down to 0\.8"):
        TrainingTransform(size=(60, 40), crop=(33, 48), scale_range=(0.8, 1.2))


def test_a_scale_without_a_crop_is_refused() -> None:
    with pytest.raises(UserError, match="needs a crop size"):
        TrainingTransform(size=(60, 40), crop=None, scale_range=(0.8, 1.2))


def test_distinct_values_count_255_and_read_views() -> None:
    label = np.full((6, 8), 255, np.uint8)
    label[2:4, 3:5] = [[0, 7], [7, 18]]
    assert distinct_values(label) == 4
    assert distinct_values(label[2:4, 3:5]) == 3
