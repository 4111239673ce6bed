"""What the Triton kernels on rows of logits share: tiles, launches, and sums of exponentials found in one sweep."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COMPUTE = {torch.float64: tl.float64}  # of the logits' dtype, else float32
LARGEST_BLOCK = 4096  # classes that a program holds at once
TILE = 2048  # logits that a program holds at once, of several rows where they are short


def tile_of(classes: int) -> dict[str, int]:
    """Rows and classes of a program's tile, and its warps."""
    block = min(triton.next_power_of_2(classes), LARGEST_BLOCK)
    rows = max(1, TILE // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": 8 if rows * block > TILE else 4}


def with_contiguous_rows(logits: Tensor) -> Tensor:
    return logits if logits.shape[1] == 1 or logits.stride(1) == 1 else logits.contiguous()


def compute_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def group_sum(rows: Tensor, group_rows: int) -> Tensor:
    """The sums of ``rows`` ``[N]`` over its groups, in float64."""
    if group_rows == 0:
        return rows.sum(dtype=torch.float64)
    return rows.double() if group_rows == 1 else rows.unflatten(0, (-1, group_rows)).sum(1, dtype=torch.float64)


def gradients(student: Tensor, teacher: Tensor, output_mask: list[bool]) -> tuple[Tensor, Tensor]:
    """Room for the gradients, contiguous; of shape [0] where not asked for."""
    return (
        student.new_empty(student.shape if output_mask[0] else [0]),
        teacher.new_empty(teacher.shape if output_mask[1] else [0]),
    )


@triton.jit
def row_indices(row_count, ROWS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return rows, rows < row_count


@triton.jit
def load_tile(logits, rows, row_mask, row_stride, columns, classes, dtype: tl.constexpr):
    """``[ROWS, BLOCK]``; classes beyond the last one are impossible."""
    mask = row_mask[:, None] & (columns < classes)[None, :]
    values = tl.load(logits + rows[:, None] * row_stride + columns[None, :], mask=mask, other=-float("inf"))
    return values.to(dtype)


@triton.jit
def finite_shift(shift):
    """Where all logits so far are impossible, any finite shift leaves their sum at zero."""
    return tl.where(shift == -float("inf"), 0.0, shift)


@triton.jit
def risen(old_shift, new_shift, scale):
    """By how much the largest scaled logit has risen; 0 for the first."""
    return tl.where(old_shift == -float("inf"), 0.0, (new_shift - old_shift) * scale)


@triton.jit
def exp_sum_step(logits, shift, total, scale):
    """Takes another tile into the largest logit and the sum of exp((logit - shift) * scale)."""
    new_shift = tl.maximum(shift, tl.max(logits, 1))
    scaled = (logits - finite_shift(new_shift)[:, None]) * scale
    total = total * tl.exp(-risen(shift, new_shift, scale)) + tl.sum(tl.exp(scaled), 1)
    return new_shift, total


@triton.jit
def kl_term(p, gap):
    """Classes of probability zero count as zero; NaN stays."""
    return tl.where(p == 0.0, 0.0, p * gap)


@triton.jit
def kl_step(s, t, shift_s, sum_s, shift_t, sum_t, weighted, scale):
    """Takes another tile into the sums of exp of both, and of exp_t * (t - s); all scaled and shifted."""
    new_s, new_t = tl.maximum(shift_s, tl.max(s, 1)), tl.maximum(shift_t, tl.max(t, 1))
    rise_s, rise_t = risen(shift_s, new_s, scale), risen(shift_t, new_t, scale)
    fade_t = tl.exp(-rise_t)
    s = (s - finite_shift(new_s)[:, None]) * scale
    t = (t - finite_shift(new_t)[:, None]) * scale
    exp_t = tl.exp(t)
    moved = weighted + kl_term(sum_t, rise_s - rise_t)  # the differences under the new shifts
    weighted = kl_term(fade_t, moved) + tl.sum(kl_term(exp_t, t - s), 1)
    sum_s = sum_s * tl.exp(-rise_s) + tl.sum(tl.exp(s), 1)
    sum_t = sum_t * fade_t + tl.sum(exp_t, 1)
    return new_s, sum_s, new_t, sum_t, weighted


@triton.jit
def probabilities(s, t, student_shift, student_inverse, teacher_shift, teacher_inverse, log_sum_gap, scale):
    """Of a tile of both, and the gap log p_t - log p_s."""
    s = (s - student_shift[:, None]) * scale
    t = (t - teacher_shift[:, None]) * scale
    return tl.exp(s) * student_inverse[:, None], tl.exp(t) * teacher_inverse[:, None], t - s + log_sum_gap[:, None]


@triton.jit
def log1p_unit(x):
    """log(1 + x) for x in 0 .. 1, with all digits of a small x."""
    above = 1.0 + x
    return tl.where(above == 1.0, x, tl.log(above) * (x / tl.where(above == 1.0, 1.0, above - 1.0)))


@triton.jit
def row_grads(grad, rows, row_mask, group_rows, grad_stride):
    """The gradient of the loss that each row belongs to."""
    return tl.load(grad + rows // group_rows * grad_stride, mask=row_mask, other=0.0)
