"""Checks of what the transforms are built with: each names the argument, what came and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from numbers import Real
from typing import Any

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def interpolation_name(value: Any) -> str:
    """``"bilinear"`` and the like, from that or from torchvision's ``InterpolationMode``."""
    name = value.value if isinstance(value, Enum) else value
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {list(INTERPOLATIONS)} or its InterpolationMode, got {value!r}")
    return name


def fill_values(fill: Any) -> tuple[float, ...]:
    """One value, or one a channel; none at all for 0, which the warps have a padding mode for."""
    if fill is None:
        return ()
    values = numbers("fill", fill if isinstance(fill, (tuple, list)) else [fill])
    return values if any(values) else ()


def numbers(name: str, values: Any, lengths: Sequence[int] = ()) -> tuple[float, ...]:
    """A sequence of finite numbers of one of the given lengths (any but 0 if none are given)."""
    expected = (
        f"a sequence of {' or '.join(map(str, lengths))} numbers" if lengths else "a number or a sequence of them"
    )
    if not isinstance(values, Sequence) or not all(isinstance(value, Real) for value in values):
        raise TypeError(f"{name} must be {expected}, got {values!r}")
    if len(values) not in (lengths or range(1, len(values) + 1)) or not all(map(math.isfinite, values)):
        raise ValueError(f"{name} must be {expected}, all finite, got {values!r}")
    return tuple(float(value) for value in values)


def ranges(name: str, values: Any, lengths: Sequence[int] = (2,)) -> tuple[float, ...]:
    """Pairs ``(lowest, highest)``, one after the other."""
    limits = numbers(name, values, lengths)
    if any(low > high for low, high in zip(limits[::2], limits[1::2], strict=True)):
        raise ValueError(f"{name} must be pairs (lowest, highest), got {values!r}")
    return limits


def angle_ranges(name: str, value: Any, lengths: Sequence[int] = (2,)) -> tuple[float, ...]:
    """Pairs in degrees; a single number d stands for (-d, d)."""
    if not isinstance(value, Real):
        return ranges(name, value, lengths)
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be >= 0 where it is a single number, got {value!r}")
    return (-float(value), float(value))


def factor_range(name: str, value: Any, center: float, lowest: float, highest: float) -> tuple[float, float] | None:
    """A pair; a single number d stands for center -+ d, not below ``lowest``. None where nothing would change."""
    if value is None:
        return None
    if isinstance(value, Real):
        if not float(value) >= 0:
            raise ValueError(f"{name} must be >= 0 where it is a single number, got {value!r}")
        low, high = center - float(value), center + float(value)
        low = max(low, lowest) if center else low
    else:
        low, high = ranges(name, value)
    if not lowest <= low <= high <= highest or not math.isfinite(high):
        raise ValueError(f"{name} must lie between {lowest} and {highest}, got {value!r}")
    return None if low == high == center else (low, high)
