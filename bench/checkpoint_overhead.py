"""What share of a training's time goes into checkpoints, logging and the check of every step.

    python bench/checkpoint_overhead.py --recipe hard-digits --checkpoint-every 60s -- --seeds 1

Options after ``--`` are those of ``hardfast train``. The run is an ordinary one in a temporary directory; each call of
what is measured is timed inside it, so that neither noise between runs nor another process on the machine decides.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardfast.cli import main as hardfast
from hardfast.distill.finite_steps import FiniteSteps
from hardfast.distill.metrics_log import MetricsLog
from hardfast.distill.run_dir import MethodDir
from hardfast.distill.trainer import Trainer

#: What is measured; nothing in it calls another of them.
_PARTS = {
    "checkpoints": (Trainer, "_save_checkpoint"),
    "metrics and TensorBoard": (MetricsLog, "log"),
    "weights for the report": (MethodDir, "save_weights"),
    "snapshots for the report": (MethodDir, "save_arrays"),
    "check of every step": (FiniteSteps, "judge"),
}


def main() -> int:
    """Trains once and prints the table; returns the exit status of the training."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="hard-digits")
    parser.add_argument("--checkpoint-every", default="60s")
    parser.add_argument("options", nargs="*", help="of hardfast train")
    arguments = parser.parse_args()
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for name, (owner, method) in {"training": (Trainer, "fit"), **_PARTS}.items():
        _time(owner, method, name, seconds, calls)
    with tempfile.TemporaryDirectory() as folder:
        options = [*arguments.options, "--checkpoint-every", arguments.checkpoint_every]
        status = hardfast(["train", arguments.recipe, *options, "--out", str(Path(folder) / "run")])
    print(f"\ntraining {seconds['training']:.1f} s")
    for name in (*_PARTS, "together"):
        spent = sum(seconds[part] for part in _PARTS) if name == "together" else seconds[name]
        count = f"{calls[name]:7,} calls" if name in calls else " " * 13
        print(f"{name:26s} {count} {spent:8.2f} s {spent / seconds['training']:7.2%}")
    return status


def _time(owner: Any, method: str, name: str, seconds: Counter[str], calls: Counter[str]) -> None:
    original: Callable[..., Any] = getattr(owner, method)

    def timed(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **options)
        finally:
            seconds[name] += time.perf_counter() - start  # type: ignore[assignment]
            calls[name] += 1

    setattr(owner, method, timed)


if __name__ == "__main__":
    raise SystemExit(main())
