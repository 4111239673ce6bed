"""The Triton kernels of the warps: right in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
from interpreter import assert_passes_interpreted

FOLDER = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def _needs_triton():
    pytest.importorskip("triton", reason="needs the triton package")


def test_in_the_interpreter():
    assert_passes_interpreted(FOLDER / "interpreted_triton_warps.py")
