"""``RandomAffine``: torchvision's, with a map of its own for every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardfast.geometry import get_affine_matrix2d, theta_from_matrix
from hardfast.ops import affine_warp
from hardfast.reference._sampling import compute_dtype
from hardfast.transforms import _arguments
from hardfast.transforms._base import Warp, uniform


class AffineParameters(NamedTuple):
    """One affine map a sample, in the units of ``torchvision.transforms.v2.functional.affine``."""

    angle: Tensor  # [B], degrees, positive clockwise as seen
    translate: Tensor  # [B, 2], pixels, (x, y)
    scale: Tensor  # [B]
    shear: Tensor  # [B, 2], degrees, along x and y


class RandomAffine(Warp):
    """Rotates, translates, scales and shears every image by its own draw, in one pass.

    Equivalent to, for every image ``i``::

        v2.functional.affine(images[i], angle[i], translate[i], scale[i], shear[i], interpolation, None, center)

    for a fill of 0. Any other fill is blended by the part of a pixel that the image covers; torchvision, which
    counts that part twice, gives a darker or paler rim of one pixel with ``"bilinear"`` (also for ``fill=0``, which it
    does not treat as None).

    Args:
        degrees: range ``(lowest, highest)`` of the angle in degrees, positive clockwise; a number d is (-d, d).
        translate: largest shift ``(a, b)`` as a fraction of width and height, each in [0, 1]: whole pixels between
            ``-a * W`` and ``a * W`` along x. None is (0, 0).
        scale: range of the scale, > 0; None is 1.
        shear: range ``(lowest, highest)`` in degrees along x, or ``(lowest, highest, lowest, highest)`` along x and
            y; a number d is (-d, d) along x; None is 0.
        interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` or torchvision's ``InterpolationMode``.
        fill: the value outside the image, in its units: a number, or one a channel. None is 0.
        center: ``(x, y)`` in pixels from the outer corner of the top left pixel; the middle of the image if None.

    Gradients: to the images, and to every field of :class:`AffineParameters` (zero with ``"nearest"``).

    Memory: as :func:`hardfast.affine_warp`; there is no grid.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: Any = "nearest",
        fill: float | Sequence[float] | None = 0,
        center: Sequence[float] | None = None,
    ) -> None:
        super().__init__(interpolation, fill)
        self.degrees = _arguments.angle_ranges("degrees", degrees)
        self.translate = None if translate is None else _arguments.numbers("translate", translate, (2,))
        if self.translate and not all(0 <= fraction <= 1 for fraction in self.translate):
            raise ValueError(f"translate must be two fractions between 0 and 1, got {translate!r}")
        self.scale = None if scale is None else _arguments.ranges("scale", scale)
        if self.scale and self.scale[0] <= 0:
            raise ValueError(f"scale must be > 0, got {scale!r}")
        self.shear = None if shear is None else _arguments.angle_ranges("shear", shear, (2, 4))
        self.center = None if center is None else _arguments.numbers("center", center, (2,))

    def matrix(self, parameters: AffineParameters, size: Sequence[int]) -> Tensor:
        """Where pixels go, ``[B, 3, 3]`` from source to destination pixels, in float64, for a (height, width)."""
        angle, translate, scale, shear = (value.double() for value in parameters)
        x, y = (size[1] / 2, size[0] / 2) if self.center is None else self.center
        center = torch.stack([torch.full_like(angle, x - 0.5), torch.full_like(angle, y - 0.5)], -1)
        shear = shear.deg2rad()
        return get_affine_matrix2d(translate, center, scale[:, None].expand(-1, 2), angle, shear[:, 0], shear[:, 1])

    def warp(self, images: Tensor, parameters: AffineParameters, color: Tensor | None = None) -> Tensor:
        size = images.shape[-2:]
        theta = theta_from_matrix(self.matrix(parameters, size)[:, :2], size, size).to(compute_dtype(images))
        return affine_warp(images, theta, color=color, **self._options(images))

    def _sample(self, images: Tensor, generator: torch.Generator | None) -> AffineParameters:
        batch, (height, width) = images.shape[0], images.shape[-2:]
        angle = uniform(images, [batch], self.degrees, generator)
        translate = images.new_zeros(batch, 2, dtype=angle.dtype)
        if self.translate is not None:
            reach = (self.translate[0] * width, self.translate[1] * height)
            translate = torch.stack([uniform(images, [batch], (-r, r), generator) for r in reach], 1).round()
        scale = torch.ones_like(angle) if self.scale is None else uniform(images, [batch], self.scale, generator)
        shear = images.new_zeros(batch, 2, dtype=angle.dtype)
        if self.shear is not None:
            along_x = uniform(images, [batch], self.shear[:2], generator)
            along_y = uniform(images, [batch], self.shear[2:], generator) if self.shear[2:] else shear[:, 1]
            shear = torch.stack([along_x, along_y], 1)
        return AffineParameters(angle, translate, scale, shear)
