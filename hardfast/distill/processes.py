"""The processes that train one network together: torch.distributed, as torchrun starts it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hardfast.distill.shared_memory import SharedMemory, shared_memory
from hardfast.ops import _checks

__all__ = ["ALONE", "LostProcessError", "Processes", "from_environment", "joined", "local_rank", "told_of_loss"]

_Value = TypeVar("_Value")
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class LostProcessError(RuntimeError):
    """Another process of a training is gone or does not answer, so that this one cannot go on either."""


@dataclass(frozen=True)
class Processes:
    """Those that do the same work, each on its share of the data, and this one's place among them.

    Every one of them must call the methods that exchange something, in the same order. The default is this process
    alone, for which no method has anything to do.

    Args:
        rank: of this process, from 0.
        world_size: how many there are, >= 1.
        memory: that they share, for tensors of CPUs; None to exchange all by ``torch.distributed``.
    """

    rank: int = 0
    world_size: int = 1
    memory: SharedMemory | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _checks.integer("world_size", self.world_size, 1)
        _checks.integer("rank", self.rank, 0)
        if self.rank >= self.world_size:
            raise ValueError(f"rank must be below world_size, {self.world_size}, got {self.rank}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Processes:
        return self  # the copy of a network exchanges with the same processes

    def __reduce__(self) -> tuple[Any, ...]:
        return Processes, (self.rank, self.world_size)  # where it is loaded, the memory is not mapped

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world_size == 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def from_first(self, function: Callable[[], _Value]) -> _Value:
        """What a function returns, or raises, in the first process; it is called there only."""
        if self.alone:
            return function()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = function()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        value, raised = outcome
        if raised is not None:
            raise raised
        return value

    def deal(self, items: Sequence[_Value]) -> Sequence[_Value]:
        """This process's share of items that all processes have."""
        return items[self.rank :: self.world_size]

    def gather(self, value: _Value) -> list[_Value]:
        """A value of each process, by rank."""
        values: list[Any] = [value]
        if not self.alone:
            values *= self.world_size
            dist.all_gather_object(values, value)
        return values

    def merge(self, tensor: Tensor) -> Tensor:
        """Sums tensors of one shape in place, exactly where each entry is other than 0 in one process at most."""
        if self.memory is not None and self.memory.adds(tensor) and tensor.is_contiguous():
            self.memory.add(tensor)
        elif not self.alone:
            dist.all_reduce(tensor)
        return tensor

    def stack(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, by rank, ``[world_size, ...]``: the same bits in each of them."""
        return self.stack_later(tensor)()

    def stack_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        """As :meth:`stack`, of what the function returns: the exchange goes on until that is called, or begins then."""
        if self.alone:
            return lambda: tensor[None]
        if self.memory is not None and tensor.device.type == "cpu":
            return partial(self.memory.stack, tensor)
        tensors = tensor.new_empty(self.world_size, *tensor.shape)
        work = dist.all_gather_into_tensor(tensors, tensor[None].contiguous(), async_op=True)
        assert work is not None

        def arrived() -> Tensor:
            work.wait()
            return tensors

        return arrived

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as it learns: its gradients are averaged over the processes during the backward.

        Args:
            module: with the same parameters in each process, the same of which have a gradient in every step, and no
                buffers that must be exchanged.
        """
        if self.alone:
            return module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch 2.15 has another name for broadcast_buffers
            learning = DistributedDataParallel(
                module, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=True
            )
        memory = self.memory
        if memory is not None and all(memory.adds(parameter) for parameter in module.parameters()):
            # Without annotations: those that DDP would take are types, not their names.
            learning.register_comm_hook(memory, lambda memory, bucket: _averaged(bucket, self.world_size, memory))
        return learning


def _averaged(bucket: dist.GradBucket, world_size: int, memory: SharedMemory) -> torch.futures.Future[Tensor]:
    """Some of the gradients, averaged over processes."""
    averaged: torch.futures.Future[Tensor] = torch.futures.Future()
    averaged.set_result(memory.add(bucket.buffer().div_(world_size)))
    return averaged


#: This process without others.
ALONE = Processes()


@contextmanager
def joined(timeout_s: float = 600.0) -> Iterator[Processes]:
    """Joins the processes that torchrun started, by NCCL between GPUs and gloo between CPUs; alone without torchrun.

    Args:
        timeout_s: how long to wait for another process, > 0.

    Raises:
        ValueError: the environment is not as torchrun makes it.
        LostProcessError: the others did not come in time.
    """
    if "RANK" not in os.environ:
        yield ALONE
        return
    if missing := [name for name in _ENVIRONMENT if name not in os.environ]:
        raise ValueError(f"the environment variable RANK is set and {', '.join(missing)} are not; start with torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    processes = Processes(from_environment("RANK", 0), from_environment("WORLD_SIZE", 1))
    with ExitStack() as stack:
        with told_of_loss(processes):
            dist.init_process_group(backend, timeout=timedelta(seconds=_checks.positive("timeout_s", timeout_s)))
            stack.callback(dist.destroy_process_group)
            if not processes.alone:
                place = processes.rank, processes.world_size
                memory = stack.enter_context(shared_memory(*place, timeout_s, processes.gather))
                processes = replace(processes, memory=memory)
        yield processes


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return from_environment("LOCAL_RANK", 0)


def from_environment(name: str, default: int) -> int:
    """What torchrun says of this process.

    Raises:
        ValueError: it is no whole number.
    """
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ValueError(f"the environment variable {name} must be a whole number, got {value!r}")
    return int(value)


@contextmanager
def told_of_loss(processes: Processes) -> Iterator[None]:
    """Says what it means when an exchange inside the block fails.

    Raises:
        LostProcessError: another process is gone, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's have no class of their own
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise LostProcessError(
                f"process {processes.rank} of {processes.world_size} lost another one and stops: "
                f"{str(error).splitlines()[0]}"
            ) from error
        raise
