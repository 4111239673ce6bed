"""``kl_disagreement``: how much teacher and student disagree, with gradients to the logits of both."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hardfast import reference
from hardfast.ops import _checks
from hardfast.ops._library import LIBRARY, register_fallback
from hardfast.ops._transforms import differentiable
from hardfast.reference.kl_disagreement import reduction_divisor

DIVERGENCES = ("forward", "reverse", "jensen_shannon")
REDUCTIONS = ("batchmean", "mean", "sum", "none")
ROW_STATS = 7

# `row_stats` is [N, 7], what the backward needs for its one pass: kernels/kl_params.h names the columns.
LIBRARY.define(
    "kl_disagreement(Tensor student_logits, Tensor teacher_logits, float temperature, str divergence, "
    "bool per_sample, SymInt divisor) -> (Tensor loss, Tensor row_stats)"
)
LIBRARY.define(
    "_kl_disagreement_backward(Tensor grad, Tensor student_logits, Tensor teacher_logits, Tensor row_stats, "
    "float temperature, str divergence, bool per_sample, SymInt divisor, bool[2] output_mask) -> (Tensor, Tensor)"
)


def kl_disagreement(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    divergence: str = "forward",
    reduction: str = "batchmean",
) -> Tensor:
    """Divergence between the softened class distributions of teacher and student, from raw logits.

    Equivalent to::

        log_s, log_t = log_softmax(student_logits / T, -1), log_softmax(teacher_logits / T, -1)
        T**2 * F.kl_div(log_s, log_t, log_target=True, reduction="batchmean")

    The factor ``T**2`` is always included, so that gradients keep their size as the temperature changes.

    Args:
        student_logits: ``[..., K]``, float32, float64, float16 or bfloat16.
        teacher_logits: the same shape. Where the two dtypes differ the wider one is used for both.
        temperature: ``T``, positive and finite.
        divergence: ``"forward"`` for KL(teacher || student), ``"reverse"`` for KL(student || teacher),
            ``"jensen_shannon"`` for the mean of the divergences of both from their average.
        reduction: as in ``F.kl_div``: ``"batchmean"`` divides the sum by the length of the first dimension
            (by 1 for a single row ``[K]``), ``"mean"`` by the number of logits, ``"sum"`` by nothing;
            ``"none"`` gives one value a sample, ``[...]``, summed over the classes.

    Returns:
        A scalar, or ``[...]`` for ``reduction="none"``; float64 for float64 logits, otherwise float32: a half
        precision loss would lose most of its digits. An empty batch gives an empty or zero sum, and NaN for a mean.

    Gradients: to both logits, each alone or together, to any order, in reverse mode.

    Memory: seven numbers a row are kept for the backward; it allocates the gradients asked for, and for half precision
    two rows per thread. Logits whose classes are not contiguous are copied.

    Errors: ``TypeError`` and ``ValueError`` name the argument.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2, for ``T**2``.
    """
    _check_logits(student_logits, teacher_logits)
    _checks.one_of("divergence", divergence, DIVERGENCES)
    _checks.one_of("reduction", reduction, REDUCTIONS)
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}")
    if not 0 < temperature < math.inf:  # false for NaN; traceable, unlike math.isfinite
        raise ValueError(f"temperature must be positive and finite, got {temperature}")

    shape = student_logits.shape
    if student_logits.dtype != teacher_logits.dtype:
        dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
        student_logits, teacher_logits = student_logits.to(dtype), teacher_logits.to(dtype)
    if len(shape) != 2:
        student_logits, teacher_logits = student_logits.reshape(-1, shape[-1]), teacher_logits.reshape(-1, shape[-1])
    per_sample = reduction == "none"
    loss, _ = _forward(
        student_logits, teacher_logits, float(temperature), divergence, per_sample, reduction_divisor(shape, reduction)
    )
    return loss.reshape(shape[:-1]) if per_sample and len(shape) != 2 else loss


def _check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    _checks.floating_tensor("student_logits", student_logits)
    _checks.floating_tensor("teacher_logits", teacher_logits)
    if student_logits.dim() == 0 or student_logits.shape[-1] == 0:
        raise ValueError(f"student_logits must have shape [..., K] with K >= 1, got {list(student_logits.shape)}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits must have the shape of student_logits, {list(student_logits.shape)}, "
            f"got {list(teacher_logits.shape)}"
        )
    if student_logits.device != teacher_logits.device:
        raise ValueError(
            f"teacher_logits must be on the device of student_logits, {student_logits.device}, "
            f"got {teacher_logits.device}"
        )


def _compute_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@torch.library.register_fake("hardfast::kl_disagreement", lib=LIBRARY)
def _fake(
    student: Tensor, teacher: Tensor, temperature: float, divergence: str, per_sample: bool, divisor: int
) -> tuple[Tensor, Tensor]:
    rows, dtype = student.shape[0], _compute_dtype(student)
    return student.new_empty([rows] if per_sample else [], dtype=dtype), student.new_empty(
        [rows, ROW_STATS], dtype=dtype
    )


@torch.library.register_fake("hardfast::_kl_disagreement_backward", lib=LIBRARY)
def _fake_backward(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    row_stats: Tensor,
    temperature: float,
    divergence: str,
    per_sample: bool,
    divisor: int,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:
    return (
        student.new_empty(student.shape if output_mask[0] else [0]),
        teacher.new_empty(teacher.shape if output_mask[1] else [0]),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    student, teacher, *options = inputs
    ctx.save_for_backward(student, teacher, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.options = options


def _autograd(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None, None, None, None
    student, teacher, row_stats = ctx.saved_tensors
    mask = list(ctx.needs_input_grad[:2])
    grad_student, grad_teacher = _backward(grad, student, teacher, row_stats, *ctx.options, mask)
    return grad_student if mask[0] else None, grad_teacher if mask[1] else None, None, None, None, None


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, student, teacher, row_stats, *options, mask = inputs
    ctx.save_for_backward(grad, student, teacher, row_stats)
    ctx.options = options
    ctx.mask = mask


def _double_autograd(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    grad, student, teacher, row_stats = ctx.saved_tensors

    def gradients(grad: Tensor, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        # The row statistics are functions of the logits: the reference differentiates through them.
        return _reference_backward(grad, student, teacher, row_stats, *ctx.options, ctx.mask)

    vjp = torch.func.vjp(gradients, grad, student, teacher)[1]
    return *vjp(grads), None, None, None, None, None, None


def _reference_loss(
    student: Tensor, teacher: Tensor, temperature: float, divergence: str, per_sample: bool, divisor: int
) -> Tensor:
    loss = reference.kl_disagreement(student, teacher, temperature=temperature, divergence=divergence, reduction="none")
    return loss if per_sample else loss.sum() / divisor


def _reference(student: Tensor, teacher: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    row_stats = student.new_zeros(
        [student.shape[0], ROW_STATS], dtype=_compute_dtype(student)
    )  # its backward needs none
    return _reference_loss(student, teacher, *options), row_stats


def _reference_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, row_stats: Tensor, *options: Any
) -> tuple[Tensor, Tensor]:
    *loss_options, mask = options
    vjp = torch.func.vjp(lambda s, t: _reference_loss(s, t, *loss_options), student, teacher)[1]
    grad_student, grad_teacher = vjp(grad)
    return (
        grad_student if mask[0] else student.new_empty(0),
        grad_teacher if mask[1] else teacher.new_empty(0),
    )


register_fallback("kl_disagreement", _reference)
register_fallback("_kl_disagreement_backward", _reference_backward)


def _mapped_first(value: Tensor, dim: int | None, batch: int) -> Tensor:
    return value.expand(batch, *value.shape) if dim is None else value.movedim(dim, 0)


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    student, teacher = (_mapped_first(args[i], in_dims[i], info.batch_size) for i in range(2))
    temperature, divergence, per_sample, divisor = args[2:]
    rows = student.shape[1]
    loss, row_stats = _forward(student.flatten(0, 1), teacher.flatten(0, 1), temperature, divergence, True, 1)
    loss = loss.unflatten(0, (info.batch_size, rows))
    loss = loss if per_sample else loss.sum(1) / divisor
    return (loss, row_stats.unflatten(0, (info.batch_size, rows))), (0, 0)


def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    grad, student, teacher, row_stats = (_mapped_first(args[i], in_dims[i], info.batch_size) for i in range(4))
    temperature, divergence, per_sample, divisor, mask = args[4:]
    rows = student.shape[1]
    row_grad = grad if per_sample else (grad / divisor)[:, None].expand(-1, rows)
    grads = _backward(
        row_grad.flatten(0, 1),
        student.flatten(0, 1),
        teacher.flatten(0, 1),
        row_stats.flatten(0, 1),
        temperature,
        divergence,
        True,
        1,
        mask,
    )
    unfolded = tuple(
        g.unflatten(0, (info.batch_size, rows)) if wanted else g.expand(info.batch_size, 0)
        for g, wanted in zip(grads, mask, strict=True)
    )
    return unfolded, (0, 0)


_forward = differentiable("kl_disagreement", setup_context=_setup_context, backward=_autograd, vmap=_vmap)
_backward = differentiable(
    "_kl_disagreement_backward", setup_context=_setup_context_backward, backward=_double_autograd, vmap=_vmap_backward
)
