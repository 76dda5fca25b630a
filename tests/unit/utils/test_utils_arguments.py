"""Command lines: argument files, one-line errors, original option names, contradictions, batch arithmetic."""

from __future__ import annotations

import argparse
import shlex
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch

from utils import arguments
from utils.arguments import commands, values
from utils.distributed import World
from utils.errors import UserError, alike_everywhere, entry_point, format_message

# The README's stage I and stage II commands of the original release, from --drop on.
STAGE_ONE = (
    "--drop 0.1 --warm-up 5000 --batch-size 2 --learning-rate 2e-4 --crop-size 1024,512 --lambda-seg 0.5 "
    "--lambda-adv-target1 0.0002 --lambda-adv-target2 0.001 --lambda-me-target 0 --lambda-kl-target 0.1 "
    "--norm-style gn --class-balance --only-hard-label 80 --max-value 7 --often-balance --use-se"
)
STAGE_TWO = (
    "--drop 0.2 --warm-up 5000 --batch-size 9 --learning-rate 1e-4 --crop-size 512,256 --lambda-seg 0.5 "
    "--lambda-adv-target1 0 --lambda-adv-target2 0 --lambda-me-target 0 --lambda-kl-target 0 --norm-style gn "
    "--class-balance --only-hard-label 80 --max-value 7 --often-balance --use-se --input-size 1280,640 "
    "--train_bn --autoaug False"
)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SEGADAPT_DATA"):
        monkeypatch.delenv(name, raising=False)


def parser() -> arguments.Parser:
    made = arguments.make_parser("Trains.", prog="train_ms.py")
    arguments.add_training_arguments(made)
    arguments.add_source_arguments(made)
    arguments.add_target_arguments(made)
    arguments.add_evaluation_arguments(made)
    arguments.add_data_arguments(made)
    arguments.add_network_arguments(made)
    arguments.add_optimizer_arguments(made)
    arguments.add_segmentation_loss_arguments(made)
    arguments.add_memory_arguments(made)
    arguments.add_pseudo_label_arguments(made)
    return made


def parse(line: str = "", *, weights: str = "none") -> argparse.Namespace:
    return arguments.parse(parser(), shlex.split(f"--backbone-weights {weights} {line}"))


def world(size: int) -> World:
    return World(rank=0, size=size, local_rank=0, device=torch.device("cpu"))


class TestValues:
    @pytest.mark.parametrize("text", ["1024,512", "1024x512", "1024X512", "1024, 512"])
    def test_sizes_are_width_then_height(self, text: str) -> None:
        assert values.size_wh(text) == (1024, 512)

    @pytest.mark.parametrize("text", ["1024", "1,2,3", "0,5", "a,b", ""])
    def test_other_sizes_are_refused(self, text: str) -> None:
        with pytest.raises(ArgumentTypeError):
            values.size_wh(text)

    @pytest.mark.parametrize(
        ("kind", "good", "bad"),
        [
            (values.positive_int, "1", "0"),
            (values.positive_int, "1e5", "1.5"),
            (values.non_negative_int, "0", "-1"),
            (values.positive_float, "2e-4", "0"),
            (values.non_negative_float, "0", "nan"),
            (values.fraction, "1", "1.01"),
            (values.decay, "0.999", "1"),
            (values.percentile, "80", "101"),
            (values.scale_range, "0.8,1.2", "1.2,0.8"),
            (values.boolean_word, "on", "maybe"),
        ],
    )
    def test_ranges_are_checked(self, kind: object, good: str, bad: str) -> None:
        kind(good)
        with pytest.raises(ArgumentTypeError):
            kind(bad)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("True", True), ("1", True), ("on", True), ("False", False), ("0", False), ("off", False)],
    )
    def test_boolean_words(self, text: str, expected: bool) -> None:
        assert values.boolean_word(text) is expected

    def test_no_scaling_is_none(self) -> None:
        assert values.scale_range("none") is None

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentTypeError, match=r"nowhere.txt does not exist"):
            values.existing_file(str(tmp_path / "nowhere.txt"))

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentTypeError, match="is a folder"):
            values.existing_file(str(tmp_path))

    def test_a_web_address_is_not_downloaded(self) -> None:
        with pytest.raises(ArgumentTypeError, match=r"prepare_data.py weights"):
            values.existing_path("http://example.org/init.pth")


class TestArgumentFiles:
    def test_lines_comments_quotes_and_blank_lines(self, tmp_path: Path) -> None:
        recipe = tmp_path / "stage.args"
        recipe.write_text(
            "# published\n\n--batch-size 2   # global\n--source 'my set'\n--use-se\n--warm-up=5\n"
        )
        args = parse(f"@{recipe}")
        assert (args.batch_size, args.source, args.use_se, args.warm_up) == (2, "my set", True, 5)

    def test_flags_after_the_file_win(self, tmp_path: Path) -> None:
        (tmp_path / "a.args").write_text("--batch-size 2\n")
        args = parse(f"@{tmp_path / 'a.args'} --batch-size 8")
        assert args.batch_size == 8
        assert args.published_batch == 2

    def test_nested_files_are_found_beside_the_including_one(self, tmp_path: Path) -> None:
        (tmp_path / "base").mkdir()
        (tmp_path / "base/common.args").write_text("--seed 7\n--batch-size 9\n")
        (tmp_path / "outer.args").write_text("@base/common.args\n--warm-up 3\n")
        args = parse(f"@{tmp_path / 'outer.args'}")
        assert (args.seed, args.batch_size, args.warm_up) == (7, 9, 3)
        assert args.recipe == "outer"

    def test_the_run_folder_is_named_after_recipe_and_seed(self, tmp_path: Path) -> None:
        (tmp_path / "mrnet.args").write_text("--use-se\n")
        assert parse(f"@{tmp_path / 'mrnet.args'} --seed 3").snapshot_dir == Path("runs/mrnet-seed3")
        assert parse().snapshot_dir == Path("runs/train_ms-seed0")
        assert parse("--snapshot-dir runs/mine").snapshot_dir == Path("runs/mine")

    def test_a_file_that_includes_itself_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.args").write_text("@a.args\n")
        with pytest.raises(UserError, match="includes itself"):
            parse(f"@{tmp_path / 'a.args'}")

    def test_the_nearest_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "gta5_stage1.args").write_text("")
        with pytest.raises(UserError, match=r"did you mean @.*gta5_stage1\.args"):
            parse(f"@{tmp_path / 'gta5_stage.args'}")

    def test_an_open_quote_names_file_and_line(self, tmp_path: Path) -> None:
        (tmp_path / "a.args").write_text("--seed 1\n--source 'x\n")
        with pytest.raises(UserError, match=r"a\.args, line 2"):
            parse(f"@{tmp_path / 'a.args'}")


class TestErrors:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("--lerning-rate 1", "did you mean --learning-rate?"),
            ("--batch-sze 4", "did you mean --batch-size?"),
            ("--batch-size 0", "argument --batch-size: must be at least 1, got 0"),
            ("--norm-style ln", "invalid choice: 'ln'"),
            ("--learn 0.1", "unknown option --learn"),
            ("stray", "unexpected argument stray"),
        ],
    )
    def test_one_line_and_exit_code_2(
        self, line: str, expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        @entry_point
        def main(argv: list[str] | None = None) -> int:
            arguments.parse(parser(), argv)
            return 0

        assert main(["--backbone-weights", "none", *line.split()]) == 2
        message = capsys.readouterr().err
        assert expected in message
        assert message.count("\n") == 1

    def test_one_process_per_machine_reports_what_all_find(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        @entry_point
        def main(argv: list[str] | None = None) -> int:
            raise UserError("alone", everywhere=argv == ["all"])

        monkeypatch.setenv("RANK", "5")
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert main(["all"]) == 2
        assert capsys.readouterr().err == ""
        assert main(["one"]) == 2
        assert capsys.readouterr().err == "error [rank 5]: alone\n"

    def test_what_is_read_alike_everywhere_is_marked_as_such(self) -> None:
        @alike_everywhere()
        def fail() -> None:
            raise UserError("no such folder")

        with pytest.raises(UserError) as caught:
            fail()
        assert caught.value.everywhere
        with pytest.raises(UserError) as in_a_block, alike_everywhere():
            raise UserError("no such folder")
        assert in_a_block.value.everywhere

    def test_only_indented_commands_keep_their_lines(self) -> None:
        assert format_message("a\n b:\n  run this\nor\n  run that\n") == "a b:\n  run this\nor\n  run that"

    def test_help_names_defaults_units_and_original_options(self) -> None:
        text = " ".join(parser().format_help().split())
        assert "width,height in pixels" in text
        assert "(default: 1280,720)" in text
        assert "(default: 0)" in text
        assert "--gpu-ids" in text
        assert "None" not in text

    def test_every_option_has_help(self) -> None:
        assert all(action.help for action in parser()._actions)


class TestGiven:
    def test_lists_what_the_command_line_sets(self, tmp_path: Path) -> None:
        (tmp_path / "a.args").write_text("--seed 0\n")
        args = parse(f"@{tmp_path / 'a.args'} --no-tensorboard --drop 0.3 --autoaug")
        assert args.given == {"seed", "tensorboard", "droprate", "autoaug", "backbone_weights"}

    def test_the_command_line_can_be_pasted(self) -> None:
        args = parse("--source 'my set.toml'")
        assert shlex.split(args.command_line) == [
            "train_ms.py", "--backbone-weights", "none", "--source", "my set.toml",
        ]  # fmt: skip

    def test_settings_are_plain_values_without_bookkeeping(self) -> None:
        settings = arguments.as_settings(parse("--snapshot-dir runs/x"))
        assert settings["crop_size"] == [640, 360]
        assert settings["snapshot_dir"] == "runs/x"
        assert settings["num_steps_stop"] == 100_000
        assert settings["script"] == "train_ms.py"
        assert not {"given", "argv", "command_line", "recipe"} & set(settings)

    def test_free_names_are_options(self) -> None:
        active = arguments.make_parser("Selects.", prog="train_al.py")
        arguments.add_active_arguments(active)
        arguments.add_source_order_arguments(active)
        online = arguments.make_parser("Trains.", prog="train_st.py")
        arguments.add_aspect_crop_arguments(online)
        actions = [*active._actions, *online._actions]
        options = set(vars(parse())) | {action.dest for action in actions}
        assert options >= arguments.FREE_TO_CHANGE


class TestOriginalCommands:
    def test_stage_one_runs_as_written(self) -> None:
        args = parse(STAGE_ONE)
        assert args.droprate == 0.1
        assert args.crop_size == (1024, 512)
        assert args.only_hard_label == 80
        assert args.use_se
        assert args.class_balance
        assert args.often_balance
        assert args.target_terms_start == 15_000

    def test_stage_two_runs_as_written(self) -> None:
        args = parse(STAGE_TWO)
        assert args.train_bn
        assert args.autoaug is False
        assert args.input_size == (1280, 640)

    def test_defaults_are_the_published_ones(self) -> None:
        args = parse()
        expected = {
            "batch_size": 16, "learning_rate": 2.5e-4, "learning_rate_D": 1e-4, "momentum": 0.9,
            "weight_decay": 5e-4, "num_steps": 100_000, "power": 0.9, "warm_up": 0, "droprate": 0.1,
            "lambda_seg": 0.1, "lambda_adv_target1": 2e-4, "lambda_adv_target2": 1e-3, "max_value": 2,
            "input_size": (1280, 720), "input_size_target": (1024, 512), "save_pred_every": 5000,
            "scale_range": (0.8, 1.2), "tensorboard": True, "precision": "fp32", "batch_norm": "local",
        }  # fmt: skip
        assert {name: getattr(args, name) for name in expected} == expected

    @pytest.mark.parametrize(
        ("line", "name", "value"),
        [
            ("--fp16", "precision", "fp16"),
            ("--cpu", "device", "cpu"),
            ("--sync_bn", "batch_norm", "sync"),
            ("--random-seed 5", "seed", 5),
            ("--set val", "target_split", "val"),
            ("--autoaug_target", "autoaug_target", True),
            ("--autoaug", "autoaug", True),
            ("--save-every 7", "save_pred_every", 7),
            ("--data-dir .", "source_root", Path()),
            ("--data-dir-target .", "target_root", Path()),
            ("--gpu-ids 0", "device", "auto"),
            ("--model DeepLab --ignore-label 255 --iter-size 1", "network", "deeplab_two_head"),
            ("--is-training --not-restore-last --random-scale --save-num-images 2 --log-dir x", "seed", 0),
        ],
    )
    def test_names_without_a_place_are_translated(self, line: str, name: str, value: object) -> None:
        assert getattr(parse(line), name) == value

    def test_each_translation_is_warned_about_once(self, caplog: pytest.LogCaptureFixture) -> None:
        parse("--fp16 --log-dir x")
        assert [record.getMessage() for record in caplog.records] == [
            "warning: --log-dir: no effect: logs are in the run folder, --snapshot-dir",
            "warning: --fp16: read as --precision fp16",
        ]

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("--ignore-label 0", "only 255"),
            ("--model Oracle", "--network"),
            ("--iter-size 4", "--accumulation 4"),
            ("--fp16 --precision bf16", "--fp16 contradicts --precision bf16"),
            ("--cpu --device cuda", "--cpu contradicts --device cuda"),
        ],
    )
    def test_what_cannot_be_honoured_is_an_error(self, line: str, expected: str) -> None:
        with pytest.raises(UserError, match=expected):
            parse(line)

    def test_several_gpu_ids_become_a_torchrun_command(self) -> None:
        with pytest.raises(UserError) as raised:
            parse("--seed 3 --gpu-ids 0,1 --use-se")
        assert str(raised.value).endswith(
            "torchrun --standalone --nproc-per-node 2 train_ms.py --backbone-weights none --seed 3 --use-se"
        )

    def test_another_single_gpu_becomes_the_environment(self) -> None:
        with pytest.raises(
            UserError, match=r"CUDA_VISIBLE_DEVICES=1 python train_ms.py --backbone-weights none$"
        ):
            parse("--gpu-ids=1")

    def test_scripts_without_a_source_read_data_dir_as_the_target(self, tmp_path: Path) -> None:
        made = arguments.make_parser("Labels.", prog="generate_plabel.py")
        arguments.add_target_arguments(made, only_domain=True)
        assert arguments.parse(made, ["--data-dir", str(tmp_path)]).target_root == tmp_path


class TestContradictions:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("--num-steps 100 --num-steps-stop 200", "--num-steps-stop 200 is after --num-steps 100"),
            ("--num-steps 100 --warm-up 100", "--warm-up 100 does not end"),
        ],
    )
    def test_contradictions_are_errors(self, line: str, expected: str) -> None:
        with pytest.raises(UserError, match=expected):
            parse(line)

    def test_a_network_never_starts_silently_from_random_weights(self) -> None:
        with pytest.raises(UserError, match="--backbone-weights"):
            arguments.parse(parser(), [])

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("--often-balance", "--often-balance has no effect without --class-balance"),
            ("--max-value 7", "--max-value has no effect without --class-balance"),
            (
                "--lambda-adv-target1 0 --lambda-adv-target2 0 --learning-rate-D 1e-3",
                "--learning-rate-D has no effect",
            ),
            ("--lambda-adv-target1 0", "trained only when both are above 0"),
            ("--target-terms-start 5", "--target-terms-start has no effect"),
            ("--lambda-kl-target 0.1 --num-steps-stop 300", "would start at iteration 15000"),
            ("--warm-up 50 --num-steps-stop 40", "--warm-up 50 does not end before --num-steps-stop 40"),
            ("--group-norm-kernel apex", "--group-norm-kernel apex has no effect with --norm-style bn"),
            ("--restore-from .", "--backbone-weights has no effect"),
            ("--only-hard-label 80", "--only-hard-label has no effect with --pseudo-label-loss rectified"),
            ("--optimizer adamw --momentum 0.9", "--momentum has no effect with --optimizer adamw"),
            ("--optimizer adamw --quirks published", "adamw steps every parameter once"),
        ],
    )
    def test_options_without_effect_are_warned_about(
        self, line: str, expected: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        parse(line)
        assert expected in caplog.text

    def test_the_published_commands_raise_no_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        parse(f"{STAGE_ONE} --pseudo-label-loss plain")
        parse(f"{STAGE_TWO} --pseudo-label-loss plain")
        assert caplog.text == ""

    def test_other_ranks_keep_quiet(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        parse("--often-balance")
        assert caplog.text == ""

    def test_the_number_of_classes_is_compared(self) -> None:
        arguments.check_num_classes(parse("--num-classes 19"), 19)
        arguments.check_num_classes(parse(), 7)
        with pytest.raises(UserError, match="--num-classes 9"):
            arguments.check_num_classes(parse("--num-classes 9"), 19)


class TestBatch:
    def test_line_names_the_factors_and_the_published_batch(self, tmp_path: Path) -> None:
        (tmp_path / "a.args").write_text("--batch-size 2\n")
        args = parse(f"@{tmp_path / 'a.args'} --batch-size 16 --accumulation 2")
        assert arguments.batch_line(args, world(4)) == "global batch 16 = 4 processes x 2 x 2 (published: 2)"
        assert arguments.batch_line(parse("--batch-size 3"), world(1)) == "global batch 3 = 1 process x 3 x 1"

    def test_a_batch_that_divides_passes(self) -> None:
        arguments.check_batch(parse("--batch-size 8 --accumulation 2"), 4)

    @pytest.mark.parametrize(
        ("line", "world_size", "exact", "scaled"),
        [
            ("--batch-size 2", 4, ("2", "--batch-size 2"), "--batch-size 4 --learning-rate 0.0005"),
            ("--batch-size 9", 4, ("3", "--batch-size 9"), "--batch-size 12 --learning-rate 0.000333333"),
            ("--batch-size 1", 4, (None, "--batch-size 1"), "--batch-size 4 --learning-rate 0.001"),
            (
                "--batch-size 8 --accumulation 3",
                2,
                ("2", "--batch-size 8 --accumulation 2"),
                "--batch-size 12 --learning-rate 0.000375",
            ),
        ],
    )
    def test_two_commands_to_paste(
        self, line: str, world_size: int, exact: tuple[str | None, str], scaled: str
    ) -> None:
        with pytest.raises(UserError) as raised:
            arguments.check_batch(parse(line), world_size)
        lines = [text.strip() for text in str(raised.value).splitlines() if text.startswith("  ")]
        starts = "python" if exact[0] is None else f"torchrun --standalone --nproc-per-node {exact[0]}"
        assert lines[0] == f"{starts} train_ms.py --backbone-weights none {exact[1]}"
        assert lines[1].startswith(f"torchrun --standalone --nproc-per-node {world_size} train_ms.py ")
        assert scaled in lines[1]

    @pytest.mark.parametrize("line", ["--batch-size 2", "--batch-size 9 --accumulation 2"])
    def test_both_commands_pass_when_pasted(self, line: str) -> None:
        with pytest.raises(UserError) as raised:
            arguments.check_batch(parse(line), 4)
        commands_found = [text for text in str(raised.value).splitlines() if text.startswith("  ")]
        assert len(commands_found) == 2
        for command in map(shlex.split, commands_found):
            start = command.index("train_ms.py")
            size = int(command[command.index("--nproc-per-node") + 1]) if command[0] == "torchrun" else 1
            arguments.check_batch(arguments.parse(parser(), command[start + 1 :]), size)

    def test_the_discriminators_rate_scales_only_when_they_train(self) -> None:
        with pytest.raises(UserError, match=r"--learning-rate-D 0.0002"):
            arguments.check_batch(parse(STAGE_ONE), 4)
        with pytest.raises(UserError) as raised:
            arguments.check_batch(parse(STAGE_TWO), 4)
        assert "--learning-rate-D" not in str(raised.value)

    def test_more_than_one_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert commands.torchrun_command("t.py", [], 8).startswith("torchrun --nnodes 2 --nproc-per-node 4 ")
        assert commands.torchrun_command("t.py", [], 3).startswith(
            "torchrun --standalone --nproc-per-node 3 "
        )
        with pytest.raises(UserError, match="--standalone --nproc-per-node 3 "):
            arguments.check_batch(parse("--batch-size 6"), 8)

    def test_options_are_replaced_in_every_spelling(self) -> None:
        argv = ["@a.args", "--batch_size", "2", "--batch-size=4", "--use-se"]
        assert commands.with_option(argv, "--batch-size", 8) == ["@a.args", "--use-se", "--batch-size", "8"]


def test_the_script_is_named_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/train_ms.py"])
    assert parse().command_line.startswith("scripts/train_ms.py ")
