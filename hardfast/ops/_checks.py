"""Argument checks shared by the ops: each names the argument, what came and what is accepted."""

from __future__ import annotations

from collections.abc import Collection
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


def finite(name: str, value: Tensor) -> None:
    """Raises on NaN and infinity in a small CPU tensor.

    Elsewhere the check would cost a device synchronisation or break a traced graph: there a kernel gives such
    values a defined meaning instead.
    """
    if value.device.type != "cpu" or torch.compiler.is_compiling() or transforms_active():
        return
    if type(value) not in (Tensor, torch.nn.Parameter):
        return  # a fake tensor, or another subclass that may hold no data
    if not bool(torch.isfinite(value.detach()).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity in {value.detach()}")
