"""``RandomPerspective``: torchvision's, with a map of its own for every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardfast.geometry import get_perspective_transform, homography_from_matrix
from hardfast.ops import _checks, projective_warp
from hardfast.reference._sampling import compute_dtype
from hardfast.transforms._base import Warp, uniform


class PerspectiveParameters(NamedTuple):
    """Where the corners of every image go, as in ``torchvision.transforms.v2.functional.perspective``."""

    endpoints: Tensor  # [B, 4, 2], (x, y) of the top left, top right, bottom right and bottom left corner


class RandomPerspective(Warp):
    """Views every image from its own random side, in one pass.

    Equivalent to, for every image ``i`` that is drawn to change::

        corners = [[0, 0], [W - 1, 0], [W - 1, H - 1], [0, H - 1]]
        v2.functional.perspective(images[i], corners, endpoints[i], interpolation, None)

    for a fill of 0; see :class:`RandomAffine` for others. As in torchvision, the points count from the outer corner of
    the top left pixel.

    Args:
        distortion_scale: how far the corners may move, in [0, 1]: by whole pixels, up to this share of half the side.
        p: probability, in [0, 1], that an image changes; the others come back as they are.
        interpolation, fill: as in :class:`RandomAffine`.

    Gradients: to the images, and to ``endpoints`` (zero with ``"nearest"``).

    Memory: as :func:`hardfast.projective_warp`; there is no grid.

    Three endpoints on a line, which only a ``distortion_scale`` near 1 can draw, leave an image as it is.
    """

    def __init__(
        self,
        distortion_scale: float = 0.5,
        p: float = 0.5,
        interpolation: Any = "bilinear",
        fill: float | Sequence[float] | None = 0,
    ) -> None:
        super().__init__(interpolation, fill)
        for name, value in (("distortion_scale", distortion_scale), ("p", p)):
            if not 0 <= _checks.number(name, value) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
        self.distortion_scale = distortion_scale
        self.p = p

    def matrix(self, parameters: PerspectiveParameters, size: Sequence[int]) -> Tensor:
        """Where pixels go, ``[B, 3, 3]`` from source to destination pixels, in float64, for a (height, width)."""
        endpoints = parameters.endpoints.double()
        corners = _corners(size[0] - 1, size[1] - 1, endpoints)
        first = endpoints.roll(-1, 1) - endpoints
        second = first.roll(-1, 1)
        areas = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]  # [B, 4], of any three of the points
        endpoints = torch.where((areas != 0).all(1)[:, None, None], endpoints, corners)
        return get_perspective_transform(corners[None] - 0.5, endpoints - 0.5)

    def warp(self, images: Tensor, parameters: PerspectiveParameters, color: Tensor | None = None) -> Tensor:
        size = images.shape[-2:]
        homography = homography_from_matrix(self.matrix(parameters, size), size, size)
        return projective_warp(images, homography.to(compute_dtype(images)), color=color, **self._options(images))

    def _sample(self, images: Tensor, generator: torch.Generator | None) -> PerspectiveParameters:
        batch, (height, width) = images.shape[0], images.shape[-2:]
        if min(height, width) < 2:
            raise ValueError(f"images must be at least 2 x 2 pixels for a perspective, got {height} x {width}")
        changes = uniform(images, [batch, 1, 1], (0, 1), generator)  # first: it also sets the dtype
        corners = _corners(height - 1, width - 1, changes)
        # A corner lies up to `reach` pixels inside the image, its own position included.
        reach = [int(self.distortion_scale * (length // 2)) + 1 for length in (width, height)]
        inwards = [torch.randint(bound, [batch, 4], generator=generator, device=images.device) for bound in reach]
        endpoints = corners + (1 - 2 * _corners(1, 1, changes)) * torch.stack(inwards, -1)
        return PerspectiveParameters(torch.where(changes < self.p, endpoints, corners))


def _corners(bottom: int, right: int, like: Tensor) -> Tensor:
    """``[4, 2]``, clockwise from the top left, written on the device."""
    index = torch.arange(4, device=like.device)
    x, y = (index + 1) // 2 % 2, index // 2
    return torch.stack([x * right, y * bottom], -1).to(like)
