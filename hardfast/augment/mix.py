"""MixUp and CutMix of images alone: with a teacher there is no label to mix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hardfast.augment.augmentor import Augmentor
from hardfast.ops import _checks


class _Mix(Augmentor):
    """Combines every image with another one of its batch, in shares from a symmetric Beta distribution.

    Args:
        alpha: of the Beta distribution, positive; 1 is uniform.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        _checks.positive("alpha", alpha)
        self.alpha = alpha

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Partners ``[B]``, int64, the share ``[B]`` of the image itself, and a place ``[B, 2]`` in [0, 1]."""
        count, device = len(images), images.device
        # Two Gamma variables over their sum are a Beta one; this is the sampler that takes a generator.
        gamma = torch._standard_gamma(torch.full((2, count), self.alpha, device=device), generator=generator)
        return {
            "partner": torch.randperm(count, generator=generator, device=device),
            "share": gamma[0] / gamma.sum(0),
            "place": torch.rand(count, 2, generator=generator, device=device),
        }

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The noise as it is: nothing is learned."""
        return dict(noise)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class MixUp(_Mix):
    """A weighted mean of two images.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    """

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """``share * image + (1 - share) * partner``."""
        share = variables["share"].to(images.dtype).view(-1, 1, 1, 1)
        return images[variables["partner"]].lerp(images, share)


class CutMix(_Mix):
    """A rectangle of the partner, of the shape of the image, pasted into the image.

    Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019.
    """

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """The rectangle has ``1 - share`` of the area, its centre at ``place``, and is cut where it reaches beyond."""
        side = (1 - variables["share"]).sqrt()
        inside = torch.ones((), dtype=torch.bool, device=images.device)
        for axis, length in enumerate(images.shape[2:]):
            pixels = torch.arange(length, device=images.device)
            centre, half = variables["place"][:, axis, None] * length, side[:, None] * length / 2
            within = (pixels + 0.5 - centre).abs() <= half
            inside = inside & (within[:, :, None] if axis == 0 else within[:, None, :])
        return torch.where(inside[:, None], images[variables["partner"]], images)
