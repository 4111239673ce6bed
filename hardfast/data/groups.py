"""Images that belong to groups, by which robustness is measured and nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardfast.data.image_set import ImageSet


@dataclass(frozen=True)
class GroupedImages:
    """An image set whose every image belongs to one group, such as a class on one background.

    Args:
        images: the images and their labels.
        groups: ``[N]``, int64 on the CPU: a position in ``group_names`` each.
        group_names: of all groups, also of those of which this set has no image.
    """

    images: ImageSet
    groups: Tensor
    group_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.groups.dtype != torch.int64:
            raise TypeError(f"groups must be int64, got {self.groups.dtype}")
        if self.groups.shape != (len(self.images),):
            raise ValueError(f"groups must have shape [{len(self.images)}], got {list(self.groups.shape)}")
        if len(self.groups) and not 0 <= int(self.groups.min()) <= int(self.groups.max()) < len(self.group_names):
            raise ValueError(
                f"groups must be in [0, {len(self.group_names)}), the groups named, "
                f"got {int(self.groups.min())} .. {int(self.groups.max())}"
            )

    def __len__(self) -> int:
        return len(self.images)
