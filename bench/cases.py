"""Everything that is measured."""

from __future__ import annotations

from . import row_cases, step_cases, warp_cases
from .case import Case

SUITES = ("ops", "steps", "diffusion")


def suite_cases(suite: str, device: str) -> list[Case]:
    """The cases of a suite on a device; the same list on every machine, whatever is installed."""
    if suite == "steps":
        return step_cases.step_cases(device)
    if suite == "diffusion":
        return step_cases.diffusion_cases(device)
    if device == "cuda":
        return warp_cases.gpu_cases() + row_cases.gpu_cases()
    return warp_cases.cpu_cases() + row_cases.cpu_cases()


def all_cases(device: str = "cpu") -> list[Case]:
    return [case for suite in SUITES for case in suite_cases(suite, device)]
