"""A set of images under every shift up to a given number of pixels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


def shift_images(images: Tensor, dx_px: int, dy_px: int) -> Tensor:
    """Moves images by whole pixels and fills with zeros.

    Args:
        images: ``[N, C, H, W]``.
        dx_px: pixels to the right; negative to the left.
        dy_px: pixels down; negative up.

    Returns:
        ``[N, C, H, W]``.
    """
    # F.pad crops where it is negative: what moves in on one side moves out on the other.
    return F.pad(images, (dx_px, -dx_px, dy_px, -dy_px))


class ShiftedSet:
    """Images under all ``(2 * max_shift_px + 1)**2`` shifts, made one shift at a time.

    Iterating gives ``(dx_px, dy_px, images [N, C, H, W])``, row by row of the square of shifts.

    Args:
        images: ``[N, C, H, W]``.
        labels: ``[N]``.
        max_shift_px: largest shift along each axis, from 0 to less than the side of the images.
    """

    def __init__(self, images: Tensor, labels: Tensor, max_shift_px: int) -> None:
        if len(images) != len(labels):
            raise ValueError(f"images and labels must be as many; got {len(images)} and {len(labels)}")
        if not 0 <= max_shift_px < min(images.shape[2:]):
            raise ValueError(
                f"max_shift_px must be at least 0 and less than the side of the images, {min(images.shape[2:])}; "
                f"got {max_shift_px}"
            )
        self.images = images
        self.labels = labels
        self.max_shift_px = max_shift_px

    def to(self, device: torch.device | str) -> ShiftedSet:
        """Returns the set on another device."""
        return ShiftedSet(self.images.to(device), self.labels.to(device), self.max_shift_px)

    def __len__(self) -> int:
        """Number of shifts."""
        return (2 * self.max_shift_px + 1) ** 2

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        reach = range(-self.max_shift_px, self.max_shift_px + 1)
        for dy in reach:
            for dx in reach:
                yield dx, dy, shift_images(self.images, dx, dy)
