"""What the four warps share on the host: one description of a call, and the launches that it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hardfast._triton._device import on_device_of
from hardfast._triton._warp_forward import warp_kernel

# A tile is eight rows of 32 columns: a warp of threads covers neighbouring columns, and rows share cache lines. Each
# thread has one pixel: with two, bicubic gradients spill registers.
TILE_H, TILE_W = 8, 32
# Channels that one pass over the positions serves; also the most that a colour matrix may mix.
GROUP = 4
TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}


@dataclass(frozen=True)
class Warp:
    """One call: the tensors of ``hardfast::<op>`` and its options, as the kernels take them."""

    map: str
    image: Tensor  # [B or 1, C, H, W]
    maps: tuple[Tensor, ...]  # theta; homography; flow; points and weights
    fill: Tensor | None  # [1 or B, C]
    color: Tensor | None  # [1 or B, C, C + 1]
    out_size: tuple[int, int]
    samples: tuple[int, int]
    mode: str
    padding_mode: str
    align_corners: bool
    interpolation: str = "bilinear"

    @property
    def batch(self) -> int:
        batches = [t.shape[0] for t in (self.image, *self.maps, self.fill, self.color) if t is not None]
        return next((n for n in batches if n != 1), 1)

    @property
    def channels(self) -> int:
        return self.image.shape[1]

    @property
    def tiles(self) -> int:
        return triton.cdiv(self.out_size[0], TILE_H) * triton.cdiv(self.out_size[1], TILE_W)

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.float64 if self.image.dtype == torch.float64 else torch.float32

    @property
    def has_fill(self) -> bool:
        return self.padding_mode == "fill" and self.fill is not None

    @property
    def sizes(self) -> tuple[int, ...]:
        return (*self.image.shape[1:], *self.out_size, *self.samples)

    @property
    def map_argument(self) -> tuple[Any, ...]:
        first, second = self.maps[0], self.maps[-1]
        if self.map == "flow":
            strides = first.stride()
            return first, first, shared_stride(first), 0, first.shape[2], first.shape[3], *strides[1:]
        first, second = first.contiguous(), second.contiguous()
        count = first.shape[1]
        return first, second, shared_stride(first), shared_stride(second), count, 1, 1, 1, 1

    @property
    def fill_argument(self) -> tuple[Tensor, int]:
        return self._small(self.fill if self.has_fill else None)

    @property
    def color_argument(self) -> tuple[Tensor, int]:
        return self._small(self.color)

    def _small(self, values: Tensor | None) -> tuple[Tensor, int]:
        if values is None:
            return self.maps[0], 0  # never read
        values = values.contiguous()
        return values, shared_stride(values)

    def constants(self) -> dict[str, Any]:
        """The compile-time arguments that every kernel has."""
        dense = self.interpolation == "bilinear" and self.samples == (1, 1)
        dense = dense and self.map == "flow" and tuple(self.maps[0].shape[2:]) == self.out_size
        return {
            "MAP": self.map,
            "INTERPOLATION": "none" if dense else self.interpolation,
            "TAPS": TAPS[self.mode],
            "PADDING": "zeros" if self.padding_mode == "fill" and not self.has_fill else self.padding_mode,
            "ALIGN_CORNERS": self.align_corners,
            "COLOR": 0 if self.color is None else self.channels,
            "T": tl.float64 if self.compute_dtype == torch.float64 else tl.float32,
            "TILE_H": TILE_H,
            "TILE_W": TILE_W,
            "num_warps": TILE_H * TILE_W // 32,
        }


def shared_stride(tensor: Tensor) -> int:
    """The stride from one sample to the next: 0 where all samples share one entry."""
    return 0 if tensor.shape[0] == 1 else tensor.stride(0)


def with_strides(tensor: Tensor) -> tuple[Any, ...]:
    """A ``[B, C, H, W]`` tensor as the kernels take it: pointer and strides."""
    return tensor, shared_stride(tensor), *tensor.stride()[1:]


def empty_in_format_of(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    channels_last = image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=format_)


def launch_warp(warp: Warp) -> Tensor:
    output = empty_in_format_of(warp.image, (warp.batch, warp.channels, *warp.out_size))
    if output.numel() == 0:
        return output
    with on_device_of(output):
        warp_kernel[(warp.batch * warp.tiles,)](
            with_strides(output),
            with_strides(warp.image),
            warp.map_argument,
            warp.fill_argument,
            warp.color_argument,
            warp.sizes,
            GROUP=min(warp.channels, GROUP),
            **warp.constants(),
        )
    return output
