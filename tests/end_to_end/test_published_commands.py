"""The command lines of the original README and our recipes: they parse, and hold the published values."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import evaluate
import generate_plabel
import train_al
import train_ft
import train_ms
import train_source
import train_st
from utils import distributed
from utils.arguments.parser import expand
from utils.distributed import World

REPOSITORY = Path(__file__).parents[2]
RECIPES = sorted(
    path.stem
    for path in (REPOSITORY / "launch" / "recipes").glob("*.args")
    if not path.stem.endswith(("_common", "_quick"))  # parts of other recipes
)
SCRIPTS = {
    "source_only": train_source,
    "oracle": train_source,
    "mrnet": train_ms,
    "rectified": train_ft,
    "plain": train_ft,
    **dict.fromkeys(("ripu", "region", "pixel", "v3plus", "source_free", "percent", "mada"), train_al),
    "mada_warmup_source": train_source,
    "cityscapes_mada_warmup": train_ms,
    "idd_mada_warmup": train_source,
    **dict.fromkeys(("daformer", "deeplab", "dida", "dacs", "mic"), train_st),
}

# The originals' README, with paths that exist in the test.
STAGE_ONE = (
    "--snapshot-dir ./snapshots/SE_GN_batchsize2 --drop 0.1 --warm-up 5000 --batch-size 2 "
    "--learning-rate 2e-4 --crop-size 1024,512 --lambda-seg 0.5 --lambda-adv-target1 0.0002 "
    "--lambda-adv-target2 0.001 --lambda-me-target 0 --lambda-kl-target 0.1 --norm-style gn --class-balance "
    "--only-hard-label 80 --max-value 7 --gpu-ids 0,1 --often-balance --use-se"
)
STAGE_TWO = (
    "--snapshot-dir ./snapshots/1280x640_restore_ft --restore-from stage_one/GTA5_25000.pth --drop 0.2 "
    "--warm-up 5000 --batch-size 9 --learning-rate 1e-4 --crop-size 512,256 --lambda-seg 0.5 "
    "--lambda-adv-target1 0 --lambda-adv-target2 0 --lambda-me-target 0 --lambda-kl-target 0 --norm-style gn "
    "--class-balance --only-hard-label 80 --max-value 7 --gpu-ids 0,1,2 --often-balance --use-se "
    "--input-size 1280,640 --train_bn --autoaug False"
)

# Zheng & Yang, IJCAI 2020 and IJCV 2021: what every published run shares.
SHARED = {
    "network": "deeplab_two_head",
    "backbone": "resnet101_caffe",
    "norm_style": "gn",
    "use_se": True,
    "lambda_seg": 0.5,
    "class_balance": True,
    "often_balance": True,
    "max_value": 7.0,
    "warm_up": 5000,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "power": 0.9,
    "num_steps": 100_000,
    "num_steps_stop": 25_000,
    "save_pred_every": 5000,
    "optimizer": "sgd",
    "precision": "fp32",
    "batch_norm": "local",
    "quirks": "published",
    "accumulation": 1,
    "max_grad_norm": 0.0,
    "ema_decay": 0.0,
    "output_stride": 8,
    "random_mirror": False,
    "autoaug": False,
    "autoaug_target": False,
}
ADVERSARIAL = {
    "lambda_adv_target1": 2e-4,
    "lambda_adv_target2": 1e-3,
    "lambda_me_target": 0.0,
    "lambda_kl_target": 0.1,
    "target_terms_start": 15_000,
    "learning_rate_D": 1e-4,
}
PSEUDO = {"lambda_adv_target1": 0.0, "lambda_adv_target2": 0.0, "lambda_me_target": 0.0, "train_bn": True}
STAGE_ONE_VALUES = {
    "batch_size": 2,
    "learning_rate": 2e-4,
    "droprate": 0.1,
    "only_hard_label": 80.0,
    "input_size": (1280, 720),
    "input_size_target": (1024, 512),
    "crop_size": (1024, 512),
    "scale_range": (0.8, 1.2),
    "crop_attempts": 10,
    "crop_min_classes": 10,
    "train_bn": False,
}
STAGE_TWO_VALUES = {
    **STAGE_ONE_VALUES,
    **PSEUDO,
    "batch_size": 9,
    "learning_rate": 1e-4,
    "droprate": 0.2,
    "only_hard_label": 0.0,
    "input_size": (1280, 640),
    "crop_size": (512, 256),
    "lambda_kl_target": 0.0,
    "pseudo_label_loss": "rectified",
}
PLAIN = {"pseudo_label_loss": "plain", "lambda_kl_target": 0.1, "target_terms_start": 15_000}
TO_CITYSCAPES = {"target": "cityscapes", "protocol": "mrnet-cityscapes"}
SYNTHIA_ONE = {**STAGE_ONE_VALUES, **ADVERSARIAL, "batch_size": 1, "learning_rate": 1e-4, "source": "synthia"}
SYNTHIA_TWO = {**STAGE_TWO_VALUES, "batch_size": 5, "droprate": 0.1, "lambda_kl_target": 0.1}
ROBOTCAR = {
    "target": "robotcar",
    "classes": "robotcar9",
    "input_size_target": (1280, 960),
    "protocol": "mrnet-robotcar",
}
ROBOTCAR_ONE = {
    **STAGE_ONE_VALUES,
    **ADVERSARIAL,
    **ROBOTCAR,
    "source": "cityscapes",
    "scale_range": None,  # this source's published loader takes one crop of the unscaled image
    "crop_attempts": 1,
}
ROBOTCAR_TWO = {**STAGE_TWO_VALUES, **ROBOTCAR, "input_size": (1280, 960), "crop_min_classes": 4}
PUBLISHED = {
    "gta5_to_cityscapes_source_only": {**STAGE_ONE_VALUES, **TO_CITYSCAPES, "source": "gta5"},
    "gta5_to_cityscapes_mrnet": {**STAGE_ONE_VALUES, **ADVERSARIAL, **TO_CITYSCAPES, "source": "gta5"},
    "gta5_to_cityscapes_rectified": {**STAGE_TWO_VALUES, **TO_CITYSCAPES},
    "gta5_to_cityscapes_plain": {**STAGE_TWO_VALUES, **TO_CITYSCAPES, **PLAIN},
    "synthia_to_cityscapes_mrnet": {**SYNTHIA_ONE, **TO_CITYSCAPES, "classes": "cityscapes19"},
    "synthia_to_cityscapes_rectified": {**SYNTHIA_TWO, **TO_CITYSCAPES, "classes": "cityscapes19"},
    "synthia_to_cityscapes_plain": {**SYNTHIA_TWO, **TO_CITYSCAPES, **PLAIN},
    "cityscapes_to_robotcar_mrnet": ROBOTCAR_ONE,
    "cityscapes_to_robotcar_rectified": ROBOTCAR_TWO,
    "cityscapes_to_robotcar_plain": {**ROBOTCAR_TWO, **PLAIN},
}


# Xie et al., CVPR 2022, and DWACA: what every released configuration shares.
ACTIVE_SHARED = {
    "backbone": "resnet101",
    "norm_style": "frozen",
    "input_size": (1280, 720),
    "input_size_target": (1280, 640),
    "crop_size": None,
    "scale_range": None,
    "mirror": False,
    "random_mirror": False,
    "autoaug": False,
    "source_order": "class-balanced",
    "batch_size": 2,
    "optimizer": "sgd-plain",
    "learning_rate": 2.5e-4,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "power": 0.9,
    "warm_up": 0,
    "num_steps": 62_500,
    "precision": "fp32",
    "protocol": "ripu-cityscapes",
    "target": "cityscapes",
}
ADAPTED = {
    **ACTIVE_SHARED,
    "num_steps_stop": 40_000,
    "select_iterations": (10_000, 12_000, 14_000, 16_000, 18_000),
    "lambda_consistency": 0.1,
    "consistency": "l1",
    "lambda_negative": 1.0,
    "negative_threshold": 0.05,
    "source_free": False,
    "oracle": "truth",
    "score": "published",
}
RIPU = {**ADAPTED, "method": "ripu", "class_weights_from": "none", "dropout_schedule": "always"}
REGION = {"setting": "region", "radius": 1}
DWACA = {
    **ADAPTED,
    **REGION,
    "method": "dwaca",
    "network": "deeplab_v3plus",
    "droprate": 0.1,
    "class_weights_from": "validation",
    "dropout_schedule": "reference",
    "dropout_period": 2000,
    "save_pred_every": 2000,
}
SOURCE_FREE = {
    **RIPU,
    "source_free": True,
    "network": "deeplab_v2",
    "setting": "region",
    "budget": "2.2%",
    "radius": 9,
    "num_steps_stop": 30_000,
    "select_iterations": (0, 2000, 4000, 6000, 8000),
}
SMALLER = {"input_size_target": (1024, 512), "protocol": "ripu-cityscapes-1024"}
ACTIVE = {
    f"{source}_to_cityscapes_{name}": {**values, **extra, "source": source, "classes": classes}
    for source, classes, smaller in (("gta5", "cityscapes19", {}), ("synthia", "synthia16", SMALLER))
    for name, values, extra in (
        ("ripu_region", {**RIPU, **REGION}, {"network": "deeplab_v2", "budget": "2.2%"}),
        ("ripu_pixel", RIPU, {"network": "deeplab_v2", "setting": "pixel", "budget": "40px", "radius": 32}),
        ("ripu_v3plus", {**RIPU, **REGION}, {"network": "deeplab_v3plus", "droprate": 0.1, "budget": "5%"}),
        ("ripu_source_free", SOURCE_FREE, smaller),
        *((f"dwaca_{percent}percent", DWACA, {"budget": f"{percent}%"}) for percent in range(1, 6)),
        (
            "ripu_source_only",
            ACTIVE_SHARED,
            {"network": "deeplab_v2", "learning_rate": 5e-4, "num_steps": 31_250, "num_steps_stop": 20_000},
        ),
    )
}

# Ning et al., ICCV 2021: what the released configurations and our warm-ups for them share.
MADA_SHARED = {
    "target": "cityscapes",
    "network": "mada_v3plus",
    "backbone": "resnet101",
    "output_stride": 16,
    "droprate": 0.1,
    "batch_norm": "sync",
    "train_bn": True,
    "input_size_target": (2048, 1024),
    "crop_size": (896, 512),
    "scale_range": (0.5, 1.5),
    "mirror": True,
    "random_mirror": True,
    "autoaug": False,
    "source_order": "shuffled",
    "batch_size": 4,
    "optimizer": "sgd-plain",
    "momentum": 0.9,
    "weight_decay": 2e-4,
    "num_steps": 90_000,
    "power": 0.9,
    "warm_up": 0,
    "precision": "fp32",
    "protocol": "mada-cityscapes",
    "max_grad_norm": 0.0,
    "ema_decay": 0.0,
    "accumulation": 1,
}
MADA = {
    **MADA_SHARED,
    "method": "mada",
    "oracle": "truth",
    "score": "published",
    "budget": "5%",
    "num_anchors": 10,
    "input_size_active": (1914, 1052),
    "scaled_width": 2200,
    "learning_rate": 1e-4,
    "head_scale": 1.0,
    "stage_steps": (37_150, 37_150),
    "num_steps_stop": 74_300,
    "stage_2_from": "best",
    "lambda_alignment": 0.7,
    "lambda_pseudo": 1.0,
    "anchor_momentum": 0.999,
    "batch_rule": "last",
    "evaluate_every": 1000,
    "save_pred_every": 1000,
}
WARM_UP = {name: value for name, value in MADA_SHARED.items() if name != "source_order"} | {
    "learning_rate": 2.5e-4,
    "head_scale": 10.0,
    "crop_attempts": 1,
}
ADVERSARIAL_WARM_UP = {
    **WARM_UP,
    "num_steps_stop": 40_000,
    "lambda_adv_target2": 1e-3,
    "learning_rate_D": 1e-4,
    "lambda_me_target": 0.0,
    "lambda_kl_target": 0.0,
}
WHOLE_IMAGES = {
    f"{source}_to_cityscapes_{name}": {**values, "source": source, "classes": classes, "input_size": size}
    for source, classes, size in (
        ("gta5", "cityscapes19", (1914, 1052)),
        ("synthia", "synthia16", (1280, 760)),
    )
    for name, values in (
        ("mada", MADA),
        ("mada_warmup_source", {**WARM_UP, "num_steps_stop": 20_000, "source_order": "shuffled"}),
        ("mada_warmup", ADVERSARIAL_WARM_UP),
    )
}

# Hoyer et al., CVPR 2022, and Yao & Li, ICCVW 2023: what the released experiments 7 and 8 share.
DAFORMER = {
    "method": "daformer",
    "network": "daformer",
    "backbone": "mit_b5",
    "droprate": 0.1,
    "target": "cityscapes",
    "classes": "cityscapes19",
    "batch_size": 2,
    "num_workers": 4,
    "input_size_target": (1024, 512),
    "crop_size": (512, 512),
    "crop_largest_share": 0.75,
    "crop_attempts": 11,  # the first and ten drawn again
    "mirror": True,
    "random_mirror": True,
    "ema_decay": 0.999,
    "teacher_buffers": "own",
    "teacher_augmentation": False,
    "pseudo_threshold": 0.968,
    "ignore_top": 15,
    "ignore_bottom": 120,
    "feature_distance_weight": 0.005,
    "feature_distance_classes": None,  # the things
    "feature_distance_min_share": 0.75,
    "mix": "class",
    "blur": True,
    "jitter_strength": 0.2,
    "jitter_threshold": 0.2,
    "masked_consistency": 0.0,
    "rare_class_sampling": True,
    "rare_class_min_pixels": 3000,
    "rare_class_temperature": 0.01,
    "rare_class_min_crop_share": 0.5,
    "optimizer": "adamw",
    "learning_rate": 6e-5,
    "weight_decay": 0.01,
    "backbone_norm_decay": False,
    "power": 1.0,
    "num_steps": 40_000,
    "num_steps_stop": 40_000,
    "warm_up": 1500,
    "warm_up_schedule": "decaying",
    "max_grad_norm": 0.0,
    "accumulation": 1,
    "precision": "fp32",
    "batch_norm": "local",
    "quirks": "published",
    "protocol": "daformer-cityscapes",
    "evaluate_every": 1600,
    "save_pred_every": 1600,
    "log_every": 50,
    "pictures_every": 1000,
}
DIDA = {
    **DAFORMER,
    "method": "dida",
    "instance_weight": 0.5,
    "calibrate": "student",
    "smooth": 1.0,
    "bank_update_every": 50,
    "bank_momentum": 0.999,
    "bank_labels": "batch",
    "bank_absent": "decay",
    "bank_size": 300,
}
DACS = {
    **DAFORMER,
    "method": "dacs",
    "ema_decay": 0.99,
    "ignore_top": 0,
    "ignore_bottom": 0,
    "feature_distance_weight": 0.0,
    "rare_class_sampling": False,
}
MIC = {**DAFORMER, "masked_consistency": 1.0, "mask_block": 64, "mask_ratio": 0.7}
ON_DEEPLAB = {
    **DAFORMER,
    "network": "deeplab_v2",
    "backbone": "resnet101",
    "norm_style": "bn",
    "train_bn": True,
    "backbone_norm_decay": True,  # their rule knows no BatchNorm of a ResNet
    "output_stride": 8,
}
SEVEN = {"source": "gta5", "input_size": (1280, 720), "seed": 0}
EIGHT = {"source": "synthia", "input_size": (1280, 760), "seed": 2}
ONLINE = {
    "gta5_to_cityscapes_daformer": {**DAFORMER, **SEVEN},
    "synthia_to_cityscapes_daformer": {**DAFORMER, **EIGHT},
    "gta5_to_cityscapes_dida": {**DIDA, **SEVEN},
    "synthia_to_cityscapes_dida": {**DIDA, **EIGHT},
    "gta5_to_cityscapes_dacs": {**DACS, **SEVEN},
    "gta5_to_cityscapes_mic": {**MIC, **SEVEN},
    "gta5_to_cityscapes_daformer_deeplab": {**ON_DEEPLAB, **SEVEN},
}


@pytest.fixture(autouse=True)
def _in_a_folder_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SEGADAPT_DATA"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bank").mkdir()
    (tmp_path / "stage_one").mkdir()
    (tmp_path / "stage_one" / "GTA5_25000.pth").touch()
    monkeypatch.chdir(tmp_path)


def parse_recipe(name: str, *words: str) -> argparse.Namespace:
    """The settings of a recipe with what it leaves open: where training starts."""
    script = script_of(name)
    recipe = f"@launch/recipes/{name}.args"
    return script.parse_args([recipe, *missing_start(script, recipe), *words])


def missing_start(script: object, recipe: str) -> list[str]:
    """The options that say what training starts from, unless the recipe does."""
    given = {word.text for word in expand([recipe])}
    if script is train_ft or recipe.endswith(("_source_free.args", "_mada.args")):
        return ["--restore-from", "stage_one"]
    weights = "imagenet.pth" if script is train_st else "none"
    start = [] if given & {"--restore-from", "--backbone-weights"} else ["--backbone-weights", weights]
    needs_bank = recipe.endswith("_dida.args") and "--instance-bank" not in given
    return [*start, "--instance-bank", "bank"] if needs_bank else start


def script_of(name: str) -> object:
    """The entry point that a recipe is for, by the end of its name."""
    ending = "percent" if name.endswith("percent") else name
    return next(script for known, script in SCRIPTS.items() if f"_{ending}".endswith(f"_{known}"))


def assert_values(args: argparse.Namespace, values: dict[str, object]) -> None:
    assert {name: getattr(args, name) for name in values} == values


def without_gpu_ids(line: str) -> list[str]:
    words = shlex.split(line)
    place = words.index("--gpu-ids")
    return words[:place] + words[place + 2 :]


@pytest.mark.parametrize(
    ("script", "line", "processes"), [(train_ms, STAGE_ONE, 2), (train_ft, STAGE_TWO, 3)]
)
def test_gpu_ids_of_the_original_command_are_answered_with_torchrun(
    capsys: pytest.CaptureFixture[str], script: object, line: str, processes: int
) -> None:
    words = [*shlex.split(line), *(() if "--restore-from" in line else ("--backbone-weights", "none"))]
    assert script.main(words) == 2
    error = capsys.readouterr().err.strip()
    assert f"--gpu-ids {','.join(map(str, range(processes)))}: use torchrun" in error
    launcher, _, rest = error.partition(": torchrun ")[2].partition(".py ")
    assert launcher.startswith(f"--standalone --nproc-per-node {processes} ")
    assert script.parse_args(shlex.split(rest)).batch_size % processes == 0


def test_stage_one_of_the_readme_gives_the_published_values(caplog: pytest.LogCaptureFixture) -> None:
    args = train_ms.parse_args([*without_gpu_ids(STAGE_ONE), "--backbone-weights", "none"])
    saved_every_5000_to_the_end = {**SHARED, "num_steps_stop": 100_000}
    assert_values(args, {**saved_every_5000_to_the_end, **STAGE_ONE_VALUES, **ADVERSARIAL})
    assert args.snapshot_dir == Path("snapshots/SE_GN_batchsize2")
    assert not caplog.records


def test_stage_two_of_the_readme_gives_the_published_values(caplog: pytest.LogCaptureFixture) -> None:
    args = train_ft.parse_args(without_gpu_ids(STAGE_TWO))
    values = {**SHARED, **STAGE_TWO_VALUES, "num_steps_stop": 100_000, "only_hard_label": 80.0}
    assert_values(args, values)
    assert args.restore_from == Path("stage_one/GTA5_25000.pth")
    assert not args.autoaug  # in the original's stage II the words `--autoaug False` switched it on
    idle = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    assert len(idle) == 1  # as in the original, whose rectified loss never looks at it
    assert "--only-hard-label has no effect" in idle[0]


def test_labelling_and_test_of_the_readme_parse() -> None:
    snapshot = Path("stage_one/GTA5_25000.pth")
    assert generate_plabel.parse_args(["--restore-from", str(snapshot)]).restore_from == snapshot
    assert evaluate.parse_args(["--restore-from", str(snapshot)]).inputs == [snapshot]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_parses_with_its_script_and_every_option_has_an_effect(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    args = parse_recipe(name)
    assert args.recipe == name
    assert args.published_batch == args.batch_size
    assert args.snapshot_dir == Path(f"runs/{name}-seed{args.seed}")
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_published_setting_has_a_recipe() -> None:
    published = {name for name in RECIPES if "_to_cityscapes_" in name or "_to_robotcar_" in name}
    assert set(PUBLISHED) | set(ACTIVE) | set(ONLINE) | set(WHOLE_IMAGES) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_holds_the_published_values(name: str) -> None:
    assert_values(parse_recipe(name), {**SHARED, **PUBLISHED[name]})


@pytest.mark.parametrize("name", ACTIVE)
def test_an_active_recipe_holds_the_published_values(name: str) -> None:
    assert_values(parse_recipe(name), ACTIVE[name])


@pytest.mark.parametrize("name", WHOLE_IMAGES)
def test_a_recipe_for_whole_images_holds_the_published_values(name: str) -> None:
    assert_values(parse_recipe(name), WHOLE_IMAGES[name])


@pytest.mark.parametrize("name", ONLINE)
def test_a_self_training_recipe_holds_the_published_values(name: str) -> None:
    assert_values(parse_recipe(name), ONLINE[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_flags_after_a_recipe_win(name: str) -> None:
    args = parse_recipe(name, "--batch-size", "4", "--crop-size", "256,128", "--no-use-se")
    assert (args.batch_size, args.crop_size, args.use_se) == (4, (256, 128), False)
    assert args.published_batch == PUBLISHED[name]["batch_size"]
    assert args.lambda_seg == SHARED["lambda_seg"]


@pytest.fixture
def four_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def session(device: str, *, timeout_s: float) -> Iterator[World]:
        yield World(rank=0, size=4, local_rank=0, device=torch.device("cpu"))

    monkeypatch.setattr(distributed, "session", session)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")


@pytest.mark.usefixtures("four_processes")
@pytest.mark.parametrize("name", PUBLISHED)
def test_four_gpus_with_a_published_batch_end_in_two_commands_to_paste(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script, batch = script_of(name), PUBLISHED[name]["batch_size"]
    start = ["--restore-from", "stage_one"] if script is train_ft else ["--backbone-weights", "none"]
    data = ["--data-root", str(tmp_path)]
    assert script.main([f"@launch/recipes/{name}.args", *data, *start]) == 2
    error = capsys.readouterr().err
    commands = [line.strip() for line in error.splitlines() if line.startswith("  ")]
    assert len(commands) == 2
    exact, scaled = (paste(command, script) for command in commands)
    assert exact[0] == {1: 1, 2: 2, 5: 1, 9: 3}[batch]
    assert (exact[1].batch_size, exact[1].learning_rate) == (batch, PUBLISHED[name]["learning_rate"])
    assert scaled[0] == 4
    assert scaled[1].batch_size == {1: 4, 2: 4, 5: 8, 9: 12}[batch]
    factor = scaled[1].batch_size / batch
    assert scaled[1].learning_rate == pytest.approx(PUBLISHED[name]["learning_rate"] * factor, rel=1e-5)
    assert not (tmp_path / "runs").exists()


def paste(command: str, script: object) -> tuple[int, argparse.Namespace]:
    """Number of processes and settings of a command as it would be typed."""
    words = shlex.split(command)
    place = next(number for number, word in enumerate(words) if word.endswith(".py"))
    parse: Callable[[Sequence[str]], argparse.Namespace] = script.parse_args
    processes = int(words[words.index("--nproc-per-node") + 1]) if words[0] == "torchrun" else 1
    return processes, parse(words[place + 1 :])
