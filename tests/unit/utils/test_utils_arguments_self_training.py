"""Options of self-training: defaults that follow from the method, combinations, options without effect."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields, replace

import pytest

import fill_bank
import train_st
from trainers import wiring
from trainers.dida import DidaSettings
from trainers.self_training import SelfTrainingSettings
from utils.arguments import FREE_TO_CHANGE, USED_AT_START
from utils.errors import UserError

BY_METHOD = (
    "ema_decay",
    "ignore_top",
    "ignore_bottom",
    "feature_distance_weight",
    "rare_class_sampling",
)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SEGADAPT_DATA"):
        monkeypatch.delenv(name, raising=False)


def parse(line: str = "", *, weights: str = "--backbone-weights imagenet.pth") -> argparse.Namespace:
    return train_st.parse_args(shlex.split(f"{weights} {line}"))


def parse_bank(line: str) -> argparse.Namespace:
    return fill_bank.parse_args(shlex.split(f"--restore-from . --output bank {line}"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", (0.999, 15, 120, 0.005, True)),
        ("--method dida --instance-bank bank", (0.999, 15, 120, 0.005, True)),
        ("--method dacs", (0.99, 0, 0, 0.0, False)),
        ("--method dacs --rare-class-sampling --ema-decay 0.9", (0.9, 0, 0, 0.0, True)),
        ("--method dacs --ignore-top 3 --feature-distance-weight 0.1", (0.99, 3, 0, 0.1, False)),
        ("--no-rare-class-sampling --ignore-bottom 0", (0.999, 15, 0, 0.005, False)),
    ],
)
def test_defaults_follow_from_the_method(line: str, expected: tuple[object, ...]) -> None:
    args = parse(line)
    assert tuple(getattr(args, name) for name in BY_METHOD) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [("", ("batch", "decay")), ("--quirks fixed", ("own", "keep"))],
)
def test_faults_of_the_published_bank_can_be_repaired(line: str, expected: tuple[str, str]) -> None:
    args = parse(f"--method dida --instance-bank bank {line}")
    assert (args.bank_labels, args.bank_absent) == expected
    chosen = parse("--method dida --instance-bank bank --quirks fixed --bank-labels batch")
    assert (chosen.bank_labels, chosen.bank_absent) == ("batch", "keep")


def test_a_bank_is_filled_after_the_warm_up_unless_said_otherwise() -> None:
    fill = "--method dida --instance-bank fill"
    assert parse(fill).bank_fill_at == 1500
    assert parse(f"{fill} --warm-up 20").bank_fill_at == 20
    assert parse(f"{fill} --restore-from .").bank_fill_at == 1500
    assert parse(f"{fill} --restore-from . --bank-fill-at 7").bank_fill_at == 7


def test_masked_consistency_is_off_and_the_bare_flag_means_one() -> None:
    assert parse().masked_consistency == 0
    assert parse("--masked-consistency --seed 1").masked_consistency == 1
    assert parse("--masked-consistency 0.5").masked_consistency == 0.5


@pytest.mark.parametrize(
    ("kind", "line"),
    [(SelfTrainingSettings, ""), (DidaSettings, "--method dida --instance-bank fill --bank-fill-at 0")],
)
def test_defaults_are_those_of_the_settings(kind: type, line: str) -> None:
    args = parse(line)
    assert {field.name for field in fields(kind)} - set(vars(args)) == set()
    found = replace(wiring.method_settings(kind, args), feature_distance_classes=())
    optimizer = {
        "optimizer": "adamw",
        "learning_rate": 6e-5,
        "weight_decay": 0.01,
        "num_steps": 40_000,
        "power": 1.0,
        "warm_up": 1500,
        "warm_up_schedule": "decaying",
        "backbone_norm_decay": False,
    }
    assert found == kind(**optimizer)


def test_published_network_and_crops() -> None:
    args = parse()
    assert (args.network, args.backbone, args.batch_size, args.ema_decay) == ("daformer", "mit_b5", 2, 0.999)
    assert (args.input_size, args.input_size_target) == ((1280, 720), (1024, 512))
    assert (args.crop_size, args.protocol) == ((512, 512), "daformer")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--ema-decay 0", "--ema-decay 0 means no teacher"),
        ("--method dida", "needs --instance-bank"),
        ("--method dida --instance-bank fill --bank-fill-at 40000", "comes when the run is over"),
        ("--method dida --instance-bank fill --num-steps-stop 1500", "--bank-fill-at 1500 comes when"),
        ("--ignore-top 400 --ignore-bottom 112", "leave none of the 512 rows"),
        ("--crop-size 512,128", "leave none of the 128 rows"),
        ("--backbone-weights none", "--backbone-weights none has none"),
    ],
)
def test_contradictions_are_found_alike_by_all_processes(line: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        parse(line)
    assert caught.value.everywhere


@pytest.mark.parametrize(
    "line",
    [
        "--ignore-top 391",
        "--method dacs --backbone-weights none",
        "--backbone-weights none --feature-distance-weight 0",
        "--method dacs --crop-size 128,128",
        "--method dida --instance-bank bank --num-steps-stop 1600",
    ],
)
def test_allowed(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--calibrate none", "--calibrate has no effect with --method daformer"),
        ("--instance-bank bank", "--instance-bank has no effect with --method daformer"),
        ("--method dacs --bank-momentum 0.9", "--bank-momentum has no effect with --method dacs"),
        ("--method dida --instance-bank bank --bank-size 9", "--bank-size has no effect: the bank is read"),
        ("--method dida --instance-bank bank --bank-fill-at 9", "--bank-fill-at has no effect"),
        (
            "--method dida --instance-bank bank --instance-weight 0 --calibrate none --smooth 0.9",
            "--calibrate has no effect: --instance-weight is 0",
        ),
        ("--method dida --instance-bank bank --instance-weight 0", "the instance bank has no effect"),
        ("--mask-block 32", "--mask-block has no effect without --masked-consistency"),
        ("--mask-ratio 0.5", "--mask-ratio has no effect without --masked-consistency"),
        (
            "--no-rare-class-sampling --rare-class-temperature 1",
            "--rare-class-temperature has no effect without --rare-class-sampling",
        ),
        ("--method dacs --class-statistics .", "--class-statistics has no effect"),
        (
            "--feature-distance-weight 0 --feature-distance-classes car",
            "--feature-distance-classes has no effect without --feature-distance-weight",
        ),
        ("--crop-largest-share 0 --crop-attempts 5", "--crop-attempts has no effect"),
        ("--jitter-threshold 1 --jitter-strength 0.5", "--jitter-strength has no effect"),
        ("--restore-weights teacher", "--restore-weights has no effect without --restore-from"),
        ("", ""),
        ("--masked-consistency --mask-block 32", ""),
        ("--restore-from . --restore-weights teacher", ""),
        ("--method dida --instance-bank bank --instance-weight 0 --smooth 0.9", ""),
        ("--method dida --instance-bank fill --bank-size 50 --bank-fill-at 9 --quirks published", ""),
    ],
)
def test_options_without_effect_are_warned_about(
    line: str, named: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    parse(line)
    said = capsys.readouterr().err + caplog.text
    assert named in said
    assert ("no effect" in said) is (named != "")


def test_what_a_continued_run_may_change() -> None:
    assert "class_statistics" in FREE_TO_CHANGE
    assert {"instance_bank", "backbone_weights", "restore_from", "restore_weights"} <= USED_AT_START
    fixed = {
        "bank_from",
        "method",
        "mix",
        "ema_decay",
        "pseudo_threshold",
        "smooth",
        "bank_size",
        "rare_class_temperature",
    }
    assert not fixed & (FREE_TO_CHANGE | USED_AT_START)


class TestFillBank:
    def test_source_is_read_as_in_training(self) -> None:
        ours, theirs = parse_bank(""), parse()
        shared = ("input_size", "crop_size", "crop_largest_share", "crop_attempts", "mirror", "bank_size")
        shared += tuple(name for name in vars(theirs) if name.startswith("rare_class"))
        assert {name: getattr(ours, name) for name in shared} == {n: getattr(theirs, n) for n in shared}
        assert (ours.weights, ours.precision) == ("student", "fp32")

    def test_options_without_effect_are_refused_or_warned_about(
        self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        parse_bank("--no-rare-class-sampling --rare-class-temperature 1")
        assert "--rare-class-temperature has no effect" in capsys.readouterr().err + caplog.text
        for option in ("--no-random-mirror", "--compile", "--target cityscapes"):
            with pytest.raises(UserError, match="unknown option"):
                parse_bank(option)
