"""Thin-plate warp in plain PyTorch: what ``hardfast.ops.thin_plate_warp`` has to equal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hardfast.reference._sampling import Lattice, Sampling, Values, position_dtype, warp


def thin_plate_warp(
    image: Tensor,
    source_points: Tensor,
    target_points: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Values | None = None,
    color: Values | None = None,
    antialias: bool | int | Sequence[int] = False,
    regularization: float = 0.0,
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.thin_plate_warp`, differentiable to any order."""
    weights = thin_plate_weights(source_points, target_points, regularization)
    sampling = Sampling(mode, padding_mode, align_corners, fill, color, antialias)
    return warp_by_weights(image, target_points, weights, size, **sampling._asdict())


def warp_by_weights(image: Tensor, points: Tensor, weights: Tensor, size: Sequence[int] | None, **rules: Any) -> Tensor:
    """The warp under the spline of ``weights``, ``[B, K + 3, 2]``, about ``points``; ``rules`` as of the warp."""
    return warp(image, partial(_positions, points, weights), size, Sampling(**rules))


def thin_plate_weights(source_points: Tensor, target_points: Tensor, regularization: float) -> Tensor:
    """Weights ``[B, K + 3, 2]`` of the spline from ``target_points`` to ``source_points``, the last three of 1, x, y.

    NaN where the points do not determine a spline, as where all lie on one line (Bookstein 1989, equation 7;
    Wahba 1990, equation 2.4.23, for the regularisation).
    """
    dtype = position_dtype(target_points)
    source, target = source_points.to(dtype), target_points.to(dtype)
    points = target.shape[1]
    kernel = _radial((target[:, :, None] - target[:, None]).square().sum(-1))
    kernel = kernel + regularization * torch.eye(points, dtype=dtype, device=target.device)
    affine = torch.cat([torch.ones_like(target[..., :1]), target], -1)  # [B, K, 3]
    upper = torch.cat([kernel, affine], 2)
    lower = torch.cat([affine.mT, affine.new_zeros(affine.shape[0], 3, 3)], 2)
    system = torch.cat([upper, lower], 1)
    values = torch.cat([source, source.new_zeros(source.shape[0], 3, 2)], 1)
    weights, info = torch.linalg.solve_ex(system, values)
    return torch.where((info == 0)[:, None, None], weights, torch.nan)


def _positions(points: Tensor, weights: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Input positions in pixels under the spline of ``weights`` about ``points``, ``[B, K, 2]``."""
    x, y = lattice.x, lattice.y
    points, weights = points.to(x.norm.dtype)[..., None, None], weights.to(x.norm.dtype)
    count = points.shape[1]
    squared_distance = (x.norm - points[:, :, 0]).square() + (y.norm - points[:, :, 1]).square()  # [B, K, H, W]
    bent = torch.einsum("bkhw,bkc->bchw", _radial(squared_distance), weights[:, :count])
    affine = weights[:, count:, :, None, None]  # [B, 3, 2, 1, 1]
    mapped = bent + affine[:, 0] + affine[:, 1] * x.norm[:, None] + affine[:, 2] * y.norm[:, None]
    return mapped[:, 0] * x.half + x.centre, mapped[:, 1] * y.half + y.centre


def _radial(squared_distance: Tensor) -> Tensor:
    """``r**2 log r**2``: 0 at 0, as is its gradient."""
    positive = torch.where(squared_distance > 0, squared_distance, 1)
    return positive * positive.log()
