"""Affine warp in plain PyTorch: what ``hardfast.ops.affine_warp`` has to equal."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hardfast.reference._sampling import Axis, Lattice, Sampling, Values, warp


def affine_warp(
    image: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Values | None = None,
    color: Values | None = None,
    antialias: bool | int | Sequence[int] = False,
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.affine_warp`, differentiable to any order.

    Equals ``F.grid_sample(image, F.affine_grid(theta, ...))`` where PyTorch has the padding mode. It is written
    with gathers, so that coordinates do not take the dtype of a half image and every derivative exists.
    """

    def positions(lattice: Lattice) -> tuple[Tensor, Tensor]:
        x, y = lattice.x, lattice.y
        rows = theta.to(x.norm.dtype)[..., None, None]  # [B, 2, 3, 1, 1]
        return row_from_centre(rows[:, 0], x, x, y) + x.centre, row_from_centre(rows[:, 1], y, x, y) + y.centre

    return warp(image, positions, size, Sampling(mode, padding_mode, align_corners, fill, color, antialias))


def row_from_centre(row: Tensor, axis: Axis, x: Axis, y: Axis) -> Tensor:
    """A row of a normalised map, ``[B, 3, 1, 1]``, over the lattice: pixels from the input's centre along ``axis``."""
    # axis.half * x.norm, but with one factor, which is 1 for the identity.
    x_px = x.offset * x.scale if axis is x else x.norm * axis.half
    y_px = y.offset * y.scale if axis is y else y.norm * axis.half
    return row[:, 0] * x_px + row[:, 1] * y_px + row[:, 2] * axis.half
