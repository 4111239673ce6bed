"""Argument checks shared by the ops: each names the argument, what came and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from hardfast.ops._transforms import transforms_active

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def floating_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {value.dtype}")


def one_of(name: str, value: Any, accepted: Collection[str]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} must be one of {list(accepted)}, got {value!r}")


def number(name: str, value: Any) -> float:
    """A Python or NumPy number as a float; a compiled graph may hold it as a symbol."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)


def positive(name: str, value: Any) -> float:
    result = number(name, value)
    if not 0 < result < math.inf:  # false for NaN; traceable, unlike math.isfinite
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return result


def not_negative(name: str, value: Any) -> float:
    result = number(name, value)
    if not 0 <= result < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return result


def inspectable(value: Tensor) -> bool:
    """Whether looking at the values of a tensor costs no synchronisation and breaks no traced graph."""
    if value.device.type != "cpu" or torch.compiler.is_compiling() or transforms_active():
        return False
    return type(value) in (Tensor, torch.nn.Parameter)  # others may hold no data: fake tensors


def finite(name: str, value: Tensor, at_most: int | None = None) -> None:
    """Raises on NaN and infinity in a CPU tensor, unless it has more than ``at_most`` numbers.

    Elsewhere the check would cost a device synchronisation or break a traced graph: there a kernel gives such
    values a defined meaning instead.
    """
    if not inspectable(value) or (at_most is not None and value.numel() > at_most):
        return
    if not bool(torch.isfinite(value.detach()).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity in {value.detach()}")
