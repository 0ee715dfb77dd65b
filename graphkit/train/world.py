"""Workers and their collectives: one worker, several in one process, several processes."""

from __future__ import annotations

import os
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from graphkit.errors import InputError
from graphkit.train.rng import capture_rng, restore_rng

Op = Literal["sum", "mean", "max", "min"]
Result = TypeVar("Result")


@runtime_checkable
class World(Protocol):
    """The workers of a run, seen from one of them."""

    rank: int
    size: int

    def all_reduce(self, tensor: Tensor, op: Op = "sum") -> Tensor:
        """Return the elementwise reduction over all ranks, equal on every rank."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks (of one shape), in rank order."""

    def send(self, tensor: Tensor, dst: int) -> None:
        """Send a tensor to rank ``dst``."""

    def recv(self, tensor: Tensor, src: int) -> Tensor:
        """Return the next tensor sent by rank ``src``; ``tensor`` gives shape and dtype."""

    def barrier(self) -> None:
        """Wait until every rank has come here."""


def _combine(tensors: Sequence[Tensor], op: Op) -> Tensor:
    # Fixed rank order: floating-point sums then do not depend on which worker came first.
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        if op in ("sum", "mean"):
            total += tensor
        elif op == "max":
            total = torch.maximum(total, tensor)
        elif op == "min":
            total = torch.minimum(total, tensor)
        else:
            raise InputError(f"op: expected 'sum', 'mean', 'max' or 'min', got {op!r}")
    return total / len(tensors) if op == "mean" else total


class SoloWorld:
    """A world of one worker: every collective returns its input.

    Example:
        >>> SoloWorld().all_reduce(torch.tensor([2.0])).item()
        2.0
    """

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor, op: Op = "sum") -> Tensor:
        return tensor

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor]

    def send(self, tensor: Tensor, dst: int) -> None:
        raise InputError(f"dst: a world of one worker has no rank {dst} to send to")

    def recv(self, tensor: Tensor, src: int) -> Tensor:
        raise InputError(f"src: a world of one worker has no rank {src} to receive from")

    def barrier(self) -> None:
        return None


class LocalWorld:
    """``size`` workers in one process: no sockets, the same result every time.

    Each worker is a thread, but only one runs at a time; the turn passes in rank order and only
    inside collectives. Each worker has its own Python, NumPy and torch generator states.

    Args:
        size: number of workers.

    Example:
        >>> def work(world):
        ...     return world.all_reduce(torch.tensor(float(world.rank))).item()
        >>> LocalWorld(3).run(work)
        [3.0, 3.0, 3.0]
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise InputError(f"size: a world needs at least 1 worker, got {size}")
        self.size = size

    def run(self, work: Callable[[World], Result]) -> list[Result]:
        """Call ``work(world)`` once per worker and return the results in rank order.

        Raises:
            InputError: the workers wait for each other for ever (different collectives).
            BaseException: the first error of a worker, after all workers were stopped.
        """
        hub = _Hub(self.size)
        results: list[Any] = [None] * self.size
        start = capture_rng()

        def body(rank: int) -> None:
            try:
                hub.enter(rank, start)
                results[rank] = work(_LocalRank(hub, rank))
            except BaseException as error:  # handed to the caller below
                hub.fail(error)
            finally:
                hub.leave(rank)

        threads = [
            threading.Thread(target=body, args=(rank,), name=f"worker-{rank}", daemon=True)
            for rank in range(self.size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if hub.error is not None:
            raise hub.error
        return results


class _Stopped(BaseException):
    """Unwinds a worker after another one failed."""


class _Hub:
    """Passes the turn round and holds what the workers hand in."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.turn = 0
        self.alive = [True] * size
        self.error: BaseException | None = None
        self.idle = 0
        self.changed = threading.Condition()
        self.rounds: dict[int, dict[int, tuple[str, Any]]] = defaultdict(dict)
        self.taken: dict[int, int] = defaultdict(int)
        self.mail: dict[tuple[int, int], deque[Tensor]] = defaultdict(deque)
        self.rng: dict[int, dict[str, Any]] = {}

    def _await_turn(self, rank: int) -> None:
        while self.turn != rank and self.error is None:
            self.changed.wait()
        if self.error is not None:
            raise _Stopped

    def enter(self, rank: int, rng: dict[str, Any]) -> None:
        with self.changed:
            self._await_turn(rank)
            restore_rng(rng)

    def _pass_on(self, rank: int) -> None:
        for step in range(1, self.size + 1):
            candidate = (rank + step) % self.size
            if self.alive[candidate]:
                self.turn = candidate
                break
        self.changed.notify_all()

    def wait_for(self, rank: int, ready: Callable[[], bool]) -> None:
        """Let the others run until ``ready()``; a full idle round means they all wait for ever."""
        if ready():
            self.idle = 0
            return
        state = capture_rng()
        with self.changed:
            while not ready():
                self.idle += 1
                if self.idle > 2 * self.size:
                    raise InputError(
                        f"world: worker {rank} waits for a collective that the others never "
                        "reach; all ranks must make the same calls in the same order"
                    )
                self._pass_on(rank)
                self._await_turn(rank)
            self.idle = 0
        restore_rng(state)

    def fail(self, error: BaseException) -> None:
        with self.changed:
            if self.error is None and not isinstance(error, _Stopped):
                self.error = error
            self.changed.notify_all()

    def leave(self, rank: int) -> None:
        with self.changed:
            self.alive[rank] = False
            self.idle = 0
            self._pass_on(rank)


class _LocalRank:
    """One worker's view of a :class:`LocalWorld`."""

    def __init__(self, hub: _Hub, rank: int) -> None:
        self._hub = hub
        self._round = 0
        self.rank = rank
        self.size = hub.size

    def _exchange(self, what: str, value: Any) -> list[Any]:
        hub, number = self._hub, self._round
        self._round += 1
        slot = hub.rounds[number]
        slot[self.rank] = (what, value)
        hub.idle = 0
        hub.wait_for(self.rank, lambda: len(slot) == self.size)
        names = {name for name, _ in slot.values()}
        if len(names) > 1:
            raise InputError(f"world: ranks disagree on the collective: {sorted(names)}")
        values = [slot[rank][1] for rank in range(self.size)]
        hub.taken[number] += 1
        if hub.taken[number] == self.size:
            del hub.rounds[number], hub.taken[number]
        return values

    def all_reduce(self, tensor: Tensor, op: Op = "sum") -> Tensor:
        what = f"all_reduce {op} {list(tensor.shape)}"
        return _combine(self._exchange(what, tensor.detach().clone()), op)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        what = f"all_gather {list(tensor.shape)}"
        return [value.clone() for value in self._exchange(what, tensor.detach().clone())]

    def send(self, tensor: Tensor, dst: int) -> None:
        self._hub.mail[self.rank, dst].append(tensor.detach().clone())
        self._hub.idle = 0

    def recv(self, tensor: Tensor, src: int) -> Tensor:
        box = self._hub.mail[src, self.rank]
        self._hub.wait_for(self.rank, lambda: bool(box))
        return box.popleft()

    def barrier(self) -> None:
        self._exchange("barrier", None)


class ProcessWorld:
    """The processes of a ``torch.distributed`` group (gloo on CPU, nccl on GPU).

    Args:
        device: where nccl wants its tensors; CPU tensors are moved there and back.

    Raises:
        InputError: no process group has been started; see :meth:`connect`.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise InputError(
                "ProcessWorld: no process group is running; start the processes with torchrun or "
                "Trainer(devices=...), or call ProcessWorld.connect(rank, size, file) in each"
            )
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._sending: deque[tuple[Any, Tensor]] = deque()
        self.device = torch.device(device) if dist.get_backend() == "nccl" else torch.device("cpu")

    @classmethod
    def connect(cls, rank: int, size: int, meeting_point: str | os.PathLike[str]) -> ProcessWorld:
        """Join a gloo group of processes on this machine.

        They find each other through a file, and talk over the loopback interface only: the
        traffic has no authentication.

        Args:
            rank: this process.
            size: number of processes.
            meeting_point: path of a file that does not exist yet and that all can write.
        """
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{os.path.abspath(meeting_point)}",
            rank=rank,
            world_size=size,
        )
        return cls()

    @staticmethod
    def close() -> None:
        """Leave the group."""
        dist.destroy_process_group()

    def all_reduce(self, tensor: Tensor, op: Op = "sum") -> Tensor:
        kinds = {
            "sum": dist.ReduceOp.SUM,
            "mean": dist.ReduceOp.SUM,
            "max": dist.ReduceOp.MAX,
            "min": dist.ReduceOp.MIN,
        }
        if op not in kinds:
            raise InputError(f"op: expected 'sum', 'mean', 'max' or 'min', got {op!r}")
        result = tensor.detach().to(self.device, copy=True)
        dist.all_reduce(result, kinds[op])
        result = result.to(tensor.device)
        return result / self.size if op == "mean" else result

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        own = tensor.detach().to(self.device).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return [part.to(tensor.device) for part in parts]

    def send(self, tensor: Tensor, dst: int) -> None:
        # Not dist.send: two ranks that send to each other first would wait for ever.
        sent = tensor.detach().to(self.device, copy=True).contiguous()
        self._sending.append((dist.isend(sent, dst), sent))
        while len(self._sending) > 64:
            self._sending.popleft()[0].wait()

    def recv(self, tensor: Tensor, src: int) -> Tensor:
        result = torch.empty_like(tensor, device=self.device)
        dist.recv(result, src)
        return result.to(tensor.device)

    def barrier(self) -> None:
        dist.barrier()


def from_rank_zero(world: World, tensors: Sequence[Tensor]) -> None:
    """Overwrite ``tensors`` in place by those of rank 0."""
    if world.size == 1:
        return
    with torch.no_grad():
        for tensor in tensors:
            sent = tensor if world.rank == 0 else torch.zeros_like(tensor)
            wide = sent.to(torch.int64) if sent.dtype == torch.bool else sent
            tensor.copy_(world.all_reduce(wide).to(tensor.dtype))


def any_rank(world: World, flag: bool) -> bool:
    """Return whether ``flag`` is true on at least one rank; equal on every rank."""
    if world.size == 1:
        return flag
    return bool(world.all_reduce(torch.tensor(float(flag)), "max") > 0)


def mean_gradients(grads: list[Tensor], world: World, bucket_bytes: int = 25 << 20) -> list[Tensor]:
    """Average gradients over the workers, many tensors per collective (the default owner of H4)."""
    if world.size == 1:
        return grads
    reduced: list[Tensor] = []
    start = 0
    while start < len(grads):
        stop, size = start, 0
        while stop < len(grads) and (stop == start or size < bucket_bytes):
            size += grads[stop].numel() * grads[stop].element_size()
            stop += 1
        bucket = grads[start:stop]
        flat = world.all_reduce(torch.cat([grad.reshape(-1) for grad in bucket]), "mean")
        parts = torch.split(flat, [grad.numel() for grad in bucket])
        for part, grad in zip(parts, bucket, strict=True):
            reduced.append(part.view_as(grad).to(grad.dtype))
        start = stop
    return reduced
