"""Target images for a query round, and the labels that were bought of them for training."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_loaders.description import load_description
from data_loaders.discovery import FileList, Item, find_files
from selection.store import AnnotationStore
from tests.official_formats import write_cityscapes
from tests.unit.selection.toy_rounds import NAMES, SIZES, fill_store
from trainers.target_images import BoughtLabelReader, FileImages
from utils.class_spaces import IGNORE_LABEL

SIZE = (64, 48)


class TestFileImages:
    @pytest.fixture
    def files(self, tmp_path: Path) -> FileList:
        write_cityscapes(tmp_path, 2, SIZE, labelled=False)
        return find_files(load_description("cityscapes"), split="train", data_root=tmp_path, labels="never")

    def test_network_sees_the_resized_image_and_picks_count_in_its_own_pixels(self, files: FileList) -> None:
        images = FileImages(files, (40, 20))
        assert images.names == tuple(item.name for item in files.items)
        name = images.names[1]
        image, size = images.network_input(name)
        assert size == (48, 64)
        with Image.open(files.items[1].image) as picture:
            expected = np.asarray(picture.convert("RGB").resize((40, 20), Image.Resampling.BICUBIC))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
        assert images.picture(name).shape == (48, 64, 3)

    def test_without_a_size_images_stay_as_they_are(self, files: FileList) -> None:
        image, size = FileImages(files, None).network_input(files.items[0].name)
        assert (tuple(image.shape), size) == ((3, 48, 64), (48, 64))

    def test_fingerprint_changes_with_the_list(self, files: FileList) -> None:
        fewer = FileList(files.description, files.root, files.layout, files.split, files.items[:1])
        assert FileImages(files, None).fingerprint != FileImages(fewer, None).fingerprint


class TestBoughtLabels:
    def test_image_that_nobody_asked_about_is_one_ignored_pixel(self, tmp_path: Path) -> None:
        reader = BoughtLabelReader(AnnotationStore(tmp_path).load(0))
        assert reader(Item("new.png", Path("new.png"), None)).tolist() == [[IGNORE_LABEL]]

    def test_follow_the_rounds_also_in_other_processes(self, tmp_path: Path) -> None:
        store = AnnotationStore(tmp_path)
        reader = BoughtLabelReader(store.load(0))
        fill_store(store, 2)
        for rounds in (1, 2):
            reader.bought = store.load(rounds)
            copy = pickle.loads(pickle.dumps(reader))
            for name, size in zip(NAMES, SIZES, strict=True):
                label = copy(Item(name, Path(name), None))
                assert label.shape == size
                assert np.array_equal(label, store.load(rounds).mask(name))
                assert (label != IGNORE_LABEL).any()
