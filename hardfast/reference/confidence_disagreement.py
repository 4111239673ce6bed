"""Disagreement about the label in plain PyTorch: what ``hardfast.ops.confidence_disagreement`` has to equal."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def confidence_disagreement(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    form: str = "probability",
    gamma: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.confidence_disagreement`, differentiable to any order."""
    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    compute_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    student = _label_log_odds(student_logits.to(compute_dtype), labels)
    teacher = _label_log_odds(teacher_logits.to(compute_dtype), labels)
    if form == "probability":
        # Powers by their logarithms: exact and with finite gradients where a probability is nearly 0 or 1.
        per_sample = (gamma * F.logsigmoid(teacher)).exp() + (gamma * F.logsigmoid(-student)).exp()
    elif form == "log":
        per_sample = F.logsigmoid(teacher) + F.logsigmoid(-student)
    else:
        per_sample = teacher - student
    if reduction == "none":
        return per_sample
    return per_sample.sum() / (labels.numel() if reduction == "mean" else 1)


def _label_log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of the label's probability p; NaN, gradients too, where the label is no class."""
    classes = logits.shape[-1]
    label_logit = logits.gather(-1, labels.clamp(0, classes - 1)[..., None])[..., 0]
    is_label = torch.arange(classes, device=logits.device) == labels[..., None]
    others = logits.masked_fill(is_label, -math.inf)
    # Where no other class is possible, neither the value nor the gradient of logsumexp is a number.
    possible = (others != -math.inf).any(-1)
    log_others = torch.where(possible, torch.where(possible[..., None], others, 0).logsumexp(-1), -math.inf)
    known = (labels >= 0) & (labels < classes)
    return (label_logit - log_others) * torch.where(known, 1.0, math.nan).to(logits.dtype)
