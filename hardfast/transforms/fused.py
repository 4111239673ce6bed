"""``Fused``: a warp and a change of colours in one pass over the pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardfast.transforms._base import Transform, Warp
from hardfast.transforms.color import ColorJitter, ColorParameters


class FusedParameters(NamedTuple):
    """The parameters of the two transforms."""

    warp: Any
    color: ColorParameters


class Fused(Transform):
    """Warps every image, then changes its colours, in one pass.

    Equivalent to ``color(warp(images))``, except that the contrast is about the mean gray of the images before the
    warp: that is known before the pass, and what the warp brings in from outside does not change it. The fill is
    coloured like the rest.

    Args:
        warp: :class:`RandomAffine`, :class:`RandomPerspective` or :class:`ElasticTransform`.
        color: a :class:`ColorJitter` with ``clamp="last"`` or ``"never"``. A clamp, and a hue, are steps of their own
            after the pass: with ``"never"`` and no hue there is none.

    Gradients and memory: as the warp's; the mean for a contrast is one reading of the images.
    """

    def __init__(self, warp: Warp, color: ColorJitter) -> None:
        super().__init__()
        if not isinstance(warp, Warp):
            raise TypeError(f"warp must be a transform that warps, such as RandomAffine, got {type(warp).__name__}")
        if not isinstance(color, ColorJitter):
            raise TypeError(f"color must be ColorJitter, got {type(color).__name__}")
        if color.clamp == "each":
            raise ValueError("color must have clamp='last' or clamp='never': one pass cannot clamp after each factor")
        self.warp = warp
        self.color = color

    def _sample(self, images: Tensor, generator: torch.Generator | None) -> FusedParameters:
        return FusedParameters(self.warp.sample(images, generator), self.color.sample(images, generator))

    def _apply_batch(self, images: Tensor, parameters: FusedParameters) -> Tensor:
        matrix = self.color.matrix(images, parameters.color)
        return self.color.finish(self.warp.warp(images, parameters.warp, matrix), parameters.color)
