"""Teacher-student disagreement in plain PyTorch: what ``hardfast.ops.kl_disagreement`` has to equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_disagreement(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    divergence: str = "forward",
    reduction: str = "batchmean",
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.kl_disagreement`, differentiable to any order."""
    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    compute_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    log_student = (student_logits.to(compute_dtype) / temperature).log_softmax(-1)
    log_teacher = (teacher_logits.to(compute_dtype) / temperature).log_softmax(-1)
    if divergence == "forward":
        per_sample = _kl(log_teacher, log_student)
    elif divergence == "reverse":
        per_sample = _kl(log_student, log_teacher)
    else:
        log_mixture = _log_mean(log_student, log_teacher)
        per_sample = 0.5 * (_kl(log_teacher, log_mixture) + _kl(log_student, log_mixture))
    per_sample = temperature**2 * per_sample
    if reduction == "none":
        return per_sample
    return per_sample.sum() / reduction_divisor(student_logits.shape, reduction)


def reduction_divisor(shape: torch.Size, reduction: str) -> int:
    """What the sum over samples is divided by: as ``F.kl_div`` does, and 1 sample for a single row of logits."""
    if reduction == "batchmean":
        return shape[0] if len(shape) > 1 else 1
    return math.prod(shape) if reduction == "mean" else 1


def _log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log((p + q) / 2); where both are zero its gradient is zero, not NaN."""
    possible = torch.maximum(log_p, log_q) != -math.inf
    mean = torch.logaddexp(torch.where(possible, log_p, 0), torch.where(possible, log_q, 0)) - math.log(2.0)
    return torch.where(possible, mean, -math.inf)


def _kl(log_target: Tensor, log_input: Tensor) -> Tensor:
    """KL(target || input) per row; classes of probability zero in the target count as zero, not as NaN."""
    possible = log_target > -math.inf
    # Both the value and the gradient of the excluded branch must be finite for torch.where to drop it.
    difference = torch.where(possible, log_target - log_input, 0)
    return (log_target.exp() * difference).sum(-1)
