"""Options of active learning: defaults that follow from method and setting, and combinations."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields

import pytest

import train_al
from trainers import wiring
from trainers.active import ActiveSettings
from utils.arguments import FREE_TO_CHANGE, settings_digest
from utils.errors import UserError

RIPU_ROUNDS = (10_000, 12_000, 14_000, 16_000, 18_000)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SEGADAPT_DATA"):
        monkeypatch.delenv(name, raising=False)


def parse(line: str = "") -> argparse.Namespace:
    return train_al.parse_args(shlex.split(f"--backbone-weights none {line}"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ("2.2%", 1, RIPU_ROUNDS, "none", "always")),
        ("--setting pixel", ("40px", 32, RIPU_ROUNDS, "none", "always")),
        ("--method dwaca", ("5%", 1, RIPU_ROUNDS, "validation", "reference")),
        ("--method dwaca --dropout-schedule always", ("5%", 1, RIPU_ROUNDS, "validation", "always")),
        ("--method dwaca --class-weights-from labelled", ("5%", 1, RIPU_ROUNDS, "labelled", "reference")),
        (
            "--source-free --restore-from .",
            ("2.2%", 1, (0, 2000, 4000, 6000, 8000), "none", "always"),
        ),
        (
            "--setting pixel --budget 5% --radius 4 --select-iterations 5,1e3",
            ("5%", 4, (5, 1000), "none", "always"),
        ),
    ],
)
def test_defaults_follow_from_method_and_setting(line: str, expected: tuple[object, ...]) -> None:
    args = parse(line)
    names = ("budget", "radius", "select_iterations", "class_weights_from", "dropout_schedule")
    assert tuple(getattr(args, name) for name in names) == expected


def test_defaults_are_those_of_the_settings() -> None:
    args = parse()
    published = {"learning_rate": args.learning_rate, "fused_optimizer": args.fused_optimizer}
    assert wiring.method_settings(ActiveSettings, args) == ActiveSettings(**published)
    missing = {field.name for field in fields(ActiveSettings)} - set(vars(args))
    assert missing == set()


def test_published_run_trains_on_whole_images_with_plain_sgd() -> None:
    args = parse()
    assert (args.network, args.backbone, args.optimizer) == ("deeplab_v2", "resnet101", "sgd-plain")
    assert (args.crop_size, args.scale_range, args.mirror) == (None, None, False)
    assert (args.source_order, args.protocol, args.batch_norm) == ("class-balanced", "ripu", "frozen")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--num-steps-stop 18000", "round at 18000 comes when the run is over"),
        ("--num-steps 9000", "round at 10000"),
        ("--method dwaca --setting pixel", "there is no pixel setting"),
        ("--class-weights-from labelled", "belongs to --method dwaca"),
        ("--method dwaca --score random", "not weighted by class"),
        ("--source-free", "--source-free needs --restore-from"),
        ("--method mada --restore-from . --labels-from run", "--labels-from run: with --oracle truth"),
        ("--oracle people --labels-from run", "--labels-from run belongs to --method mada"),
        (
            "--source-free --restore-from . --method dwaca --class-weights-from source",
            "--source-free reads none",
        ),
    ],
)
def test_contradictions_are_found_alike_by_all_processes(line: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        parse(line)
    assert caught.value.everywhere


@pytest.mark.parametrize(
    "line",
    ["--num-steps-stop 18001", "--method dwaca --norm-style bn --dropout-schedule always", "--method dwaca"],
)
def test_allowed(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--accept-partial", "--accept-partial has no effect with --oracle truth"),
        ("--seconds-per-decision 3", "--seconds-per-decision has no effect"),
        ("--dropout-period 500", "--dropout-period has no effect"),
        ("--source-free --restore-from . --lambda-consistency 1", "--lambda-consistency has no effect"),
        ("--source-order shuffled --label-info pyproject.toml", "--label-info has no effect"),
        (
            "--method mada --restore-from . --oracle people --labels-from run --stop-after selection",
            "--labels-from has no effect: the run ends with --stop-after selection",
        ),
        (
            "--method mada --restore-from . --oracle people --labels-from run --start-at target-anchors "
            "--stop-after target-anchors",
            "--labels-from has no effect: a run for target anchors alone asks about no image",
        ),
        ("", ""),
        ("--oracle people --accept-partial", ""),
        ("--method dwaca --dropout-period 500", ""),
    ],
)
def test_options_without_effect_are_warned_about(
    line: str, named: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    parse(line)
    said = capsys.readouterr().err + caplog.text
    assert named in said
    assert ("has no effect" in said) is (named != "")


def test_what_a_continued_run_may_change() -> None:
    assert {
        "accept_partial",
        "labels_from",
        "seconds_per_decision",
        "query_pictures",
        "label_info",
    } <= FREE_TO_CHANGE
    fixed = {"method", "setting", "budget", "radius", "select_iterations", "score", "oracle", "source_free"}
    assert not fixed & FREE_TO_CHANGE


@pytest.mark.parametrize(
    ("words", "digest"),
    [
        ([], "481f44d859dad672"),
        (["--method", "dwaca"], "fa6b92f544d9a5e1"),
        (["--setting", "pixel"], "644532aff02800fd"),
        (["--source-free", "--restore-from", "."], "5ac0d20d2be572f3"),
    ],
)
def test_identity_of_a_run_does_not_change_with_the_program(words: list[str], digest: str) -> None:
    """Rounds that people have answered carry it: a new option of another method must not disown them."""
    assert settings_digest(train_al.parse_args(["--backbone-weights", "none", *words])) == digest
