"""A learned distribution of projective maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from hardfast.augment.affine import affine_quantities
from hardfast.augment.augmentor import MeanStd
from hardfast.augment.warp import WarpAugmentor
from hardfast.ops import projective_warp
from hardfast.ops._warp import height_width

#: Initial scale of the perspective entries in units of that of the affine ones: at the edge they move pixels alike.
PERSPECTIVE_SCALE = 0.5
#: Bound on the length of the perspective part. The divisor is at least 1 - sqrt(2) * 0.6 = 0.15 in the whole image.
PERSPECTIVE_BOUND = 0.6


class ProjectiveAugmentor(WarpAugmentor):
    """Views every image from its own random side.

    The homography's eight entries beside the last, which is 1, are Gaussian, as of
    :class:`hardfast.augment.AffineAugmentor`: six affine ones and two of perspective ``(p, q)``, by which positions are
    divided by ``1 + p x + q y``. These are bounded, to ``(p, q) / sqrt(1 + (p^2 + q^2) / 0.36)``: no divisor in
    the image comes near zero, and the gradient nowhere ends.

    Args:
        initial_scale: initial standard deviation of the affine entries, > 0, as of
            :class:`hardfast.augment.AffineAugmentor`; that of the perspective ones is half of it.
        components, conditional, in_channels, padding_mode: as of :class:`hardfast.augment.AffineAugmentor`.

    Example::

        augmentor = ProjectiveAugmentor()
        images = augmentor(images)            # learned: gradients reach mean and scale
        baseline = augmentor.frozen()         # same distribution, never learned
    """

    def __init__(
        self,
        *,
        initial_scale: float = 0.1,
        components: int = 1,
        conditional: bool = False,
        in_channels: int | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            torch.eye(3),
            initial_scale,
            free=range(8),
            relative=[1.0] * 6 + [PERSPECTIVE_SCALE] * 2,
            components=components,
            conditional=conditional,
            in_channels=in_channels,
            padding_mode=padding_mode,
        )

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One map an image, output to input in normalised coordinates, ``[B, 3, 3]``, by the name ``"homography"``."""
        entries = self.entries(images, noise)
        affine, perspective, one = entries[:, :2], entries[:, 2:, :2], entries[:, 2:, 2:]
        squared = perspective.square().sum(-1, keepdim=True)
        bounded = perspective * (1 + squared / PERSPECTIVE_BOUND**2).rsqrt()
        return {"homography": torch.cat([affine, torch.cat([bounded, one], 2)], 1)}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Warps every image ``[B, C, H, W]`` by its own ``homography``."""
        return projective_warp(images, variables["homography"], padding_mode=self.padding_mode)

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        scale = self.scale
        return {
            "scale_translation": scale[:2, 2].mean().item(),
            "scale_linear": scale[:2, :2].mean().item(),
            "scale_perspective": scale[2, :2].mean().item(),
        }

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Gives the distribution in human units, of what happens to the content of the image.

        Args:
            size: ``(height, width)`` of the images in pixels.

        Returns:
            what :meth:`hardfast.augment.AffineAugmentor.describe` does, and ``perspective_x_percent`` and
            ``perspective_y_percent``: by how much the content is larger at the right, and at the lower, edge than in
            the middle. To first order in the deviation from the identity.
        """
        quantities = {
            name: F.pad(linear, (0, 3)) for name, linear in affine_quantities(*height_width("size", size)).items()
        }
        identity = 100 * torch.eye(9, dtype=torch.float64)
        quantities |= {"perspective_x_percent": identity[6:7], "perspective_y_percent": identity[7:8]}
        return self._described(quantities)
