"""Two classifier heads and their disagreement in plain PyTorch: what ``linear_kl_disagreement`` has to equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardfast.reference.kl_disagreement import kl_disagreement


def linear_kl_disagreement(
    student_features: Tensor,
    student_weight: Tensor,
    teacher_features: Tensor,
    teacher_weight: Tensor | None = None,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    temperature: float = 1.0,
    divergence: str = "forward",
    reduction: str = "batchmean",
    chunk_rows: int | None = None,
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.linear_kl_disagreement`, differentiable to any order."""
    student_logits = F.linear(student_features, student_weight, student_bias)
    teacher_logits = (
        teacher_features if teacher_weight is None else F.linear(teacher_features, teacher_weight, teacher_bias)
    )
    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    return kl_disagreement(
        student_logits.to(dtype),
        teacher_logits.to(dtype),
        temperature=temperature,
        divergence=divergence,
        reduction=reduction,
    )
