"""Kills ``hardfast train`` at random moments, resumes it each time, and compares with a run that was never stopped.

    python tests/kill_and_resume.py --recipe hard-digits --kills 20 --seed 0 -- --seeds 1

Options after ``--`` are those of ``hardfast train``. The moments are drawn evenly over the time that the uninterrupted
run took, start of the program left out; each kill is a SIGKILL. The exit status is 0 if everything but times is equal.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from hardfast.distill.checkpoint import read_checkpoint

_TIMES = ("images_per_second", "candidates_per_second")


def main() -> int:
    """Runs the proof; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="hard-digits")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="where the two runs are kept; a temporary directory if not given")
    parser.add_argument("options", nargs="*", help="of hardfast train")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        train = [arguments.recipe, *arguments.options]
        seconds = run_whole(work / "whole", train)
        print(f"uninterrupted: {seconds:.1f} s", flush=True)
        killed = run_killed(work / "killed", train, arguments.kills, seconds, random.Random(arguments.seed))
        found = differences(work / "whole", work / "killed")
        print(f"{killed} kills; {len(found)} differences")
        print("\n".join(found))
        return int(bool(found) or killed < arguments.kills)


def run_whole(out: Path, train: list[str]) -> float:
    """Trains without a stop; returns the seconds from the first file of the run to the end."""
    with _begin(out, train) as process:
        _wait_for_files(out, process)
        start = time.perf_counter()
        if process.wait():
            raise RuntimeError(f"hardfast train ended with exit status {process.returncode}")
        return time.perf_counter() - start


def run_killed(out: Path, train: list[str], kills: int, seconds: float, moments: random.Random) -> int:
    """Trains with that many kills, and to the end; returns how many there were before it was reached.

    Args:
        out: directory of the run.
        train: recipe and options.
        kills: how many.
        seconds: that the whole run takes.
        moments: where the time of each kill after the last one comes from; together they are about ``seconds``.
    """
    for number in range(kills):
        with _begin(out, train) as process:
            _wait_for_files(out, process)
            try:
                status = process.wait(moments.uniform(0, 2 * seconds / (kills + 1)))
            except subprocess.TimeoutExpired:
                process.kill()
                continue
            if status:
                raise RuntimeError(f"hardfast train ended with exit status {status}")
            return number
    with _begin(out, train) as process:
        if process.wait():
            raise RuntimeError(f"hardfast train ended with exit status {process.returncode}")
    return kills


def differences(first: Path, second: Path) -> list[str]:
    """A sentence for each file of two runs that is not the same, times left out."""
    files = [_files(run) for run in (first, second)]
    found = [f"{name} is in one run alone" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        if _content(first / name) != _content(second / name):
            found.append(f"{name} differs")
    return found


def _files(run: Path) -> set[str]:
    left_out = ("tensorboard", "report.html")  # TensorBoard's have the time in their names, the report has it in text
    paths = [path for path in run.rglob("*") if path.is_file() and not set(left_out) & set(path.parts)]
    # Checkpoints on the way are where time or a kill had them, and the last one is at the end of the training.
    on_the_way = [path for path in paths if path.suffix == ".pt" and path != max(path.parent.iterdir())]
    return {str(path.relative_to(run)) for path in paths if path not in on_the_way}


def _content(path: Path) -> Any:
    """What a file says, without times, in a form that ``==`` compares bit by bit."""
    if path.name == "results.json":
        return json.loads(path.read_bytes())["rows"]
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        return [{name: value for name, value in line.items() if name not in _TIMES} for line in lines]
    if path.suffix == ".safetensors":
        return {name: _bits(array) for name, array in load_file(path).items()}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _bits(arrays[name]) for name in arrays.files}
    if path.suffix == ".pt":
        return _comparable(read_checkpoint(path)["trainer"])
    return path.read_bytes()


def _comparable(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _comparable(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_comparable(value) for value in state]
    return _bits(state.numpy()) if hasattr(state, "numpy") else repr(state)  # NaN is equal to NaN there


def _bits(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return str(array.dtype), array.shape, array.tobytes()


def _begin(out: Path, train: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hardfast.cli", "train", *train, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _wait_for_files(out: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not (out / ".unfinished").exists():
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
