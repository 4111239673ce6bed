"""Sums of what the programs of a backward kernel found, in an order that the shapes alone decide."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 32, 16
MOST_STRIPS = 1024


def strips_per_sample(tiles: int, values: int, output_bytes: int) -> int:
    """How many programs share the tiles of a sample, if each leaves ``values`` float64 numbers.

    Their scratch stays within a hundredth of the sample's output and its gradient. The batch does not count, so that
    a sample's gradient is bitwise the same alone and among others.
    """
    return max(1, min(tiles, MOST_STRIPS, 2 * output_bytes // (100 * 8 * values)))


@triton.jit
def sum_rows_kernel(sums, rows, count, values, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    group = tl.cast(tl.program_id(0), tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float64)
    for first in range(0, count, ROWS):
        row = first + tl.arange(0, ROWS)
        offset = (group * count + row)[:, None] * values + column[None, :]
        total += tl.load(rows + offset, mask=(row < count)[:, None] & (column < values)[None, :], other=0.0)
    tl.store(sums + group * values + column, tl.sum(total, axis=0), mask=column < values)


def sum_rows(rows: Tensor) -> Tensor:
    """``[N, R, V]`` float64 to ``[N, V]``: the sum over R."""
    groups, count, values = rows.shape
    sums = torch.empty((groups, values), dtype=torch.float64, device=rows.device)
    grid = (groups, triton.cdiv(values, COLUMNS))
    sum_rows_kernel[grid](sums, rows, count, values, ROWS=ROWS, COLUMNS=COLUMNS)
    return sums


def sum_partials(partials: Tensor, shared: bool) -> Tensor:
    """``[B, strips, V]`` to ``[B, V]``, or to ``[1, V]`` where the samples share what the gradient is for."""
    sums = sum_rows(partials)
    return sum_rows(sums[None]) if shared else sums
