"""Comparison helpers: how this project judges an op, for whoever uses or extends one."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_exact(result: Tensor, peer: Tensor, exact: Tensor, *, factor: float = 2.0) -> None:
    """Asserts that ``result`` is at most ``factor`` times as far from ``exact`` as ``peer`` is.

    One rounding of the largest value is granted besides: below it, whose error is larger is a matter of chance.

    Args:
        result: what is judged.
        peer: PyTorch's own answer in the same dtype.
        exact: the answer in float64.
        factor: how many times the peer's largest error is allowed.
    """
    if result.shape != exact.shape:
        raise AssertionError(f"shape {list(result.shape)}, expected {list(exact.shape)}")
    if exact.numel() == 0:
        return
    rounding = torch.finfo(result.dtype).eps * exact.abs().max().item()
    allowed = factor * largest_error(peer, exact) + rounding
    error = largest_error(result, exact)
    if not error <= allowed:
        raise AssertionError(f"largest error {error:.3e}, allowed {allowed:.3e} ({factor} x the peer's + a rounding)")


def largest_error(result: Tensor, exact: Tensor) -> float:
    """The largest absolute difference; infinite if one is NaN where the other is not."""
    if not torch.equal(result.isnan(), exact.isnan()):
        return float("inf")
    difference = (result.double() - exact.double()).abs()
    return float(difference.nan_to_num(nan=0.0, posinf=float("inf")).max())
