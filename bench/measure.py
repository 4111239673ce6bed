"""One case: the time of every implementation in turn, then the memory of each, and both held to the floors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .case import OURS, Case, Runner, case_name
from .memory import peak_bytes, peak_bytes_gpu
from .packages import is_installed, package_of
from .roofline import Rates, least_seconds
from .timing import clock_for, time_alternating, time_alternating_gpu


@dataclass(frozen=True)
class Row:
    """One implementation of one case. What was not or cannot be measured is None."""

    op: str
    case: str
    pass_name: str
    dtype: str
    memory_format: str
    device: str
    implementation: str
    median_ms: float
    iqr_ms: float
    peak_bytes: int | None
    roofline_fraction: float | None
    items: int
    commit: str | None = None

    @property
    def case_name(self) -> str:
        return case_name(self.op, self.case, self.pass_name, self.dtype, self.memory_format)

    def to_json(self) -> dict[str, Any]:
        return {"pass" if key == "pass_name" else key: value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Row:
        return cls(**{"pass_name" if key == "pass" else key: value for key, value in values.items()})


@dataclass(frozen=True)
class Options:
    """How to measure.

    Args:
        rounds: of all implementations in turn.
        threads: of the CPU.
        compiled: whether what ``torch.compile`` makes is among the implementations.
        slow: whether it is where that takes minutes too.
        memory: whether to measure that too.
        max_seconds: of the rounds of a case; slow ones get fewer rounds, but at least three.
    """

    rounds: int = 15
    threads: int = 2
    compiled: bool = True
    memory: bool = True
    max_seconds: float = 10.0
    slow: bool = False


def chosen(case: Case, options: Options) -> list[str]:
    """The implementations of a case that this machine has and the options want."""
    compiled = options.compiled and (options.slow or not case.slow_to_compile)
    names = [name for name in case.implementations if compiled or "compiled" not in name]
    return [name for name in names if (package := package_of(name)) is None or is_installed(package)]


def measure(case: Case, options: Options, rates: Callable[[str], Rates]) -> list[Row]:
    """One row an implementation, ours first.

    Args:
        rates: of the machine, by dtype.
    """
    torch.compiler.reset()
    runners = _working(case, chosen(case, options))
    if case.device == "cpu":
        timings = time_alternating(
            runners, rounds=options.rounds, max_seconds=options.max_seconds, clock=clock_for(options.threads)
        )
    else:
        timings = time_alternating_gpu(runners, rounds=options.rounds)
    peak = peak_bytes if case.device == "cpu" else peak_bytes_gpu
    least = None if case.work is None else 1e3 * least_seconds(case.work, rates(case.dtype))
    return [
        Row(
            case.op,
            case.size,
            case.pass_name,
            case.dtype,
            case.memory_format,
            case.device,
            name,
            timing.median_ms,
            timing.iqr_ms,
            peak(runners[name]) if options.memory and package_of(name) != "OpenCV" else None,
            None if least is None else least / timing.median_ms,
            case.items,
        )
        for name, timing in timings.items()
    ]


def _working(case: Case, names: Sequence[str]) -> dict[str, Runner]:
    """Runners of these implementations that have run once; a peer that fails is left out, with a line that says so."""
    inputs, working = case.inputs(), {}
    for name in names:
        try:
            runner = case.implementations[name](inputs)
            runner()
        except Exception as error:
            if name == OURS:
                raise
            print(f"{case.name}: {name} fails and is left out: {str(error).strip().partition(chr(10))[0]}")
        else:
            working[name] = runner
    return working


def speedup(ours: Row, peer: Row) -> float:
    return peer.median_ms / ours.median_ms


def missed_floors(case: Case, rows: Sequence[Row]) -> list[str]:
    """What the rows of a case promise and do not keep, in words."""
    ours = next(row for row in rows if row.implementation == OURS)
    missed = []
    for peer in rows:
        name = peer.implementation
        if name in case.floors.speed and speedup(ours, peer) < case.floors.speed[name]:
            missed.append(f"{speedup(ours, peer):.2f}x {name}, floor {case.floors.speed[name]}x")
        if name in case.floors.memory and ours.peak_bytes is not None and peer.peak_bytes is not None:
            factor = peer.peak_bytes / max(ours.peak_bytes, 1)
            if factor < case.floors.memory[name]:
                missed.append(f"1/{factor:.1f} of the memory of {name}, floor 1/{case.floors.memory[name]:g}")
    least, reached = case.floors.roofline, ours.roofline_fraction
    if least is not None and reached is not None and reached < least:
        missed.append(f"{reached:.0%} of the roofline, floor {least:.0%}")
    return missed
