"""Triton kernels of ``kl_disagreement``; ``kernels/cpu/kl_disagreement.cpp`` states the formulas.

The forward sweeps a row once (twice for Jensen-Shannon, whose terms need the sums); the backward writes each gradient
once, from the statistics of the rows, whose columns ``kernels/kl_params.h`` names.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hardfast._triton._device import on_device_of
from hardfast._triton._logit_rows import (
    COMPUTE,
    compute_dtype,
    gradients,
    group_sum,
    kl_step,
    kl_term,
    load_tile,
    log1p_unit,
    probabilities,
    row_grads,
    row_indices,
    tile_of,
    with_contiguous_rows,
)

ROW_STATS = tl.constexpr(7)
DIVERGENCES = {"forward": 0, "reverse": 1, "jensen_shannon": 2}


def forward(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, divergence: str, group_rows: int, divisor: int
) -> tuple[Tensor, Tensor]:
    student, teacher = with_contiguous_rows(student_logits), with_contiguous_rows(teacher_logits)
    rows, classes = student.shape
    row_stats = torch.empty((rows, ROW_STATS.value), dtype=compute_dtype(student), device=student.device)
    tile = tile_of(classes)
    if rows:
        with on_device_of(student):
            forward_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
                student,
                teacher,
                row_stats,
                rows,
                classes,
                student.stride(0),
                teacher.stride(0),
                1 / temperature,
                DIVERGENCE=DIVERGENCES[divergence],
                DTYPE=COMPUTE.get(student.dtype, tl.float32),
                **tile,
            )
    values = row_stats[:, 5] + row_stats[:, 6]  # one of them is zero, but for Jensen-Shannon
    scale = temperature**2 * (0.5 if divergence == "jensen_shannon" else 1.0)
    loss = group_sum(values.clamp(min=0), group_rows) * scale / divisor
    return loss.to(row_stats.dtype), row_stats


def backward(
    grad: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    row_stats: Tensor,
    temperature: float,
    divergence: str,
    group_rows: int,
    divisor: int,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:
    grads = gradients(student_logits, teacher_logits, output_mask)
    options = (temperature, divergence, group_rows, divisor)
    _write_gradients(grad, student_logits, teacher_logits, row_stats, *options, grads, output_mask)
    return grads


def with_gradients(
    grad: Tensor | None,
    student_logits: Tensor,
    teacher_logits: Tensor,
    grad_student: Tensor | None,
    grad_teacher: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """Forward and backward in two launches, into gradients that may be the logits themselves."""
    loss, row_stats = forward(student_logits, teacher_logits, *options)
    grads = (grad_student, grad_teacher)
    mask = [g is not None for g in grads]
    _write_gradients(
        torch.ones_like(loss) if grad is None else grad, student_logits, teacher_logits, row_stats, *options,
        tuple(row_stats if g is None else g for g in grads), mask,
    )  # fmt: skip
    return loss, row_stats


def _write_gradients(
    grad: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    row_stats: Tensor,
    temperature: float,
    divergence: str,
    group_rows: int,
    divisor: int,
    grads: tuple[Tensor, Tensor],
    output_mask: list[bool],
) -> None:
    student, teacher = with_contiguous_rows(student_logits), with_contiguous_rows(teacher_logits)
    rows, classes = student.shape
    tile = tile_of(classes)
    if rows and any(output_mask):
        scaled_grad = grad.reshape(-1) * (temperature / divisor)
        with on_device_of(student):
            backward_kernel[(triton.cdiv(rows, tile["ROWS"]), triton.cdiv(classes, tile["BLOCK"]))](
                scaled_grad,
                student,
                teacher,
                row_stats,
                *grads,
                rows,
                classes,
                student.stride(0),
                teacher.stride(0),
                group_rows or rows,
                scaled_grad.stride(0),
                1 / temperature,
                TO_STUDENT=output_mask[0],
                TO_TEACHER=output_mask[1],
                DIVERGENCE=DIVERGENCES[divergence],
                DTYPE=COMPUTE.get(student.dtype, tl.float32),
                **tile,
            )


@triton.jit
def mixture_gaps(gap):
    """log(p / m) and log(q / m) of Jensen-Shannon, from gap = log p - log q and m = (p + q) / 2."""
    size = tl.abs(gap)
    larger = 0.693147180559945309 - log1p_unit(tl.exp(-size))
    smaller = larger - size
    return tl.where(gap < 0.0, smaller, larger), tl.where(gap < 0.0, larger, smaller)


@triton.jit
def forward_kernel(
    student,  # [N, K]
    teacher,
    row_stats,  # [N, ROW_STATS]
    row_count,
    classes,
    student_row,
    teacher_row,
    inverse_temperature: tl.float64,
    DIVERGENCE: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows, row_mask = row_indices(row_count, ROWS)
    scale = tl.full([1], inverse_temperature, DTYPE)
    shift_s = tl.full([ROWS], -float("inf"), DTYPE)
    shift_t = shift_s
    sum_s = tl.zeros([ROWS], DTYPE)
    sum_t = sum_s
    weighted = sum_s
    for start in range(0, classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        s = load_tile(student, rows, row_mask, student_row, columns, classes, DTYPE)
        t = load_tile(teacher, rows, row_mask, teacher_row, columns, classes, DTYPE)
        if DIVERGENCE == 0:
            shift_s, sum_s, shift_t, sum_t, weighted = kl_step(s, t, shift_s, sum_s, shift_t, sum_t, weighted, scale)
        else:
            shift_t, sum_t, shift_s, sum_s, weighted = kl_step(t, s, shift_t, sum_t, shift_s, sum_s, weighted, scale)

    gap = tl.log(sum_s) - tl.log(sum_t)
    from_teacher = tl.zeros([ROWS], DTYPE)
    from_student = from_teacher
    if DIVERGENCE == 0:
        divergence = weighted / sum_t + gap
        from_teacher = tl.where(divergence < 0.0, 0.0, divergence)  # negative only by rounding
    elif DIVERGENCE == 1:
        divergence = weighted / sum_s - gap
        from_student = tl.where(divergence < 0.0, 0.0, divergence)
    else:
        for start in range(0, classes, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            s = load_tile(student, rows, row_mask, student_row, columns, classes, DTYPE)
            t = load_tile(teacher, rows, row_mask, teacher_row, columns, classes, DTYPE)
            p_s, p_t, gaps = probabilities(s, t, shift_s, 1 / sum_s, shift_t, 1 / sum_t, gap, scale)
            gap_t, gap_s = mixture_gaps(gaps)
            from_teacher += tl.sum(kl_term(p_t, gap_t), 1)
            from_student += tl.sum(kl_term(p_s, gap_s), 1)

    stats = row_stats + rows * ROW_STATS
    tl.store(stats, shift_s, mask=row_mask)
    tl.store(stats + 1, 1 / sum_s, mask=row_mask)
    tl.store(stats + 2, shift_t, mask=row_mask)
    tl.store(stats + 3, 1 / sum_t, mask=row_mask)
    tl.store(stats + 4, gap, mask=row_mask)
    tl.store(stats + 5, from_teacher, mask=row_mask)
    tl.store(stats + 6, from_student, mask=row_mask)


@triton.jit
def backward_kernel(
    scaled_grad,  # [G], times T / divisor
    student,  # [N, K]
    teacher,
    row_stats,  # [N, ROW_STATS]
    grad_student,  # [N, K] contiguous
    grad_teacher,
    row_count,
    classes,
    student_row,
    teacher_row,
    group_rows,
    grad_stride,
    inverse_temperature: tl.float64,
    TO_STUDENT: tl.constexpr,
    TO_TEACHER: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows, row_mask = row_indices(row_count, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    scale = tl.full([1], inverse_temperature, DTYPE)
    grad = row_grads(scaled_grad, rows, row_mask, group_rows, grad_stride)[:, None]
    stats = row_stats + rows * ROW_STATS
    p_s, p_t, gaps = probabilities(
        load_tile(student, rows, row_mask, student_row, columns, classes, DTYPE),
        load_tile(teacher, rows, row_mask, teacher_row, columns, classes, DTYPE),
        tl.load(stats, mask=row_mask),
        tl.load(stats + 1, mask=row_mask),
        tl.load(stats + 2, mask=row_mask),
        tl.load(stats + 3, mask=row_mask),
        tl.load(stats + 4, mask=row_mask),
        scale,
    )
    from_teacher = tl.load(stats + 5, mask=row_mask)[:, None]
    from_student = tl.load(stats + 6, mask=row_mask)[:, None]
    if DIVERGENCE == 0:
        to_student = p_s - p_t
        to_teacher = kl_term(p_t, gaps - from_teacher)
    elif DIVERGENCE == 1:
        to_student = kl_term(p_s, -gaps - from_student)
        to_teacher = p_t - p_s
    else:
        gap_t, gap_s = mixture_gaps(gaps)
        to_student = 0.5 * kl_term(p_s, gap_s - from_student)
        to_teacher = 0.5 * kl_term(p_t, gap_t - from_teacher)
    at = rows[:, None] * classes + columns[None, :]
    mask = row_mask[:, None] & (columns < classes)[None, :]
    tl.debug_barrier()  # a gradient may take the place of logits, which several threads may read
    if TO_STUDENT:
        tl.store(grad_student + at, (grad * to_student).to(grad_student.dtype.element_ty), mask=mask)
    if TO_TEACHER:
        tl.store(grad_teacher + at, (grad * to_teacher).to(grad_teacher.dtype.element_ty), mask=mask)
