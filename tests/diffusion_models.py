"""A denoiser small enough for exact comparisons, that depends on all it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TinyDenoiser(nn.Module):
    """Two smooth blocks on latents ``[B, 2, H, W]``, with conditioning ``[B, 6]``; float64."""

    def __init__(self, strength: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 2, 3, padding=1)
        self.embed = nn.Linear(7, 8)
        self.dropout = nn.Dropout(dropout)
        self.strength = strength
        self.recompute = False
        self.calls = 0
        self.requires_grad_(False).double()
        for parameter in self.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)

    @contextmanager
    def recompute_blocks(self) -> Iterator[None]:
        self.recompute = True
        try:
            yield
        finally:
            self.recompute = False

    def forward(self, latents: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        self.calls += 1
        time = (t.to(latents.dtype) / 1000)[:, None]
        embedding = self.embed(torch.cat([time, conditioning], 1))[:, :, None, None]
        hidden = self._block(lambda x: self.dropout(torch.tanh(self.first(x) + embedding)), latents)
        return self.strength * self._block(lambda x: torch.tanh(self.second(x)), hidden)

    def _block(self, function, value: Tensor) -> Tensor:
        return checkpoint(function, value, use_reentrant=False) if self.recompute else function(value)
