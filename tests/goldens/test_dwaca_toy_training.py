"""The whole training loop on a toy network against the authors' loop (toy_training.npz / .json)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import golden_tensor, load_json, load_npz
from torch import Tensor, nn

from data_loaders.samples import Batch
from networks.normalization import torchvision_normalization
from networks.segmentation import Backbone, SegmentationNetwork
from networks.spec import NetworkSpec, SegmentationOutput
from selection.budget import Budget
from tests.toy_active import ArrayImages, active_trainer
from trainers.active import ActiveTrainer
from trainers.inference import Pass, fuse
from trainers.oracles import TruthOracle
from utils.class_spaces import ClassSpace
from utils.metrics import ConfusionMatrix, scores

FILE = "toy_training"
PREFIXES = {"conv1": "feature_extractor.", "conv2": "feature_extractor.", "head": "classifier."}


class ToyNetwork(SegmentationNetwork):
    """conv1 - ReLU - conv2 - ReLU at stride 2, and a 1x1 classifier; images come normalised."""

    def __init__(self, num_classes: int) -> None:
        modules = {
            "conv1": nn.Conv2d(3, 8, 3, stride=2, padding=1),
            "relu1": nn.ReLU(),
            "conv2": nn.Conv2d(8, 16, 3, padding=1),
            "relu2": nn.ReLU(),
        }
        backbone = Backbone(modules, ((tuple(modules),),), (16,), torchvision_normalization)
        super().__init__(NetworkSpec("toy", "toy", num_classes, "toy"), backbone)
        self.normalize = nn.Identity()
        self.head = nn.Conv2d(16, num_classes, 1)
        self.dropout = nn.Dropout2d(0.1)  # never called, as the golden's network has none: it shows the mode
        for name, value in self.named_parameters():
            golden = golden_tensor(f"toy.{PREFIXES[name.split('.')[0]]}{name}", tuple(value.shape))
            value.data.copy_(torch.from_numpy(np.asarray(golden)))

    def forward_normalized(self, x: Tensor) -> SegmentationOutput:
        return SegmentationOutput(self.run_head("head", self.backbone_features(x)[-1]))


class ToyLoop:
    """The golden's data around our trainer; remembers what the trainer did."""

    def __init__(self, folder: Path) -> None:
        self.config = load_json("dwaca", f"{FILE}.json")
        self.arrays = load_npz("dwaca", f"{FILE}.npz")
        self.space = ClassSpace(
            "toy",
            tuple(f"class {index}" for index in range(self.config["C"])),
            ((0, 0, 0),) * self.config["C"],
            {},
        )
        self.evaluated: dict[int, np.ndarray] = {}
        self.losses: list[dict[str, float]] = []
        self.modes: list[bool] = []
        self.trainer = self._trainer(folder)

    def _trainer(self, folder: Path) -> ActiveTrainer:
        config = self.config
        trainer = active_trainer(
            folder,
            network=ToyNetwork(config["C"]),
            settings={
                "learning_rate": config["lr"],
                "num_steps": config["max_iter"],
                "select_iterations": tuple(config["select"]),
                "class_weights_from": "validation",
                "dropout_schedule": "reference",
                "dropout_period": config["period"],
            },
            query={
                "budget": Budget.parse(f"{100 * config['ratio']:.10g}%"),
                "training_size": tuple(config["hw"][::-1]),
            },
            loop={"num_steps_stop": config["iters"], "evaluate_every": config["period"]},
            images=ArrayImages(self.arrays["tgt_img"].astype(np.float32)),
            oracle=TruthOracle(
                lambda name: self.arrays["tgt_label"][int(name.removesuffix(".png"))], num_workers=0
            ),
            streams={},
            evaluator=self.evaluate,
            method="dwaca",
            space=self.space,
        )
        trainer.next_batches = self.next_batches
        return trainer

    def next_batches(self) -> list[Mapping[str, Batch]]:
        """Batch of this iteration; what was bought labels the target."""
        iteration = self.trainer.iteration
        if iteration:
            self._remember()
        source, target = self.arrays["src_order"][iteration], self.arrays["tgt_order"][iteration]
        size = tuple(self.config["hw"])
        bought = self.trainer.rounds.reader.bought
        masks = [
            np.full(size, 255, np.uint8) if bought.size_of(f"{i}.png") is None else bought.mask(f"{i}.png")
            for i in target
        ]
        return [
            {
                "source": self._batch(self.arrays["src_img"][source], self.arrays["src_label"][source]),
                "target": self._batch(self.arrays["tgt_img"][target], np.stack(masks)),
            }
        ]

    def _batch(self, images: np.ndarray, labels: np.ndarray) -> Batch:
        names = tuple(map(str, range(len(images))))
        image = torch.from_numpy(images.astype(np.float32))
        return Batch(image, torch.from_numpy(labels), names, torch.tensor([self.config["hw"]] * len(images)))

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Flip-averaged scores on the validation images, absent classes 0."""
        network.eval()
        matrix = ConfusionMatrix(self.config["C"])
        height, width = self.config["hw"]
        with torch.no_grad():
            for image, label in zip(self.arrays["val_img"], self.arrays["val_label"], strict=True):
                pair = torch.from_numpy(image.astype(np.float32))[None]
                logits = network(torch.cat([pair, pair.flip(-1)])).logits
                passes = [Pass(logits[:1]), Pass(logits[1:], flipped=True)]
                predicted, _ = fuse(passes, (width, height), upsampled="logits")
                matrix.update(predicted[0], torch.from_numpy(label))
        found = scores(matrix.counts, absent="zero")
        self.evaluated[self.trainer.iteration] = np.asarray(found.iou) / 100
        return {"val/miou": found.miou} | {
            f"val/iou/{name}": value
            for name, value in zip(self.space.class_names, found.iou.tolist(), strict=True)
        }

    def _remember(self) -> None:
        self.losses.append(self.last)

    def run(self) -> None:
        """Trains to the end."""
        iterate, read = self.trainer.run_iteration, self.trainer.meter.read

        def watched(iteration: int, batches: Any) -> bool:
            self.trainer.set_mode(iteration)
            self.modes.append(self.trainer.network.dropout.training)
            return iterate(iteration, batches)

        def remembered() -> dict[str, float]:
            self.last = read()
            return self.last

        self.trainer.run_iteration = watched
        self.trainer.meter.read = remembered
        assert self.trainer.fit() == 0
        self._remember()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyLoop:
    loop = ToyLoop(tmp_path_factory.mktemp("toy"))
    loop.run()
    return loop


@pytest.mark.parametrize(
    ("array", "term", "weight"),
    [
        ("loss_sup", "loss/source", 1.0),
        ("loss_sup_tgt", "loss/target", 1.0),
        ("cr_loss", "loss/consistency", 0.1),
        ("nl_loss", "loss/negative", 1.0),
    ],
)
def test_losses_of_every_iteration(toy: ToyLoop, array: str, term: str, weight: float) -> None:
    expected = toy.arrays[array]
    ours = np.array([weight * losses[term] for losses in toy.losses])
    there = ~np.isnan(expected)
    assert there.any()
    np.testing.assert_allclose(ours[there], expected[there], rtol=1e-4)
    assert not ours[~there].any()  # left out there, 0 here


def test_modes_and_learning_rates(toy: ToyLoop) -> None:
    assert toy.modes == toy.arrays["training_flag"].tolist()
    rates = [toy.trainer.learning_rates(iteration)["segmentation"] for iteration in range(len(toy.modes))]
    np.testing.assert_allclose(rates, toy.arrays["lr"], rtol=1e-12)


def test_evaluations_and_class_weights(toy: ToyLoop) -> None:
    assert sorted(toy.evaluated) == toy.arrays["eval_iter"].tolist()
    for iteration, expected in zip(toy.arrays["eval_iter"], toy.arrays["eval_iou"], strict=True):
        np.testing.assert_allclose(toy.evaluated[int(iteration)], expected, atol=1e-6)
    for number, expected in enumerate(toy.arrays["select_weights"]):
        info = toy.trainer.rounds.store.round(number).info()
        assert info is not None
        np.testing.assert_allclose(info.class_weights, expected, rtol=1e-5, atol=1e-9)


def test_masks_and_blocked_pixels_of_every_round(toy: ToyLoop) -> None:
    masks, active = toy.arrays["mask"], toy.arrays["active"]
    for number in range(len(masks)):
        bought = toy.trainer.rounds.store.load(number + 1)
        for index in range(masks.shape[1]):
            name = f"{index}.png"
            np.testing.assert_array_equal(bought.mask(name), masks[number, index])
            np.testing.assert_array_equal(bought.blocked(name), active[number, index])


def test_last_weights(toy: ToyLoop) -> None:
    for key in [key for key in toy.arrays if key.startswith("ckpt_last/")]:
        ours = toy.trainer.network.get_parameter(key.split(".", 1)[1]).detach().numpy()
        np.testing.assert_allclose(ours, toy.arrays[key], rtol=1e-3, atol=1e-5)
