"""Exchanges through shared memory: what arrives, what becomes of those who wait in vain, and what is used instead."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import together
import torch
import torch.distributed as dist
from test_distributed import supervised, thresholds, train

from hardfast import _native
from hardfast.distill.processes import LostProcessError, Processes, joined, told_of_loss
from hardfast.distill.shared_memory import SharedMemory

#: More numbers of float32 than fit at once.
SLOT = 2**16
KINDS = [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16, torch.bool]


def values(size: int, seed: int, rank: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return (100 * torch.randn(size, generator=generator)).to(dtype)


def exchange(processes: Processes) -> list:
    """Checks a random sequence of exchanges, and returns what is not checked but for being the same everywhere."""
    assert processes.memory is not None
    draw, found = torch.Generator().manual_seed(processes.world_size), []
    for seed in range(300):
        size = int(torch.tensor(2.0) ** (18 * torch.rand((), generator=draw))) - 1
        if seed % 40 == 0:
            size = [0, 1, SLOT - 1, SLOT, SLOT + 1, 2 * SLOT, 5 * SLOT + 7, 3][seed // 40]
        dtype = KINDS[int(torch.randint(len(KINDS), (), generator=draw))]
        everyones = [values(size, seed, rank, dtype) for rank in range(processes.world_size)]
        mine = everyones[processes.rank].clone()
        if torch.rand((), generator=draw) < 0.2:  # not all arrive at once
            time.sleep(float(torch.rand(())) * 1e-3)
        if torch.rand((), generator=draw) < 0.5:
            assert torch.equal(processes.stack(mine), torch.stack(everyones)), (seed, size, dtype)
        elif dtype.is_floating_point and dtype != torch.bfloat16:
            total = everyones[0].clone()
            for other in everyones[1:]:
                total += other
            assert torch.equal(processes.merge(mine), total), (seed, size, dtype)
        elif size and dtype != torch.bool:  # by gloo
            found.append(processes.merge(mine).double().sum().item())
    later = processes.stack_later(values(5, 1, processes.rank, torch.float32))
    transposed = values(12, 2, processes.rank, torch.float32).view(3, 4).T
    found.append(processes.stack(transposed))
    assert torch.equal(found[-1][processes.rank], transposed)
    found.append(later())
    assert torch.equal(found[-1][-1], values(5, 1, processes.world_size - 1, torch.float32))
    return found


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_all_get_the_same_bits_of_any_size_in_any_order(world_size, tmp_path):
    first, *others = together.answers(exchange, world_size, tmp_path)
    assert len(first) > 20
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


def train_both_ways(processes: Processes) -> list:
    """Trains through memory, with no collective of ``torch.distributed`` for tensors, and through gloo alone."""
    added: list[int] = []

    class Counted(SharedMemory):
        def add(self, tensor: torch.Tensor) -> torch.Tensor:
            added.append(tensor.numel())
            return super().add(tensor)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("not through memory")

    memory = Counted(processes.memory._memory, processes.world_size)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_reduce", "all_gather_into_tensor"):
            patch.setattr(dist, name, refuse)
        by_memory = train(Processes(processes.rank, processes.world_size, memory), thresholds)
    assert len(added) > 60  # the gradients of every step
    return [by_memory, train(Processes(processes.rank, processes.world_size), thresholds)]


def test_two_processes_learn_the_same_bits_through_memory_and_through_gloo(tmp_path):
    for (weights, *rest), (others, *others_rest) in together.answers(train_both_ways, 2, tmp_path):
        assert rest == others_rest
        for name, value in weights.items():
            assert torch.equal(value, others[name]), name


def wait_for_one(folder: Path, leave: Callable[[], None], timeout_s: float) -> None:
    """The others learn with the last process, which does not come."""
    with joined(timeout_s) as processes:
        learning = processes.wrap(torch.nn.Linear(3, 2))
        learning(torch.ones(1, 3)).sum().backward()
        if processes.rank == 2:
            leave()
        try:
            with told_of_loss(processes):
                learning(torch.ones(1, 3)).sum().backward()
        except LostProcessError as error:
            (folder / f"lost-{processes.rank}").write_text(str(error))
            os._exit(7)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("leave", "timeout_s", "reason"),
    [(kill, 600, "has ended"), (fail, 600, "has ended"), (stop, 2, "did not answer in 2 s")],
)
def test_who_waits_is_told_that_another_process_is_lost(leave, timeout_s, reason, tmp_path):
    started = together.start(wait_for_one, 3, tmp_path, tmp_path, leave, timeout_s)
    try:
        for rank in (0, 1):
            started[rank].join(60)
            assert started[rank].exitcode == 7
            told = (tmp_path / f"lost-{rank}").read_text()
            assert told == f"process {rank} of 3 lost another one and stops: process 2 {reason}"
    finally:
        started[2].kill()
        started[2].join()


def interrupted(processes: Processes) -> str:
    """The first process gets a signal while the second lets it wait."""
    if not processes.first:
        time.sleep(1)
        return processes.stack(torch.ones(1)).tolist()

    def handle(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with suppress(KeyboardInterrupt):
        processes.stack(torch.ones(1))
    try:
        processes.stack(torch.ones(1))
    except dist.DistNetworkError as error:
        return str(error)
    return "never"


def test_a_wait_ends_by_a_signal_and_no_exchange_follows(tmp_path):
    told = together.answers(interrupted, 2, tmp_path)[0]
    assert "process 0 did not finish an exchange before this" in told


def differ(processes: Processes) -> str:
    with pytest.raises(RuntimeError, match="bytes where process") as caught:
        processes.stack(torch.zeros(3 + processes.rank))
    return str(caught.value)


def test_sizes_that_differ_are_told_of(tmp_path):
    told = together.answers(differ, 2, tmp_path)
    assert told[1] == "process 0 exchanges 12 bytes where process 1 exchanges 16"


def no_memory(*_: object) -> int:
    raise OSError(errno.ENOMEM, "no memory")


def without(folder: Path, function: str, rank: int) -> None:
    """Joins with something that one process cannot do, and trains."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == str(rank):
            patch.setattr(function, no_memory)
        with joined(60) as processes:
            assert processes.memory is None
            torch.save(train(processes, supervised), folder / f"answer-{rank}-{processes.rank}.pt")


@pytest.mark.parametrize(
    ("function", "rank"),
    [("os.memfd_create", 0), ("os.readlink", 1), ("os.pidfd_open", 1), ("hardfast._native.SharedMemory", 1)],
)
def test_processes_that_cannot_share_memory_exchange_through_gloo(function, rank, tmp_path):
    started = together.start(without, 2, tmp_path, tmp_path, function, rank)
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0], (tmp_path / "told-0.txt").read_text()
    first, second = (torch.load(tmp_path / f"answer-{rank}-{r}.pt", weights_only=False)[0] for r in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def kept() -> tuple[list[str], list[str]]:
    """Descriptors of what processes share, and names in memory."""
    names = []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the folder itself
            names.append(os.readlink(file))
    return sorted(name for name in names if "hardfast" in name or "pidfd" in name), os.listdir("/dev/shm")


def join_and_leave(folder: Path) -> None:
    before = kept()
    with joined(60) as processes:
        processes.stack(torch.ones(2))
        during = kept()
    torch.save([before, during, kept()], folder / f"kept-{processes.rank}")


def test_nothing_is_left_behind(tmp_path):
    started = together.start(join_and_leave, 2, tmp_path, tmp_path)
    for rank, process in enumerate(started):
        process.join()
        before, during, after = torch.load(tmp_path / f"kept-{rank}")
        assert before == after
        assert len(during[0]) == 3  # the memory, and the life of each process
        assert during[1] == before[1]


def test_wrong_ranks_are_refused():
    with pytest.raises(ValueError, match="rank must be"):
        _native.SharedMemory(0, 2, [0, 0], 1.0)


def test_a_copy_exchanges_with_the_same_processes_and_what_is_loaded_elsewhere_maps_nothing():
    memory = SharedMemory(SimpleNamespace(sum_float32=None, sum_float64=None), 3)
    processes = Processes(1, 3, memory)
    assert copy.deepcopy([processes])[0].memory is memory
    loaded = pickle.loads(pickle.dumps(processes))
    assert (loaded, loaded.memory) == (processes, None)
