"""Self-training that is killed or stopped anywhere ends with the bits of the run that was not: student,
teacher, instance bank, optimizer and random numbers."""

from __future__ import annotations

import logging
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import train_st
from tests.forked_runs import Signal, assert_same, run_forked
from tests.toy_self_training import command, write_domains
from trainers.bank_files import write_bank
from utils import snapshots
from utils.runs import DONE, PREEMPTED

ITERATIONS = 5
CHANNELS = 16  # of the head
BANK_SIZE = 38
FILL_AT = 2
WORDS = (
    f"--method dida --num-steps-stop {ITERATIONS} --save-every 2 --keep-snapshots 20 --bank-update-every 2 "
    "--bank-momentum 0.9 --masked-consistency --mask-block 16 --droprate 0.5"
).split()  # dropout, drop path, both copies of the student, rare classes: all that has a state
KILLED = -signal.SIGKILL
ITERATION = "trainers.self_training:SelfTrainingTrainer.set_mode"
FILLING = "trainers.wiring_self_training:_fill"
SAMPLES = "trainers.bank_filling:sample_means"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The domains, and a bank of drawn features."""
    root = tmp_path_factory.mktemp("data")
    write_domains(root)
    torch.manual_seed(0)
    write_bank(root / "bank", torch.rand(BANK_SIZE, CHANNELS), torch.arange(BANK_SIZE) % 19)
    return root


def loading(data: Path, folder: Path) -> list[str]:
    return command(data, folder, *WORDS, "--instance-bank", data / "bank")


def filling(data: Path, folder: Path) -> list[str]:
    bank = ["--instance-bank", "fill", "--bank-size", BANK_SIZE, "--bank-fill-at", FILL_AT]
    return command(data, folder, *WORDS, *bank)


@pytest.fixture(scope="module")
def alone_loading(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run with the bank that was read; it saves every iteration, which changes nothing."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train_st.main([*loading(data, folder), "--save-every", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def alone_filling(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run that fills its bank."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train_st.main(filling(data, folder)) == 0
    return folder


def finished_state(folder: Path) -> dict[str, Any]:
    assert (folder / DONE).exists()
    assert not (folder / PREEMPTED).exists()
    state = snapshots.read(snapshots.resolve(folder))
    assert state["iteration"] == ITERATIONS
    return {name: value for name, value in state.items() if name != "arguments"}


def killed(words: list[str], *signals: Signal) -> None:
    """A piece of a run that ends there."""
    assert run_forked("train_st", words, changes=signals) == [KILLED]


def newest(folder: Path) -> dict[str, Any]:
    return snapshots.read(snapshots.resolve(folder))


def test_killed_between_and_in_iterations(data: Path, alone_loading: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = loading(data, folder)
    killed(words, Signal(ITERATION, call=2, before=True))  # nothing is saved yet
    assert not list(folder.glob("*.pth"))
    killed(words, Signal(ITERATION, call=4, before=True))
    assert newest(folder)["iteration"] == 2
    killed(words, Signal("trainers.teacher:Teacher.update", call=2, before=True))  # the student has moved
    assert newest(folder)["iteration"] == 2
    assert run_forked("train_st", words) == [0]
    assert_same(finished_state(folder), finished_state(alone_loading))


def test_stop_signal(data: Path, alone_loading: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = loading(data, folder)
    update = Signal("losses.instance_bank:InstanceBank.update", call=2, number=signal.SIGTERM)
    assert run_forked("train_st", words, changes=[update]) == [0]
    assert "SIGTERM" in (folder / PREEMPTED).read_text()
    state = newest(folder)
    assert state["iteration"] == state["teacher_updates"] == 3
    assert state["method_state"]["instance_bank"]["updated_at"] == 2
    assert run_forked("train_st", words) == [0]
    assert_same(finished_state(folder), finished_state(alone_loading))


def test_a_run_that_goes_on_reads_no_bank(
    data: Path, alone_loading: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, bank = tmp_path / "run", tmp_path / "bank"
    shutil.copytree(data / "bank", bank)
    words = [*loading(data, folder), "--instance-bank", str(bank)]
    assert train_st.main([*words, "--num-steps-stop", "2"]) == 0
    write_bank(bank, torch.rand(BANK_SIZE + 1, CHANNELS), torch.arange(BANK_SIZE + 1) % 19)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert train_st.main([*words, "--num-steps-stop", "3"]) == 0
    assert f"instance bank: the snapshot's; {bank} is not read" in caplog.text
    assert "entries of the bank" not in caplog.text
    shutil.rmtree(bank)
    assert train_st.main(words) == 0
    assert_same(finished_state(folder), finished_state(alone_loading))
    assert train_st.main(words) == 0  # done


def test_killed_before_in_and_after_the_filling_of_the_bank(
    data: Path, alone_filling: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = filling(data, folder)
    for interruption in (
        Signal(FILLING, before=True),
        Signal(SAMPLES, call=2),
        Signal(FILLING),  # full, and not saved
    ):
        killed(words, interruption)
        state = newest(folder)
        assert (state["iteration"], state["waiting_event"]) == (FILL_AT, "filling the instance bank")
        assert (state["method_state"]["instance_bank"]["labels"] == -1).all()
    killed(words, Signal(ITERATION, before=True))
    state = newest(folder)
    assert (state["iteration"], state["waiting_event"]) == (FILL_AT, None)
    assert (state["method_state"]["instance_bank"]["labels"] >= 0).all()
    assert run_forked("train_st", words) == [0]
    assert_same(finished_state(folder), finished_state(alone_filling))


def test_stop_signal_in_the_filling(data: Path, alone_filling: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = filling(data, folder)
    stop = Signal(SAMPLES, number=signal.SIGTERM)
    assert run_forked("train_st", words, changes=[stop]) == [0]
    assert "SIGTERM" in (folder / PREEMPTED).read_text()
    assert newest(folder)["iteration"] == FILL_AT
    assert run_forked("train_st", words) == [0]
    assert_same(finished_state(folder), finished_state(alone_filling))


def test_runs_are_worth_comparing(alone_loading: Path, alone_filling: Path) -> None:
    for folder in (alone_loading, alone_filling):
        state = finished_state(folder)
        bank = state["method_state"]["instance_bank"]
        assert bank["updated_at"] == 4
        assert (bank["labels"] >= 0).all()
        assert bank["features"].any()
        assert state["teacher_updates"] == ITERATIONS
        assert state["optimizers"]["segmentation"]["state"]
        assert any(not torch.equal(value, state["weights"][name]) for name, value in state["teacher"].items())


def test_continuing_with_other_imagenet_weights_is_refused(
    data: Path, alone_loading: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option is the same, what the file holds is not."""
    folder = tmp_path / "run"
    shutil.copytree(alone_loading, folder)
    (folder / DONE).unlink()
    (folder / f"iteration_{ITERATIONS:07d}.pth").unlink()
    words = loading(data, folder)
    file = Path(words[words.index("--backbone-weights") + 1])
    before = file.read_bytes()
    entries = torch.load(file, weights_only=True)
    try:
        torch.save({name: value + 0.01 for name, value in entries.items()}, file)
        assert train_st.main(words) == 2
    finally:
        file.write_bytes(before)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "--backbone-weights holds other weights" in errors[0]
    assert not (folder / DONE).exists()
