"""A world of one process, the launcher's environment, and the choice of the device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from utils import devices, distributed
from utils.devices import Launch, choose_device, read_launch
from utils.errors import UserError
from utils.roll_call import RollCall

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
ADDRESS = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


def test_no_launcher_is_one_process() -> None:
    assert read_launch({"PATH": "/bin"}) == Launch(rank=0, size=1, local_rank=0, local_size=1)


def test_torchruns_environment_is_read() -> None:
    assert read_launch(TORCHRUN | ADDRESS) == Launch(rank=3, size=4, local_rank=1, local_size=2)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "0"}, "has RANK=0 but not WORLD_SIZE and LOCAL_RANK: start with torchrun"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "has RANK=0, WORLD_SIZE=2 but not LOCAL_RANK"),
        (TORCHRUN, "but not MASTER_ADDR and MASTER_PORT"),
        (TORCHRUN | {"MASTER_ADDR": "node1"}, "but not MASTER_PORT"),
        (TORCHRUN | ADDRESS | {"RANK": "first"}, "RANK=first.*must be whole numbers"),
        (TORCHRUN | ADDRESS | {"RANK": "4"}, r"a rank must be in \[0, WORLD_SIZE\)"),
    ],
)
def test_an_incomplete_launch_lists_what_was_found(environment: dict[str, str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        read_launch(environment)


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "_DRIVER_FILES", ())


@pytest.fixture
def _unusable_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver that torch cannot use, as after an update of torch on a machine with an old driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = tmp_path / "version"
    driver.write_text("NVRM version: 470.42")

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 11040).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(devices, "_DRIVER_FILES", (driver,))


@pytest.fixture
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "_cuda_problem", lambda: None)


@pytest.mark.usefixtures("_no_gpu")
def test_auto_is_the_cpu_on_a_machine_without_a_gpu() -> None:
    assert choose_device("auto", Launch()) == torch.device("cpu")
    assert choose_device("auto", Launch(1, 8, 1, 8)) == torch.device("cpu")


@pytest.mark.usefixtures("_unusable_gpu")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_that_torch_cannot_use_is_an_error_and_never_a_silent_cpu_run(name: str) -> None:
    with pytest.raises(UserError, match=r"driver on your system is too old \(found .*or pass --device cpu"):
        choose_device(name, Launch())
    assert choose_device("cpu", Launch()) == torch.device("cpu")


@pytest.mark.usefixtures("_unusable_gpu")
def test_a_torch_without_cuda_beside_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="this build of torch has no CUDA"):
        choose_device("auto", Launch())


@pytest.mark.usefixtures("_unusable_gpu")
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_hidden_on_purpose_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert choose_device("auto", Launch()) == torch.device("cpu")


@pytest.mark.usefixtures("_two_gpus")
def test_each_local_rank_gets_its_own_gpu() -> None:
    assert choose_device("auto", Launch(3, 4, 1, 2)) == torch.device("cuda", 1)


@pytest.mark.usefixtures("_two_gpus")
@pytest.mark.parametrize("local_rank", [0, 3])
def test_more_local_processes_than_gpus_is_an_error_on_every_rank(local_rank: int) -> None:
    with pytest.raises(UserError, match=r"4 processes on this machine but 2 visible GPU.*--nproc-per-node 2"):
        choose_device("auto", Launch(local_rank, 4, local_rank, 4))


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(UserError, match="--device tpu is unknown"):
        choose_device("tpu", Launch())


@pytest.mark.gpu
def test_a_usable_gpu_is_used() -> None:
    assert choose_device("auto", Launch()) == torch.device("cuda", 0)


def test_one_process_takes_the_same_calls_without_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    module = nn.Linear(2, 2)
    with distributed.session("cpu") as world:
        assert (world.rank, world.size, world.is_main, world.device.type) == (0, 1, True, "cpu")
        for reduce in (
            distributed.all_reduce_sum,
            distributed.all_reduce_max,
            distributed.all_reduce_mean,
            distributed.all_gather_equal,
        ):
            result = reduce(values)
            assert torch.equal(result, values)
            assert not result.requires_grad
            assert result.data_ptr() != values.data_ptr()
        assert distributed.all_reduce_sum_differentiable(values).requires_grad
        assert distributed.any_rank(True, what="a test")
        assert distributed.broadcast_object("value") == "value"
        assert distributed.all_gather_objects(1) == [1]
        distributed.broadcast_([values])
        distributed.barrier("nobody else")
        assert distributed.wrap_data_parallel(module, world.device) is module
        with distributed.gradient_synchronization(module, False):
            pass


def test_nccl_waits_longer_than_gloo_which_names_the_late_rank() -> None:
    assert distributed.group_timeout("gloo", 60).total_seconds() == 60
    assert distributed.group_timeout("nccl", 60).total_seconds() == 180


def test_compile_wrappers_are_taken_off() -> None:
    module, compiled = nn.Linear(2, 2), nn.Module()
    compiled._orig_mod = module  # as torch.compile does, whose import takes seconds
    assert distributed.unwrap(compiled) is module


@given(n=st.integers(0, 50), size=st.integers(1, 9))
def test_shards_cover_everything_once_in_order_and_evenly(n: int, size: int) -> None:
    shards = [distributed.shard(n, rank=rank, size=size) for rank in range(size)]
    assert [i for part in shards for i in part] == list(range(n))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


class FakeStore(dict):
    """A key-value store in memory."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def delete_key(self, key: str) -> bool:
        return self.pop(key, None) is not None


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> list[RollCall]:
    """Four ranks of one run, with little patience."""
    monkeypatch.setattr("utils.roll_call.PATIENCE_S", 0.0)
    store = FakeStore()
    return [RollCall(store, rank, 4) for rank in range(4)]


def test_the_roll_call_names_silent_ranks_and_why_others_left(ranks: list[RollCall]) -> None:
    ranks[1].answer("a sum")
    ranks[2].leave(UserError("label.png\nis damaged"))
    assert str(ranks[0].missing("a sum", 30)) == (
        "a sum failed: rank 2 left with UserError: label.png is damaged; rank 3 did not reach it "
        "(time-out 30 s): stalled or killed."
    )


def test_a_roll_call_that_everybody_answers_accuses_nobody(ranks: list[RollCall]) -> None:
    for other in ranks[1:]:
        other.answer("a sum")
    assert ranks[0].missing("a sum", 30) is None


def test_a_finished_wait_does_not_count_as_an_answer(ranks: list[RollCall]) -> None:
    for other in ranks[1:]:
        other.answer("a barrier")
        other.withdraw()
    assert "ranks 1, 2, 3 did not reach it" in str(ranks[0].missing("a sum", 30))
