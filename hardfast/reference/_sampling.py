"""What the warps in plain PyTorch share: output positions, padding, taps, interpolation, anti-aliasing, colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Values = float | Sequence[float] | Sequence[Sequence[float]] | Tensor
KEYS_A = -0.75  # the slope of the cubic kernel that grid_sample takes


class Sampling(NamedTuple):
    """The options that all warps take, as :func:`hardfast.ops.affine_warp` describes them."""

    mode: str
    padding_mode: str
    align_corners: bool
    fill: Values | None
    color: Values | None
    antialias: bool | int | Sequence[int]


class Axis(NamedTuple):
    """One axis of output and input. All is counted from the centres: there the identity is exact, without rounding."""

    offset: Tensor  # where the output is sampled, in output pixels from its centre
    norm: Tensor  # the same in normalised units
    scale: float  # input pixels per output pixel of the identity
    half: float  # input pixels per normalised unit
    centre: float  # of the input, in pixels from its first pixel's centre
    length: int  # of the output in pixels


class Lattice(NamedTuple):
    """Where the output is sampled: the offsets of ``x`` are ``[1, 1, W]``, those of ``y`` ``[1, H, 1]``."""

    x: Axis
    y: Axis
    align_corners: bool


Positions = Callable[[Lattice], tuple[Tensor, Tensor]]


def compute_dtype(image: Tensor) -> torch.dtype:
    """The dtype of the arithmetic on pixels, and of what the ops take besides the image."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def sub_samples(antialias: bool | int | Sequence[int], image: Tensor, size: Sequence[int]) -> tuple[int, int]:
    """``antialias`` as sub-samples per output pixel along y and x."""
    if antialias is True:
        along_y, along_x = ((image.shape[2 + axis] + size[axis] - 1) // size[axis] for axis in (0, 1))
        return along_y, along_x
    if isinstance(antialias, Sequence):
        return antialias[0], antialias[1]
    return (1, 1) if antialias is False else (antialias, antialias)


def warp(image: Tensor, positions: Positions, size: Sequence[int] | None, sampling: Sampling) -> Tensor:
    """Samples ``image`` at the pixels that ``positions`` gives for a lattice: x and y, ``[B or 1, H, W]`` each.

    Every batch of size 1 serves all samples. Positions are float64 (where the device has it), whatever the image.
    """
    mode, padding_mode, align_corners, fill, color, antialias = sampling
    out_size = (image.shape[2], image.shape[3]) if size is None else (size[0], size[1])
    samples = sub_samples(antialias, image, out_size)
    dtype = compute_dtype(image)
    x, y = positions(_lattice(image, out_size, samples, align_corners))
    outside = torch.zeros((), dtype=dtype, device=image.device)
    if padding_mode == "fill" and fill is not None:
        outside = torch.as_tensor(fill, dtype=dtype, device=image.device)
    outside = torch.atleast_2d(outside)[:, :, None, None]  # [1 or B, 1 or C, 1, 1]
    output = _INTERPOLATIONS[mode](image.to(dtype), x, y, padding_mode, align_corners, outside)
    if samples != (1, 1):
        output = output.unflatten(3, (out_size[1], samples[1])).unflatten(2, (out_size[0], samples[0])).mean((3, 5))
    if color is not None:
        output = colored(output, torch.as_tensor(color, dtype=dtype, device=image.device))
    return to_pixel_dtype(output, image.dtype)


def colored(output: Tensor, color: Tensor) -> Tensor:
    """``color[:, :C] @ pixel + color[:, C]`` for every pixel; ``color`` is ``[C, C + 1]`` or ``[1 or B, C, C + 1]``."""
    return (color[..., :-1] @ output.flatten(2) + color[..., -1:]).unflatten(2, output.shape[2:])


def to_pixel_dtype(output: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.uint8:
        output = output.round().clamp(0, 255)  # halves go to the even neighbour
    return output.to(dtype)


def position_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _lattice(image: Tensor, size: tuple[int, int], samples: tuple[int, int], align_corners: bool) -> Lattice:
    y, x = (_axis(image.shape[2 + k], size[k], samples[k], align_corners, image) for k in (0, 1))
    x = x._replace(offset=x.offset[None, None, :], norm=x.norm[None, None, :])
    y = y._replace(offset=y.offset[None, :, None], norm=y.norm[None, :, None])
    return Lattice(x, y, align_corners)


def _axis(in_length: int, out_length: int, samples: int, align_corners: bool, image: Tensor) -> Axis:
    steps = torch.arange(out_length * samples, dtype=position_dtype(image), device=image.device)
    offset = (steps + 0.5) / samples - 0.5 * out_length
    in_extent, out_extent = (in_length - 1, out_length - 1) if align_corners else (in_length, out_length)
    if out_extent == 0:  # a single output pixel has no extent between corners: it lies at the centre
        return Axis(offset, torch.zeros_like(offset), 0.0, in_extent / 2, (in_length - 1) / 2, out_length)
    return Axis(offset, 2 * offset / out_extent, in_extent / out_extent, in_extent / 2, (in_length - 1) / 2, out_length)


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
    channels, height, width = image.shape[1:]
    batch = torch.broadcast_shapes(image.shape[:1], x.shape[:1])[0]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    inside = inside.expand(batch, *inside.shape[1:])
    if height * width == 0:
        return outside.expand(batch, channels, *inside.shape[1:])
    index = torch.where(inside, y * width + x, 0).to(torch.int64).flatten(1)[:, None]
    pixels = image.flatten(2).expand(batch, -1, -1)
    taps = pixels.gather(2, index.expand(-1, channels, -1)).unflatten(2, inside.shape[1:])
    return torch.where(inside[:, None], taps, outside)


def _cell(position: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The pixel at or before a position and the distance to it; of non-finite positions the distance is zero."""
    first = position.detach().floor()
    return first, torch.where(torch.isfinite(first), position - first, 0).to(dtype)


def _nearest(image: Tensor, x: Tensor, y: Tensor, padding_mode: str, align_corners: bool, outside: Tensor) -> Tensor:
    height, width = image.shape[2:]
    column = _pad(x.detach(), width, padding_mode, align_corners).round()
    row = _pad(y.detach(), height, padding_mode, align_corners).round()
    return _tap(image, column, row, outside)


def _bilinear(image: Tensor, x: Tensor, y: Tensor, padding_mode: str, align_corners: bool, outside: Tensor) -> Tensor:
    height, width = image.shape[2:]
    left, right_weight = _cell(_pad(x, width, padding_mode, align_corners), image.dtype)
    top, bottom_weight = _cell(_pad(y, height, padding_mode, align_corners), image.dtype)
    right_weight, bottom_weight = right_weight[:, None], bottom_weight[:, None]
    upper = torch.lerp(_tap(image, left, top, outside), _tap(image, left + 1, top, outside), right_weight)
    lower = torch.lerp(_tap(image, left, top + 1, outside), _tap(image, left + 1, top + 1, outside), right_weight)
    return torch.lerp(upper, lower, bottom_weight)


def _bicubic(image: Tensor, x: Tensor, y: Tensor, padding_mode: str, align_corners: bool, outside: Tensor) -> Tensor:
    height, width = image.shape[2:]
    left, x_rest = _cell(x, image.dtype)
    top, y_rest = _cell(y, image.dtype)
    columns = [_pad(left + k, width, padding_mode, align_corners) for k in range(-1, 3)]
    rows = [_pad(top + k, height, padding_mode, align_corners) for k in range(-1, 3)]
    x_weights, y_weights = _keys_weights(x_rest[:, None]), _keys_weights(y_rest[:, None])

    def along_row(row: Tensor) -> Tensor:
        return _weighted_sum([_tap(image, column, row, outside) for column in columns], x_weights)

    return _weighted_sum([along_row(row) for row in rows], y_weights)


def _weighted_sum(values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + value * weight
    return total


def _keys_weights(t: Tensor) -> list[Tensor]:
    """Weights of the taps at -1, 0, 1 and 2 for a position 0 <= t < 1 (Keys 1981, equation 4)."""

    def near(s: Tensor) -> Tensor:  # |s| <= 1
        return ((KEYS_A + 2) * s - (KEYS_A + 3)) * s * s + 1

    def far(s: Tensor) -> Tensor:  # 1 <= |s| <= 2
        return ((KEYS_A * s - 5 * KEYS_A) * s + 8 * KEYS_A) * s - 4 * KEYS_A

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


_INTERPOLATIONS = {"nearest": _nearest, "bilinear": _bilinear, "bicubic": _bicubic}
