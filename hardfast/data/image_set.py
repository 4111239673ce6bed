"""What training needs of a set of labelled images, in memory or on disk."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class ImageSet(Protocol):
    """Labelled images by number: tensors in memory, or files that are decoded when they are asked for."""

    @property
    def labels(self) -> Tensor:
        """``[N]``, int64."""

    def __len__(self) -> int: ...

    def load(self, index: Tensor) -> Tensor:
        """Images ``[n, C, H, W]``, float32 in [0, 1], of the numbers ``index``, ``[n]``, int64."""
