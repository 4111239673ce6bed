"""Triton kernels of ``distillation_loss``; ``kernels/cpu/distillation_loss.cpp`` states the formulas.

The forward sweeps a row once for both terms; the backward writes each gradient once, from the statistics of the rows,
whose columns ``kernels/kl_params.h`` and ``kernels/distillation_params.h`` name.
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
    exp_sum_step,
    finite_shift,
    gradients,
    group_sum,
    kl_step,
    kl_term,
    load_tile,
    probabilities,
    risen,
    row_grads,
    row_indices,
    tile_of,
    with_contiguous_rows,
)

ROW_STATS = tl.constexpr(10)


def forward(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    kl_weight: float,
    label_weight: float,
    ignore_index: int,
    label_smoothing: float,
    mean_over_valid: bool,
    group_rows: int,
    divisor: int,
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
                labels,
                row_stats,
                rows,
                classes,
                student.stride(0),
                teacher.stride(0),
                labels.stride(0),
                ignore_index,
                1 / temperature,
                label_smoothing,
                HAS_LABELS=label_weight != 0,
                SMOOTH=label_smoothing != 0,
                DTYPE=COMPUTE.get(student.dtype, tl.float32),
                **tile,
            )
    divergence, label_loss = group_sum(row_stats[:, 5], group_rows), group_sum(row_stats[:, 8], group_rows)
    loss = torch.zeros_like(divergence)
    if kl_weight != 0:
        loss = loss + divergence * (kl_weight * temperature**2) / divisor
    valid = (labels != ignore_index).to(torch.float64)
    share = group_sum(valid, group_rows).reciprocal() if mean_over_valid else torch.ones_like(divergence)
    if label_weight != 0:
        loss = loss + label_weight * share * label_loss
    row_share = share.reshape(-1).repeat_interleave(group_rows or rows, output_size=rows)
    row_stats[:, 9] = torch.where(valid != 0, row_share, 0)
    return loss.to(row_stats.dtype), row_stats


def backward(
    grad: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    row_stats: Tensor,
    temperature: float,
    kl_weight: float,
    label_weight: float,
    ignore_index: int,
    label_smoothing: float,
    mean_over_valid: bool,
    group_rows: int,
    divisor: int,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:
    student, teacher = with_contiguous_rows(student_logits), with_contiguous_rows(teacher_logits)
    rows, classes = student.shape
    grads = gradients(student, teacher, output_mask)
    tile = tile_of(classes)
    if rows and any(output_mask):
        grad = grad.reshape(-1)
        with on_device_of(student):
            backward_kernel[(triton.cdiv(rows, tile["ROWS"]), triton.cdiv(classes, tile["BLOCK"]))](
                grad,
                student,
                teacher,
                labels,
                row_stats,
                *grads,
                rows,
                classes,
                student.stride(0),
                teacher.stride(0),
                labels.stride(0),
                group_rows or rows,
                grad.stride(0),
                1 / temperature,
                kl_weight * temperature / divisor,
                label_weight,
                label_smoothing / classes,
                1 - label_smoothing,
                TO_STUDENT=output_mask[0],
                TO_TEACHER=output_mask[1],
                HAS_LABELS=label_weight != 0,
                DTYPE=COMPUTE.get(student.dtype, tl.float32),
                **tile,
            )
    return grads


@triton.jit
def forward_kernel(
    student,  # [N, K]
    teacher,
    labels,  # [N]
    row_stats,  # [N, ROW_STATS]; the last column, the share of a row in the mean, is not written here
    row_count,
    classes,
    student_row,
    teacher_row,
    label_stride,
    ignore_index,
    inverse_temperature: tl.float64,
    label_smoothing: tl.float64,
    HAS_LABELS: tl.constexpr,
    SMOOTH: tl.constexpr,
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
    label_sum = sum_s  # of exp(logit - shift)
    total = sum_s  # of logit - shift
    for start in range(0, classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        s = load_tile(student, rows, row_mask, student_row, columns, classes, DTYPE)
        t = load_tile(teacher, rows, row_mask, teacher_row, columns, classes, DTYPE)
        if HAS_LABELS:
            new_shift, label_sum = exp_sum_step(s, shift_s, label_sum, 1.0)
            if SMOOTH:
                above = tl.where((columns < classes)[None, :], s - finite_shift(new_shift)[:, None], 0.0)
                total = total - start * risen(shift_s, new_shift, 1.0) + tl.sum(above, 1)
        shift_s, sum_s, shift_t, sum_t, weighted = kl_step(s, t, shift_s, sum_s, shift_t, sum_t, weighted, scale)

    gap = tl.log(sum_s) - tl.log(sum_t)
    divergence = weighted / sum_t + gap
    divergence = tl.where(divergence < 0.0, 0.0, divergence)  # negative only by rounding
    stats = row_stats + rows * ROW_STATS
    tl.store(stats, shift_s, mask=row_mask)
    tl.store(stats + 1, 1 / sum_s, mask=row_mask)
    tl.store(stats + 2, shift_t, mask=row_mask)
    tl.store(stats + 3, 1 / sum_t, mask=row_mask)
    tl.store(stats + 4, gap, mask=row_mask)
    tl.store(stats + 5, divergence, mask=row_mask)
    tl.store(stats + 6, tl.zeros([ROWS], DTYPE), mask=row_mask)

    label_inverse = tl.zeros([ROWS], DTYPE)
    label_loss = label_inverse
    if HAS_LABELS:
        label = tl.load(labels + rows * label_stride, mask=row_mask, other=0)
        known = row_mask & (label >= 0) & (label < classes)
        label_logit = tl.load(student + rows * student_row + label, mask=known, other=float("nan")).to(DTYPE)
        smoothing = tl.full([1], label_smoothing, DTYPE)
        target = (1 - smoothing) * (label_logit - shift_s)
        if SMOOTH:
            target += smoothing * total / classes
        valid = label != ignore_index
        label_inverse = tl.where(valid, tl.where(known, 1 / label_sum, float("nan")), 0.0)
        label_loss = tl.where(valid, tl.log(label_sum) - target, 0.0)
    tl.store(stats + 7, label_inverse, mask=row_mask)
    tl.store(stats + 8, label_loss, mask=row_mask)


@triton.jit
def backward_kernel(
    grad_loss,  # [G]
    student,  # [N, K]
    teacher,
    labels,  # [N]
    row_stats,  # [N, ROW_STATS]
    grad_student,  # [N, K] contiguous
    grad_teacher,
    row_count,
    classes,
    student_row,
    teacher_row,
    label_stride,
    group_rows,
    grad_stride,
    inverse_temperature: tl.float64,
    kl_scale: tl.float64,
    label_weight: tl.float64,
    smooth_target: tl.float64,
    label_target: tl.float64,
    TO_STUDENT: tl.constexpr,
    TO_TEACHER: tl.constexpr,
    HAS_LABELS: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows, row_mask = row_indices(row_count, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    grad = row_grads(grad_loss, rows, row_mask, group_rows, grad_stride)
    to_kl = (grad * tl.full([1], kl_scale, DTYPE))[:, None]
    stats = row_stats + rows * ROW_STATS
    shift_s = tl.load(stats, mask=row_mask)
    s = load_tile(student, rows, row_mask, student_row, columns, classes, DTYPE)
    p_s, p_t, gaps = probabilities(
        s,
        load_tile(teacher, rows, row_mask, teacher_row, columns, classes, DTYPE),
        shift_s,
        tl.load(stats + 1, mask=row_mask),
        tl.load(stats + 2, mask=row_mask),
        tl.load(stats + 3, mask=row_mask),
        tl.load(stats + 4, mask=row_mask),
        tl.full([1], inverse_temperature, DTYPE),
    )
    at = rows[:, None] * classes + columns[None, :]
    mask = row_mask[:, None] & (columns < classes)[None, :]
    if TO_STUDENT:
        to_student = to_kl * (p_s - p_t)
        if HAS_LABELS:
            label = tl.load(labels + rows * label_stride, mask=row_mask, other=0)
            share = tl.load(stats + 9, mask=row_mask)
            p = tl.exp(s - shift_s[:, None]) * tl.load(stats + 7, mask=row_mask)[:, None]
            target = tl.full([1, 1], smooth_target, DTYPE)
            more = tl.full([1, 1], label_target, DTYPE)
            target += tl.where(columns[None, :] == label[:, None], more, 0.0)
            to_student += (grad * share * tl.full([1], label_weight, DTYPE))[:, None] * (p - target)
        tl.store(grad_student + at, to_student.to(grad_student.dtype.element_ty), mask=mask)
    if TO_TEACHER:
        to_teacher = tl.where(
            to_kl == 0.0, 0.0, to_kl * kl_term(p_t, gaps - tl.load(stats + 5, mask=row_mask)[:, None])
        )
        tl.store(grad_teacher + at, to_teacher.to(grad_teacher.dtype.element_ty), mask=mask)
