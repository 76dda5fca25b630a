"""The demo's plan: which commands it runs, with a GPU and without, and when it announces a picture."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from launch import demo
from utils.pictures import write_png

SCRIPTS = ["prepare_data", "train_source", "train_ms", "generate_plabel", "train_ft", "train_al", "evaluate"]


def planned(tmp_path: Path, *, gpu: bool, scale: demo.Scale = demo.QUICK) -> dict[str, demo.Command]:
    commands = demo.plan(scale, demo.Folders(tmp_path), seed=3, gpu=gpu)
    assert [command.script for command in commands] == [f"{script}.py" for script in SCRIPTS]
    return dict(zip(SCRIPTS, commands, strict=True))


def value(command: demo.Command, option: str) -> str:
    return command.arguments[command.arguments.index(option) + 1]


def test_without_a_usable_gpu_every_command_is_told_to_use_the_cpu(tmp_path: Path) -> None:
    for script, command in planned(tmp_path, gpu=False).items():
        if script != "prepare_data":
            assert value(command, "--device") == "cpu"
        distributed = script.startswith(("train", "generate"))
        assert ("torch.distributed.run" in command.words()) is distributed


def test_with_a_gpu_there_is_one_process_and_no_device_is_named(tmp_path: Path) -> None:
    for command in planned(tmp_path, gpu=True).values():
        assert command.launcher == ()
        assert "--device" not in command.arguments


def test_each_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    commands = planned(tmp_path, gpu=False)
    names = ("source_only", "mrnet", "rectified", "ripu")
    source, stage_one, stage_two, ripu = (tmp_path / name for name in names)
    assert value(commands["train_source"], "--snapshot-dir") == str(source)
    assert value(commands["train_ms"], "--restore-from") == str(source)
    assert value(commands["train_ms"], "--snapshot-dir") == str(stage_one)
    assert value(commands["generate_plabel"], "--restore-from") == str(stage_one)
    assert value(commands["train_ft"], "--restore-from") == str(stage_one)
    assert value(commands["train_ft"], "--seed") == "3"
    assert value(commands["train_al"], "--restore-from") == str(source)
    assert commands["evaluate"].arguments[:4] == tuple(map(str, (source, stage_one, stage_two, ripu)))


def test_only_the_first_training_announces_its_first_picture(tmp_path: Path) -> None:
    watched = {script: command.pictures for script, command in planned(tmp_path, gpu=False).items()}
    assert watched.pop("train_source") == tmp_path / "source_only" / "pictures"
    assert set(watched.values()) == {None}


def test_the_quick_recipe_comes_after_the_recipe_of_the_training(tmp_path: Path) -> None:
    for scale, expected in ((demo.FULL, ["demo_mrnet"]), (demo.QUICK, ["demo_mrnet", "demo_quick"])):
        command = planned(tmp_path, gpu=False, scale=scale)["train_ms"]
        recipes = [Path(word[1:]) for word in command.arguments if word.startswith("@")]
        assert [path.stem for path in recipes] == expected
        assert all(path.is_file() for path in recipes)


def test_a_command_that_fails_ends_the_demo_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def fail_second(command: demo.Command) -> int:
        started.append(command.script)
        return 7 if command.script == "train_source.py" else 0

    monkeypatch.setattr(demo, "run", fail_second)
    monkeypatch.setattr(demo, "gpu_is_usable", lambda: False)
    assert demo.main(["--quick", "--run-dir", str(tmp_path)]) == 7
    assert started == ["prepare_data.py", "train_source.py"]


def test_the_first_picture_of_a_run_is_announced_once_and_not_again_at_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    with demo.first_picture_announced(folder, time.perf_counter()):
        folder.mkdir()
        for name in ("a", "b"):
            write_png(folder / f"{name}.png", np.zeros((2, 2, 3), np.uint8))
    printed = capsys.readouterr().out
    assert printed.count("first picture after ") == printed.count(".png") == 1
    for again in (folder, None, tmp_path / "empty"):
        with demo.first_picture_announced(again, time.perf_counter()):
            pass
    assert capsys.readouterr().out == ""
