"""``python -m bench``: hardfast beside eager and compiled PyTorch on this machine, medians and ratios."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path

import torch

from bench.case import Case, Function
from bench.cases import all_cases
from bench.memory import peak_bytes
from bench.timing import Timing, time_alternating
from hardfast import __version__, _native


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--memory", action="store_true", help="peak memory beside what the inputs take, in place of times"
    )
    parser.add_argument("--json", type=Path, help="write machine, versions and rows to this file")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    if args.memory:
        return print_memory([case for case in all_cases() if args.filter in case.name], compiled=not args.no_compile)
    rows, missed = [], []
    print(f"{'case':44}{'hardfast ms':>13}{'eager ms':>12}{'compiled ms':>13}{'/ eager':>9}{'/ compiled':>12}  floors")
    for case in all_cases():
        if args.filter not in case.name:
            continue
        timings = measure(case, args.rounds, compiled=not args.no_compile)
        ratios = {
            peer: timings[peer].median_ms / timings["hardfast"].median_ms for peer in timings if peer != "hardfast"
        }
        below = [peer for peer, floor in case.floors.items() if peer in ratios and ratios[peer] < floor]
        missed += [f"{case.name}: {ratios[peer]:.2f}x {peer}, floor {case.floors[peer]}x" for peer in below]
        print_row(case, timings, ratios, bool(below))
        rows += [
            {
                "op": case.op,
                "case": case.size,
                "pass": case.pass_name,
                "dtype": "float32",
                "device": "cpu",
                "implementation": name,
                "median_ms": timing.median_ms,
                "iqr_ms": timing.iqr_ms,
            }
            for name, timing in timings.items()
        ]
    if args.json:
        args.json.write_text(json.dumps({"header": header(args.threads), "rows": rows}, indent=1) + "\n")
    for line in missed:
        print("below its floor:", line)
    return 1 if missed else 0


def print_memory(cases: list[Case], compiled: bool) -> int:
    print(f"{'case':44}{'inputs MiB':>12}{'hardfast MiB':>14}{'eager MiB':>12}{'compiled MiB':>14}{'/ eager':>9}")
    for case in cases:
        peaks = {}
        for name, function in implementations(case, compiled).items():
            run = case.runner(function)
            run()
            peaks[name] = peak_bytes(run) / 2**20
        inputs = sum(x.numel() * x.element_size() for x in case.inputs) / 2**20
        print(
            f"{case.name:44}{inputs:12.1f}{peaks['hardfast']:14.1f}{peaks['eager']:12.1f}"
            f"{peaks.get('compiled', float('nan')):14.1f}{peaks['eager'] / peaks['hardfast']:8.2f}x",
            flush=True,
        )
    return 0


def measure(case: Case, rounds: int, compiled: bool) -> dict[str, Timing]:
    functions = implementations(case, compiled)
    return time_alternating({name: case.runner(function) for name, function in functions.items()}, rounds=rounds)


def implementations(case: Case, compiled: bool) -> dict[str, Function]:
    functions = {"hardfast": case.ours, "eager": case.eager}
    if compiled:
        torch.compiler.reset()
        functions["compiled"] = torch.compile(case.eager)
    return functions


def print_row(case: Case, timings: dict[str, Timing], ratios: dict[str, float], below: bool) -> None:
    def cell(values: dict[str, str], key: str) -> str:
        return values.get(key, "-")

    times = {name: f"{timing.median_ms:.3f}" for name, timing in timings.items()}
    speedups = {name: f"{ratio:.2f}x" for name, ratio in ratios.items()}
    floors = ", ".join(f"{floor}x {peer}" for peer, floor in case.floors.items())
    print(
        f"{case.name:44}{times['hardfast']:>13}{times['eager']:>12}{cell(times, 'compiled'):>13}"
        f"{speedups['eager']:>9}{cell(speedups, 'compiled'):>12}  {floors}{'  MISSED' if below else ''}",
        flush=True,
    )


def header(threads: int) -> dict[str, object]:
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "hardfast": __version__,
        "commit": git.stdout.strip() or None,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "cpu_isa": _native.cpu_isa(),
        "threads": threads,
        "copy_bandwidth_gb_s": _native.copy_bandwidth(64, threads) / 1e9,
    }


if __name__ == "__main__":
    raise SystemExit(main())
