"""Accuracy of a network, on a set of images and under every shift of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hardfast.data.shifts import ShiftedSet
from hardfast.distill.constant import held_constant


class ShiftAccuracy(NamedTuple):
    """Accuracy per shift; ``dx_px`` is to the right and ``dy_px`` down, ``[M]`` each."""

    dx_px: np.ndarray
    dy_px: np.ndarray
    accuracy: np.ndarray

    @property
    def mean(self) -> float:
        """Accuracy over all images under all shifts, in [0, 1]."""
        return float(self.accuracy.mean())


@torch.no_grad()
def predict_logits(model: nn.Module, images: Tensor, batch_size: int = 1024) -> Tensor:
    """Runs a network in evaluation mode over images ``[N, C, H, W]`` in chunks; its mode is restored after.

    Returns:
        Logits ``[N, K]``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1; got {batch_size}")
    with held_constant(model):
        return torch.cat([model(chunk) for chunk in images.split(batch_size)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 1024) -> float:
    """Fraction of images ``[N, C, H, W]`` whose largest logit is at the label ``[N]``.

    Raises:
        ValueError: there are no images, or their number is not that of the labels.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"images and labels must be as many, at least one; got {len(images)} and {len(labels)}")
    correct = predict_logits(model, images, batch_size).argmax(1) == labels
    return int(correct.sum()) / len(labels)


def accuracy_per_shift(model: nn.Module, shifted: ShiftedSet, batch_size: int = 1024) -> ShiftAccuracy:
    """Accuracy on a set of images under each of its shifts; one shifted copy is in memory at a time."""
    rows = [(dx, dy, accuracy(model, images, shifted.labels, batch_size)) for dx, dy, images in shifted]
    dx_px, dy_px, accuracies = zip(*rows, strict=True)
    return ShiftAccuracy(np.array(dx_px), np.array(dy_px), np.array(accuracies))
