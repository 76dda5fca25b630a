"""Describing images: the numbers, resuming, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data_loaders.samples import Sample
from losses.objective import class_means_of, nearest_labels
from networks.segmentation import SegmentationNetwork
from selection.vector_folder import VectorFolder
from tests.toy_active import DrawnImages, small_network
from tests.toy_training import WORLD
from trainers import description
from trainers.description import describe, empty_images
from utils import distributed, maths
from utils.errors import UserError

IMAGES = 7


class Counted(DrawnImages):
    """Remembers which images were looked at."""

    def __init__(self, count: int = IMAGES) -> None:
        super().__init__(count)
        self.seen: list[int] = []

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        assert generator is None
        self.seen.append(index)
        return super().sample(index, generator)


@pytest.fixture
def samples() -> Counted:
    return Counted()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VectorFolder:
    monkeypatch.setattr(description, "PART_IMAGES", 2)
    return VectorFolder(tmp_path / "vectors")


def run(
    folder: VectorFolder, samples: DrawnImages, network: SegmentationNetwork | None = None, **changes: Any
) -> bool:
    """A description by one process."""
    options = {"what": "toy images", "labelled": False, "fingerprint": "drawn", "num_workers": 0}
    return describe(network or small_network(), samples, folder, world=WORLD, **{**options, **changes})


def after(count: int, samples: Counted) -> Callable[[], bool]:
    """A stop signal once so many images were looked at."""
    return lambda: len(samples.seen) > count


class TestNumbers:
    @pytest.mark.parametrize("labelled", [True, False])
    def test_are_those_of_each_image_alone_in_eval_mode(
        self, folder: VectorFolder, samples: Counted, labelled: bool
    ) -> None:
        network = small_network().train()
        samples.labels[:] = predicted(samples)[:, None, None]  # so that some classes count
        before = {name: value.clone() for name, value in network.state_dict().items()}
        assert run(folder, samples, network, labelled=labelled, num_workers=2)
        assert network.training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        network.eval()
        vectors, entropies = folder.vectors(), folder.entropies()
        for number in range(IMAGES):
            sample = samples.sample(number)
            with torch.no_grad():
                output = network(sample.image[None])
            label = nearest_labels(sample.label[None], output.logits.shape[2:]) if labelled else None
            means = class_means_of(output.features, output.logits, label)
            np.testing.assert_array_equal(vectors[number], means.vectors[0].numpy())
            entropy = maths.entropy(maths.log_softmax(output.logits)).double().mean().item()
            assert entropies[number] == entropy
        assert vectors.any()

    def test_labels_make_a_difference(self, tmp_path: Path, samples: Counted) -> None:
        folders = [VectorFolder(tmp_path / name) for name in ("with", "without")]
        for folder, labelled in zip(folders, (True, False), strict=True):
            run(folder, samples, labelled=labelled)
        assert (np.asarray(folders[0].vectors()) != folders[1].vectors()).any()

    def test_are_made_without_tensor_float_32_and_gradients(
        self, folder: VectorFolder, samples: Counted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = small_network()
        forward, modes = network.forward, []

        def noted(images: torch.Tensor) -> Any:
            modes.append((torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()))
            return forward(images)

        network.forward = noted
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        run(folder, samples, network)
        assert modes == IMAGES * [(False, False)]

    def test_of_a_float64_network_are_rounded_once(self, folder: VectorFolder, samples: Counted) -> None:
        network = small_network(double=True)
        run(folder, samples, network)
        assert folder.vectors().dtype == np.float32
        with torch.no_grad():
            output = network.eval()(samples.sample(0).image[None])
        exact = class_means_of(output.features, output.logits, None).vectors[0]
        assert exact.dtype is torch.float64
        np.testing.assert_array_equal(folder.vectors()[0], exact.float().numpy())


class TestResuming:
    @pytest.mark.parametrize("done", [0, 1, 4])
    def test_a_stopped_description_makes_only_what_is_missing(
        self, folder: VectorFolder, samples: Counted, tmp_path: Path, done: int
    ) -> None:
        assert not run(folder, samples, stop=after(done, samples))
        assert not folder.is_complete()
        again = Counted()
        assert run(folder, again)
        assert again.seen == list(range(done, IMAGES))
        whole = VectorFolder(tmp_path / "whole")
        run(whole, samples)
        assert folder.vectors_path.read_bytes() == whole.vectors_path.read_bytes()
        np.testing.assert_array_equal(folder.entropies(), whole.entropies())

    def test_a_finished_description_is_read(self, folder: VectorFolder, samples: Counted) -> None:
        run(folder, samples)
        samples.seen.clear()
        assert run(folder, samples)
        assert samples.seen == []

    @pytest.mark.parametrize("change", ["network", "images", "labelled"])
    def test_another_network_or_list_starts_anew(
        self, folder: VectorFolder, samples: Counted, change: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        run(folder, samples)
        samples.seen.clear()
        network, options = small_network(), {}
        if change == "network":
            nn.init.constant_(next(network.parameters()), 0.01)
        elif change == "images":
            options = {"fingerprint": "other"}
        else:
            options = {"labelled": True}
        assert run(folder, samples, network, **options)
        assert samples.seen[:IMAGES] == list(range(IMAGES))
        assert "made anew" in caplog.text

    def test_damaged_part_is_described_again(
        self, folder: VectorFolder, samples: Counted, caplog: pytest.LogCaptureFixture
    ) -> None:
        run(folder, samples, stop=after(4, samples))
        part = sorted((folder.folder / "parts").iterdir())[0]
        part.write_bytes(part.read_bytes()[:-9])
        again = Counted()
        assert run(folder, again)
        assert len(again.seen) == IMAGES - 2
        assert "is damaged" in caplog.text

    def test_missing_images_are_split_over_the_processes(
        self, folder: VectorFolder, samples: Counted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(folder, samples, stop=after(3, samples))
        samples.seen.clear()
        shard = distributed.shard
        monkeypatch.setattr(distributed, "shard", lambda n: shard(n, rank=1, size=2))
        monkeypatch.setattr(distributed, "any_rank", lambda flag, what: True)
        assert not run(folder, samples)
        assert samples.seen == [5, 6]


class TestBadNetworks:
    @pytest.mark.parametrize("where", ["features", "logits"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_output_that_is_not_finite_names_the_image(
        self, folder: VectorFolder, samples: Counted, where: str, value: float
    ) -> None:
        network = small_network()
        forward = network.forward

        def broken(images: torch.Tensor) -> Any:
            output = forward(images)
            if torch.equal(images[0], samples.sample(3).image):
                getattr(output, where)[0, 1, 2, 3] = value
            return output

        network.forward = broken
        with pytest.raises(UserError, match=r"3\.png are not finite"):
            run(folder, samples, network)
        assert folder.finished().tolist() == [True, True, *[False] * 5]

    def test_images_without_a_class_are_counted_once(
        self, folder: VectorFolder, samples: Counted, caplog: pytest.LogCaptureFixture
    ) -> None:
        samples.labels[[2, 5]] = 255
        samples.labels[[0, 1, 3, 4, 6]] = predicted(samples)[[0, 1, 3, 4, 6], None, None]
        run(folder, samples, labelled=True)
        assert empty_images(folder.vectors()).tolist() == [2, 5]

        def warnings() -> list[str]:
            return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

        assert len(warnings()) == 1
        assert warnings()[0].startswith(
            "2 of 7 toy images show no class on 10 pixels or more, the first is 2.png"
        )
        run(folder, samples, labelled=True)
        assert len(warnings()) == 1


def predicted(samples: DrawnImages) -> np.ndarray:
    """(N,) the class that the small network predicts most often in each image."""
    network = small_network().eval()
    with torch.no_grad():
        classes = [network(torch.from_numpy(image)[None]).logits.argmax(1) for image in samples.images]
    return np.array([int(found.flatten().bincount().argmax()) for found in classes], np.uint8)
