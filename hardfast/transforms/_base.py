"""What the transforms share: images in and out, draws on the images' device, and the options of a warp."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hardfast.reference._sampling import compute_dtype
from hardfast.transforms import _arguments


class Transform(nn.Module):
    """Draws parameters for a batch of images, and applies them."""

    def sample(self, images: Tensor, generator: torch.Generator | None = None) -> Any:
        """Draws the parameters of every image, on its device and without waiting for it.

        Args:
            images: ``[B, C, H, W]`` or ``[C, H, W]``; only shape, dtype and device matter.
            generator: source of the draw, on the device of ``images``; PyTorch's global one if None.

        Returns:
            a named tuple of tensors with a leading dimension B (1 for a single image).
        """
        with _without_autocast(images):
            return self._sample(_as_batch(images), generator)

    def apply(self, images: Any, parameters: Any = None) -> Any:
        """Applies given parameters.

        Args:
            images: ``[B, C, H, W]`` or ``[C, H, W]``; floating point, or uint8 (without gradients).
            parameters: what :meth:`sample` returns, or tensors of the user's in its place; a leading dimension of 1
                serves all images.

        Returns:
            images of the same shape and dtype, differentiable in ``images`` and ``parameters``.

        Without ``parameters`` this is ``nn.Module.apply(function)``.
        """
        if parameters is None:
            return super().apply(images)
        with _without_autocast(images):
            output = self._apply_batch(_as_batch(images), parameters)
        return output[0] if images.dim() == 3 else output

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.apply(images, self.sample(images, generator))

    def _sample(self, images: Tensor, generator: torch.Generator | None) -> Any:
        raise NotImplementedError

    def _apply_batch(self, images: Tensor, parameters: Any) -> Tensor:
        raise NotImplementedError


class Warp(Transform):
    """A transform that moves pixels in one pass."""

    def __init__(self, interpolation: Any, fill: Any) -> None:
        super().__init__()
        self.interpolation = _arguments.interpolation_name(interpolation)
        self.fill = _arguments.fill_values(fill)

    def warp(self, images: Tensor, parameters: Any, color: Tensor | None = None) -> Tensor:
        """Warps ``images [B, C, H, W]``, then applies ``color [B or 1, C, C + 1]``, in one pass."""
        raise NotImplementedError

    def _apply_batch(self, images: Tensor, parameters: Any) -> Tensor:
        return self.warp(images, parameters)

    def _options(self, images: Tensor) -> dict[str, Any]:
        """How the warps are called."""
        options: dict[str, Any] = {"mode": self.interpolation}
        if self.fill:
            channels = images.shape[1]
            if len(self.fill) not in (1, channels):
                raise ValueError(f"fill must be one number or one for each of {channels} channels, got {self.fill}")
            options |= {"padding_mode": "fill", "fill": self.fill if len(self.fill) > 1 else self.fill[0]}
        return options


def uniform(images: Tensor, shape: Sequence[int], limits: Sequence[float], generator: torch.Generator | None) -> Tensor:
    """Uniform draws in the dtype in which the parameters of ``images`` are computed."""
    draw = torch.rand(list(shape), generator=generator, device=images.device, dtype=compute_dtype(images))
    low, high = limits
    return low + (high - low) * draw


def _without_autocast(images: Any) -> AbstractContextManager[Any]:
    """Half precision would move pixels and quantise colours; the images keep their own dtype in any case."""
    device = images.device.type if isinstance(images, Tensor) else "cpu"
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _as_batch(images: Any) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if images.dim() not in (3, 4):
        raise ValueError(f"images must have shape [B, C, H, W] or [C, H, W], got {list(images.shape)}")
    return images[None] if images.dim() == 3 else images
