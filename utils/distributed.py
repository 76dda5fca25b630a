"""Processes that train together: the only module that touches torch.distributed.

Everything here works without a process group too, as a world of one process. Collectives must be reached by
every rank in the same order. CPU tensors and Python objects travel over gloo, CUDA tensors over nccl.
"""

from __future__ import annotations

import inspect
import math
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.devices import Launch, choose_device, read_launch
from utils.errors import RunStopped, UserError, alike_everywhere, reason
from utils.meeting import meet
from utils.roll_call import RollCall, StalledRankError, looks_like_lost_peers

T = TypeVar("T")

NCCL_PATIENCE_S = 120.0  # nccl waits so much longer than gloo, whose failures name the late rank
CLOSING_S = 10.0  # after an error, how long to wait for the process group to close before leaving it


@dataclass(frozen=True, slots=True)
class World:
    """This process among the processes that train together."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0


@dataclass(frozen=True, slots=True)
class _Session:
    """What the collectives need besides torch's own default group."""

    control: dist.ProcessGroup  # gloo, for CPU tensors, objects and monitored barriers
    roll_call: RollCall
    timeout_s: float


_session: _Session | None = None
_place = ""  # where this process is, for errors; see `now_is`


@contextmanager
def session(device: str = "auto", *, timeout_s: float = 1800) -> Iterator[World]:
    """The processes of this run, from the launcher's environment; without a launcher a world of one.

    Args:
        device: "auto" (a GPU if the machine has one), "cpu" or "cuda".
        timeout_s: how long a rank waits for the others before it gives up, in seconds.

    Raises:
        UserError: RANK, WORLD_SIZE, LOCAL_RANK only partly set; a GPU that is present but cannot be used;
            more processes than GPUs.
        StalledRankError: other ranks stalled, left or were killed; from any collective inside or at the end.
    """
    with alike_everywhere():
        launch = read_launch()
        chosen = choose_device(device, launch)
    world = World(launch.rank, launch.size, launch.local_rank, chosen)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if launch.size == 1:
        yield world
        return
    _open_group(launch, chosen, timeout_s)
    try:
        yield world
        barrier("the end of the run")
    except BaseException as error:
        explained = _explain(error)
        if _session is not None:
            _session.roll_call.leave(explained or error)
        _close_group(patience_s=CLOSING_S)
        if explained is not None:
            raise explained from error
        raise
    _close_group(patience_s=None)


def _open_group(launch: Launch, device: torch.device, timeout_s: float) -> None:
    global _session
    timeout = timedelta(seconds=timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        store = _store_of_this_start(launch, timeout_s)
        dist.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=group_timeout(backend, timeout_s),
        )
    except RunStopped:
        raise
    except (RuntimeError, dist.DistError) as error:
        raise RunStopped(
            f"{socket.gethostname()} could not reach the other processes within {timeout_s:g} s: "
            f"{reason(error)}; are all {launch.size} started? Where machines have several networks, name the "
            "one to use in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        ) from error
    control = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
    roll_call = RollCall(dist.PrefixStore("roll_call", store), launch.rank, launch.size)
    _session = _Session(control, roll_call, timeout_s)


def _store_of_this_start(launch: Launch, timeout_s: float) -> dist.Store:
    """A part of the launcher's key-value store that nobody has written to before these processes."""
    timeout = timedelta(seconds=timeout_s)
    store, _, _ = next(iter(dist.rendezvous("env://", launch.rank, launch.size, timeout=timeout)))
    part = meet(dist.PrefixStore("meeting", store), launch.rank, launch.size, timeout_s)
    return dist.PrefixStore(part, store)


def group_timeout(backend: str, timeout_s: float) -> timedelta:
    """How long a process group of this backend waits: nccl, whose watchdog ends the process without naming
    anybody, longer than gloo, whose failing collectives call the roll."""
    return timedelta(seconds=timeout_s + (NCCL_PATIENCE_S if backend == "nccl" else 0.0))


def _close_group(patience_s: float | None) -> None:
    """Destroys the process group; after an error without waiting for ever, because peers may be gone."""
    global _session, _place
    _session, _place = None, ""
    if patience_s is None:
        dist.destroy_process_group()
        return
    closing = threading.Thread(target=dist.destroy_process_group, daemon=True)
    closing.start()
    closing.join(patience_s)


def _explain(error: BaseException) -> StalledRankError | None:
    """Who is missing, when an error that reached the session is a failed collective, as in DDP's backward."""
    if _session is None or isinstance(error, StalledRankError) or not looks_like_lost_peers(error):
        return None
    return _session.roll_call.missing(_placed("an exchange between the ranks"), _session.timeout_s)


def now_is(place: str) -> None:
    """Says where this process is, such as "in iteration 1200": errors about missing ranks name it."""
    global _place
    _place = place


def _placed(what: str) -> str:
    return f"{what} {_place}".rstrip()


def _collective(what: str, action: Callable[[], T], seconds: float | None = None) -> T:
    """Runs a collective; when it fails because ranks are missing, the error names them."""
    try:
        return action()
    except RuntimeError as error:
        if _session is None or isinstance(error, StalledRankError):
            raise
        stalled = _session.roll_call.missing(
            _placed(what), _session.timeout_s if seconds is None else seconds
        )
        if stalled is None:
            raise
        raise stalled from error


def rank() -> int:
    """This process's number among all processes."""
    return dist.get_rank() if _has_group() else 0


_rank = rank  # for functions with a parameter of that name


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _has_group() else 1


def is_main() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def patience_s() -> float:
    """How long the other ranks wait for this one, in seconds; infinite without others."""
    return math.inf if _session is None else _session.timeout_s


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _group_for(tensor: Tensor | None) -> dist.ProcessGroup | None:
    """The group that carries a tensor (None for objects); torch's default group outside a session."""
    if _session is None or (tensor is not None and tensor.is_cuda):
        return None
    return _session.control


def _all_reduce(t: Tensor, operation: Any, name: str) -> Tensor:
    result = t.detach().clone(memory_format=torch.contiguous_format)
    if world_size() == 1:
        return result
    if t.dtype is torch.bool:  # the backends do not add or compare bools
        result = result.to(torch.uint8)
    _collective(name, lambda: dist.all_reduce(result, op=operation, group=_group_for(result)))
    return result.to(t.dtype)


def all_reduce_sum(t: Tensor) -> Tensor:
    """Sum over the ranks as a new tensor without gradient. Bools are counted as int64."""
    return _all_reduce(t.long() if t.dtype is torch.bool else t, dist.ReduceOp.SUM, "a sum over all ranks")


def all_reduce_max(t: Tensor) -> Tensor:
    """Largest value over the ranks, elementwise, as a new tensor without gradient; "any" for bools."""
    return _all_reduce(t, dist.ReduceOp.MAX, "a maximum over all ranks")


def any_rank(flag: bool, *, what: str) -> bool:
    """Whether the flag is set on any rank; `what` names the decision if a rank does not answer."""
    seen = torch.tensor(int(flag), dtype=torch.int32)  # on the host: no wait for a device
    if world_size() > 1:
        _collective(what, lambda: dist.all_reduce(seen, op=dist.ReduceOp.MAX, group=_group_for(seen)))
    return bool(seen)


def from_rank_zero(make: Callable[[], T]) -> T:
    """What `make()` gives on rank 0, on every rank; it is called there only.

    Raises:
        UserError: on every rank, where rank 0's call raised one.
    """
    value, error = None, None
    if is_main():
        try:
            value = make()
        except UserError as own:
            if world_size() == 1:
                raise
            error = str(own)
    value, error = broadcast_object((value, error))
    if error is not None:
        raise UserError(error, everywhere=True)
    return value


def all_reduce_mean(t: Tensor) -> Tensor:
    """Mean over the ranks of a floating-point tensor, as a new tensor without gradient."""
    assert t.is_floating_point(), f"a mean of {t.dtype} over ranks would be truncated"
    return all_reduce_sum(t) / world_size()


class _DifferentiableSum(torch.autograd.Function):
    """Sum over the ranks whose gradient is the sum of the ranks' gradients, at any order."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return all_reduce_sum(t)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _DifferentiableSum.apply(gradient)


def all_reduce_sum_differentiable(t: Tensor) -> Tensor:
    """Sum over the ranks, with gradient: what each rank receives back is the sum of all ranks' gradients."""
    return t if world_size() == 1 else _DifferentiableSum.apply(t)


def all_gather_equal(t: Tensor) -> Tensor:
    """All ranks' tensors along dim 0, in rank order, on every rank, as a new tensor without gradient.

    Shapes are the same on all ranks, so no sizes are exchanged and the host does not wait for a GPU.
    """
    assert t.dim() > 0, "scalars have no first dimension: unsqueeze them"
    own = t.detach().contiguous()
    if world_size() == 1:
        return own.clone()
    carried = own.view(torch.uint8) if own.dtype is torch.bool else own
    gathered = carried.new_empty((world_size() * len(own), *own.shape[1:]))
    _collective(
        "a gathering from all ranks",
        lambda: dist.all_gather_into_tensor(gathered, carried, group=_group_for(carried)),
    )
    return gathered.view(own.dtype)


def broadcast_(tensors: Iterable[Tensor], source: int = 0) -> None:
    """Overwrites the tensors with those of rank `source`, in few messages: one per data type and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.dtype, tensor.device].append(tensor.detach())
    if world_size() == 1:
        return
    for members in groups.values():
        flat = torch.cat([member.reshape(-1) for member in members])
        carried = flat.view(torch.uint8) if flat.dtype is torch.bool else flat
        _send_from(carried, source)
        for member, part in zip(members, flat.split([member.numel() for member in members]), strict=True):
            member.copy_(part.view_as(member))


def _send_from(t: Tensor, source: int) -> None:
    _collective("a broadcast", lambda: dist.broadcast(t, src=source, group=_group_for(t)))


def broadcast_object(value: T) -> T:
    """Rank 0's value on every rank; it is pickled between our own processes."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    _collective("a broadcast", lambda: dist.broadcast_object_list(box, src=0, group=_group_for(None)))
    return box[0]


def all_gather_objects(value: T) -> list[T]:
    """All ranks' values in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    _collective(
        "a gathering from all ranks", lambda: dist.all_gather_object(values, value, group=_group_for(None))
    )
    return values


def barrier(what: str = "", *, timeout_s: float | None = None) -> None:
    """Waits until every rank is here.

    Args:
        what: what the ranks wait for, named in the error.
        timeout_s: in seconds; the session's time-out if None.

    Raises:
        StalledRankError: names the ranks that did not come, or why they left.
    """
    if world_size() == 1:
        return
    seconds = timeout_s if timeout_s is not None else (_session.timeout_s if _session else 1800.0)
    name = f"the barrier '{what}'" if what else "a barrier"

    def wait() -> None:
        if _session is not None:
            _session.roll_call.answer(name)
        timeout = timedelta(seconds=seconds)
        dist.monitored_barrier(group=_group_for(None), timeout=timeout, wait_all_ranks=True)
        if _session is not None:
            _session.roll_call.withdraw()

    _collective(name, wait, seconds)


def wrap_data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with gradients averaged over the ranks in backward, starting from rank 0's weights.

    Buffers are rank 0's at the start and not exchanged in forward. Every trainable parameter must take part
    in every backward. The module itself in a world of one process or without trainable parameters.
    """
    if world_size() == 1:
        return module
    synchronize_buffers_(module)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        broadcast_(module.parameters())
        return module
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = (
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    )  # torch >= 2.13
    # DDP reorders its buckets after the first backward, and gloo's order of adding three or more numbers
    # depends on their place in a bucket: a continued run would differ in the last bit. This keeps the order.
    keep_buckets = device.type == "cpu" and world_size() > 2
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=keep_buckets,
        gradient_as_bucket_view=True,
        **{buffers: False},
    )


def gradient_synchronization(module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
    """Around a forward and backward: off for the micro-batches before the last, which only accumulate."""
    if enabled or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside data-parallel and compile wrappers, in any order."""
    while True:
        if isinstance(module, DistributedDataParallel):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod
        else:
            return module


def synchronize_buffers_(module: nn.Module) -> None:
    """Overwrites every rank's buffers with rank 0's: before evaluation, labelling and snapshots."""
    broadcast_(unwrap(module).buffers())


def shard(n: int, *, rank: int | None = None, size: int | None = None) -> range:
    """This rank's contiguous part of range(n); parts differ by at most one element, without padding."""
    rank = _rank() if rank is None else rank
    size = world_size() if size is None else size
    return range(n * rank // size, n * (rank + 1) // size)
