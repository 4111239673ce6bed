"""The command: chooses cases, measures them, prints, keeps."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from . import machine, packages
from .case import OURS, Case
from .cases import all_cases, suite_cases
from .measure import Options, Row, measure, missed_floors, speedup
from .results import Result

QUICK_ROUNDS = 5
INTERRUPTED = 130
_MOST_THREADS = 1024


def run(
    filter: str = "",
    suite: Literal["ops", "steps", "diffusion", "all"] = "all",
    device: Literal["cpu", "cuda"] = "cpu",
    quick: bool = False,
    rounds: int = 15,
    threads: int = 2,
    compile: bool = True,
    slow: bool = False,
    memory: bool = True,
    json: Path | None = None,
    report: bool = False,
) -> int:
    """Time hardfast beside everything that does the same, and say how far from the machine's limit it is.

    Args:
        filter: only cases whose name has all of these words in it.
        suite: ops; steps, of training; diffusion, the gradients of sampling chains; or all.
        device: cpu or cuda.
        quick: a few rounds of some of the cases, without torch.compile, in two minutes.
        rounds: how often each implementation has its turn.
        threads: of the CPU, for all implementations.
        compile: whether to measure what torch.compile makes of PyTorch and of kornia.
        slow: whether to compile diffusion models too, which takes minutes for each case.
        memory: whether to measure peak memory too.
        json: file for the rows, or a folder such as bench/results for one named after machine and version. Rows that
            are there already stay, but for those of the cases that are measured now.
        report: measure nothing: write the tables of the READMEs and the plot from the files in bench/results.

    Returns:
        0; 1 if a case is below its floor, or nothing can be measured or reported; 2 for wrong arguments; 130 after
        Ctrl-C, which keeps what was measured.
    """
    if report and (json is not None or filter):
        print("--report measures nothing: --json and --filter do not go with it", file=sys.stderr)
        return 2
    if report:
        return _report()
    if device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU that PyTorch can use: `make bench` measures the CPU", file=sys.stderr)
        return 1
    if rounds < 2 or not 1 <= threads <= _MOST_THREADS:
        accepted = f"--rounds must be at least 2 and --threads from 1 to {_MOST_THREADS}"
        print(f"{accepted}, got {rounds} and {threads}", file=sys.stderr)
        return 2
    packages.set_threads(threads)
    _leave_out_warnings()
    listed = all_cases(device) if suite == "all" else suite_cases(suite, device)
    cases = [case for case in listed if (case.quick or not quick) and is_wanted(case, filter)]
    if not cases:
        print(f"no case has {filter!r} in its name", file=sys.stderr)
        return 1
    rounds = min(rounds, QUICK_ROUNDS) if quick else rounds
    options = Options(rounds, threads, compile and not quick, memory, slow=slow)
    for line in packages.missing_lines(name for case in cases for name in (*case.needs, *case.implementations)):
        print(line)
    cases = [case for case in cases if all(map(packages.is_installed, case.needs))]
    described = machine.describe(device, threads)
    try:
        if json is not None:
            Result(described, {}, []).path_at(json)  # before hours of measuring
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    rates = cache(lambda dtype: machine.rates(device, dtype, threads))
    rows: list[Row] = []
    missed: list[str] = []
    status = 0
    try:
        for case in cases:
            measured = [replace(row, commit=described["commit"]) for row in measure(case, options, rates)]
            below = missed_floors(case, measured)
            print(line_of(case, measured, below), flush=True)
            rows += measured
            missed += [f"{case.name}: {what}" for what in below]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    print("\n".join(f"MISSED {line}" for line in missed) or "every floor is reached")
    if json is not None and rows:
        used = dict.fromkeys(row.dtype for row in rows)
        result = Result(described, {dtype: rates(dtype)._asdict() for dtype in used}, rows)
        print(f"written to {result.add_to(json)}")
    return status or (1 if missed else 0)


def _leave_out_warnings() -> None:
    """Those of ``torch.compile`` that every run would repeat."""
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def _report() -> int:
    from .report import write

    try:
        changed = write()
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"wrote {path}" for path in changed) or "all is up to date")
    return 0


def is_wanted(case: Case, filter: str) -> bool:
    return all(word in case.name for word in filter.split())


def line_of(case: Case, rows: list[Row], below: list[str]) -> str:
    """Our time, memory and fraction of the roofline, and how many times longer each peer takes."""
    ours = next(row for row in rows if row.implementation == OURS)
    peers = []
    for row in rows:
        if row is not ours:
            floor = case.floors.speed.get(row.implementation)
            promised = "" if floor is None else f" (floor {floor:g})"
            peers.append(f"{row.implementation} {speedup(ours, row):.2f}x{promised}")
    peak = "" if ours.peak_bytes is None else f"{ours.peak_bytes / 2**20:9.1f} MiB"
    share = "" if ours.roofline_fraction is None else f"{ours.roofline_fraction:6.0%}"
    line = f"{case.name:54}{ours.median_ms:10.3f} ms{peak}{share}  {', '.join(peers)}"
    return f"{line}  MISSED" if below else line
