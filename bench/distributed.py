"""``python -m bench.distributed``: several processes of one thread against one process of as many threads.

The same trainings at the same batch sizes, on CPUs: images a second, and their ratio. Both sides run in turn, several
times; medians are told. And what a sum over the processes takes, by gloo and through the memory that they share.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hardfast.augment import AffineAugmentor
from hardfast.data import LabelledImages
from hardfast.distill import FixedRatio, Trainer, TrainerConfig
from hardfast.distill.processes import Processes, joined
from hardfast.models.networks import create_network

Shape = tuple[int, int, int]
#: Name, shape of the images, batch size, teacher, student and steps; without a teacher the student learns labels.
CASES: tuple[tuple[str, Shape, int, str, str, int], ...] = (
    ("hard-digits, HARD", (1, 28, 28), 64, "shift_robust_cnn", "mlp", 400),
    ("hard-digits, teacher", (1, 28, 28), 64, "", "shift_robust_cnn", 300),
    ("3x64x64, HARD", (3, 64, 64), 64, "resnet10t", "resnet10t", 12),
)
#: Numbers that are summed: a loss and its parts, statistics of a batch norm, gradients of a small and a larger network.
SIZES = (3, 256, 2**17, 2**22)


def images(count: int, shape: Shape) -> LabelledImages:
    """Noise: what is in the images costs no time."""
    generator = torch.Generator().manual_seed(0)
    return LabelledImages(
        torch.rand(count, *shape, generator=generator), torch.randint(10, (count,), generator=generator)
    )


def trainer(case: int, processes: Processes) -> Trainer:
    """The training of a case."""
    _, shape, batch, teacher, student, steps = CASES[case]
    config = TrainerConfig(steps, batch, validate_every=steps, cache_teacher=False, snapshots=2, snapshot_images=1)
    parts: dict[str, Any] = {}
    if teacher:
        parts = {
            "teacher": network(teacher, shape),
            "augmentor": AffineAugmentor(),
            "alternation": FixedRatio(5),
        }
    data = images(4 * batch, shape)
    return Trainer(network(student, shape), data, data[:batch], config, processes=processes, **parts)


def network(name: str, shape: Shape) -> nn.Module:
    """A network of ten classes."""
    torch.manual_seed(0)
    return create_network(name, shape, 10)


def images_per_second(case: int, threads: int) -> float:
    """The rate of all processes together, which are those of the environment, over the second half of the training."""
    torch.set_num_threads(threads)
    with joined() as processes:
        work = trainer(case, processes)
        times: list[float] = []
        step: Callable[..., None] = work._student_step

        def timed(bar: Any) -> None:
            times.append(time.perf_counter())
            step(bar)

        work._student_step = timed  # type: ignore[method-assign]
        work.fit()
    half = len(times) // 2
    return (len(times) - half - 1) * work.config.batch_size / (times[-1] - times[half])


def sum_microseconds(processes: Processes, size: int) -> float:
    """Of a sum over the processes."""
    numbers, times = torch.zeros(size), []
    for _ in range(50):
        start = time.perf_counter()
        processes.merge(numbers)
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def compare_sums() -> list[tuple[float, float]]:
    """For each size, by gloo and through memory."""
    torch.set_num_threads(1)
    with joined() as processes:
        ways = replace(processes, memory=None), processes
        return [(sum_microseconds(ways[0], size), sum_microseconds(ways[1], size)) for size in SIZES]


def answers(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """What a function returns in each of so many new processes."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        found = manager.list()
        processes = [
            context.Process(target=_call, args=(environment, found, function, arguments))
            for environment in environments(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a process of the benchmark failed; the reason stands above")
        return list(found)


def environments(world_size: int) -> Iterator[dict[str, str]]:
    """The environment that torchrun would give each process; none for one alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for rank in range(world_size):
        yield {"RANK": str(rank), "LOCAL_RANK": str(rank), **common} if world_size > 1 else {}


def _call(environment: dict[str, str], found: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    found.append(function(*arguments))


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--filter", default="", help="part of the names of the cases")
    arguments = parser.parse_args()
    count = arguments.processes
    print(f"{'':30s} 1 process of {count} threads   {count} processes of 1 thread   ratio")
    for case, (name, *_) in enumerate(CASES):
        if arguments.filter not in name:
            continue
        rates: dict[int, list[float]] = {1: [], count: []}
        for _ in range(arguments.rounds):
            for world_size, values in rates.items():
                values.append(min(answers(images_per_second, world_size, case, count // world_size)))
        one, several = (statistics.median(values) for values in rates.values())
        ratio = statistics.median(b / a for a, b in zip(rates[1], rates[count], strict=True))
        print(f"{name:30s} {one:20,.0f} / s {several:22,.0f} / s {ratio:9.2f}", flush=True)
    if arguments.filter in ("", "sums") and count > 1:
        print(f"\n{f'sum over {count} processes':30s} {'gloo':>21s}   {'shared memory':>23s}")
        for size, (gloo, memory) in zip(SIZES, answers(compare_sums, count)[0], strict=True):
            print(f"{f'{size:,} numbers':30s} {gloo:18,.0f} us {memory:20,.0f} us", flush=True)


if __name__ == "__main__":
    main()
