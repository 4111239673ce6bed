"""The Triton kernels of guided_step, on the CPU by Triton's interpreter: its tests in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "test_guided_step.py"
# What reaches every branch of the kernels; `HARDFAST_BACKEND=triton TRITON_INTERPRET=1` runs all, in minutes.
SELECTED = [
    "test_equals_the_reference_in_float64",
    "test_without_guidance_the_prediction_is_used_itself",
    "test_at_most_twice_the_error_of_torch",
    "test_nan_and_infinity_stay_in_their_element",
    "test_strided_inputs_and_memory_formats",
    "test_mixed_dtypes_use_the_widest",
    "test_empty_batch",
    "test_vmap_over_the_schedule",
]


def test_in_the_interpreter():
    pytest.importorskip("triton")
    environment = {key: value for key, value in os.environ.items() if key != "HARDFAST_REQUIRE"}
    environment |= {"HARDFAST_BACKEND": "triton", "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, *(f"{TESTS}::{name}" for name in SELECTED)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert "plain PyTorch" not in result.stdout
