"""Which machine, which versions, and how fast the machine can copy and multiply."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hardfast import __version__, _native

from .roofline import Rates

DISTRIBUTIONS = (
    "kornia",
    "torchvision",
    "opencv-python-headless",
    "diffusers",
    "triton",
    "triton-augment",
    "liger-kernel",
)
_ROOT = Path(__file__).resolve().parents[1]
_COPY_MIB = 256
_REPEATS = 20
_MATRIX = {"cpu": 1024, "cuda": 8192}


def describe(device: str, threads: int) -> dict[str, Any]:
    """What stands at the head of a file of results."""
    return {
        "hardfast": __version__,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.date.today().isoformat(),
        "device": device,
        "machine": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
        "cpu_isa": _native.cpu_isa(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__} | _versions(),
    }


def cpu_model() -> str:
    """As the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def rates(device: str, dtype: str, threads: int) -> Rates:
    """Measured: bytes copied, and operations of a matrix product in float32 or in the dtype, whichever has more."""
    dtypes = {torch.float32, getattr(torch, dtype)}
    multiply = max(_multiply_rate(device, kind) for kind in dtypes)
    copy = _native.copy_bandwidth(_COPY_MIB, threads, _REPEATS) if device == "cpu" else _device_copy_rate()
    return Rates(copy, multiply)


def _multiply_rate(device: str, dtype: torch.dtype) -> float:
    n = _MATRIX[device]
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / _best_seconds(lambda: a @ b, device)


def _device_copy_rate() -> float:
    source = torch.zeros(_COPY_MIB << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / _best_seconds(lambda: target.copy_(source), "cuda")


def _best_seconds(function: Any, device: str) -> float:
    """The best, as interruptions only ever slow down."""
    if device == "cuda":
        from triton.testing import do_bench

        return do_bench(function, return_mode="min") / 1e3
    function()
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    """What git says of the source that this file is in; None where it is installed, or no repository."""
    if not (_ROOT / "pyproject.toml").exists():
        return None
    try:
        run = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None
