"""Projective warp in plain PyTorch: what ``hardfast.ops.projective_warp`` has to equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardfast.reference._sampling import Lattice, Sampling, Values, warp
from hardfast.reference.affine_warp import row_from_centre


def projective_warp(
    image: Tensor,
    homography: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Values | None = None,
    color: Values | None = None,
    antialias: bool | int | Sequence[int] = False,
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.projective_warp`, differentiable to any order."""

    def positions(lattice: Lattice) -> tuple[Tensor, Tensor]:
        x, y = lattice.x, lattice.y
        rows = homography.to(x.norm.dtype)[..., None, None]  # [B, 3, 3, 1, 1]
        divisor = rows[:, 2, 0] * x.norm + rows[:, 2, 1] * y.norm + rows[:, 2, 2]
        at_infinity = divisor.detach().abs() < torch.finfo(divisor.dtype).tiny ** 0.5
        # Points at infinity lie outside, and their gradient is zero: neither NaN nor infinity may enter it.
        divisor = torch.where(at_infinity, 1, divisor)
        x_px, y_px = (
            torch.where(at_infinity, torch.inf, row_from_centre(rows[:, k], axis, x, y) / divisor) + axis.centre
            for k, axis in ((0, x), (1, y))
        )
        return x_px, y_px

    return warp(image, positions, size, Sampling(mode, padding_mode, align_corners, fill, color, antialias))
