"""The cases of ``--quick`` under pytest-benchmark, which has statistics, histograms and comparisons of its own.

``make bench-pytest``; ``ARGS='-k "affine_warp and not compiled"'`` chooses, ``--benchmark-save`` and
``--benchmark-compare`` keep and compare. One group is one case.
"""

from __future__ import annotations

import pytest
import torch

from .case import Case
from .cases import suite_cases
from .measure import Options, chosen

CASES = [case for case in suite_cases("ops", "cpu") if case.quick]


@pytest.mark.parametrize(
    ("case", "implementation"),
    [pytest.param(case, name, id=f"{case.name} {name}") for case in CASES for name in chosen(case, Options())],
)
def test_speed(benchmark, case: Case, implementation: str):
    torch.compiler.reset()
    benchmark.group = case.name
    benchmark(case.runners([implementation])[implementation])
