"""What the tests of the ops on rows of logits share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def random_rows(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, ...]:
    """Student's and teacher's logits, and labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(shape[-1], shape[:-1], generator=generator)
    return student.to(dtype), teacher.to(dtype), labels


def value_and_gradients(function: Callable[..., Tensor], *logits: Tensor, grad: Tensor | None = None) -> list[Tensor]:
    """``function`` of the logits, and its gradients to each of them."""
    inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in logits]
    value = function(*inputs)
    grad = torch.ones_like(value) if grad is None else grad
    return [value.detach(), *torch.autograd.grad(value, inputs, grad, materialize_grads=True)]
