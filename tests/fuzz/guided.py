"""One reader under Atheris, in a process of its own, since libFuzzer ends the process and a crash would too.

python -m fuzz.guided READER INPUTS SEED SECONDS FOLDER
"""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType

import atheris
import numpy as np

from fuzz.reader import COUNTS, MEMORY, bounded_memory, make_reader

_MAX_BYTES = 1 << 16
_OWN_SHARE = 0.6  # of the inputs are made by the reader's own mutations, the others by libFuzzer's
_KEPT = 20  # failing inputs, each with another traceback


def main(name: str, inputs: int, seed: int, seconds: int, folder: Path) -> None:
    """Fuzzes one reader; does not return. The folder gets counts, failing inputs and libFuzzer's log on stderr."""
    warnings.simplefilter("ignore")
    scratch = tempfile.TemporaryDirectory(dir=MEMORY)
    reader = make_reader(name, Path(scratch.name))
    for module in reader.modules:
        _instrument(import_module(module))
    counts = np.memmap(folder / "counts", dtype=np.int64, mode="w+", shape=(len(COUNTS),))
    seen: set[str] = set()

    def one(content: bytes) -> None:
        try:
            counts[0 if reader.check(content) else 1] += 1
        except Exception:
            counts[2] += 1
            _keep(folder, content, traceback.format_exc(), seen)

    def mutated(content: bytes, most: int, mutation_seed: int) -> bytes:
        rng = random.Random(mutation_seed)
        if rng.random() < _OWN_SHARE:
            return reader.mutated(content, rng)[:most]
        return atheris.Mutate(content, most)

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(reader.seeds()):
        (corpus / f"seed-{number}").write_bytes(content)
    options = {
        "runs": inputs, "seed": seed + 1, "timeout": seconds, "max_len": _MAX_BYTES, "len_control": 0,
        "reduce_inputs": 0, "rss_limit_mb": 0, "artifact_prefix": f"{folder}/failure-",
        "print_final_stats": 1,
    }  # fmt: skip
    atheris.Setup(
        [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)],
        one,
        custom_mutator=mutated,
    )
    with bounded_memory():
        atheris.Fuzz()


def _instrument(module: ModuleType) -> None:
    """Has every function of a module report what runs. Atheris itself does it for packages as a whole alone."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) == module.__name__:
            for function in vars(value).values() if isinstance(value, type) else [value]:
                function = getattr(function, "__func__", function)
                if isinstance(function, FunctionType):
                    atheris.instrument_func(function)


def _keep(folder: Path, content: bytes, told: str, seen: set[str]) -> None:
    """Writes an input that failed as none before did: the same lines, whatever the values."""
    lines = "\n".join(line for line in told.splitlines() if line.lstrip().startswith("File "))
    if lines in seen or len(seen) >= _KEPT:
        return
    seen.add(lines)
    path = folder / f"failure-{hashlib.sha256(content).hexdigest()[:12]}"
    path.write_bytes(content)
    path.with_suffix(".txt").write_text(told)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5]))
