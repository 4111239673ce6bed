"""Tests in Triton's interpreter: it is chosen when Triton is imported, so they run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def assert_passes_interpreted(*tests: str | Path) -> None:
    """Runs tests with every op served by interpreted Triton kernels, in a pytest of their own."""
    environment = {name: value for name, value in os.environ.items() if name != "HARDFAST_REQUIRE"}
    environment |= {"HARDFAST_BACKEND": "triton", "TRITON_INTERPRET": "1"}
    overflows = "ignore::RuntimeWarning:triton.runtime.interpreter"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-W", overflows]
    result = subprocess.run([*command, *map(str, tests)], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "plain PyTorch" not in result.stdout  # the warning of an op that Triton does not serve
