"""How many instructions a pixel takes in a CUDA kernel, read from the disassembly: what no GPU is needed for.

A kernel's loop over pixels is the smallest one with at least half of its memory accesses. Counted is the path through
it that accesses memory most, and of those the shortest: that of a pixel whose taps all lie in the image. Loops within
it, over blocks of channels, are passed once.
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


def pixel_instructions(folder: Path, architecture: int) -> dict[str, int]:
    """Kernel (mangled) -> instructions, of the object files below a folder; nothing without a disassembler."""
    command = disassembler()
    counts: dict[str, int] = {}
    for path in sorted(folder.rglob("*.cu.o")) if command else ():
        arguments = [str(command), "--dump-sass", "--gpu-architecture", f"sm_{architecture}", str(path)]
        text = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        for name, code in functions(text):
            if (count := count_pixel(code)) is not None:
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


def count_pixel(code: Code) -> int | None:
    """The instructions of one turn of the loop over pixels; None where there is no loop with memory accesses."""
    place = {address: k for k, (address, _) in enumerate(code)}
    loops = [
        (place[target], k)
        for k, (address, text) in enumerate(code)
        if (target := _branch(text)) is not None and target < address and target in place
    ]
    sizes = [_access(text) for _, text in code]
    found = [(last - first, first, last) for first, last in loops if 2 * sum(sizes[first : last + 1]) >= sum(sizes) > 0]
    if not found:
        return None
    _, first, last = min(found)
    # From every instruction of the loop to its end: the most bytes, then the fewest instructions.
    best = {last: (-sizes[last], 1)}
    for k in range(last - 1, first - 1, -1):
        _, text = code[k]
        target = _branch(text)
        after = [] if target is None else [place.get(target, -1)]
        if target is None or _is_conditional(text):
            after.append(k + 1)
        if _operation(text) in ("EXIT", "RET") and not GUARD.match(text):
            after = []
        ways = [(best[n][0] - sizes[k], best[n][1] + 1) for n in after if n > k and n in best]
        if ways:
            best[k] = min(ways)
    return best[first][1] if first in best else None


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
