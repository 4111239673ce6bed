"""Random square cut-outs: what a classifier sees of a generated image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hardfast.ops import _checks, affine_warp


@dataclass(frozen=True)
class CutOuts:
    """Cuts random squares out of every image and resizes them, all in one anti-aliased warp.

    Args:
        size: side of the result in pixels: the classifiers' input.
        smallest: side of the smallest square in pixels of the image; None for the shorter side of the image.
        largest: of the largest; None for the shorter side of the image.
        count: squares an image, >= 1.
        noise: standard deviation of the normal noise added to the result, >= 0.

    Source: Augustin et al., DiG-IN: Diffusion Guidance for Investigating Networks, 2024, for the numbers.
    """

    size: int = 224
    smallest: int | None = 224
    largest: int | None = None
    count: int = 16
    noise: float = 0.005

    def __post_init__(self) -> None:
        for name in ("size", "smallest", "largest", "count"):
            value = getattr(self, name)
            if value is not None or name not in ("smallest", "largest"):
                _checks.integer(name, value, 1)
        _checks.not_negative("noise", self.noise)

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Draws the cut-outs of each image from its own generator, whatever else is in the batch.

        Args:
            images: ``[B, C, H, W]``.
            generators: one an image, on the device of ``images``.

        Returns:
            ``[B * count, C, size, size]``, those of an image next to each other; differentiable in the images.
        """
        smallest, largest = self._range(images, generators)
        _, channels, height, width = images.shape
        shape = (self.count, channels, self.size, self.size)
        draws, noise = [], []
        for generator in generators:
            draws.append(torch.rand(self.count, 3, generator=generator, device=images.device))
            if self.noise > 0:
                noise.append(torch.randn(shape, generator=generator, device=images.device))
        side, *position = torch.cat(draws).unbind(1)
        side = smallest + (largest - smallest) * side
        theta = images.new_zeros(len(side), 2, 3, dtype=torch.float32)
        for axis, (length, place) in enumerate(zip((width, height), position, strict=True)):
            scale = side / length
            theta[:, axis, axis] = scale
            theta[:, axis, 2] = (1 - scale) * (2 * place - 1)
        repeated = images.repeat_interleave(self.count, 0) if len(images) > 1 else images
        antialias = math.ceil(largest / self.size)
        seen = affine_warp(repeated, theta, (self.size, self.size), padding_mode="border", antialias=antialias)
        return seen + self.noise * torch.cat(noise).to(seen.dtype) if noise else seen

    def whole(self, images: Tensor) -> Tensor:
        """The whole images ``[B, C, H, W]``, resized to ``[B, C, size, size]``, without noise."""
        identity = torch.eye(2, 3, device=images.device)[None]
        return affine_warp(images, identity, (self.size, self.size), padding_mode="border", antialias=True)

    def _range(self, images: Tensor, generators: Sequence[torch.Generator]) -> tuple[int, int]:
        _checks.floating_tensor("images", images)
        if images.dim() != 4:
            raise ValueError(f"images must have shape [B, C, H, W], got {list(images.shape)}")
        if len(generators) != len(images):
            raise ValueError(f"generators must be one an image, {len(images)}, got {len(generators)}")
        shorter = min(images.shape[2:])
        smallest, largest = self.smallest or shorter, self.largest or shorter
        if not smallest <= largest <= shorter:
            raise ValueError(
                f"smallest and largest of the cut-outs must satisfy smallest <= largest <= {shorter}, "
                f"the shorter side of the images, got {smallest} and {largest}"
            )
        return smallest, largest
