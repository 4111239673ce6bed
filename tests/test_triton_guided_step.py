"""The Triton kernels of guided_step, on the CPU by Triton's interpreter: its tests in a process of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from interpreter import assert_passes_interpreted

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
    assert_passes_interpreted(*(f"{TESTS}::{name}" for name in SELECTED))
