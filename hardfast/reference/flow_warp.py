"""Flow warp in plain PyTorch: what ``hardfast.ops.flow_warp`` has to equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardfast.reference._sampling import Axis, Lattice, Sampling, Values, warp


def flow_warp(
    image: Tensor,
    flow: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Values | None = None,
    color: Values | None = None,
    antialias: bool | int | Sequence[int] = False,
    interpolation: str = "bilinear",
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.flow_warp`, differentiable to any order."""

    def positions(lattice: Lattice) -> tuple[Tensor, Tensor]:
        x, y = lattice.x, lattice.y
        weights = {"bilinear": _linear_taps, "cubic_bspline": _bspline_taps}[interpolation]
        shift = flow.to(x.norm.dtype)  # [B, 2, h, w]
        for dim, axis in ((2, y), (3, x)):
            at = _control_positions(axis, shift.shape[dim], lattice.align_corners)
            shift = _interpolated(shift, dim, *weights(at))
        x_px = x.offset * x.scale + x.centre + shift[:, 0] * x.half
        y_px = y.offset * y.scale + y.centre + shift[:, 1] * y.half
        return x_px, y_px

    return warp(image, positions, size, Sampling(mode, padding_mode, align_corners, fill, color, antialias))


def _control_positions(axis: Axis, controls: int, align_corners: bool) -> Tensor:
    """Output positions in control values from the first one, as ``F.interpolate`` relates them."""
    extents = (controls - 1, axis.length - 1) if align_corners else (controls, axis.length)
    if extents[1] == 0:
        return torch.zeros_like(axis.offset).flatten()
    if align_corners:  # counted from the first output pixel
        return (axis.offset.flatten() + (axis.length - 1) / 2) * (extents[0] / extents[1])
    return axis.offset.flatten() * (extents[0] / extents[1]) + (controls - 1) / 2


def _linear_taps(position: Tensor) -> tuple[Tensor, list[Tensor]]:
    first = position.floor()
    rest = position - first
    return first, [1 - rest, rest]


def _bspline_taps(position: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Uniform cubic B-spline (Unser 1999, equation 4): four weights that are positive and sum to 1."""
    cell = position.floor()
    t = position - cell
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    return cell - 1, [weight / 6 for weight in weights]


def _interpolated(shift: Tensor, dim: int, first: Tensor, weights: list[Tensor]) -> Tensor:
    """Weighted sums of consecutive control values along one dimension; beyond the border the last one repeats."""
    shape = [1, 1, 1, 1]
    shape[dim] = -1
    total = torch.zeros((), dtype=shift.dtype, device=shift.device)
    for k, weight in enumerate(weights):
        index = (first + k).clamp(0, shift.shape[dim] - 1).to(torch.int64)
        total = total + shift.index_select(dim, index) * weight.reshape(shape)
    return total
