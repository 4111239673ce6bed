"""Paired timing: every implementation of a case in one process, in turn, so that a noisy machine disturbs all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

BATCH_SECONDS = 1e-3  # about what is timed at once, so that reading the clock does not count


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call: median and interquartile range over the rounds."""

    median_ms: float
    iqr_ms: float


def time_alternating(
    implementations: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    min_round_seconds: float = 0.02,
    max_seconds: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times callables in turn, in one order and then in the other.

    A turn begins with a call that is not timed: it finds the caches, and the memory that the allocator keeps, as
    another implementation left them. Its time is the median of short batches of calls: where one implementation frees
    much memory, a virtual machine may take that back while another has its turn, and interrupt a few of its calls.

    Args:
        implementations: by name.
        rounds: how often each has its turn, at least two.
        min_round_seconds: a turn is as many calls as take this long by the clock.
        max_seconds: fewer rounds, but at least three, where all of them together would take longer.
    """
    turns: dict[str, tuple[int, int]] = {}  # batches, and calls of each
    turn_seconds = 0.0
    for name, function in implementations.items():
        function()  # compiles, allocates, warms the caches
        seconds = min(_seconds(function, 1, clock) for _ in range(3))
        calls = max(1, min(1000, round(min_round_seconds / max(seconds, 1e-7))))
        batch = max(1, min(calls, round(BATCH_SECONDS / max(seconds, 1e-7))))
        turns[name] = calls // batch, batch
        turn_seconds += (1 + calls) * seconds
    rounds = max(min(rounds, 3), int(min(rounds, max_seconds / max(turn_seconds, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in implementations}
    for number in range(rounds):
        for name in list(implementations)[:: -1 if number % 2 else 1]:
            implementations[name]()
            batches, batch = turns[name]
            times = [_seconds(implementations[name], batch, clock) / batch for _ in range(batches)]
            samples[name].append(1e3 * statistics.median(times))
    return {name: _summary(values) for name, values in samples.items()}


def time_alternating_gpu(
    implementations: Mapping[str, Callable[[], object]], *, rounds: int = 15, round_ms: int = 20
) -> dict[str, Timing]:
    """The same with ``triton.testing.do_bench``: CUDA events, and a cache that holds nothing before each call."""
    from triton.testing import do_bench

    samples: dict[str, list[float]] = {name: [] for name in implementations}
    for number in range(rounds):
        for name in list(implementations)[:: -1 if number % 2 else 1]:
            samples[name] += do_bench(implementations[name], warmup=5, rep=round_ms, return_mode="all")
    return {name: _summary(values) for name, values in samples.items()}


def clock_for(threads: int) -> Callable[[], float]:
    """Processor time for calls of one thread, which what else the machine does changes least; else wall time."""
    return time.process_time if threads == 1 else time.perf_counter


def _seconds(function: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        function()
    return clock() - start


def _summary(values: list[float]) -> Timing:
    low, _, high = statistics.quantiles(values, n=4)
    return Timing(statistics.median(values), high - low)
