"""A learned Gaussian over affine maps, the augmentor of HARD's shift experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardfast.augment.augmentor import Augmentor
from hardfast.ops import affine_warp

MODES = {
    "full": (0, 1, 2, 3, 4, 5),
    "translation": (2, 5),
    "no_translation": (0, 1, 3, 4),
}
PADDING_MODES = ("zeros", "border", "reflection")


class MeanStd(NamedTuple):
    """Mean and standard deviation of one quantity of a distribution."""

    mean: float
    std: float


class AffineAugmentor(Augmentor):
    """Warps every image by its own random affine map, ``theta = mean + scale * normal``.

    The six entries of ``theta`` are independent Gaussians, the same for every image. The draw is
    reparametrised, so that gradients reach ``mean`` and ``scale``; both are learned.

    ``scale`` is stored as its logarithm: it is positive without a clamp whose gradient would be zero, and one
    optimiser step changes a large and a small scale by the same factor, so that an entry can grow from 0.1 to
    0.4 as easily as another shrinks from 0.1 to 0.025. ``mean`` is stored as its offset from the identity in
    units of ``initial_scale``: at the start one step of Adam then moves mean and scale equally far. In the
    units of ``theta`` the mean would be ten times as fast, and run from corner to corner ahead of the student
    instead of widening the scale.

    Args:
        mode: entries that are random: ``"full"`` (all six), ``"translation"`` (the last column) or
            ``"no_translation"`` (the 2x2 linear part). The others stay exactly at the identity.
        initial_scale: initial standard deviation of every random entry, > 0, in the units of ``theta``: for a
            translation, 1 is half the side of the image.
        padding_mode: what lies outside the image, ``"zeros"``, ``"border"`` or ``"reflection"``.

    Example::

        augmentor = AffineAugmentor("full")
        images = augmentor(images)            # learned: gradients reach mean and scale
        baseline = augmentor.frozen()         # same distribution, never learned
    """

    identity: Tensor
    free_entries: Tensor

    def __init__(self, mode: str = "full", *, initial_scale: float = 0.1, padding_mode: str = "zeros") -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {list(MODES)}; got {mode!r}")
        if not (math.isfinite(initial_scale) and initial_scale > 0):
            raise ValueError(f"initial_scale must be a finite number > 0; got {initial_scale!r}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {list(PADDING_MODES)}; got {padding_mode!r}")
        self.mode = mode
        self.padding_mode = padding_mode
        self.initial_scale = initial_scale
        entries = MODES[mode]
        self.mean_offset = nn.Parameter(torch.zeros(len(entries)))
        self.log_scale = nn.Parameter(torch.full((len(entries),), math.log(initial_scale)))
        self.register_buffer("identity", torch.eye(2, 3), persistent=False)
        self.register_buffer("free_entries", torch.tensor(entries), persistent=False)

    @property
    def mean(self) -> Tensor:
        """Mean of ``theta``, ``[2, 3]``."""
        return self.identity + self._as_matrix(self.initial_scale * self.mean_offset)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of the entries of ``theta``, ``[2, 3]``; 0 where ``mode`` fixes the entry."""
        return self._as_matrix(self.log_scale.exp())

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal numbers ``[B, 2, 3]``, by the name ``"normal"``."""
        if images.dim() != 4:
            raise ValueError(f"images must have shape [B, C, H, W]; got {list(images.shape)}")
        device, dtype = self.log_scale.device, self.log_scale.dtype
        return {"normal": torch.randn(len(images), 2, 3, generator=generator, device=device, dtype=dtype)}

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One map an image, output to input in normalised coordinates, ``[B, 2, 3]``, by the name ``"theta"``."""
        return {"theta": self.mean + self.scale * noise["normal"]}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Warps every image ``[B, C, H, W]`` by its own ``theta``."""
        return affine_warp(images, variables["theta"], padding_mode=self.padding_mode)

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        scale = self.scale
        return {"scale_translation": scale[:, 2].mean().item(), "scale_linear": scale[:, :2].mean().item()}

    @torch.no_grad()
    def arrays(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "scale": self.scale}

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Gives the distribution in human units, of what happens to the content of the image.

        Args:
            size: ``(height, width)`` of the images in pixels.

        Returns:
            ``shift_x_px`` and ``shift_y_px`` (pixels, right and down), ``rotation_deg`` (degrees, clockwise
            as seen), ``zoom_x_percent`` and ``zoom_y_percent`` (larger is positive) and ``shear_percent``. To
            first order in the deviation from the identity, where the content moves by minus what the sampling
            position does.
        """
        height, width = size
        if height < 1 or width < 1:
            raise ValueError(f"size must be (height, width) in pixels, both >= 1; got {size!r}")
        (xx, xy, tx), (yx, yy, ty) = (self.mean - self.identity).tolist()
        (sxx, sxy, stx), (syx, syy, sty) = self.scale.tolist()
        aspect = width / height
        # Normalised coordinates measure x in half widths and y in half heights; angles are those between
        # pixels.
        xy, sxy, yx, syx = xy * aspect, sxy * aspect, yx / aspect, syx / aspect
        half_off_diagonal_std = math.hypot(sxy, syx) / 2
        return {
            "shift_x_px": MeanStd(-tx * width / 2, stx * width / 2),
            "shift_y_px": MeanStd(-ty * height / 2, sty * height / 2),
            "rotation_deg": MeanStd(math.degrees((xy - yx) / 2), math.degrees(half_off_diagonal_std)),
            "zoom_x_percent": MeanStd(-100 * xx, 100 * sxx),
            "zoom_y_percent": MeanStd(-100 * yy, 100 * syy),
            "shear_percent": MeanStd(-100 * (xy + yx) / 2, 100 * half_off_diagonal_std),
        }

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, padding_mode={self.padding_mode!r}"

    def _as_matrix(self, values: Tensor) -> Tensor:
        return values.new_zeros(6).index_copy(0, self.free_entries, values).view(2, 3)
