"""networks.loading"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from official_formats import daformer_checkpoint, mada_checkpoint
from torch import Tensor

from networks import NetworkSpec, build
from networks.loading import load_network, load_weights
from networks.segmentation import SegmentationNetwork
from utils import snapshots
from utils.errors import UserError


def network(num_classes: int = 3, backbone: str = "resnet18_quarter", **options: Any) -> SegmentationNetwork:
    small = {"head_channels": 8, "bottleneck_channels": 8}
    return build(NetworkSpec("deeplab_two_head", backbone, num_classes, "any", {**small, **options}))


def snapshot(net: SegmentationNetwork, teacher: SegmentationNetwork | None = None) -> dict[str, Any]:
    return {
        "format_version": snapshots.FORMAT_VERSION,
        "iteration": 7,
        "network": net.spec.to_dict(),
        "weights": net.state_dict(),
        "teacher": None if teacher is None else teacher.state_dict(),
        "evaluation": {"protocol": "common"},
    }


def same_weights(left: SegmentationNetwork, right: SegmentationNetwork) -> bool:
    entries = right.state_dict()
    return all(torch.equal(value, entries[name]) for name, value in left.state_dict().items())


@pytest.fixture
def student() -> SegmentationNetwork:
    return network()


@pytest.fixture
def run_folder(tmp_path: Path, student: SegmentationNetwork) -> Path:
    snapshots.SnapshotFolder(tmp_path / "run", keep=1).write(snapshot(student), 7)
    return tmp_path / "run"


def test_a_run_folder_gives_its_last_network(run_folder: Path, student: SegmentationNetwork) -> None:
    loaded = load_network(run_folder, num_classes_expected=3)
    assert same_weights(loaded.network, student)
    assert (loaded.iteration, loaded.source, loaded.evaluation) == (7, "segadapt", {"protocol": "common"})
    assert loaded.spec == student.spec


def test_the_teacher_is_loaded_when_asked_for(tmp_path: Path, student: SegmentationNetwork) -> None:
    teacher = network()
    snapshots.save(tmp_path / "s.pth", snapshot(student, teacher))
    assert same_weights(load_network(tmp_path / "s.pth", weights="teacher").network, teacher)


def test_a_snapshot_without_teacher_says_so(run_folder: Path) -> None:
    with pytest.raises(UserError, match=r"holds no teacher weights"):
        load_network(run_folder, weights="teacher")


def test_another_class_count_is_refused(run_folder: Path) -> None:
    with pytest.raises(UserError, match=r"has 3 classes .any., but 19 are needed"):
        load_network(run_folder, num_classes_expected=19)


def test_options_can_be_replaced(run_folder: Path) -> None:
    assert load_network(run_folder, spec_overrides={"drop_rate": 0.3}).network.layer6.head[0].p == 0.3


def test_weights_that_do_not_fit_their_own_description_are_refused(tmp_path: Path) -> None:
    content = snapshot(network())
    del content["weights"]["conv1.weight"]
    snapshots.save(tmp_path / "s.pth", content)
    with pytest.raises(UserError, match=r"does not fit .* first conv1.weight"):
        load_network(tmp_path / "s.pth")


def test_frozen_statistics_that_cannot_be_divided_by_are_refused(tmp_path: Path) -> None:
    net = build(NetworkSpec("deeplab_v2", "resnet18_quarter", 3, "any"))
    net.layer1[0].bn2.running_var[2:4] = 0
    snapshots.save(tmp_path / "s.pth", snapshot(net))
    with pytest.raises(UserError, match=r"running_var of layer1.0.bn2 is 0 or no number in 2 channels"):
        load_network(tmp_path / "s.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_of_a_diverged_run_are_refused(
    tmp_path: Path, student: SegmentationNetwork, value: float
) -> None:
    student.double()  # the last value is finite in the file, and infinite in the network
    with torch.no_grad():
        next(student.parameters())[0] = value
    snapshots.save(tmp_path / "s.pth", snapshot(student))
    with pytest.raises(
        UserError, match=r"s\.pth holds values that are not finite in 1 of \d+ entries, first"
    ):
        load_weights(network(), tmp_path / "s.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Tensor.to_sparse, "s\\.pth does not fit .*: 1 are no plain tensors, first"),
        (lambda value: value.to("meta"), "s\\.pth does not fit .*: 1 entries have no values, first"),
    ],
)
def test_entries_without_plain_values_are_refused(
    tmp_path: Path, student: SegmentationNetwork, change: Any, message: str
) -> None:
    content = snapshot(student)
    name = next(iter(content["weights"]))
    content["weights"][name] = change(content["weights"][name])
    torch.save(content, tmp_path / "s.pth")
    with pytest.raises(UserError, match=message):
        load_weights(network(), tmp_path / "s.pth")


def test_a_network_of_another_normalisation_is_not_filled(tmp_path: Path) -> None:
    net, other = (
        build(NetworkSpec("deeplab_v2", "resnet18_quarter", 3, "any", {"norm_style": style}))
        for style in ("frozen", "bn")
    )
    snapshots.save(tmp_path / "s.pth", snapshot(net))
    with pytest.raises(UserError, match="trained with norm_style frozen, this run builds bn"):
        load_weights(other, tmp_path / "s.pth")


def test_a_published_generator_in_the_old_format_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = build(NetworkSpec("deeplab_two_head", "resnet101_caffe", 9, "robotcar9", {"norm_style": "gn"}))
    state = {"module." + name: value for name, value in original.state_dict().items()}
    torch.save(state, tmp_path / "GTA5_25000.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "opts.yaml").write_text("model: DeepLab\nnorm_style: gn\nuse_se: false\n")
    loaded = load_network(tmp_path / "GTA5_25000.pth", num_classes_expected=9)
    assert same_weights(loaded.network, original)
    assert (loaded.source, loaded.iteration, loaded.evaluation) == ("mrnet", 25000, {})
    with pytest.raises(UserError, match=r"holds no teacher"):
        load_network(tmp_path / "GTA5_25000.pth", weights="teacher")


@pytest.fixture(scope="module")
def daformer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("daformer") / "latest.pth"
    torch.save(daformer_checkpoint("mit_b0", prefix="module."), path)
    return path


@pytest.mark.parametrize(("weights", "part"), [("student", "model"), ("teacher", "ema_model")])
def test_both_networks_of_a_daformer_checkpoint_are_loaded(
    daformer_file: Path, weights: Any, part: str
) -> None:
    loaded = load_network(daformer_file, weights=weights, num_classes_expected=19)
    stored = torch.load(daformer_file, weights_only=True)["state_dict"]
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, stored[f"module.{part}.{name}"]), name
    assert (loaded.spec.architecture, loaded.spec.backbone) == ("daformer", "mit_b0")
    assert (loaded.source, loaded.iteration) == ("daformer", 40_000)
    assert loaded.evaluation == {"protocol": "daformer-cityscapes"}


def test_a_daformer_network_is_filled_with_the_teacher_whatever_its_drop_rates(daformer_file: Path) -> None:
    options = {"drop_rate": 0.0, "drop_path_rate": 0.2}
    net = build(NetworkSpec("daformer", "mit_b0", 19, "cityscapes19", options))
    assert "teacher weights" in load_weights(net, daformer_file, weights="teacher")
    assert same_weights(net, load_network(daformer_file, weights="teacher").network)


def test_a_daformer_checkpoint_does_not_fill_another_size(daformer_file: Path) -> None:
    with torch.device("meta"):
        net = build(NetworkSpec("daformer", "mit_b1", 19, "cityscapes19"))
    with pytest.raises(UserError, match="backbone mit_b0, this run builds one with mit_b1"):
        load_weights(net, daformer_file)


@pytest.fixture(scope="module")
def mada_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mada") / "from_gta5_to_cityscapes_on_deeplab101_best_model.pkl"
    torch.save(mada_checkpoint(16, prefix="module."), path, _use_new_zipfile_serialization=False)
    return path


def test_a_mada_checkpoint_is_loaded_in_the_old_format(mada_file: Path) -> None:
    loaded = load_network(mada_file, num_classes_expected=16)
    stored = snapshots.read(mada_file)
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, stored["DeepLab"]["model_state"][f"module.{name}"]), name
    assert (loaded.spec.architecture, loaded.spec.class_space) == ("mada_v3plus", "synthia16")
    assert (loaded.source, loaded.iteration) == ("mada", stored["iter"])
    assert loaded.evaluation == {"protocol": "mada-cityscapes"}


def test_a_mada_network_is_filled_whatever_its_drop_rates(mada_file: Path) -> None:
    options = {"drop_rate": 0.0, "inner_drop_rate": 0.0, "output_stride": 8}
    net = build(NetworkSpec("mada_v3plus", "resnet101", 16, "synthia16", options))
    assert "(mada, iteration 36000)" in load_weights(net, mada_file)
    stored = snapshots.read(mada_file)["DeepLab"]["model_state"]
    assert torch.equal(net.decoder.last_conv[8].weight, stored["module.decoder.last_conv.8.weight"])


def test_another_class_count_of_a_mada_checkpoint_names_the_entry(mada_file: Path) -> None:
    with torch.device("meta"):
        net = build(NetworkSpec("mada_v3plus", "resnet101", 19, "cityscapes19"))
    with pytest.raises(
        UserError,
        match=r"num_classes 16, this run builds one with 19 \(decoder.last_conv.8.weight: "
        r"\(16, 256, 1, 1\) instead of \(19, 256, 1, 1\)\); give",
    ):
        load_weights(net, mada_file)
    with pytest.raises(UserError, match=r"has 16 classes \(synthia16\), but 19 are needed"):
        load_network(mada_file, num_classes_expected=19)


def test_a_network_is_filled_from_a_run_with_another_drop_rate(
    run_folder: Path, student: SegmentationNetwork
) -> None:
    net = network(drop_rate=0.2)
    assert "iteration 7" in load_weights(net, run_folder)
    assert same_weights(net, student)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: network(4), "num_classes 3, this run builds one with 4"),
        (
            lambda: network(backbone="resnet18"),
            "backbone resnet18_quarter, this run builds one with resnet18",
        ),
        (lambda: network(norm_style="gn"), "trained with norm_style bn, this run builds gn"),
    ],
)
def test_filling_another_network_is_refused(run_folder: Path, other: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_weights(other(), run_folder)


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("hello")
    with pytest.raises(UserError, match=r"x.pth"):
        load_network(tmp_path / "x.pth")
