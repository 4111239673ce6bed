"""Fuzzes the readers of files, and says what became of the inputs.

    PYTHONPATH=tests python -m fuzz --inputs 100000 --seed 0
    PYTHONPATH=tests python -m fuzz --reproduce build/fuzz/idx/failure-0123456789ab

The same seed gives the same inputs. Failing inputs are kept, with their tracebacks, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fuzz.reader import COUNTS, READERS, bounded_memory, make_reader


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--readers", nargs="+", default=list(READERS), metavar="READER", help=", ".join(READERS))
    parser.add_argument("--inputs", type=int, default=100_000, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=10, help="that reading one input may take")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where inputs and logs are kept")
    parser.add_argument("--reproduce", type=Path, help="checks one input again, instead: FOLDER/READER/failure-...")
    arguments = parser.parse_args()
    if arguments.reproduce:
        return reproduce(arguments.reproduce)
    if find_spec("atheris") is None:
        sys.exit("atheris is missing: pip install atheris, which is made for Linux on x86-64 and Python 3.11 to 3.13")
    rows = [fuzz(name, arguments) for name in arguments.readers]
    print(table(rows))
    failures = [path for name in arguments.readers for path in failing_inputs(arguments.folder / name)]
    for path in failures:
        print(f"PYTHONPATH=tests python -m fuzz --reproduce {path}")
    return 1 if failures or any(row["failed"] != "0" for row in rows) else 0


def fuzz(name: str, arguments: argparse.Namespace) -> dict[str, str]:
    """Fuzzes one reader in a process of its own; returns its row of the table."""
    mine = arguments.folder / name
    shutil.rmtree(mine, ignore_errors=True)
    mine.mkdir(parents=True)
    start = time.monotonic()
    numbers = map(str, (arguments.inputs, arguments.seed, arguments.seconds))
    command = [sys.executable, "-m", "fuzz.guided", name, *numbers, str(mine.resolve())]
    with open(mine / "log", "w") as log, tqdm(total=arguments.inputs, desc=name, disable=None) as bar:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.2)
            bar.update(int(sum(counts(mine))) - bar.n)
    ended = process.returncode
    accepted, refused, failed = counts(mine)
    coverage = re.findall(r"cov: (\d+)", (mine / "log").read_text(errors="replace"))
    return {
        "reader": name,
        "inputs": str(accepted + refused + failed),
        "accepted": str(accepted),
        "refused": str(refused),
        "failed": str(failed) if ended == 0 else f"{failed}, ended with {ended}: see {mine / 'log'}",
        "edges": coverage[-1] if coverage else "-",
        "seconds": f"{time.monotonic() - start:.0f}",
    }


def counts(folder: Path) -> list[int]:
    """How many inputs were accepted, refused and failed so far."""
    path = folder / "counts"
    if not path.exists() or path.stat().st_size < 8 * len(COUNTS):
        return [0] * len(COUNTS)
    return np.fromfile(path, dtype=np.int64).tolist()


def failing_inputs(folder: Path) -> list[Path]:
    """Those that failed a check, crashed the process or took too long."""
    return sorted(path for path in folder.glob("failure-*") if path.suffix != ".txt")


def table(rows: list[dict[str, str]]) -> str:
    """Rows under their names, in columns."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def reproduce(path: Path) -> int:
    """Checks one input; what fails leaves its traceback."""
    with tempfile.TemporaryDirectory() as folder:
        reader = make_reader(path.resolve().parent.name, Path(folder))
        with bounded_memory():
            accepted = reader.check(path.read_bytes())
    print("accepted, and read rightly" if accepted else "refused as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
