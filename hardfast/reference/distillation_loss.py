"""Distillation loss in plain PyTorch: what ``hardfast.ops.distillation_loss`` has to equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardfast.reference.kl_disagreement import kl_disagreement


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    kl_weight: float = 1.0,
    label_weight: float = 1.0,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.distillation_loss`, differentiable to any order."""
    loss = torch.zeros_like(labels, dtype=compute_dtype(student_logits, teacher_logits))
    loss = loss if reduction == "none" else loss.sum()
    if kl_weight != 0:
        divergence = kl_disagreement(student_logits, teacher_logits, temperature=temperature, reduction="none")
        rows = labels.numel() if reduction == "mean" else 1
        loss = loss + kl_weight * (divergence if reduction == "none" else divergence.sum() / rows)
    if label_weight != 0:
        entropy = cross_entropy(student_logits.to(loss.dtype), labels, ignore_index, label_smoothing)
        valid = (labels != ignore_index).sum() if reduction == "mean" else 1
        loss = loss + label_weight * (entropy if reduction == "none" else entropy.sum() / valid)
    return loss


def compute_dtype(student_logits: Tensor, teacher_logits: Tensor) -> torch.dtype:
    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    return torch.float64 if dtype == torch.float64 else torch.float32


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, label_smoothing: float) -> Tensor:
    """``F.cross_entropy`` per sample, 0 where the label is ignored and NaN, gradients too, where it is no class."""
    classes = logits.shape[-1]
    log_p = logits.log_softmax(-1)
    ignored = labels == ignore_index
    known = (labels >= 0) & (labels < classes) | ignored
    label_log_p = log_p.gather(-1, labels.clamp(0, classes - 1)[..., None])[..., 0]
    entropy = -(1 - label_smoothing) * label_log_p * torch.where(known, 1.0, math.nan).to(logits.dtype)
    if label_smoothing != 0:
        entropy = entropy - label_smoothing * log_p.mean(-1)
    return torch.where(ignored, 0, entropy)
