"""Files of the original releases: published checkpoints are scored, both ImageNet files start a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision import models

import evaluate
import train_source
from networks import NetworkSpec, build
from tests.official_formats import ripu_checkpoint, write_cityscapes, write_gta5
from utils import snapshots

SIZE = (64, 48)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 2, SIZE)
    write_cityscapes(root, 2, SIZE, labelled=False)
    write_cityscapes(root, 2, SIZE, split="val")
    return root


def published_network_state(num_classes: int = 19) -> dict[str, Tensor]:
    """Random weights of the published generator: ResNet-101, two heads with SE and GroupNorm."""
    torch.manual_seed(0)
    options = {"norm_style": "gn", "use_se": True}
    return build(
        NetworkSpec("deeplab_two_head", "resnet101_caffe", num_classes, "cityscapes19", options)
    ).state_dict()


def caffe_init() -> dict[str, Tensor]:
    """As DeepLab_resnet_pretrained_init-f81d91e8.pth: below `Scale.`, an old head, no batch counters."""
    backbone = {
        f"Scale.{name}": value.clone().normal_(0, 0.01) if name.endswith("conv1.weight") else value
        for name, value in published_network_state().items()
        if not name.startswith(("layer5.", "layer6.")) and not name.endswith("num_batches_tracked")
    }
    head = {f"Scale.layer5.conv2d_list.{branch}.weight": torch.zeros(21, 8, 3, 3) for branch in range(4)}
    return (
        backbone | head | {f"Scale.layer5.conv2d_list.{branch}.bias": torch.zeros(21) for branch in range(4)}
    )


def torchvision_init() -> dict[str, Tensor]:
    """As torchvision's resnet101 file, classifier and all."""
    torch.manual_seed(1)
    return dict(models.resnet101(weights=None).state_dict())


def test_an_original_checkpoint_is_scored_as_it_was_saved(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "SE_GN_batchsize2"
    folder.mkdir()
    state = {f"module.{name}": value for name, value in published_network_state().items()}
    torch.save(state, folder / "GTA5_25000.pth", _use_new_zipfile_serialization=False)
    (folder / "opts.yaml").write_text(
        "autoaug: false\nbatch_size: 2\ncrop_size: 1024,512\nmodel: DeepLab\nnorm_style: gn\n"
        "num_classes: 19\nsnapshot_dir: ./snapshots/SE_GN_batchsize2\nuse_se: true\n"
    )
    scores = tmp_path / "scores.json"
    words = ["--restore-from", folder / "GTA5_25000.pth", "--target", "cityscapes", "--protocol", "common"]
    words += ["--data-root", data, "--device", "cpu", "--json", scores]
    assert evaluate.main([*map(str, words)]) == 0
    assert "common" in capsys.readouterr().out
    run = json.loads(scores.read_text())["runs"][0]
    assert run["iteration"] == 25_000
    assert sum(map(sum, run["confusion"])) == 2 * SIZE[0] * SIZE[1]


@pytest.mark.parametrize(
    ("architecture", "num_classes", "space"),
    [("deeplab_v2", 19, "cityscapes19"), ("deeplab_v3plus", 16, "synthia16")],
)
def test_a_ripu_checkpoint_is_scored_by_its_own_protocol(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    architecture: str,
    num_classes: int,
    space: str,
) -> None:
    torch.save(ripu_checkpoint(architecture, num_classes), tmp_path / "model_iter040000.pth")
    scores = tmp_path / "scores.json"
    words = [tmp_path / "model_iter040000.pth", "--target", "cityscapes", "--base-size", "64,32"]
    words += ["--data-root", data, "--device", "cpu", "--json", scores]
    assert evaluate.main([*map(str, words)]) == 0
    table = capsys.readouterr().out
    assert "ripu-cityscapes (64x32, flip)" in table
    assert "13 classes" in table
    content = json.loads(scores.read_text())
    assert content["classes"] == space
    run = content["runs"][0]
    assert run["iteration"] == 39_000  # what the file says, not its name
    assert (run["protocol"]["upsampled"], run["protocol"]["absent"]) == ("logits", "zero")
    assert len(run["confusion"]) == num_classes
    pixels, counted = 2 * SIZE[0] * SIZE[1], sum(map(sum, run["confusion"]))
    assert counted == pixels if num_classes == 19 else 0 < counted < pixels  # 16: three classes are ignored


@pytest.mark.parametrize(
    "flag", ["--backbone-weights", "--restore-from"]
)  # the originals know the latter only
@pytest.mark.parametrize(
    ("make", "prefix", "backbone"),
    [(caffe_init, "Scale.", "resnet101_caffe"), (torchvision_init, "", "resnet101")],
)
def test_training_starts_from_an_imagenet_file(
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], dict[str, Tensor]],
    prefix: str,
    backbone: str,
    flag: str,
) -> None:
    state, path = make(), tmp_path / "init.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    words = [flag, path, "--backbone", backbone, "--data-root", data, "--snapshot-dir", tmp_path / "run"]
    tiny = (
        "--head-channels 8 --bottleneck-channels 8 --norm-style gn --input-size 64,48 --crop-size 32,32 "
        "--input-size-target 64,48 --num-steps-stop 1 --batch-size 1 --learning-rate 1e-12 --num-workers 0 "
        "--batch-norm frozen --device cpu --no-tensorboard --protocol common"
    )
    assert train_source.main([*map(str, words), *tiny.split()]) == 0
    assert f"backbone {backbone}: " in caplog.text
    assert str(path) in caplog.text
    weights = snapshots.read(snapshots.resolve(tmp_path / "run"))["weights"]
    for name in ("conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.weight"):
        torch.testing.assert_close(weights[name], state[prefix + name])
