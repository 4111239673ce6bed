"""A learned distribution of affine maps, the augmentor of HARD's shift experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hardfast.augment.augmentor import MeanStd
from hardfast.augment.warp import WarpAugmentor
from hardfast.ops import affine_warp
from hardfast.ops._warp import height_width

MODES = {
    "full": (0, 1, 2, 3, 4, 5),
    "translation": (2, 5),
    "no_translation": (0, 1, 3, 4),
}


class AffineAugmentor(WarpAugmentor):
    """Warps every image by its own random affine map, ``theta = mean + scale * normal``.

    The six entries of ``theta`` are independent Gaussians, the same for every image, or a mixture of such, or
    depend on the image; see :class:`hardfast.augment.GaussianAugmentor` for how they are learned.

    Args:
        mode: entries that are random: ``"full"`` (all six), ``"translation"`` (the last column) or
            ``"no_translation"`` (the 2x2 linear part). The others stay exactly at the identity.
        initial_scale: initial standard deviation of every random entry, > 0, in the units of ``theta``: for a
            translation, 1 is half the side of the image.
        components: number of Gaussians in the mixture, >= 1.
        conditional: whether a small network makes the distribution depend on the image.
        in_channels: channels of the images; needed with ``conditional``.
        padding_mode: what lies outside the image, ``"zeros"``, ``"border"`` or ``"reflection"``.

    Example::

        augmentor = AffineAugmentor("full")
        images = augmentor(images)            # learned: gradients reach mean and scale
        baseline = augmentor.frozen()         # same distribution, never learned
    """

    def __init__(
        self,
        mode: str = "full",
        *,
        initial_scale: float = 0.1,
        components: int = 1,
        conditional: bool = False,
        in_channels: int | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {list(MODES)}; got {mode!r}")
        super().__init__(
            torch.eye(2, 3),
            initial_scale,
            free=MODES[mode],
            components=components,
            conditional=conditional,
            in_channels=in_channels,
            padding_mode=padding_mode,
        )
        self.mode = mode

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One map an image, output to input in normalised coordinates, ``[B, 2, 3]``, by the name ``"theta"``."""
        return {"theta": self.entries(images, noise)}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Warps every image ``[B, C, H, W]`` by its own ``theta``."""
        return affine_warp(images, variables["theta"], padding_mode=self.padding_mode)

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        scale = self.scale
        return {"scale_translation": scale[:, 2].mean().item(), "scale_linear": scale[:, :2].mean().item()}

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Gives the distribution in human units, of what happens to the content of the image.

        Args:
            size: ``(height, width)`` of the images in pixels.

        Returns:
            ``shift_x_px`` and ``shift_y_px`` (pixels, right and down), ``rotation_deg`` (degrees, clockwise
            as seen), ``zoom_x_percent`` and ``zoom_y_percent`` (larger is positive) and ``shear_percent``. To
            first order in the deviation from the identity, where the content moves by minus what the sampling
            position does. Of a conditional distribution, the part that is the same for all images.
        """
        return self._described(affine_quantities(*height_width("size", size)))

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, {super().extra_repr()}"


def affine_quantities(height: int, width: int) -> dict[str, Tensor]:
    """What the entries of ``theta``, flattened, do to the content to first order: linear functions ``[1, 6]``."""
    # Normalised coordinates measure x in half widths and y in half heights; angles are those between pixels.
    xy, yx = width / height, height / width
    degrees = math.degrees(1) / 2
    entries = {
        "shift_x_px": (0, 0, -width / 2, 0, 0, 0),
        "shift_y_px": (0, 0, 0, 0, 0, -height / 2),
        "rotation_deg": (0, degrees * xy, 0, -degrees * yx, 0, 0),
        "zoom_x_percent": (-100, 0, 0, 0, 0, 0),
        "zoom_y_percent": (0, 0, 0, 0, -100, 0),
        "shear_percent": (0, -50 * xy, 0, -50 * yx, 0, 0),
    }
    return {name: torch.tensor([values], dtype=torch.float64) for name, values in entries.items()}
