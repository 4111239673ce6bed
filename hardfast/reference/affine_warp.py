"""Affine warp in plain PyTorch: what ``hardfast.ops.affine_warp`` has to equal."""

from __future__ import annotations

import torch
from torch import Tensor


def affine_warp(
    image: Tensor,
    theta: Tensor,
    size: tuple[int, int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Tensor | float = 0.0,
) -> Tensor:
    """Same arguments and result as :func:`hardfast.ops.affine_warp`, differentiable to any order.

    Equals ``F.grid_sample(image, F.affine_grid(theta, ...))`` where PyTorch has the padding mode. It is written
    with gathers, so that half images get float32 coordinates and the second derivative exists in every release.
    """
    height, width = image.shape[-2:]
    out_height, out_width = (height, width) if size is None else size
    coordinate_dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    theta = theta.to(coordinate_dtype)
    grid_y = _axis(out_height, align_corners, theta)[:, None]  # [H_out, 1], -1..1
    grid_x = _axis(out_width, align_corners, theta)[None, :]  # [1, W_out]
    row_x, row_y = theta[:, 0, :, None, None], theta[:, 1, :, None, None]  # [B, 3, 1, 1]
    x_norm = row_x[:, 0] * grid_x + row_x[:, 1] * grid_y + row_x[:, 2]  # [B, H_out, W_out]
    y_norm = row_y[:, 0] * grid_x + row_y[:, 1] * grid_y + row_y[:, 2]
    x_px = _pad(_to_pixels(x_norm, width, align_corners), width, padding_mode, align_corners)
    y_px = _pad(_to_pixels(y_norm, height, align_corners), height, padding_mode, align_corners)

    source = image.to(coordinate_dtype)
    fill_values = torch.as_tensor(fill, dtype=coordinate_dtype, device=image.device)
    fill_values = fill_values if padding_mode == "fill" else torch.zeros_like(fill_values)
    outside = torch.atleast_2d(fill_values)[:, :, None, None]  # [1 or B, 1 or C, 1, 1]
    sample = {"bilinear": _bilinear, "nearest": _nearest}[mode]
    return sample(source, x_px, y_px, outside).to(image.dtype)


def _axis(length: int, align_corners: bool, like: Tensor) -> Tensor:
    """Normalised positions of the pixel centres along one axis."""
    steps = torch.arange(length, dtype=like.dtype, device=like.device)
    if align_corners:
        return steps * (2.0 / max(length - 1, 1)) - 1.0 if length > 1 else torch.zeros_like(steps)
    return (2.0 * steps + 1.0) / length - 1.0


def _to_pixels(norm: Tensor, length: int, align_corners: bool) -> Tensor:
    return (norm + 1) * ((length - 1) / 2) if align_corners else ((norm + 1) * length - 1) / 2


def _pad(position: Tensor, length: int, padding_mode: str, align_corners: bool) -> Tensor:
    if padding_mode in ("zeros", "fill"):
        return position
    if padding_mode == "reflection":
        low, span = (0.0, length - 1.0) if align_corners else (-0.5, float(length))
        if span == 0:
            return torch.zeros_like(position)
        distance = (position - low).abs()
        flips = torch.floor(distance / span)
        rest = distance - flips * span
        position = torch.where(flips % 2 == 0, rest, span - rest) + low
    # The gradient is zero where the coordinate is clipped, the limits included, as in PyTorch.
    inside = (position > 0) & (position < length - 1)
    clipped = position.detach().nan_to_num(nan=0.0).clamp(0, length - 1)
    return torch.where(inside, position, clipped)


def _tap(image: Tensor, x: Tensor, y: Tensor, outside: Tensor) -> Tensor:
    """Pixels at whole coordinates, the outside value beyond the edges: [B, C, H_out, W_out]."""
    batch, channels, height, width = image.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = torch.where(inside, y * width + x, 0).to(torch.int64).reshape(batch, 1, -1)
    if height * width == 0:
        return outside.expand(batch, channels, *x.shape[1:])
    taps = image.flatten(2).gather(2, index.expand(-1, channels, -1)).unflatten(2, x.shape[1:])
    return torch.where(inside[:, None], taps, outside)


def _bilinear(image: Tensor, x: Tensor, y: Tensor, outside: Tensor) -> Tensor:
    left, top = x.detach().floor(), y.detach().floor()
    right_weight, bottom_weight = (x - left)[:, None], (y - top)[:, None]
    finite = torch.isfinite(left) & torch.isfinite(top)  # others sample outside, without spreading NaN
    right_weight = torch.where(finite[:, None], right_weight, 0)
    bottom_weight = torch.where(finite[:, None], bottom_weight, 0)
    upper = torch.lerp(_tap(image, left, top, outside), _tap(image, left + 1, top, outside), right_weight)
    lower = torch.lerp(_tap(image, left, top + 1, outside), _tap(image, left + 1, top + 1, outside), right_weight)
    return torch.lerp(upper, lower, bottom_weight)


def _nearest(image: Tensor, x: Tensor, y: Tensor, outside: Tensor) -> Tensor:
    return _tap(image, x.detach().round(), y.detach().round(), outside)
