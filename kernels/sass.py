"""How many instructions pixels take in a CUDA kernel, read from the disassembly: what no GPU is needed for.

Counted is the path through a loop that accesses memory most, and of those the shortest: that of pixels whose taps all
lie in the image. Loops within it, over blocks of channels, are passed once. The loop over pixels is the smallest one
whose path does at least two thirds of what any loop's does.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

FUNCTION = re.compile(r"Function : (\w+)")
INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
GUARD = re.compile(r"@!?U?P\w+\s+")
TARGET = re.compile(r"(0x[0-9a-f]+)$")
BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}  # of an access, else 4
ACCESSES = ("LDG", "STG", "ATOMS", "ATOM", "RED")

Code = list[tuple[int, str]]  # address and instruction


def disassembler() -> str | None:
    """``cuobjdump`` of the toolkit, or the one that Triton brings along."""
    if found := shutil.which("cuobjdump"):
        return found
    try:
        triton = importlib.metadata.distribution("triton")
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(triton.locate_file("triton/backends/nvidia/bin/cuobjdump")))
    return str(path) if path.exists() else None


def turn_instructions(folder: Path, architecture: int) -> dict[str, int]:
    """Kernel (mangled) -> instructions, of the object files below a folder; nothing without a disassembler."""
    command = disassembler()
    counts: dict[str, int] = {}
    for path in sorted(folder.rglob("*.cu.o")) if command else ():
        arguments = [str(command), "--dump-sass", "--gpu-architecture", f"sm_{architecture}", str(path)]
        text = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        for name, code in functions(text):
            if (count := count_turn(code)) is not None:
                counts[name] = count
    return counts


def functions(text: str) -> Iterator[tuple[str, Code]]:
    name, code = "", Code()
    for line in text.splitlines():
        if match := FUNCTION.search(line):
            if name:
                yield name, code
            name, code = match[1], []
        elif match := INSTRUCTION.match(line):
            code.append((int(match[1], 16), match[2]))
    if name:
        yield name, code


def count_turn(code: Code) -> int | None:
    """The instructions of one turn of the loop over pixels; None where there is no loop with memory accesses."""
    place = {address: k for k, (address, _) in enumerate(code)}
    ends = [
        (place[target], k)
        for k, (address, text) in enumerate(code)
        if (target := _branch(text)) is not None and target < address and target in place
    ]
    paths = [(last - first, path) for first, last in ends if (path := _heaviest_path(code, place, first, last))]
    most = max((size for _, (size, _) in paths), default=0)
    turns = [(length, count) for length, (size, count) in paths if 3 * size >= 2 * most > 0]
    return min(turns)[1] if turns else None


def _heaviest_path(code: Code, place: dict[int, int], first: int, last: int) -> tuple[int, int] | None:
    """From the first to the last instruction of a loop: the most bytes, then the fewest instructions."""
    best = {last: (-_access(code[last][1]), 1)}
    for k in range(last - 1, first - 1, -1):
        _, text = code[k]
        target = _branch(text)
        after = [] if target is None else [place.get(target, -1)]
        if target is None or _is_conditional(text):
            after.append(k + 1)
        if _operation(text) in ("EXIT", "RET") and not GUARD.match(text):
            after = []
        ways = [(best[n][0] - _access(text), best[n][1] + 1) for n in after if n > k and n in best]
        if ways:
            best[k] = min(ways)
    return (-best[first][0], best[first][1]) if first in best else None


def _operation(text: str) -> str:
    return GUARD.sub("", text).split()[0].split(".")[0]


def _branch(text: str) -> int | None:
    match = TARGET.search(text) if _operation(text) == "BRA" else None
    return int(match[1], 16) if match else None


def _is_conditional(text: str) -> bool:
    return GUARD.match(text) is not None or re.search(r"BRA\S*\s+!?U?P\w", text) is not None


def _access(text: str) -> int:
    """Bytes that an instruction moves for a thread, in global memory or by an atomic operation."""
    words = GUARD.sub("", text).split()[0].split(".")
    return next((BYTES[word] for word in words[1:] if word in BYTES), 4) if words[0] in ACCESSES else 0
