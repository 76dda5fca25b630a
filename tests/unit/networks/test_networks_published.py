"""networks.published"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from networks import NetworkSpec, build
from networks.discriminators import MultiScaleDiscriminator
from networks.published import identify, read_opts
from utils.errors import UserError

State = dict[str, torch.Tensor]


def generator(num_classes: int = 19, **options: object) -> State:
    with torch.device("meta"):
        return build(
            NetworkSpec("deeplab_two_head", "resnet101_caffe", num_classes, "cityscapes19", options)
        ).state_dict()


@pytest.fixture
def opts(tmp_path: Path) -> Path:
    return tmp_path / "opts.yaml"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("num_classes", "space"), [(19, "cityscapes19"), (9, "robotcar9")])
def test_generator_is_recognised(prefix: str, num_classes: int, space: str, opts: Path) -> None:
    opts.write_text("model: DeepLab\nnorm_style: gn\nuse_se: true\ncrop_size: 1024,512\nnum_classes: 19\n")
    state = generator(num_classes, norm_style="gn", use_se=True)
    spec, found = identify({prefix + name: value for name, value in state.items()}, opts_path=opts)
    assert (spec.architecture, spec.backbone) == ("deeplab_two_head", "resnet101_caffe")
    assert (spec.num_classes, spec.class_space) == (num_classes, space)
    assert spec.options == {"norm_style": "gn", "use_se": True}
    assert set(found) == set(state)


def test_options_file_tells_instance_from_group_norm(opts: Path) -> None:
    opts.write_text("norm_style: 'in'\n")
    assert identify(generator(norm_style="in"), opts_path=opts)[0].options["norm_style"] == "in"


def test_without_options_file_group_norm_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        spec, _ = identify(generator(norm_style="gn"))
    assert spec.options == {"norm_style": "gn", "use_se": False}
    assert "taking GroupNorm" in caplog.text


def test_batch_norm_heads_are_seen_without_options_file(caplog: pytest.LogCaptureFixture) -> None:
    assert identify(generator())[0].options["norm_style"] == "bn"
    assert not caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("norm_style: bn\n", "no BatchNorm in its heads"),
        ("use_se: false\nnorm_style: gn\n", "use_se"),
        ("model: Oracle\n", "says model: Oracle"),
    ],
)
def test_options_that_contradict_the_weights_are_refused(opts: Path, text: str, message: str) -> None:
    opts.write_text(text)
    with pytest.raises(UserError, match=message):
        identify(generator(norm_style="gn", use_se=True), opts_path=opts)


def test_flat_options_are_read_without_a_yaml_library(opts: Path) -> None:
    opts.write_text("a: 1\nb: 'x y'  # note\nuse_se: True\nlist:\n- 1\nempty:\n")
    assert read_opts(opts) == {"a": "1", "b": "x y", "use_se": True, "list": "", "empty": ""}


def broken(change: str) -> State:
    state = generator(norm_style="gn", use_se=True)
    if change == "missing":
        del state["layer3.5.conv2.weight"]
    elif change == "unknown":
        state["layer7.weight"] = torch.empty(1)
    elif change == "shape":
        state["layer6.bottleneck.1.weight"] = torch.empty(512, 1280, 1, 1)
    elif change == "no head":
        del state["layer6.head.1.weight"]
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "1 entries are missing, first layer3.5.conv2.weight"),
        ("unknown", "first layer7.weight"),
        ("shape", r"first layer6.bottleneck.1.weight: \(512, 1280, 1, 1\)"),
        ("no head", "its entry layer6.head.1.weight is missing"),
    ],
)
def test_partial_matches_are_refused_by_name(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        identify(broken(change), Path("GTA5_25000.pth"))


def test_batch_counters_may_be_absent() -> None:
    state = {name: v for name, v in generator().items() if not name.endswith("num_batches_tracked")}
    assert identify(state)[0].num_classes == 19


def test_unusual_class_counts_need_a_class_space() -> None:
    with pytest.raises(UserError, match="7 classes; say what they are"):
        identify(generator(7))
    assert identify(generator(7), class_space="idd7")[0].class_space == "idd7"
    with pytest.raises(UserError, match="has 7 classes but the class space cityscapes19 has 19"):
        identify(generator(7), class_space="cityscapes19")


def ripu(architecture: str = "deeplab_v2", num_classes: int = 19, **options: object) -> dict[str, Any]:
    """Content of a RIPU or DWACA checkpoint without memory for its weights."""
    with torch.device("meta"):
        network = build(NetworkSpec(architecture, "resnet101", num_classes, "any", options))
    parts: dict[str, State] = {"feature_extractor": {}, "classifier": {}}
    for name, value in network.state_dict().items():
        if network.is_backbone(name):
            parts["feature_extractor"][f"backbone.{name}"] = value
        else:
            parts["classifier"][name.removeprefix("classifier.")] = value
    return {"iteration": 40_000, **parts, "optimizer_fea": {}, "optimizer_cls": {}}


def test_ripu_files_with_ordinary_batch_norm_are_seen() -> None:
    spec, state = identify(ripu("deeplab_v3plus", 16, norm_style="bn"))
    assert spec.options == {"norm_style": "bn"}
    assert "classifier.shortcut.1.num_batches_tracked" in state


def test_wrapped_parts_and_a_class_space_of_ones_own_are_taken() -> None:
    content = ripu(num_classes=7)
    content["feature_extractor"] = {f"module.{k}": v for k, v in content["feature_extractor"].items()}
    assert identify(content, class_space="idd7")[0].class_space == "idd7"


def broken_ripu(change: str) -> dict[str, Any]:
    content = ripu()
    features, head = content["feature_extractor"], content["classifier"]
    if change == "optimisers only":
        return {"iteration": 1, "optimizer_fea": {}, "optimizer_cls": {}}
    if change == "no classifier":
        del content["classifier"]
    elif change == "missing":
        del features["backbone.layer3.5.conv2.weight"]
    elif change == "unknown":
        head["conv2d_list.4.weight"] = torch.empty(1)
    elif change == "foreign":
        features["fc.weight"] = torch.empty(1)
    elif change == "no head":
        del head["conv2d_list.0.weight"]
    elif change == "classes differ":
        head["conv2d_list.2.bias"] = torch.empty(16)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimisers only", "has no feature_extractor and no classifier; give the model_iter"),
        ("no classifier", "has no classifier; give"),
        ("missing", "1 entries are missing, first layer3.5.conv2.weight"),
        ("unknown", "first classifier.conv2d_list.4.weight"),
        ("foreign", "its feature_extractor has the entry fc.weight"),
        ("no head", "its classifier has neither conv2d_list.0.weight nor decoder.3.weight"),
        ("classes differ", r"first classifier.conv2d_list.2.bias: \(16,\) instead of \(19,\)"),
    ],
)
def test_parts_of_a_ripu_checkpoint_are_refused_by_name(change: str, message: str) -> None:
    with pytest.raises(UserError, match=f"looks like a RIPU or DWACA checkpoint.*{message}"):
        identify(broken_ripu(change), Path("model_iter040000.pth"))


def test_a_ripu_checkpoint_of_another_class_space_is_refused() -> None:
    with pytest.raises(UserError, match="has 16 classes but the class space cityscapes19 has 19"):
        identify(ripu(num_classes=16), class_space="cityscapes19")


def daformer(
    *parts: str, backbone: str = "mit_b1", num_classes: int = 19, module: str = ""
) -> dict[str, Any]:
    """Content of a DAFormer or DIDA checkpoint with these networks, without memory for their weights."""
    with torch.device("meta"):
        state = build(NetworkSpec("daformer", backbone, num_classes, "any")).state_dict()
    entries = {f"{module}{part}{name}": value.clone() for part in parts for name, value in state.items()}
    return {"meta": {"iter": 40_000}, "state_dict": entries, "optimizer": {"state": {}}}


WHOLE = ("model.", "ema_model.", "imnet_model.")


@pytest.mark.parametrize("module", ["", "module."])
@pytest.mark.parametrize("backbone", ["mit_b0", "mit_b1", "mit_b3"])
def test_networks_of_a_daformer_checkpoint_are_told_apart(backbone: str, module: str) -> None:
    content = daformer(*WHOLE, backbone=backbone, num_classes=16, module=module)
    for weights, part in (("student", "model."), ("teacher", "ema_model.")):
        spec, state = identify(content, weights=weights)
        assert (spec.architecture, spec.backbone, spec.class_space) == ("daformer", backbone, "synthia16")
        assert all(value is content["state_dict"][module + part + name] for name, value in state.items())


def test_a_plain_segmentor_is_a_student() -> None:
    plain = daformer("")["state_dict"]
    assert identify(plain)[0].backbone == identify({"state_dict": plain})[0].backbone == "mit_b1"
    with pytest.raises(UserError, match=r"x.pth .* holds no teacher \(ema_model..\); use --weights student"):
        identify(plain, Path("x.pth"), weights="teacher")


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        (("model.",), "teacher", "holds no teacher .*; use --weights student"),
        (("ema_model.",), "student", "holds no student .*; use --weights teacher"),
        (("imnet_model.",), "student", "holds no student .*; give another checkpoint"),
    ],
)
def test_a_network_that_is_not_there_is_named(parts: tuple[str], weights: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"a DAFormer or DIDA checkpoint and {message}"):
        identify(daformer(*parts), weights=weights)


def test_other_layouts_hold_no_teacher() -> None:
    with pytest.raises(UserError, match="an MRNet generator and holds no teacher; use --weights student"):
        identify(generator(), weights="teacher")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("model.decode_head.conv_seg.weight"),
            "entry decode_head.conv_seg.weight is",
        ),
        (lambda state: state.pop("model.backbone.norm3.bias"), "missing, first backbone.norm3.bias"),
        (lambda state: state.pop("model.backbone.patch_embed2.proj.weight"), "none of the Mix Transformers"),
        (lambda state: state.update({"model.decode_head.more": T}), "first decode_head.more"),
        (
            lambda state: state.update({"model.backbone.norm1.bias": torch.empty(7)}),
            r"first backbone.norm1.bias: \(7,\) instead of \(64,\)",
        ),
    ],
)
def test_partial_daformer_checkpoints_are_refused_by_name(change: Any, message: str) -> None:
    content = daformer(*WHOLE)
    change(content["state_dict"])
    with pytest.raises(UserError, match=f"looks like a DAFormer or DIDA checkpoint.*{message}"):
        identify(content)


def mada(num_classes: int = 19, *, prefix: str = "") -> dict[str, Any]:
    """Content of a MADA checkpoint without memory for its weights."""
    with torch.device("meta"):
        state = build(NetworkSpec("mada_v3plus", "resnet101", num_classes, "any")).state_dict()
    weights = {prefix + name: value for name, value in state.items()}
    further = {"model_state": {"conv1.weight": T}, "optimizer_state": {}}
    return {"DeepLab": {"model_state": weights, "optimizer_state": {}}, "FCDiscriminator": further, "iter": 7}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_mada_checkpoint_gives_its_network_and_nothing_else(prefix: str) -> None:
    content = mada(16, prefix=prefix)
    weights = content["DeepLab"]["model_state"]
    for file in (content, weights):
        spec, state = identify(file)
        assert (spec.architecture, spec.backbone, spec.class_space) == (
            "mada_v3plus",
            "resnet101",
            "synthia16",
        )
        assert len(state) == len(weights)
        assert all(value is weights[prefix + name] for name, value in state.items())


def test_a_mada_checkpoint_may_lack_batch_counters_and_holds_no_teacher() -> None:
    content = mada()
    weights = content["DeepLab"]["model_state"]
    content["DeepLab"]["model_state"] = {k: v for k, v in weights.items() if "num_batches" not in k}
    assert identify(content)[0].class_space == "cityscapes19"
    with pytest.raises(UserError, match="a MADA checkpoint and holds no teacher; use --weights student"):
        identify(content, weights="teacher")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["DeepLab"].pop("model_state"), "its DeepLab has no model_state; give"),
        (lambda content: content.update(DeepLab=T), "its DeepLab has no model_state; give"),
        (
            lambda content: content["DeepLab"]["model_state"].pop("decoder.last_conv.8.weight"),
            "its entry decoder.last_conv.8.weight is missing",
        ),
        (
            lambda content: content["DeepLab"]["model_state"].pop("backbone.layer3.5.conv2.weight"),
            "1 entries are missing, first backbone.layer3.5.conv2.weight",
        ),
        (
            lambda content: content["DeepLab"]["model_state"].update({"aspp.aspp5.bn.bias": T}),
            "first aspp.aspp5.bn.bias",
        ),
        (
            lambda content: content["DeepLab"]["model_state"].update(
                {"decoder.last_conv.8.bias": torch.empty(16)}
            ),
            r"first decoder.last_conv.8.bias: \(16,\) instead of \(19,\)",
        ),
    ],
)
def test_parts_of_a_mada_checkpoint_are_refused_by_name(change: Any, message: str) -> None:
    content = mada()
    change(content)
    with pytest.raises(UserError, match=f"looks like a MADA checkpoint.*{message}"):
        identify(content, Path("x_best_model.pkl"))


def test_a_mada_checkpoint_of_other_classes_is_refused() -> None:
    with pytest.raises(UserError, match="7 classes; say what they are with --class-space"):
        identify(mada(7))
    with pytest.raises(UserError, match="has 16 classes but the class space cityscapes19 has 19"):
        identify(mada(16), class_space="cityscapes19")


T = torch.empty(1)
FOREIGN = {
    "RIPU or DWACA": {"iteration": 1, "feature_extractor": {}, "classifier": {}},
    "DAFormer or DIDA": {"state_dict": {"model.decode_head.conv_seg.weight": T}, "meta": {}},
    "MiT": {"patch_embed1.proj.weight": T},
    "AdaptSegNet": {"layer5.conv2d_list.0.weight": T, "layer6.conv2d_list.0.weight": T},
    "Caffe ResNet": {"Scale.conv1.weight": T},
    "unknown layout": {"encoder.weight": T},
}


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_other_files_are_named(name: str) -> None:
    with pytest.raises(UserError, match=name):
        identify(FOREIGN[name], Path("x.pth"))


def test_discriminators_and_imagenet_files_are_named() -> None:
    with torch.device("meta"):
        files = {
            "MRNet discriminator": MultiScaleDiscriminator(19),
            "ResNet ImageNet file": models.resnet18(),
            "MobileNetV2 ImageNet file": models.mobilenet_v2(),
            "VGG-16 ImageNet file": models.vgg16(),
        }
    for name, module in files.items():
        with pytest.raises(UserError, match=name):
            identify(module.state_dict())
