"""The Triton kernels of the warps: right in Triton's interpreter, and accepted by its compiler."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from interpreter import assert_passes_interpreted

FOLDER = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def _needs_triton():
    pytest.importorskip("triton", reason="needs the triton package")


def test_in_the_interpreter():
    assert_passes_interpreted(FOLDER / "interpreted_triton_warps.py")


def test_a_kernel_of_each_kind_compiles(tmp_path):
    """For one architecture; ``python kernels/triton_report.py`` compiles all for more, in minutes."""
    variables = {k: v for k, v in os.environ.items() if k not in ("HARDFAST_REQUIRE", "TRITON_INTERPRET")}
    variables["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, FOLDER.parent / "kernels" / "triton_report.py", "--quick"]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    kernels = "warp scatter to_image grad_matrix grad_spline grad_position gather grad_fill grad_color sum_rows"
    for kernel in kernels.split():
        assert f"{kernel}_kernel" in result.stdout, kernel
    # Versions of the assembler may keep a few bytes there for occupancy; sums that do not fit the registers take more.
    stacks = [int(size) for size in re.findall(r"(\d+) bytes of stack", result.stdout)]
    assert max(stacks) <= 64, result.stdout
