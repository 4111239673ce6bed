"""Accuracy of a network, on a set of images and under every shift of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hardfast.data.groups import GroupedImages
from hardfast.data.image_set import ImageSet
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
def predict_logits(model: nn.Module, images: Tensor | ImageSet, batch_size: int = 1024) -> Tensor:
    """Runs a network in evaluation mode over images ``[N, C, H, W]`` in chunks; its mode is restored after.

    Args:
        model: maps images to logits.
        images: a tensor, or a set, whose images are moved to the device of the network's parameters.
        batch_size: of the chunks, >= 1.

    Returns:
        Logits ``[N, K]``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1; got {batch_size}")
    with held_constant(model):
        return torch.cat([model(chunk) for chunk in _chunks(model, images, batch_size)])


def accuracy(model: nn.Module, images: Tensor | ImageSet, labels: Tensor, batch_size: int = 1024) -> float:
    """Fraction of images ``[N, C, H, W]`` whose largest logit is at the label ``[N]``.

    Raises:
        ValueError: there are no images, or their number is not that of the labels.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"images and labels must be as many, at least one; got {len(images)} and {len(labels)}")
    answers = predict_logits(model, images, batch_size).argmax(1)
    return int((answers == labels.to(answers.device)).sum()) / len(labels)


def group_accuracies(model: nn.Module, tested: GroupedImages, batch_size: int = 1024) -> dict[str, float]:
    """Accuracy of each group that has images, in [0, 1], by name.

    Worst-group accuracy is the least of them, mean-group accuracy their mean: a large group counts no more than others.

    Raises:
        ValueError: there are no images.
    """
    if len(tested) == 0:
        raise ValueError("tested must hold images, got none")
    answers = predict_logits(model, tested.images, batch_size).argmax(1).cpu()
    correct = (answers == tested.images.labels.cpu()).double()
    members = [tested.groups == group for group in range(len(tested.group_names))]
    return {
        name: float(correct[where].mean())
        for name, where in zip(tested.group_names, members, strict=True)
        if where.any()
    }


def _chunks(model: nn.Module, images: Tensor | ImageSet, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        yield from images.split(batch_size)
        return
    weights = next(itertools.chain(model.parameters(), model.buffers()), None)
    device = None if weights is None else weights.device
    for index in torch.arange(len(images)).split(batch_size):
        yield images.load(index).to(device)


def accuracy_per_shift(model: nn.Module, shifted: ShiftedSet, batch_size: int = 1024) -> ShiftAccuracy:
    """Accuracy on a set of images under each of its shifts; one shifted copy is in memory at a time."""
    rows = [(dx, dy, accuracy(model, images, shifted.labels, batch_size)) for dx, dy, images in shifted]
    dx_px, dy_px, accuracies = zip(*rows, strict=True)
    return ShiftAccuracy(np.array(dx_px), np.array(dy_px), np.array(accuracies))
