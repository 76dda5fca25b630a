"""The rare class sampler and its crops; the reference's cases are in tests/goldens."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_loaders.aspect_crops import AspectCropTransform
from data_loaders.dataset import SegmentationDataset
from data_loaders.decoding import write_label_png
from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from data_loaders.histogram import value_counts
from data_loaders.rare_classes import RareClassSampler, RareClassSamples, rare_class_distribution
from data_loaders.streams import SampleStream
from utils.class_spaces import class_space
from utils.errors import UserError

NAMES = class_space("cityscapes19").class_names
SMALL = {"class_names": NAMES, "origin": "stats.json"}


@given(
    pixels=st.dictionaries(st.integers(0, 18), st.integers(1, 10**9), min_size=1),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
)
def test_rarer_classes_come_first_and_are_drawn_at_least_as_often(
    pixels: dict[int, int], temperature: float
) -> None:
    found = rare_class_distribution(pixels, temperature=temperature)
    assert [pixels[train] for train in found.classes.tolist()] == sorted(pixels.values())
    assert (np.diff(found.probability) <= 0).all()
    assert found.probability.sum() == pytest.approx(1, abs=1e-6)


def test_classes_of_equal_size_keep_the_order_of_their_first_appearance() -> None:
    sampler = RareClassSampler([{5: 3, 2: 9}, {7: 3, 0: 3, 2: 1}], min_pixels=0, **SMALL)
    assert sampler.distribution.classes.tolist() == [5, 7, 0, 2]
    assert sampler.pixels_per_class == {5: 3, 2: 10, 7: 3, 0: 3}


def test_images_are_drawn_uniformly_among_those_with_more_than_min_pixels() -> None:
    counts = [{0: 11, 1: 100}, {0: 10}, {}, {0: 12}, {1: 10, 3: 0}]
    sampler = RareClassSampler(counts, temperature=1.0, min_pixels=10, **SMALL)
    generator = np.random.default_rng(0)
    draws = [sampler.draw(generator) for _ in range(4000)]
    shares = {pair: draws.count(pair) / len(draws) for pair in set(draws)}
    probability = dict(
        zip(sampler.distribution.classes.tolist(), sampler.distribution.probability, strict=True)
    )
    assert shares.keys() == {(0, 0), (0, 3), (1, 0)}
    assert shares[1, 0] == pytest.approx(probability[1], abs=0.03)
    assert shares[0, 0] == pytest.approx(probability[0] / 2, abs=0.03)


def test_pixels_beyond_32_bits_are_added_exactly() -> None:
    sampler = RareClassSampler([{0: 2**40 + 1}, {0: 2**40, 1: 5}], min_pixels=0, **SMALL)
    assert sampler.pixels_per_class == {0: 2**41 + 1, 1: 5}


def test_a_class_without_a_good_image_is_named_with_the_remedy() -> None:
    counts = [{0: 9000, 17: 812, 16: 700}, {0: 9000, 17: 811}]
    with pytest.raises(UserError) as caught:
        RareClassSampler(counts, **SMALL)
    assert str(caught.value) == (
        "stats.json: no source image has more than 3000 pixels of class 16 (train), the most is 700, and so "
        "for 1 other classes; use --rare-class-min-pixels 699 or less"
    )
    RareClassSampler(counts, min_pixels=699, **SMALL)


@pytest.mark.parametrize("counts", [[], [{}, {}], [{3: 0}]])
def test_statistics_without_any_class_are_refused(counts: list[dict[int, int]]) -> None:
    with pytest.raises(UserError, match="no source image has a pixel of any class"):
        RareClassSampler(counts, **SMALL)


def test_the_summary_has_a_line_per_class() -> None:
    lines = RareClassSampler([{0: 9000, 17: 4000}, {0: 9000}], **SMALL).summary()
    assert lines[0].startswith("rare class sampling from stats.json: temperature 0.01, images with more than")
    assert [line.split()[:4] for line in lines[1:]] == [
        ["17", "motorcycle", "drawn", "100.00%,"],
        ["0", "road", "drawn", "0.00%,"],
    ]
    assert lines[1].endswith("18.182% of the pixels, 1 images")


RARE_AREA = (slice(0, 10), slice(0, 10))  # of the images below


@pytest.fixture
def files(tmp_path: Path) -> FileList:
    """Four GTA5 pairs of 60x40: road and building, the last one with 100 pixels of motorcycle in a corner."""
    for number in range(4):
        label = np.full((40, 60), 7, np.uint8)
        label[20:] = 11
        if number == 3:
            label[RARE_AREA] = 32
        (tmp_path / "images").mkdir(exist_ok=True)
        picture = np.repeat(label[..., None], 3, axis=-1)
        assert cv2.imwrite(str(tmp_path / f"images/{number:05d}.png"), picture)
        write_label_png(tmp_path / f"labels/{number:05d}.png", label)
    return find_files(load_description("gta5"), split="train", root=tmp_path, labels="required")


def samples_of(files: FileList, **options: float) -> RareClassSamples:
    """Crops of 20x20 for which only the motorcycle is ever drawn."""
    dataset = SegmentationDataset(
        files,
        label_table=files.label_table("cityscapes19"),
        transform=AspectCropTransform(limit=(60, 40), crop=(20, 20)),
        pad_to=(24, 24),
    )
    counts = [{0: 1200, 2: 1200}, {0: 1200, 2: 1200}, {0: 1200, 2: 1200}, {0: 1100, 2: 1200, 17: 100}]
    sampler = RareClassSampler(counts, temperature=1e-4, min_pixels=60, **SMALL)
    return RareClassSamples(dataset, sampler, **options)


def test_samples_show_the_class_that_was_drawn(files: FileList) -> None:
    samples = samples_of(files, attempts=200)
    assert len(samples) == 4
    assert samples.items == files.items
    for number in range(10):
        sample = samples.sample(0, np.random.default_rng(number))
        assert sample.name == "00003.png"
        assert sample.content == (20, 20)
        assert sample.label is not None
        assert (sample.label == 17).sum() > 30
        assert sample.size == (40, 60)


def test_an_image_is_decoded_and_resized_once_however_often_it_is_cropped(
    files: FileList, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(files)
    calls: list[str] = []

    def count(owner: object, name: str) -> None:
        kept = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (calls.append(name), kept(*given))[1])

    count(samples.dataset, "load")
    count(samples.transform, "prepare")
    count(samples.transform, "draw")
    samples.sample(0, np.random.default_rng(3))
    assert (calls.count("load"), calls.count("prepare")) == (1, 1)
    assert calls.count("draw") > 1


def test_after_all_attempts_the_last_crop_is_kept(files: FileList) -> None:
    samples = samples_of(files, min_crop_share=1e6)
    once = samples_of(files, min_crop_share=0)
    generator, other = np.random.default_rng(1), np.random.default_rng(1)
    loaded = samples.dataset.load(3)
    assert loaded.label is not None
    kept = samples.crop(loaded.image, loaded.label, 17, generator)
    crops = [once.crop(loaded.image, loaded.label, 17, other) for _ in range(11)]
    np.testing.assert_array_equal(kept[0], crops[-1][0])
    assert value_counts(crops[0][1])[17] <= 30
    assert generator.random() == other.random()


def test_streams_over_rare_classes_do_not_depend_on_workers(files: FileList) -> None:
    def batches(num_workers: int) -> list[list[int]]:
        stream = SampleStream(
            samples_of(files), seed=3, name="source", global_batch=2, num_workers=num_workers
        )
        found = [stream.next().image.flatten().tolist() for _ in range(3)]
        stream.close()
        return found

    assert batches(0) == batches(1)
