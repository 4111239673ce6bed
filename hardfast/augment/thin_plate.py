"""A learned distribution of thin-plate splines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hardfast.augment.augmentor import MeanStd
from hardfast.augment.warp import WarpAugmentor, check_grid
from hardfast.ops import _checks, thin_plate_warp


class ThinPlateAugmentor(WarpAugmentor):
    """Bends every image like a thin plate, by its own random moves of a grid of control points.

    The points lie evenly from edge to edge in the output; each shows what the image has at a Gaussian displacement
    from there, and the smoothest map does so in between.

    Args:
        grid: (rows, columns) of the control points, >= 2.
        initial_scale: initial standard deviation of the displacements, > 0, in half image sides.
        regularization: 0 for a map through all points; the larger, the nearer to an affine one.
        components, conditional, in_channels, padding_mode: as of :class:`hardfast.augment.AffineAugmentor`.

    Example::

        augmentor = ThinPlateAugmentor((4, 4))
        images = augmentor(images)            # learned: gradients reach mean and scale
        baseline = augmentor.frozen()         # same distribution, never learned
    """

    points: Tensor

    def __init__(
        self,
        grid: Sequence[int] = (4, 4),
        *,
        initial_scale: float = 0.1,
        regularization: float = 0.0,
        components: int = 1,
        conditional: bool = False,
        in_channels: int | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        rows, columns = check_grid(grid, 2)
        super().__init__(
            torch.zeros(2, rows, columns),
            initial_scale,
            components=components,
            conditional=conditional,
            in_channels=in_channels,
            padding_mode=padding_mode,
        )
        self.regularization = _checks.not_negative("regularization", regularization)
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        self.register_buffer("points", torch.stack([x, y]), persistent=False)

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Displacements of the sampling position in half sides, ``[B, 2, rows, columns]``, by the name ``"moves"``."""
        return {"moves": self.entries(images, noise)}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Warps every image ``[B, C, H, W]`` by its own ``moves``."""
        return self._bent(images, variables["moves"], None, self.padding_mode)

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        return {"scale_displacement": self.scale.mean().item()}

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """As :meth:`hardfast.augment.FlowAugmentor.describe`."""

        def warp(image: Tensor, moves: Tensor, out_size: list[int]) -> Tensor:
            return self._bent(image, moves, out_size, "border")

        return self._described_displacement(size, warp)

    def extra_repr(self) -> str:
        rows, columns = self.noise_shape[1:]
        return f"grid={(rows, columns)}, regularization={self.regularization}, {super().extra_repr()}"

    def _bent(self, images: Tensor, moves: Tensor, size: Sequence[int] | None, padding_mode: str) -> Tensor:
        points = self.points.to(moves)
        source, target = ((value.flatten(-2).mT) for value in (points + moves, points[None]))
        return thin_plate_warp(
            images,
            source,
            target,
            size,
            padding_mode=padding_mode,
            regularization=self.regularization,
        )
