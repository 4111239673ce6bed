"""Triton kernels of ``kl_disagreement``; ``kernels/cpu/kl_disagreement.cpp`` states the formulas.

The forward sweeps a row once (twice for Jensen-Shannon, whose terms need the sums), and once more where gradients are
asked for in the same launch; a row that fits one tile is read once for all of it. The backward writes each gradient
once, from the statistics of the rows, whose columns ``kernels/kl_params.h`` names.
"""

from __future__ import annotations

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
MOST_SUMMED = 1 << 13  # rows that one program sums
DIVERGENCES = {"forward": 0, "reverse": 1, "jensen_shannon": 2}


def forward(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, divergence: str, group_rows: int, divisor: int
) -> tuple[Tensor, Tensor]:
    return with_gradients(
        None, student_logits, teacher_logits, None, None, temperature, divergence, group_rows, divisor
    )


def with_gradients(
    grad: Tensor | None,
    student_logits: Tensor,
    teacher_logits: Tensor,
    grad_student: Tensor | None,
    grad_teacher: Tensor | None,
    temperature: float,
    divergence: str,
    group_rows: int,
    divisor: int,
) -> tuple[Tensor, Tensor]:
    """The loss, and in the same launch the gradients that are asked for, which may take the place of the logits."""
    for target, logits in ((grad_student, student_logits), (grad_teacher, teacher_logits)):
        if target is not None and not (target.is_contiguous() and target.shape == logits.shape):
            raise ValueError(f"a gradient must be contiguous, {list(logits.shape)}, got {list(target.shape)}")
    student, teacher = with_contiguous_rows(student_logits), with_contiguous_rows(teacher_logits)
    rows, classes = student.shape
    row_stats = torch.empty((rows, ROW_STATS.value), dtype=compute_dtype(student), device=student.device)
    tile = tile_of(classes)
    if rows:
        scaled_grad = row_stats if grad is None else grad.reshape(-1) * (temperature / divisor)
        with on_device_of(student):
            forward_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
                student,
                teacher,
                row_stats,
                scaled_grad,
                row_stats if grad_student is None else grad_student,
                row_stats if grad_teacher is None else grad_teacher,
                rows,
                classes,
                student.stride(0),
                teacher.stride(0),
                group_rows or rows,
                scaled_grad.stride(0),
                1 / temperature,
                temperature / divisor,
                TO_STUDENT=grad_student is not None,
                TO_TEACHER=grad_teacher is not None,
                WEIGHTED=grad is not None,
                ONE_TILE=classes <= tile["BLOCK"],
                DIVERGENCE=DIVERGENCES[divergence],
                DTYPE=COMPUTE.get(student.dtype, tl.float32),
                **tile,
            )
    scale = temperature**2 * (0.5 if divergence == "jensen_shannon" else 1.0)
    return _sum_rows(row_stats, group_rows, scale, divisor), row_stats


def _sum_rows(row_stats: Tensor, group_rows: int, scale: float, divisor: int) -> Tensor:
    rows = row_stats.shape[0]
    if group_rows == 0 and 0 < rows <= MOST_SUMMED:
        loss = row_stats.new_empty(())
        with on_device_of(row_stats):
            sum_kernel[(1,)](row_stats, loss, rows, scale / divisor, BLOCK=min(triton.next_power_of_2(rows), 1024))
        return loss
    values = row_stats[:, 5] + row_stats[:, 6]  # one of them is zero, but for Jensen-Shannon
    return (group_sum(values.clamp(min=0), group_rows) * scale / divisor).to(row_stats.dtype)


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
    return grads


@triton.jit
def mixture_gaps(gap):
    """log(p / m) and log(q / m) of Jensen-Shannon, from gap = log p - log q and m = (p + q) / 2."""
    size = tl.abs(gap)
    larger = 0.693147180559945309 - log1p_unit(tl.exp(-size))
    smaller = larger - size
    return tl.where(gap < 0.0, smaller, larger), tl.where(gap < 0.0, larger, smaller)


@triton.jit
def sweep_step(s, t, shift_s, sum_s, shift_t, sum_t, weighted, scale, DIVERGENCE: tl.constexpr):
    if DIVERGENCE == 0:
        shift_s, sum_s, shift_t, sum_t, weighted = kl_step(s, t, shift_s, sum_s, shift_t, sum_t, weighted, scale)
    else:
        shift_t, sum_t, shift_s, sum_s, weighted = kl_step(t, s, shift_t, sum_t, shift_s, sum_s, weighted, scale)
    return shift_s, sum_s, shift_t, sum_t, weighted


@triton.jit
def mixture_terms(s, t, shift_s, sum_s, shift_t, sum_t, gap, scale):
    """What a tile adds to the divergences of teacher and student from their mixture."""
    p_s, p_t, gaps = probabilities(s, t, shift_s, 1 / sum_s, shift_t, 1 / sum_t, gap, scale)
    gap_t, gap_s = mixture_gaps(gaps)
    return tl.sum(kl_term(p_t, gap_t), 1), tl.sum(kl_term(p_s, gap_s), 1)


@triton.jit
def write_gradients(
    s,
    t,
    shift_s,
    inverse_s,
    shift_t,
    inverse_t,
    gap,
    from_teacher,
    from_student,
    grad,  # to the divergence of each row
    grad_student,
    grad_teacher,
    rows,
    row_mask,
    columns,
    classes,
    scale,
    TO_STUDENT: tl.constexpr,
    TO_TEACHER: tl.constexpr,
    DIVERGENCE: tl.constexpr,
):
    """Of one tile."""
    p_s, p_t, gaps = probabilities(s, t, shift_s, inverse_s, shift_t, inverse_t, gap, scale)
    if DIVERGENCE == 0:
        to_student = p_s - p_t
        to_teacher = kl_term(p_t, gaps - from_teacher[:, None])
    elif DIVERGENCE == 1:
        to_student = kl_term(p_s, -gaps - from_student[:, None])
        to_teacher = p_t - p_s
    else:
        gap_t, gap_s = mixture_gaps(gaps)
        to_student = 0.5 * kl_term(p_s, gap_s - from_student[:, None])
        to_teacher = 0.5 * kl_term(p_t, gap_t - from_teacher[:, None])
    at = rows[:, None] * classes + columns[None, :]
    mask = row_mask[:, None] & (columns < classes)[None, :]
    tl.debug_barrier()  # a gradient may take the place of logits, which several threads may read
    if TO_STUDENT:
        tl.store(grad_student + at, (grad[:, None] * to_student).to(grad_student.dtype.element_ty), mask=mask)
    if TO_TEACHER:
        tl.store(grad_teacher + at, (grad[:, None] * to_teacher).to(grad_teacher.dtype.element_ty), mask=mask)


@triton.jit
def forward_kernel(
    student,  # [N, K]
    teacher,
    row_stats,  # [N, ROW_STATS]
    scaled_grad,  # [G], times T / divisor
    grad_student,  # [N, K] contiguous
    grad_teacher,
    row_count,
    classes,
    student_row,
    teacher_row,
    group_rows,
    grad_stride,
    inverse_temperature: tl.float64,
    unit_grad: tl.float64,  # what takes the place of scaled_grad unless WEIGHTED
    TO_STUDENT: tl.constexpr,
    TO_TEACHER: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ONE_TILE: tl.constexpr,
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
    columns = tl.arange(0, BLOCK)
    s = load_tile(student, rows, row_mask, student_row, columns, classes, DTYPE)
    t = load_tile(teacher, rows, row_mask, teacher_row, columns, classes, DTYPE)
    shift_s, sum_s, shift_t, sum_t, weighted = sweep_step(
        s, t, shift_s, sum_s, shift_t, sum_t, weighted, scale, DIVERGENCE
    )
    if not ONE_TILE:
        for start in range(BLOCK, classes, BLOCK):
            later = start + columns
            shift_s, sum_s, shift_t, sum_t, weighted = sweep_step(
                load_tile(student, rows, row_mask, student_row, later, classes, DTYPE),
                load_tile(teacher, rows, row_mask, teacher_row, later, classes, DTYPE),
                shift_s, sum_s, shift_t, sum_t, weighted, scale, DIVERGENCE,
            )  # fmt: skip

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
        from_teacher, from_student = mixture_terms(s, t, shift_s, sum_s, shift_t, sum_t, gap, scale)
        if not ONE_TILE:
            for start in range(BLOCK, classes, BLOCK):
                later = start + columns
                more_teacher, more_student = mixture_terms(
                    load_tile(student, rows, row_mask, student_row, later, classes, DTYPE),
                    load_tile(teacher, rows, row_mask, teacher_row, later, classes, DTYPE),
                    shift_s, sum_s, shift_t, sum_t, gap, scale,
                )  # fmt: skip
                from_teacher += more_teacher
                from_student += more_student

    stats = row_stats + rows * ROW_STATS
    tl.store(stats, shift_s, mask=row_mask)
    tl.store(stats + 1, 1 / sum_s, mask=row_mask)
    tl.store(stats + 2, shift_t, mask=row_mask)
    tl.store(stats + 3, 1 / sum_t, mask=row_mask)
    tl.store(stats + 4, gap, mask=row_mask)
    tl.store(stats + 5, from_teacher, mask=row_mask)
    tl.store(stats + 6, from_student, mask=row_mask)

    if TO_STUDENT or TO_TEACHER:
        if WEIGHTED:
            grad = row_grads(scaled_grad, rows, row_mask, group_rows, grad_stride)
        else:
            grad = tl.full([ROWS], unit_grad, DTYPE)
        write_gradients(
            s, t, shift_s, 1 / sum_s, shift_t, 1 / sum_t, gap, from_teacher, from_student, grad, grad_student,
            grad_teacher, rows, row_mask, columns, classes, scale, TO_STUDENT, TO_TEACHER, DIVERGENCE,
        )  # fmt: skip
        if not ONE_TILE:
            # From the end, which was read last and may still be in cache.
            end = (classes + BLOCK - 1) // BLOCK * BLOCK
            for start in range(BLOCK, classes, BLOCK):
                later = end - start + columns
                write_gradients(
                    load_tile(student, rows, row_mask, student_row, later, classes, DTYPE),
                    load_tile(teacher, rows, row_mask, teacher_row, later, classes, DTYPE),
                    shift_s, 1 / sum_s, shift_t, 1 / sum_t, gap, from_teacher, from_student, grad, grad_student,
                    grad_teacher, rows, row_mask, later, classes, scale, TO_STUDENT, TO_TEACHER, DIVERGENCE,
                )  # fmt: skip


@triton.jit
def sum_kernel(
    row_stats,  # [N, ROW_STATS]
    loss,
    row_count,
    factor: tl.float64,
    BLOCK: tl.constexpr,
):
    """The divergences of all rows, summed by one program in float64."""
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, row_count, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        stats = row_stats + rows * ROW_STATS
        mask = rows < row_count
        # Of Jensen-Shannon's two what is rounded off cancels in their sum alone, which may be negative by it.
        value = tl.load(stats + 5, mask=mask, other=0.0) + tl.load(stats + 6, mask=mask, other=0.0)
        total += tl.where(value < 0.0, 0.0, value).to(tl.float64)
    tl.store(loss, (tl.sum(total, 0) * factor).to(loss.dtype.element_ty))


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
    stats = row_stats + rows * ROW_STATS
    write_gradients(
        load_tile(student, rows, row_mask, student_row, columns, classes, DTYPE),
        load_tile(teacher, rows, row_mask, teacher_row, columns, classes, DTYPE),
        tl.load(stats, mask=row_mask),
        tl.load(stats + 1, mask=row_mask),
        tl.load(stats + 2, mask=row_mask),
        tl.load(stats + 3, mask=row_mask),
        tl.load(stats + 4, mask=row_mask),
        tl.load(stats + 5, mask=row_mask),
        tl.load(stats + 6, mask=row_mask),
        row_grads(scaled_grad, rows, row_mask, group_rows, grad_stride),
        grad_student,
        grad_teacher,
        rows,
        row_mask,
        columns,
        classes,
        tl.full([1], inverse_temperature, DTYPE),
        TO_STUDENT,
        TO_TEACHER,
        DIVERGENCE,
    )
