"""``ElasticTransform``: torchvision's, with a displacement of its own for every image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hardfast.ops import flow_warp
from hardfast.reference._sampling import compute_dtype
from hardfast.transforms import _arguments
from hardfast.transforms._base import Warp, uniform


class ElasticParameters(NamedTuple):
    """A displacement a pixel, as :func:`hardfast.flow_warp` takes it (torchvision has the 2 last)."""

    displacement: Tensor  # [B, 2, H, W], (x, y), normalised


class ElasticTransform(Warp):
    """Shifts every pixel by smoothed noise, every image by its own.

    Equivalent to, for every image ``i``::

        v2.functional.elastic(images[i], displacement[i].permute(1, 2, 0)[None], interpolation, None)

    for a fill of 0; see :class:`RandomAffine` for others.

    Args:
        alpha: strength along x and y: noise in [-1, 1], once smoothed, is multiplied by ``alpha / W`` and
            ``alpha / H`` of the normalised unit, so that alpha is in half pixels. A number serves both.
        sigma: standard deviation of the smoothing along x and y in pixels, >= 0; at 0 there is none along that
            axis. The smoothing ends after 4 of them (in torchvision, after 4 of those of the displaced axis), and
            mirrors the noise at the edges, any number of times: small images, an error in torchvision, are possible.
        interpolation, fill: as in :class:`RandomAffine`.

    Gradients: to the images, and to ``displacement`` (zero with ``"nearest"``).

    Memory: the displacement, and three times as much while it is drawn.

    Source: Simard et al., Best Practices for Convolutional Neural Networks, 2003, section 2.
    """

    def __init__(
        self,
        alpha: float | Sequence[float] = 50.0,
        sigma: float | Sequence[float] = 5.0,
        interpolation: Any = "bilinear",
        fill: float | Sequence[float] | None = 0,
    ) -> None:
        super().__init__(interpolation, fill)
        self.alpha = _pair("alpha", alpha)
        self.sigma = _pair("sigma", sigma)
        if min(self.sigma) < 0:
            raise ValueError(f"sigma must be >= 0, got {sigma!r}")

    def warp(self, images: Tensor, parameters: ElasticParameters, color: Tensor | None = None) -> Tensor:
        flow = parameters.displacement
        if flow.dim() != 4 or flow.shape[1:] != (2, *images.shape[-2:]):
            expected = ["B or 1", 2, *images.shape[-2:]]
            raise ValueError(f"displacement must have shape {expected}, got {list(flow.shape)}")
        return flow_warp(images, flow.to(compute_dtype(images)), color=color, **self._options(images))

    def _sample(self, images: Tensor, generator: torch.Generator | None) -> ElasticParameters:
        batch, size = images.shape[0], images.shape[-2:]
        components = []
        for axis, length in ((0, size[1]), (1, size[0])):
            noise = uniform(images, [batch, 1, *size], (-1, 1), generator)
            noise = _smooth(_smooth(noise, 3, self.sigma[0]), 2, self.sigma[1])
            components.append(noise * (self.alpha[axis] / length))
        return ElasticParameters(torch.cat(components, 1))


def _pair(name: str, value: Any) -> tuple[float, float]:
    values = _arguments.numbers(name, [value] if isinstance(value, Real) else value, (1, 2))
    return values[0], values[-1]


def _smooth(values: Tensor, dim: int, sigma: float) -> Tensor:
    """Gaussian along one dimension of ``[B, 1, H, W]``, mirrored at the edge pixels."""
    if sigma == 0:
        return values
    length = values.shape[dim]
    radius = math.ceil(int(8 * sigma) / 2)
    offsets = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = (-0.5 * (offsets / sigma) ** 2).softmax(0)
    period = max(2 * (length - 1), 1)
    index = torch.arange(-radius, length + radius, device=values.device).remainder(period)
    mirrored = values.index_select(dim, torch.minimum(index, period - index) if length > 1 else index)
    return F.conv2d(mirrored, kernel.view([1, 1, -1, 1] if dim == 2 else [1, 1, 1, -1]))
