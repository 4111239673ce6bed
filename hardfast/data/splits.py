"""The parts of an image classification data set, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """Images ``[N, C, H, W]``, float32 in [0, 1], and labels ``[N]``, int64."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.labels.dim() != 1 or len(self.images) != len(self.labels):
            raise ValueError(
                "images must have shape [N, C, H, W] and labels [N]; "
                f"got {list(self.images.shape)} and {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> LabelledImages:
        return LabelledImages(self.images[index], self.labels[index])

    def load(self, index: Tensor) -> Tensor:
        """Images of the numbers ``index``, ``[n]``: what an :class:`~hardfast.data.ImageSet` does."""
        return self.images[index.to(self.images.device)]

    def to(self, device: torch.device | str) -> LabelledImages:
        """Returns the set on another device."""
        return LabelledImages(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """Training, validation and test parts; training and selection see the first two only."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages

    def to(self, device: torch.device | str) -> Splits:
        """Returns all parts on another device."""
        return Splits(self.train.to(device), self.validation.to(device), self.test.to(device))
