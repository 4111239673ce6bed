"""What the augmentors that move pixels share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hardfast.augment.augmentor import MeanStd
from hardfast.augment.distribution import GaussianAugmentor
from hardfast.ops._warp import height_width

PADDING_MODES = ("zeros", "border", "reflection")


class WarpAugmentor(GaussianAugmentor):
    """Moves the pixels of every image by its own map.

    Args:
        rest, initial_scale, and all others: as :class:`GaussianAugmentor`.
        padding_mode: what lies outside the image, ``"zeros"``, ``"border"`` or ``"reflection"``.
    """

    def __init__(self, rest: Tensor, initial_scale: float, *, padding_mode: str = "zeros", **distribution: Any) -> None:
        super().__init__(rest, initial_scale, **distribution)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {list(PADDING_MODES)}; got {padding_mode!r}")
        self.padding_mode = padding_mode

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, padding_mode={self.padding_mode!r}"

    def _described_displacement(
        self, size: tuple[int, int], warp: Callable[[Tensor, Tensor, list[int]], Tensor]
    ) -> dict[str, MeanStd]:
        """How far the content moves, over all pixels and draws, where the entries are displacements ``[2, ...]``.

        ``warp`` takes an image, displacements ``[n, 2, ...]`` and the size of the output, and has border padding; what
        each entry does to each pixel is measured on an image of its own positions.
        """
        height, width = height_width("size", size)
        count, grid = self.noise_shape[1:].numel(), self.noise_shape[1:]
        # Warps are smooth, so few pixels tell the whole; the ramp reaches beyond them, so that none lies outside.
        out_size = [min(side, 32) for side in (height, width)]
        length, step = 4 * out_size[1], 1e-3
        ramp = (2 * torch.arange(length, dtype=torch.float64) + 1) / length - 1
        moved = torch.zeros(count + 1, 2, count, dtype=torch.float64)  # along x, each entry by itself, then none
        moved[:count, 0] = step * torch.eye(count, dtype=torch.float64)
        positions = warp(ramp.expand(1, 1, 1, -1), moved.unflatten(2, grid), out_size).flatten(1)
        share = ((positions[:count] - positions[count]) / step).T  # [pixels, entries], the same along y
        none = torch.zeros_like(share)
        return self._described(
            {
                "displacement_x_px": torch.cat([-share * width / 2, none], 1),
                "displacement_y_px": torch.cat([none, -share * height / 2], 1),
            }
        )


def check_grid(grid: Sequence[int], least: int) -> tuple[int, int]:
    """``(rows, columns)`` of a grid of control values."""
    if not isinstance(grid, Sequence) or len(grid) != 2 or not all(isinstance(n, int) and n >= least for n in grid):
        raise ValueError(f"grid must be (rows, columns), two integers of at least {least}; got {grid!r}")
    rows, columns = grid
    return rows, columns
