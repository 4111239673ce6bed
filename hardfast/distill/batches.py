"""Batches that are a function of seed and step, so that a run can stop and go on with nothing but its step."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


class ShuffledBatches:
    """Indices of batches from an endless chain of epochs, each in a new random order.

    A batch may begin in one epoch and end in the next, so every image is used equally often and every batch
    is full.

    Args:
        count: number of images, >= 1.
        batch_size: >= 1; may exceed ``count``.
        seed: of the orders, >= 0.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        if count < 1 or batch_size < 1 or seed < 0:
            raise ValueError(f"count and batch_size must be >= 1 and seed >= 0; got {count}, {batch_size} and {seed}")
        self.count = count
        self.batch_size = batch_size
        self._order = lru_cache(maxsize=2)(lambda epoch: _epoch_order(count, seed, epoch))

    def indices(self, step: int) -> Tensor:
        """Indices ``[batch_size]``, int64 on the CPU, of the batch of ``step`` >= 0."""
        first = step * self.batch_size
        parts = []
        while first < (step + 1) * self.batch_size:
            epoch, start = divmod(first, self.count)
            stop = min(self.count, start + (step + 1) * self.batch_size - first)
            parts.append(self._order(epoch)[start:stop])
            first += stop - start
        return torch.cat(parts)


def _epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    # Two epochs or seeds share an order only if the 63-bit numbers meet: the odd factors spread them apart.
    mixed = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9) % 2**63
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed))
