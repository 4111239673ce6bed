"""What a reader needs to judge or repeat the numbers of a run: commit, versions, machine, command."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["run_header"]

_PACKAGES = ("hardfast", "torch", "torchvision", "timm", "numpy", "scikit-learn", "safetensors")


def run_header() -> dict[str, Any]:
    """Return the header of results.json, without its seconds; it holds no user or host name."""
    commit, modified = _git_commit()
    return {
        "commit": commit,
        "modified": modified,
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": _machine(),
        "threads": _threads(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            # An imported module may know its build as well ("2.10.0+cpu"), which the metadata leave out.
            found[package] = str(getattr(sys.modules.get(package), "__version__", None) or version(package))
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> tuple[str | None, bool | None]:
    """Return the commit of this source tree and whether tracked files differ from it; (None, None) outside git."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # Installed below somebody else's repository, this file is not tracked and the commit there says nothing.
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": _cpu_name(),
        "cores": cores,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _threads() -> int | None:
    """Return torch's thread count, without importing torch for it."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else None
