"""Everything that is measured."""

from __future__ import annotations

from . import row_cases, warp_cases
from .case import Case

SUITES = ("ops",)


def all_cases(device: str = "cpu") -> list[Case]:
    """The cases of a device; the same list on every machine, whatever is installed."""
    modules = (warp_cases, row_cases)
    return [case for module in modules for case in (module.cpu_cases() if device == "cpu" else module.gpu_cases())]
