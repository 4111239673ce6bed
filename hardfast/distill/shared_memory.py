"""How the processes of one machine exchange tensors: through memory that all of them have mapped (Linux)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["SharedMemory", "shared_memory"]

NAME = "hardfast"  # of the memory, among the descriptors of a process


class SharedMemory:
    """Exchanges tensors of CPUs in microseconds, where gloo's sockets and the threads behind them take a millisecond.

    All processes must call the same methods with tensors of the same shapes in the same order, one thread at a time.

    Args:
        memory: of ``hardfast._native``, as this process has mapped it.
        world_size: how many processes there are.
    """

    def __init__(self, memory: Any, world_size: int) -> None:
        self._memory, self._world_size = memory, world_size
        self._sums = {torch.float32: memory.sum_float32, torch.float64: memory.sum_float64}

    def stack(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, by rank, ``[world_size, ...]``."""
        tensor = tensor.contiguous()
        tensors = tensor.new_empty(self._world_size, *tensor.shape)
        self._memory.gather(tensor.data_ptr(), tensors.data_ptr(), tensor.nbytes)
        return tensors

    def adds(self, tensor: Tensor) -> bool:
        """Whether :meth:`add` takes tensors of this kind."""
        return tensor.device.type == "cpu" and tensor.dtype in self._sums

    def add(self, tensor: Tensor) -> Tensor:
        """Sums contiguous tensors in place, in the order of ranks, so that all processes get the same bits."""
        self._sums[tensor.dtype](tensor.data_ptr(), tensor.numel())
        return tensor


@contextmanager
def shared_memory(
    rank: int, world_size: int, timeout_s: float, gather: Callable[[Any], list[Any]]
) -> Iterator[SharedMemory | None]:
    """Memory of some processes, which must all come here; None where they cannot share any.

    It has no name, so that nothing is left behind: the others open the descriptor that the first process has of it.

    Args:
        rank: of this process.
        world_size: how many there are.
        timeout_s: how long an exchange waits for another process.
        gather: what each process gives it, by rank.
    """
    with ExitStack() as files:
        memory = _mapped(rank, world_size, timeout_s, gather, files)
        everywhere = all(gather(memory is not None))
        if memory is None or not everywhere:
            yield None
            return
        files.callback(memory.leave)
        yield SharedMemory(memory, world_size)


def _mapped(rank: int, world_size: int, timeout_s: float, gather: Callable[[Any], list[Any]], files: ExitStack) -> Any:
    """The memory, or None: on several machines, on another system, or where it is not permitted."""

    def kept(file: int) -> int:
        files.callback(os.close, file)
        return file

    file = None
    try:
        from hardfast._native import SharedMemory as Memory

        place = Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")
        if rank == 0:
            file = kept(os.memfd_create(NAME))
            os.ftruncate(file, Memory.size(world_size))
    except (AttributeError, ImportError, OSError):
        place = None
    found = gather((place, os.getpid(), file))
    if place is None or any(theirs != place for theirs, *_ in found):
        return None
    try:
        if file is None:
            path = f"/proc/{found[0][1]}/fd/{found[0][2]}"
            # Machines that are clones of one another tell the same of themselves.
            if not os.readlink(path).startswith(f"/memfd:{NAME}"):
                return None
            file = kept(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        lives = [kept(os.pidfd_open(process)) for _, process, _ in found]
        return Memory(file, rank, lives, timeout_s)
    except (AttributeError, OSError, RuntimeError):
        return None
