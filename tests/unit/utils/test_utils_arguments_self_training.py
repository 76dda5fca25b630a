"""Options of self-training: defaults that follow from the method, combinations, options without effect."""

from __future__ import annotations

import argparse
import logging
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest

import fill_bank
import train_ms
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
def _no_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither processes nor data, in a folder with a bank."""
    (tmp_path / "bank").mkdir()
    monkeypatch.chdir(tmp_path)
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
    [
        (SelfTrainingSettings, ""),
        (DidaSettings, "--method dida --instance-bank fill --bank-fill-at 0 --restore-from ."),
    ],
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
        ("--method dida --instance-bank ''", "needs --instance-bank"),
        ("--method dida --instance-bank nowhere", "--instance-bank: nowhere does not exist; give a folder"),
        ("--method dida --instance-bank https://a.org/b.npz", "--instance-bank: .* is a web address"),
        (
            "--method dida --instance-bank fill --bank-fill-at 40000",
            "--bank-fill-at 40000 comes when the run",
        ),
        (
            "--method dida --instance-bank fill --num-steps-stop 1500",
            r"--bank-fill-at 1500 \(unless given, as --warm-up\) comes when",
        ),
        ("--method dida --instance-bank fill --bank-fill-at 0", "untrained head; give --restore-from"),
        ("--method dida --instance-bank fill --warm-up 0", "as --warm-up.* untrained head"),
        ("--mask-ratio 1", "--mask-ratio: must be 0 or more and below 1"),
        ("--jitter-strength 0.51", "--jitter-strength: must be between 0 and 0.5"),
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
        "--method dida --instance-bank fill --bank-fill-at 0 --restore-from .",
        "--mask-ratio 0.99 --jitter-strength 0.5",
    ],
)
def test_allowed(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("bank", ["nowhere", "fill --warm-up 0"])
def test_a_run_that_goes_on_has_its_bank(bank: str) -> None:
    Path("run").mkdir()
    Path("run", "iteration_0000001.pth").touch()
    parse(f"--method dida --snapshot-dir run --instance-bank {bank}")


def test_a_run_keeps_whether_its_bank_is_filled() -> None:
    words = (
        "--instance-bank bank",
        "--method dida --instance-bank fill",
        "--method dida --instance-bank bank",
    )
    assert [parse(line).bank_from for line in words] == [None, "fill", "files"]


def test_help_says_what_these_scripts_do_with_shared_options(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for script in (train_st, fill_bank, train_ms):
        with pytest.raises(SystemExit):
            script.parse_args(["--help"])
        found.append(" ".join(capsys.readouterr().out.split()))
    ours, bank, stage_one = found
    assert "0: none" in stage_one
    assert "0: none" not in ours.partition("--ema-decay A")[2].partition("--")[0]
    assert "(default: 0.999, with --method dacs 0.99)" in ours
    assert ours.count("resized to fit into, proportions kept") == 2
    assert bank.count("resized to fit into, proportions kept") == 1
    assert stage_one.count("resized to fit into") == 0
    assert "(default: the target's)" in ours
    assert "(default: the snapshot's)" in bank


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
        ("--jitter-threshold 1 --no-blur --teacher-augmentation", "--teacher-augmentation has no effect"),
        ("--quirks fixed", "--quirks fixed has no effect with --method daformer --optimizer adamw"),
        (
            "--method dacs --quirks fixed --optimizer sgd-plain",
            "--quirks fixed has no effect with --method dacs",
        ),
        (
            "--method dida --instance-bank bank --bank-update-every 40000",
            "--bank-update-every 40000 has no effect after the first iteration",
        ),
        (
            "--method dida --instance-bank bank --instance-weight 0 --bank-momentum 0.9 --bank-labels own",
            "bank has no effect, nor has --bank-momentum, nor has --bank-labels: --instance-weight is 0",
        ),
        ("--restore-weights teacher", "--restore-weights has no effect without --restore-from"),
        ("", ""),
        ("--masked-consistency --mask-block 32", ""),
        ("--restore-from . --restore-weights teacher", ""),
        ("--method dida --instance-bank bank --instance-weight 0 --smooth 0.9", ""),
        ("--method dida --instance-bank fill --bank-size 50 --bank-fill-at 9 --quirks published", ""),
        ("--method dida --instance-bank bank --quirks fixed --optimizer sgd-plain", ""),
        ("--quirks fixed --optimizer sgd", ""),
        ("--quirks published", ""),
        ("--jitter-threshold 1 --teacher-augmentation", ""),
        ("--method dida --instance-bank bank --bank-update-every 39999", ""),
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

    def test_options_of_the_run_are_taken_over_where_none_are_given(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        stored = {
            "input_size": [1280, 760],
            "crop_size": [512, 512],
            "rare_class_sampling": False,
            "source": "synthia",
            "crop_attempts": 3,
        }
        args = parse_bank("--crop-attempts 5")
        with caplog.at_level(logging.INFO):
            fill_bank.read_as_the_run(args, stored)
        assert (args.input_size, args.crop_size, args.crop_attempts) == ((1280, 760), (512, 512), 5)
        assert not args.rare_class_sampling
        assert caplog.messages == [
            "warning: --source gta5, but the run had --source synthia",
            "warning: --crop-attempts 5, but the run had --crop-attempts 3",
            "as the run of . read the source: --input-size 1280,760 --no-rare-class-sampling",
        ]

    def test_nothing_is_said_where_nothing_differs(self, caplog: pytest.LogCaptureFixture) -> None:
        args = parse_bank("")
        before = dict(vars(args))
        with caplog.at_level(logging.INFO):
            for stored in ({}, {"input_size": [1280, 720], "mirror": True, "ema_decay": 0.9}):
                fill_bank.read_as_the_run(args, stored)
        assert vars(args) == before
        assert caplog.messages == []

    def test_options_of_other_scripts_are_refused(self) -> None:
        for option in ("--no-random-mirror", "--compile", "--target cityscapes"):
            with pytest.raises(UserError, match="unknown option"):
                parse_bank(option)
