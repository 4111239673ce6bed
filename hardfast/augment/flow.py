"""A learned distribution of smooth displacements of the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hardfast.augment.augmentor import MeanStd
from hardfast.augment.warp import WarpAugmentor, check_grid
from hardfast.ops import _checks, flow_warp
from hardfast.ops.flow_warp import INTERPOLATIONS


class FlowAugmentor(WarpAugmentor):
    """Stretches every image like rubber, by its own coarse grid of random displacements.

    Every cell of the grid moves the sampling position by a Gaussian displacement along x and y; the warp interpolates
    between the cells, and the fine field is never in memory.

    Args:
        grid: (rows, columns) of the control values, >= 1.
        initial_scale: initial standard deviation of the control values, > 0, in half image sides. A B-spline smooths:
            the pixels move by about half of it.
        shared: whether all cells have one mean and scale along each axis, and differ by their draw alone, instead of
            each its own.
        interpolation: ``"cubic_bspline"`` or ``"bilinear"``.
        components, conditional, in_channels, padding_mode: as of :class:`hardfast.augment.AffineAugmentor`.

    Example::

        augmentor = FlowAugmentor((4, 4))
        images = augmentor(images)            # learned: gradients reach mean and scale
        baseline = augmentor.frozen()         # same distribution, never learned
    """

    def __init__(
        self,
        grid: Sequence[int] = (4, 4),
        *,
        initial_scale: float = 0.1,
        shared: bool = False,
        interpolation: str = "cubic_bspline",
        components: int = 1,
        conditional: bool = False,
        in_channels: int | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        rows, columns = check_grid(grid, 1)
        _checks.one_of("interpolation", interpolation, INTERPOLATIONS)
        super().__init__(
            torch.zeros(2, 1, 1) if shared else torch.zeros(2, rows, columns),
            initial_scale,
            repeats=(2, rows, columns),
            components=components,
            conditional=conditional,
            in_channels=in_channels,
            padding_mode=padding_mode,
        )
        self.interpolation = interpolation

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Displacements of the sampling position in half sides, ``[B, 2, rows, columns]``, by the name ``"flow"``."""
        return {"flow": self.entries(images, noise)}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Warps every image ``[B, C, H, W]`` by its own ``flow``."""
        flow, interpolation = variables["flow"], self.interpolation
        return flow_warp(images, flow, padding_mode=self.padding_mode, interpolation=interpolation)

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        return {"scale_displacement": self.scale.mean().item()}

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Gives the distribution in human units, of what happens to the content of the image.

        Args:
            size: ``(height, width)`` of the images in pixels.

        Returns:
            ``displacement_x_px`` and ``displacement_y_px`` (pixels, right and down), over all pixels and draws, where
            the content moves by minus what the sampling position does. Of a conditional distribution, the part that
            is the same for all images.
        """

        def warp(image: Tensor, flow: Tensor, out_size: list[int]) -> Tensor:
            return flow_warp(image, flow, out_size, padding_mode="border", interpolation=self.interpolation)

        return self._described_displacement(size, warp)

    def extra_repr(self) -> str:
        rows, columns = self.noise_shape[1:]
        return f"grid={(rows, columns)}, interpolation={self.interpolation!r}, {super().extra_repr()}"
