"""Triton kernel that multiplies gradients by a number on the GPU, which the host need not know to be 1."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hardfast._triton._device import on_device_of

BLOCK = 2048
PROGRAMS = 1024  # several for each multiprocessor; all of them end at once where the factor is 1


def forward(values: Tensor, factor: Tensor) -> None:
    """``values``, contiguous, times a tensor of one number."""
    if values.numel() == 0:
        return
    with on_device_of(values):
        scale_kernel[(min(triton.cdiv(values.numel(), BLOCK), PROGRAMS),)](values, factor, values.numel(), BLOCK=BLOCK)


@triton.jit
def scale_kernel(values, factor, count, BLOCK: tl.constexpr):
    by = tl.load(factor)
    if by != 1.0:
        stride = tl.num_programs(0).to(tl.int64) * BLOCK
        for start in range(tl.program_id(0).to(tl.int64) * BLOCK, count, stride):
            at = start + tl.arange(0, BLOCK)
            mask = at < count
            tl.store(values + at, tl.load(values + at, mask=mask) * by, mask=mask)
