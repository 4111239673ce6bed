"""Argument checks shared by the ops: each names the argument, what came and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardfast.ops._library import LIBRARY
from hardfast.ops._transforms import is_mapped

LIBRARY.define("_are_finite(Tensor values) -> bool")
LIBRARY.impl("_are_finite", lambda values: bool(torch.isfinite(values).all()), "CompositeExplicitAutograd")
torch.library.register_fake("hardfast::_are_finite", lambda values: True, lib=LIBRARY)
_are_finite = torch.ops.hardfast._are_finite.default

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def floating_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {value.dtype}")
    strided(name, value)


def strided(name: str, value: Tensor) -> None:
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, torch.strided, got {value.layout}")


def one_of(name: str, value: Any, accepted: Collection[str]) -> None:
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name} must be one of {list(accepted)}, got {value!r}")


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


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


def integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def real_values(name: str, values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number, nested sequences of them, or a tensor, as a tensor that gradients flow through.

    Numbers are written on the device, one by one: a copy from the host would wait for it.
    """
    if isinstance(values, Tensor):
        if values.is_complex():
            raise TypeError(f"{name} must be real, got {values.dtype}")
        return values.to(device=device, dtype=dtype, non_blocking=True)
    if isinstance(values, (int, float, Real)):
        return torch.ones((), dtype=dtype, device=device) * float(values)  # torch.full() is compiled for one value
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be numbers or a tensor, got {values!r}")
    entries = [real_values(name, value, dtype, device) for value in values]
    if len({entry.shape for entry in entries}) != 1:
        raise ValueError(f"{name} must be numbers in rows of one length, got {values!r}")
    return torch.stack(entries)


def eager(value: Tensor) -> bool:
    """Whether a tensor holds data that is computed with here and now: it is not traced, mapped or faked."""
    if type(value) not in (Tensor, torch.nn.Parameter):  # others may hold no data: fake tensors
        return False
    return not torch.compiler.is_compiling() and not is_mapped(value)


def inspectable(value: Tensor) -> bool:
    """Whether looking at the values of a tensor costs no synchronisation and breaks no traced graph."""
    return value.is_cpu and eager(value)


class NotFiniteError(ValueError, FloatingPointError):
    """A tensor has NaN or infinity."""


def finite(name: str, value: Tensor, at_most: int | None = None) -> None:
    """Raises :class:`NotFiniteError` on NaN and infinity in a CPU tensor, unless it has more than ``at_most`` numbers.

    Elsewhere the check would cost a device synchronisation or break a traced graph: there a kernel gives such
    values a defined meaning instead.
    """
    if not inspectable(value) or (at_most is not None and value.numel() > at_most):
        return
    with torch._C._AutoDispatchBelowAutograd():  # a truth has no gradient, and detach() would take a third of the time
        if _are_finite(value):
            return
    places = value.detach().isfinite().logical_not().nonzero()
    first = places[0].tolist()
    more = f", and {len(places) - 1} more such" if len(places) > 1 else ""
    raise NotFiniteError(f"{name} must be finite, got {float(value.detach()[tuple(first)])} at {first}{more}")
