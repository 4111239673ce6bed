"""Triton kernels of ``confidence_disagreement``; ``kernels/cpu/confidence_disagreement.cpp`` states the formulas.

The forward sweeps a row once; the backward writes each gradient once, from the statistics of the rows, whose columns
``kernels/confidence_params.h`` names.
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
    load_tile,
    log1p_unit,
    row_grads,
    row_indices,
    tile_of,
    with_contiguous_rows,
)

ROW_STATS = tl.constexpr(7)
MODEL_STATS = tl.constexpr(3)
FORMS = {"probability": 0, "log": 1, "logit": 2}


def forward(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    form: str,
    gamma: float,
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
                gamma,
                FORM=FORMS[form],
                DTYPE=COMPUTE.get(student.dtype, tl.float32),
                **tile,
            )
    loss = group_sum(row_stats[:, 6], group_rows) / divisor
    return loss.to(row_stats.dtype), row_stats


def backward(
    grad: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    row_stats: Tensor,
    form: str,
    gamma: float,
    group_rows: int,
    divisor: int,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:
    grads = gradients(student_logits, teacher_logits, output_mask)
    rows, classes = student_logits.shape
    tile = tile_of(classes)
    if not rows:
        return grads
    scaled_grad = grad.reshape(-1) / divisor
    for model, logits in enumerate((student_logits, teacher_logits)):
        if output_mask[model]:
            logits = with_contiguous_rows(logits)
            with on_device_of(logits):
                backward_kernel[(triton.cdiv(rows, tile["ROWS"]), triton.cdiv(classes, tile["BLOCK"]))](
                    scaled_grad,
                    logits,
                    labels,
                    row_stats,
                    grads[model],
                    rows,
                    classes,
                    logits.stride(0),
                    labels.stride(0),
                    group_rows or rows,
                    scaled_grad.stride(0),
                    gamma,
                    OF_TEACHER=model == 1,
                    FORM=FORMS[form],
                    DTYPE=COMPUTE.get(logits.dtype, tl.float32),
                    **tile,
                )
    return grads


@triton.jit
def confidence_of(log_odds):
    """p, 1 - p and their logarithms, exact where either is nearly one."""
    size = tl.abs(log_odds)
    small = tl.exp(-size)
    larger = 1 / (1 + small)
    smaller = small * larger
    log_larger = -log1p_unit(small)
    log_smaller = log_larger - size
    negative = log_odds < 0.0
    return (
        tl.where(negative, smaller, larger),
        tl.where(negative, larger, smaller),
        tl.where(negative, log_smaller, log_larger),
        tl.where(negative, log_larger, log_smaller),
    )


@triton.jit
def probability_power(p, log_p, gamma):
    return tl.where(gamma == 1.0, p, tl.exp(gamma * log_p))


@triton.jit
def store_model_stats(
    stats, logits, row_stride, labels, known, rows, row_mask, classes,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores one model's statistics and returns the log-odds of the labels, NaN for one that is no class."""
    shift = tl.full([ROWS], -float("inf"), DTYPE)
    total = tl.zeros([ROWS], DTYPE)
    for start in range(0, classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = load_tile(logits, rows, row_mask, row_stride, columns, classes, DTYPE)
        others = tl.where(columns[None, :] == labels[:, None], -float("inf"), values)
        shift, total = exp_sum_step(others, shift, total, 1.0)
    shift = finite_shift(shift)
    label_logit = tl.load(logits + rows * row_stride + labels, mask=known, other=float("nan")).to(DTYPE)
    log_odds = (label_logit - shift) - tl.log(total)
    tl.store(stats, log_odds, mask=row_mask)
    tl.store(stats + 1, tl.where(known, shift, float("nan")), mask=row_mask)
    tl.store(stats + 2, tl.where(total == 0.0, 0.0, 1 / total), mask=row_mask)
    return log_odds


@triton.jit
def forward_kernel(
    student,  # [N, K]
    teacher,
    labels,  # [N]
    row_stats,  # [N, ROW_STATS]
    row_count,
    classes,
    student_row,
    teacher_row,
    label_stride,
    gamma: tl.float64,
    FORM: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows, row_mask = row_indices(row_count, ROWS)
    label = tl.load(labels + rows * label_stride, mask=row_mask, other=0)
    known = row_mask & (label >= 0) & (label < classes)
    stats = row_stats + rows * ROW_STATS
    of_student = store_model_stats(
        stats, student, student_row, label, known, rows, row_mask, classes, DTYPE, ROWS, BLOCK
    )
    of_teacher = store_model_stats(
        stats + MODEL_STATS, teacher, teacher_row, label, known, rows, row_mask, classes, DTYPE, ROWS, BLOCK
    )
    if FORM == 2:
        value = of_teacher - of_student
    else:
        _, rest, _, log_rest = confidence_of(of_student)
        p, _, log_p, _ = confidence_of(of_teacher)
        if FORM == 1:
            value = log_p + log_rest
        else:
            power = tl.full([1], gamma, DTYPE)
            value = probability_power(p, log_p, power) + probability_power(rest, log_rest, power)
    tl.store(stats + 2 * MODEL_STATS, value, mask=row_mask)


@triton.jit
def backward_kernel(
    scaled_grad,  # [G], over the divisor
    logits,  # [N, K], of one model
    labels,  # [N]
    row_stats,  # [N, ROW_STATS]
    grad_logits,  # [N, K] contiguous
    row_count,
    classes,
    row_stride,
    label_stride,
    group_rows,
    grad_stride,
    gamma: tl.float64,
    OF_TEACHER: tl.constexpr,
    FORM: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows, row_mask = row_indices(row_count, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(labels + rows * label_stride, mask=row_mask, other=0)
    grad = row_grads(scaled_grad, rows, row_mask, group_rows, grad_stride)
    stats = row_stats + rows * ROW_STATS + (MODEL_STATS if OF_TEACHER else 0)
    p, rest, log_p, log_rest = confidence_of(tl.load(stats, mask=row_mask))
    if FORM == 2:
        grad = grad if OF_TEACHER else -grad
    elif FORM == 1:
        grad = grad * rest if OF_TEACHER else -grad * p
    else:
        power = tl.full([1], gamma, DTYPE)
        if OF_TEACHER:
            grad = grad * power * probability_power(p, log_p, power) * rest
        else:
            grad = -grad * power * probability_power(rest, log_rest, power) * p
    values = load_tile(logits, rows, row_mask, row_stride, columns, classes, DTYPE)
    shift, inverse = tl.load(stats + 1, mask=row_mask), tl.load(stats + 2, mask=row_mask)
    others = tl.exp(values - shift[:, None]) * (-grad * inverse)[:, None]
    result = tl.where(columns[None, :] == label[:, None], grad[:, None], others)
    at = rows[:, None] * classes + columns[None, :]
    mask = row_mask[:, None] & (columns < classes)[None, :]
    tl.store(grad_logits + at, result.to(grad_logits.dtype.element_ty), mask=mask)
