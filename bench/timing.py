"""Paired timing: every implementation of a case in one process, in turn, so that a noisy machine disturbs all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


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
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times callables in alternation: a round calls each of them for at least ``min_round_seconds`` of the clock."""
    calls = {}
    for name, function in implementations.items():
        function()  # compiles, allocates, warms the caches
        seconds = _seconds(function, 1, clock)
        calls[name] = max(1, min(1000, round(min_round_seconds / max(seconds, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in implementations}
    for _ in range(rounds):
        for name, function in implementations.items():
            samples[name].append(1e3 * _seconds(function, calls[name], clock) / calls[name])
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
