"""The check for NaN and infinity, which the CPU does in one loop of its own."""

from __future__ import annotations

import math

import pytest
import torch

from hardfast.ops import _checks

SHAPES = [(), (0,), (1,), (6,), (3, 7, 11), (1024, 2, 3)]


@pytest.mark.parametrize("dtype", _checks.FLOATING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_finite_numbers_pass_however_large(shape, dtype):
    _checks.finite("theta", torch.full(shape, torch.finfo(dtype).max, dtype=dtype, requires_grad=True))
    _checks.finite("theta", torch.full(shape, torch.finfo(dtype).smallest_normal / 4, dtype=dtype))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", _checks.FLOATING, ids=str)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape], ids=str)
def test_one_that_is_not_is_found_anywhere(shape, dtype, wrong):
    for place in {0, math.prod(shape) // 2, math.prod(shape) - 1}:
        values = torch.randn(shape).to(dtype)
        values.view(-1)[place] = wrong
        with pytest.raises(ValueError, match=rf"theta must be finite, got {wrong} at \["):
            _checks.finite("theta", values)


def test_tensors_that_lie_in_memory_otherwise():
    values = torch.zeros(6, 8)
    values[1, 3] = math.nan
    _checks.finite("theta", values[::2])
    _checks.finite("theta", values.t()[::2])
    for view in (values.t(), values[1:2, 3:4].expand(4, 4), values[:, 1::2]):
        with pytest.raises(ValueError, match="theta"):
            _checks.finite("theta", view)
    _checks.finite("flow", values, at_most=47)
