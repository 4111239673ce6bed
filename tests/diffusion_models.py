"""Denoisers small enough for exact comparisons: one of our own that depends on all it is given, and diffusers'."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
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


def class_unet(**options) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **options,
    ).eval()


def prompt_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


def transformer() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=3,
        out_channels=6,
        num_layers=2,
        sample_size=8,
        patch_size=4,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
    ).eval()
