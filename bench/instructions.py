"""``make instructions``: what a CPU kernel executes for a pixel, or for a pair of logits, counted by callgrind.

The counts repeat where times do not, on a busy machine too. They are no times: a division counts as one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from math import prod
from pathlib import Path

REPETITIONS = (1, 3)  # the difference leaves out what is done once
SIZES = ((16, 3, 32, 32), (16, 1, 28, 28), (2, 3, 128, 128))
CASES = {
    **{
        f"{name}_warp {'x'.join(map(str, size))} {kernel}": (
            ["warp", name, kernel, *map(str, size)],
            prod(size) // size[1],
        )
        for size in SIZES
        for name in ("affine", "projective", "flow8", f"flow{size[-1]}")
        for kernel in ("forward", "parameters", "image")
    },
    **{
        f"kl_disagreement {rows}x{classes} {kernel}": (["kl", kernel, str(rows), str(classes)], rows * classes)
        for rows, classes in ((64, 1000), (4096, 10))
        for kernel in ("forward", "backward", "both")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("program", type=Path, help="the compiled bench/instructions.cpp")
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    args = parser.parse_args()
    for name, (arguments, units) in CASES.items():
        if args.filter in name:
            few, many = (count(args.program, [*arguments, str(n)]) for n in REPETITIONS)
            print(f"{name:44}{(many - few) / (REPETITIONS[1] - REPETITIONS[0]) / units:8.2f}", flush=True)


def count(program: Path, arguments: list[str]) -> int:
    with tempfile.NamedTemporaryFile() as profile:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile.name}", program, *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if found is None:
        raise RuntimeError(f"callgrind printed no count: {run.stderr}")
    return int(found[1])


if __name__ == "__main__":
    main()
