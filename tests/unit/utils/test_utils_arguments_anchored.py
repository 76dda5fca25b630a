"""Options of MADA: its defaults, the steps of its stages, and combinations."""

from __future__ import annotations

import argparse
import logging
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import train_al
from networks.factory import DEFAULT_OPTIONS
from trainers import wiring
from trainers.anchored import AnchoredSettings
from utils.arguments import FREE_TO_CHANGE, USED_AT_START, as_settings, free_to_change, settings_digest
from utils.arguments.anchored_checks import describes_source, describes_target, needs_source_anchors
from utils.arguments.anchored_defaults import PUBLISHED, published_options
from utils.errors import UserError

START = "--method mada --restore-from warm_up.pkl"
RECIPE = f"@launch/recipes/gta5_to_cityscapes_mada.args {START}"
TARGET_ANCHORS = f"{START} --start-at target-anchors --image-list names.txt"


@pytest.fixture(autouse=True)
def _in_a_folder_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SEGADAPT_DATA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("warm_up.pkl", "anchors.pkl", "vectors.pkl", "names.txt"):
        (tmp_path / name).touch()
    (tmp_path / "own.args").write_text(
        "--image-list names.txt\n--budget 3%\n"
    )  # a recipe at odds with itself
    (tmp_path / "original").mkdir()
    monkeypatch.chdir(tmp_path)


def parse(line: str = "") -> argparse.Namespace:
    return train_al.parse_args(shlex.split(line))


class TestDefaults:
    def test_published_run(self) -> None:
        published = {
            "network": "mada_v3plus",
            "backbone": "resnet101",
            "output_stride": 16,
            "batch_norm": "sync",
            "train_bn": True,
            "optimizer": "sgd-plain",
            "momentum": 0.9,
            "num_steps": 90_000,
            "num_steps_stop": 74_300,
            "stage_steps": (37_150, 37_150),
            "stage_2_from": "best",
            "batch_size": 4,
            "input_size": (1914, 1052),
            "input_size_active": (1914, 1052),
            "input_size_target": (2048, 1024),
            "crop_size": (896, 512),
            "scale_range": (0.5, 1.5),
            "scaled_width": 2200,
            "mirror": True,
            "random_mirror": True,
            "source_order": "shuffled",
            "protocol": "mada",
            "budget": "5%",
            "num_anchors": 10,
            "score": "published",
            "select_iterations": (0,),
            "setting": "image",
            "class_weights_from": "none",
            "evaluate_every": 1000,
            "save_pred_every": 1000,
        }
        args = parse(START)
        assert {name: getattr(args, name) for name in published} == published

    def test_settings_are_those_of_the_method(self) -> None:
        args = parse(START)
        assert wiring.method_settings(AnchoredSettings, args) == AnchoredSettings()
        assert {field.name for field in fields(AnchoredSettings)} <= set(vars(args))

    def test_what_is_given_wins(self) -> None:
        args = parse(f"{START} --network deeplab_v3plus --num-steps 500 --crop-size 64,32 --no-train-bn")
        assert (args.network, args.num_steps, args.crop_size) == ("deeplab_v3plus", 500, (64, 32))
        assert (args.output_stride, args.train_bn) == (8, False)

    def test_other_methods_keep_theirs(self) -> None:
        args = parse("--backbone-weights none")
        values = (args.network, args.output_stride, args.train_bn, args.batch_norm, args.num_steps)
        assert values == ("deeplab_v2", 8, False, "frozen", 62_500)
        assert (args.setting, args.num_steps_stop, args.evaluate_every) == ("region", 62_500, 0)

    @pytest.mark.parametrize("network", [name for name in DEFAULT_OPTIONS if name != "daformer"])
    def test_output_stride_is_the_architectures_own(self, network: str) -> None:
        own = DEFAULT_OPTIONS[network].get("output_stride", 8)
        assert parse(f"--backbone-weights none --network {network}").output_stride == own

    @pytest.mark.parametrize("values", ["0,5", "5,0", "5", "5,5,5"])
    def test_both_stages_have_steps(self, values: str) -> None:
        with pytest.raises(UserError, match="--stage-steps"):
            parse(f"{START} --stage-steps {values}")


class TestHelp:
    @pytest.fixture
    def lines(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Of the help, each option's on one."""
        monkeypatch.setenv("COLUMNS", "1000")
        with pytest.raises(SystemExit):
            parse("--help")
        return capsys.readouterr().out.splitlines()

    def test_names_every_default_of_madas_own(self, lines: list[str]) -> None:
        start = next(place for place, line in enumerate(lines) if "these are the defaults" in line)
        paragraph = " ".join(lines[start : lines.index("", start)])
        assert all(f" {option} " in f"{paragraph} " for option in published_options())
        assert len(published_options()) == len(PUBLISHED)

    def test_what_it_names_is_what_a_run_takes(self) -> None:
        assert as_settings(parse(f"{START} {' '.join(published_options())}")) == as_settings(parse(START))

    @pytest.mark.parametrize(
        "true",
        [
            "with --method mada all training images to --scaled-width times it",
            "daformer and mada take --input-size-target as their base size",
            "(default: --num-steps, with --method mada both --stage-steps)",
            "for one region, with --method mada for one image",
            "what is asked about (regions or whole images)",
            "else --input-size-target, as always with --method mada",
        ],
    )
    def test_says_what_holds_for_mada_too(self, lines: list[str], true: str) -> None:
        assert any(true in line for line in lines)


class TestSteps:
    @pytest.mark.parametrize(
        ("line", "stages", "stop"),
        [
            (START, (30, 20), 50),
            (f"{START} --stop-after source-anchors", (30, 20), 0),
            (f"{START} --stop-after selection", (30, 20), 0),
            (f"{START} --stop-after labels", (30, 20), 0),
            (f"{START} --stop-after stage-1", (30, 20), 30),
            (f"{START} --stop-after target-anchors", (30, 20), 30),
            (f"{START} --num-steps-stop 10", (30, 20), 10),
            (f"{START} --num-steps-stop 40 --stop-after stage-1", (30, 20), 30),
            (TARGET_ANCHORS, (0, 20), 20),
            (f"{TARGET_ANCHORS} --stop-after target-anchors", (0, 20), 0),
        ],
    )
    def test_are_those_of_the_stages_that_run(
        self, line: str, stages: tuple[int, int], stop: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        args = parse(f"{line} --stage-steps 30,20 --num-steps 30")
        assert (args.stage_steps, args.num_steps_stop) == (stages, stop)
        assert not caplog.records

    def test_a_stage_beyond_the_schedule_is_warned_about(self, caplog: pytest.LogCaptureFixture) -> None:
        parse(f"{START} --stage-steps 31,20 --num-steps 30")
        assert "--stage-steps 31,20: the learning rate is 0 from step 30 of a stage on" in caplog.text


class TestContradictions:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("--method mada", "--method mada needs --restore-from.*best_model_warmup.pkl.*train_ms.py"),
            ("--method mada --backbone-weights none", "needs --restore-from.*--network mada_v3plus"),
            (f"{START} --num-steps-stop 74301", "--num-steps-stop 74301.*74300 steps.*--stage-steps"),
            (
                f"{TARGET_ANCHORS} --stop-after stage-1",
                "--stop-after stage-1 comes before --start-at target-",
            ),
            (f"{START} --start-at target-anchors", "--start-at target-anchors needs --image-list"),
            (
                f"{START} --image-list names.txt --labelled-list names.txt",
                "--image-list names.txt contradicts --labelled-list names.txt",
            ),
            (
                f"{START} --source-anchors anchors.pkl --source-vectors vectors.pkl",
                "--source-anchors anchors.pkl contradicts --source-vectors vectors.pkl",
            ),
            (f"{START} --source-free", "--source-free: --method mada trains on source images"),
            (f"{START} --annotations-from original", "--annotations-from original.*--labelled-list"),
            (f"{START} --setting region", "--setting region: --method mada buys whole images"),
            (f"{START} --crop-size none", "--crop-size none.*896,512"),
            (f"{START} --scale-range none", "--scale-range none.*1,1"),
        ],
    )
    def test_are_found_alike_by_all_processes(self, line: str, expected: str) -> None:
        with pytest.raises(UserError, match=expected) as caught:
            parse(line)
        assert caught.value.everywhere
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "option",
        [
            "--start-at source-anchors",
            "--stop-after stage-1",
            "--source-anchors anchors.pkl",
            "--source-vectors vectors.pkl",
            "--image-list names.txt",
            "--labelled-list names.txt",
            "--target-anchors anchors.pkl",
            "--stage-steps 5,5",
            "--labels-from original",
        ],
    )
    @pytest.mark.parametrize("method", ["ripu", "dwaca"])
    def test_what_steers_mada_is_refused_by_other_methods(self, method: str, option: str) -> None:
        with pytest.raises(UserError, match=f"{option} belongs to --method mada"):
            parse(f"--backbone-weights none --method {method} {option}")

    @pytest.mark.parametrize(
        "line",
        [
            f"{START} --stop-after selection",
            f"{START} --start-at target-anchors --stop-after target-anchors",
            f"{START} --oracle people --seconds-per-decision 3600",
            f"{START} --oracle people --labels-from original --stop-after labels",
            TARGET_ANCHORS,
            f"{START} --image-list names.txt",
            f"{START} --labelled-list names.txt --budget 3images",
            f"{START} --source-vectors vectors.pkl --allow-absent-classes",
            f"{START} --score random",
            f"{START} --oracle people --accept-partial",
            f"{START} --target-anchors anchors.pkl --stage-2-from last --batch-rule mean",
            f"{START} --stop-after source-anchors --image-list names.txt --allow-absent-classes",
            f"{START} --stop-after source-anchors --score random --source-vectors vectors.pkl",
            f"{START} --stop-after stage-1 --stage-2-from last",
            f"{START} --score random --published-vectors --num-anchors 5",
            f"{START} --lambda-alignment 0 --published-vectors --num-anchors 5",
            f"{START} --lambda-alignment 0 --score random --stop-after target-anchors --num-anchors 5",
            f"{TARGET_ANCHORS} --published-vectors",
            f"{START} --stop-after selection --no-published-vectors --source-anchors anchors.pkl",
            # what a recipe says is no news where an option that was typed after it makes it idle
            f"{RECIPE} --image-list names.txt",
            f"{RECIPE} --stop-after selection",
            f"{RECIPE} --start-at target-anchors --image-list names.txt",
            f"{RECIPE} --lambda-alignment 0 --score random",
        ],
    )
    def test_allowed_without_a_word(self, line: str, caplog: pytest.LogCaptureFixture) -> None:
        parse(line)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_a_run_that_goes_on_needs_no_start(self) -> None:
        Path("run").mkdir()
        Path("run/iteration_0000005.pth").touch()
        args = parse("--method mada --snapshot-dir run")
        assert (args.restore_from, args.backbone_weights) == (None, "none")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--radius 3", "--radius has no effect with --method mada"),
        ("--select-iterations 5", "--select-iterations has no effect"),
        ("--lambda-consistency 1", "--lambda-consistency has no effect"),
        ("--negative-threshold 0.1", "--negative-threshold has no effect"),
        ("--class-weights-from labelled", "--class-weights-from has no effect"),
        ("--dropout-schedule reference", "--dropout-schedule has no effect"),
        ("--crop-min-classes 3", "--crop-min-classes has no effect"),
        ("--warm-up 30", "--warm-up has no effect"),
        ("--autoaug", "--autoaug has no effect"),
        ("--image-list names.txt --budget 5%", "--budget has no effect: --image-list says"),
        ("--image-list names.txt --score random", "--score has no effect: --image-list says"),
        ("--image-list names.txt --source-anchors anchors.pkl", "--source-anchors has no effect"),
        ("--score entropy --source-vectors vectors.pkl", "no effect: --score entropy needs no anchors"),
        (
            "--start-at target-anchors --image-list names.txt --source-anchors anchors.pkl",
            "--source-anchors has no effect: --start-at target-anchors",
        ),
        ("--source-anchors anchors.pkl --allow-absent-classes", "--allow-absent-classes has no effect"),
        ("--lambda-alignment 0 --target-anchors anchors.pkl", "--target-anchors has no effect: --lambda-al"),
        ("--lambda-alignment 0 --batch-rule mean", "--batch-rule has no effect: --lambda-alignment is 0"),
        ("--stop-after labels --target-anchors anchors.pkl", "no effect: the run ends with --stop-after lab"),
        ("--stop-after stage-1 --batch-rule mean", "--batch-rule has no effect: the run ends with --stop-a"),
        ("--stop-after target-anchors --lambda-pseudo 2", "--lambda-pseudo has no effect: the run ends wi"),
        ("--stop-after labels --stage-2-from last", "--stage-2-from has no effect: the run ends with"),
        (
            "--start-at target-anchors --image-list names.txt --stage-2-from last",
            "--stage-2-from has no effect: --start-at target-anchors begins with the weights of --restore",
        ),
        (
            "--score random --lambda-alignment 0 --num-anchors 5",
            "--num-anchors has no effect: the run has no",
        ),
        (
            "--source-vectors vectors.pkl --target-anchors anchors.pkl --published-vectors",
            "--published-vectors has no effect: no images are described for anchors",
        ),
        ("--stop-after labels --score random --published-vectors", "--published-vectors has no effect"),
        ("@own.args --score random", "--score has no effect: --image-list says"),
        ("@own.args", "--budget has no effect: --image-list says"),
        ("--source-order shuffled --label-info names.txt", "--label-info has no effect"),
        ("--accept-partial", "--accept-partial has no effect with --oracle truth"),
    ],
)
def test_options_without_effect_are_warned_about(
    line: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    args = parse(f"{START} {line}")
    assert named in caplog.text
    assert (args.select_iterations, args.class_weights_from, args.radius) == ((0,), "none", None)


@pytest.mark.parametrize(
    "option",
    ["--num-anchors 5", "--lambda-pseudo 2", "--batch-rule mean", "--scaled-width 9", "--published-vectors"],
)
def test_other_methods_say_that_madas_weights_have_no_effect(
    option: str, caplog: pytest.LogCaptureFixture
) -> None:
    parse(f"--backbone-weights none {option}")
    assert f"{option.split()[0]} has no effect with --method ripu" in caplog.text


class TestDescribed:
    """Which domains are described, and whether the source's anchors are asked for."""

    @pytest.mark.parametrize(
        ("line", "needed", "source", "target"),
        [
            (START, True, True, True),
            (f"{START} --stop-after stage-1", True, True, False),
            (f"{START} --stop-after target-anchors --lambda-alignment 0", True, True, True),
            (f"{START} --lambda-alignment 0", True, True, False),
            (f"{START} --source-anchors anchors.pkl", True, False, True),
            (f"{START} --source-vectors vectors.pkl --target-anchors anchors.pkl", True, False, False),
            (f"{START} --score entropy", False, False, True),
            (f"{START} --image-list names.txt", False, False, True),
            (f"{START} --image-list names.txt --stop-after source-anchors", True, True, False),
            (f"{START} --score random --stop-after source-anchors", True, True, False),
            (TARGET_ANCHORS, False, False, True),
            (f"{START} --start-at target-anchors --stop-after target-anchors", False, False, True),
        ],
    )
    def test_follow_from_the_options(self, line: str, needed: bool, source: bool, target: bool) -> None:
        args = parse(line)
        found = (needs_source_anchors(args), describes_source(args), describes_target(args))
        assert found == (needed, source, target)


def test_what_a_continued_run_may_change() -> None:
    assert {"stop_after", "allow_absent_classes", "published_vectors"} <= FREE_TO_CHANGE
    files = {"source_anchors", "source_vectors", "image_list", "labelled_list", "target_anchors"}
    assert files <= USED_AT_START
    fixed = {"num_anchors", "stage_steps", "stage_2_from", "start_at", "batch_rule", "lambda_alignment"}
    assert not fixed & FREE_TO_CHANGE


def test_what_is_measured_may_change_unless_it_chooses_what_stage_two_starts_from() -> None:
    measured = {"protocol", "evaluation_list", "evaluation_split", "evaluate_every"}
    assert not measured & free_to_change(parse(START))
    assert measured <= free_to_change(parse(f"{START} --stage-2-from last"))


def test_a_phase_at_a_time_is_the_same_run() -> None:
    whole = settings_digest(parse(START))
    assert settings_digest(parse(f"{START} --stop-after selection")) == whole
    assert settings_digest(parse(f"{START} --num-anchors 9")) != whole
