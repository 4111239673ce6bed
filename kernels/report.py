"""Tables the registers, stack, spills and shared memory of every CUDA kernel, from a build's log (``ptxas -v``).

    python kernels/report.py build/kernels.log --objects build/kernels

One row a kernel, the worst over the architectures and then each; exits with 1 if a kernel spills or none is found.
With the object files also the instructions that a pixel of three channels takes in the plain kernels (``sass.py``).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import sass

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)a?'")
PROPERTIES = re.compile(r"Function properties for (\w+)")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
# Those whose loop has one path that loads all taps, without loops of its own.
STRAIGHT = re.compile(
    r"warp_plain_forward_kernel<(Affine|Projective|DenseFlow)Frame.*PlainVariant<(float|BFloat16), \(Layout\)\d, 3>"
    r"|warp_plain_grad_(matrix|dense_flow)_kernel<.*PlainVariant<(float|BFloat16), \(Layout\)\d, 3>"
    r"|PlainGather<(Affine|Projective)Frame<float.*>, 3>"
)
DISASSEMBLED = 90


MEASURES = ("registers", "stack", "spills", "shared")


@dataclass
class Usage:
    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0
    instructions: int | None = None  # of a pixel

    def figures(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def read(log: str) -> dict[str, dict[int, Usage]]:
    """Kernel (mangled) -> architecture -> what it uses."""
    table: dict[str, dict[int, Usage]] = {}
    kernel, architecture, described = "", 0, ""
    for line in log.splitlines():
        if match := ENTRY.search(line):
            kernel, architecture = match[1], int(match[2])
            table.setdefault(kernel, {})[architecture] = Usage()
        elif match := PROPERTIES.search(line):
            described = match[1]
        elif not kernel:
            continue
        elif match := FRAME.search(line):
            # Functions that are not inlined are described after the kernel that calls them: they count as its own.
            usage = table[kernel][architecture]
            usage.spills += int(match[2]) + int(match[3])
            usage.stack = max(usage.stack, int(match[1])) if described != kernel else int(match[1])
        elif match := USED.search(line):
            usage = table[kernel][architecture]
            usage.registers = int(match[1])
            if shared := SHARED.search(line):
                usage.shared = int(shared[1])
    return table


def readable(names: list[str]) -> dict[str, str]:
    """C++ names without namespaces, arguments and defaults that all kernels share."""
    if shutil.which("c++filt") is None:
        return {name: name for name in names}
    lines = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = {}
    for name, line in zip(names, lines.splitlines(), strict=True):
        text = re.sub(r"hardfast::(cuda::)?|^void ", "", line)
        short[name] = text.rsplit("(", 1)[0] if text.endswith(")") else text
    return short


def by_name(table: dict[str, dict[int, Usage]]) -> dict[str, dict[str, dict[str, int]]]:
    """The table with names that can be read, sorted by them."""
    names = readable(list(table))
    found = {
        names[kernel]: {f"sm_{architecture}": usages[architecture].figures() for architecture in sorted(usages)}
        for kernel, usages in table.items()
    }
    return dict(sorted(found.items()))


def add_instructions(table: dict[str, dict[int, Usage]], folder: Path) -> None:
    names = readable(list(table))
    for kernel, count in sass.turn_instructions(folder, DISASSEMBLED).items():
        if match := STRAIGHT.search(names.get(kernel, "")):
            pixels = 1 if "Gather" in match[0] else 2  # of a turn
            table[kernel][DISASSEMBLED].instructions = math.ceil(count / pixels)


def render_instructions(table: dict[str, dict[int, Usage]]) -> str:
    lines = [
        f"{usage['instructions']:6} {name}"
        for name, usages in by_name(table).items()
        if "instructions" in (usage := usages.get(f"sm_{DISASSEMBLED}", {}))
    ]
    return "\n".join([f"instructions of a pixel of three channels, sm_{DISASSEMBLED}", *lines]) if lines else ""


def render(table: dict[str, dict[int, Usage]]) -> str:
    architectures = sorted({architecture for usages in table.values() for architecture in usages})
    names = readable(list(table))
    width = max(len(name) for name in names.values())
    heading = " ".join(f"{f'sm_{architecture}':>6}" for architecture in architectures)
    lines = [f"{'kernel':{width}} {'stack':>6} {'spills':>6} {'shared':>7}  registers: {heading}"]
    for kernel, usages in sorted(table.items(), key=lambda item: names[item[0]]):
        worst = Usage(*(max(getattr(u, field) for u in usages.values()) for field in MEASURES))
        registers = " ".join(f"{usages[a].registers if a in usages else '-':>6}" for a in architectures)
        row = f"{names[kernel]:{width}} {worst.stack:6} {worst.spills:6} {worst.shared:7}"
        lines.append(f"{row}             {registers}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, nargs="+", help="what the build printed")
    parser.add_argument("--objects", type=Path, help="the folder of the build, for the disassembly")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    table = read("\n".join(path.read_text() for path in args.log))
    if not table:
        raise SystemExit("no kernel was found in the log: was it built with -Xptxas=-v?")
    print(render(table))
    if args.objects is not None:
        add_instructions(table, args.objects)
        print(f"\n{render_instructions(table) or 'no instructions were counted: cuobjdump was not found'}")
    if args.json is not None:
        args.json.write_text(json.dumps(by_name(table), indent=1) + "\n")
    usages = [usage for kernel in table.values() for usage in kernel.values()]
    spilling = sum(usage.spills > 0 for usage in usages)
    print(
        f"\n{len(table)} kernels, {len(usages)} builds: at most {max(u.registers for u in usages)} registers, "
        f"{max(u.shared for u in usages)} bytes of shared memory, {spilling} with spills",
        flush=True,
    )
    if spilling:
        raise SystemExit("a kernel spills registers to memory")


if __name__ == "__main__":
    main()
