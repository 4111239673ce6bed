"""Every image blended with another one of its batch: learned, or as MixUp and CutMix do.

All three keep a share of each pixel of the image and take the rest from the partner; they differ in where how much is
kept. With a teacher there is no label to mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hardfast.augment.augmentor import Augmentor, MeanStd
from hardfast.augment.distribution import GaussianAugmentor
from hardfast.ops import _checks
from hardfast.ops._warp import height_width, refuse_gradients_of_bytes
from hardfast.reference._sampling import compute_dtype, to_pixel_dtype

#: Draws from which a learned mix is described, always the same.
DESCRIBED_DRAWS = 4096


class _Mix(Augmentor):
    """Keeps :meth:`kept` of each pixel, and takes the rest from the partner."""

    mixes = True

    def kept(self, variables: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """The share of the image itself, ``[B, 1, H, W]`` or ``[B, 1, 1, 1]``, for a (height, width)."""
        raise NotImplementedError

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """``kept * image + (1 - kept) * partner``."""
        kept = self.kept(variables, images.shape[2:])
        refuse_gradients_of_bytes("images", images, [kept])
        pixels = images.to(compute_dtype(images)) if images.dtype == torch.uint8 else images
        mixed = pixels[variables["partner"]].lerp(pixels, kept.to(pixels.dtype))
        return to_pixel_dtype(mixed, images.dtype)


class MixAugmentor(_Mix, GaussianAugmentor):
    """Blends a soft rectangle of another image into every image; place, size and strength are learned.

    Inside the rectangle ``opacity`` of the partner is seen. Its logit, those of the centre in units of the image and
    those of the sides in units of twice the image, are Gaussian; see :class:`hardfast.augment.GaussianAugmentor` for
    how they are learned. A rectangle as large as the image leaves MixUp, a full opacity CutMix with a soft edge.

    Args:
        initial_scale: initial standard deviation of every logit, > 0; the means start at 0. With 1 the opacity
            and the centre are spread nearly evenly.
        softness: of the edge, > 0, in units of the image's side: over four of them the partner fades from 12 % to 88 %.
        components, conditional, in_channels: as of :class:`hardfast.augment.AffineAugmentor`; the distribution depends
            on the image, not on its partner.

    Example::

        augmentor = MixAugmentor()
        images = augmentor(images)            # learned: gradients reach mean and scale
        baseline = augmentor.frozen()         # same distribution, never learned
    """

    def __init__(
        self,
        *,
        initial_scale: float = 1.0,
        softness: float = 0.05,
        components: int = 1,
        conditional: bool = False,
        in_channels: int | None = None,
    ) -> None:
        super().__init__(
            torch.zeros(5), initial_scale, components=components, conditional=conditional, in_channels=in_channels
        )
        self.softness = _checks.positive("softness", softness)

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """What the distribution takes, and partners ``[B]``, int64."""
        noise = super().noise(images, generator)
        return noise | {"partner": torch.randperm(len(images), generator=generator, device=images.device)}

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``opacity [B]``, ``centre [B, 2]`` and ``side [B, 2]``, (y, x) in units of the image, and the ``partner``."""
        return self._rectangles(self.entries(images, noise)) | {"partner": noise["partner"]}

    def kept(self, variables: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        seen = variables["opacity"].view(-1, 1, 1, 1)
        for axis, length in enumerate(size):
            pixels = (torch.arange(length, device=seen.device, dtype=seen.dtype) + 0.5) / length
            centre, half = variables["centre"][:, axis, None], variables["side"][:, axis, None] / 2
            window = torch.sigmoid((half - (pixels - centre).abs()) / self.softness)
            seen = seen * (window[:, None, :, None] if axis == 0 else window[:, None, None, :])
        return 1 - seen

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        opacity, *place, height, width = self.scale.tolist()
        return {"scale_opacity": opacity, "scale_centre": sum(place) / 2, "scale_side": (height + width) / 2}

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Gives the distribution in human units.

        Args:
            size: ``(height, width)`` of the images in pixels.

        Returns:
            ``share_percent`` (of the image itself in the whole), ``opacity_percent`` (of the partner inside the
            rectangle), ``centre_x_px`` and ``centre_y_px`` (from the upper left corner), ``width_px`` and
            ``height_px``, which may reach beyond the image; told from some thousand draws. Of a conditional
            distribution, the part that is the same for all images.
        """
        height, width = height_width("size", size)
        draws = self.log_scale.new_empty(DESCRIBED_DRAWS, 1, 1, 1)
        generator = torch.Generator(draws.device).manual_seed(0)
        variables = self._rectangles(self.entries(None, self.noise(draws, generator)))
        kept = self.kept(variables, [min(height, 16), min(width, 16)])
        (centre_y, centre_x), (side_y, side_x) = variables["centre"].T, variables["side"].T
        quantities = {
            "share_percent": 100 * kept.mean((1, 2, 3)),
            "opacity_percent": 100 * variables["opacity"],
            "centre_x_px": width * centre_x,
            "centre_y_px": height * centre_y,
            "width_px": width * side_x,
            "height_px": height * side_y,
        }
        return {name: MeanStd(value.mean().item(), value.std().item()) for name, value in quantities.items()}

    def extra_repr(self) -> str:
        return f"softness={self.softness}, {super().extra_repr()}"

    def _rectangles(self, logits: Tensor) -> dict[str, Tensor]:
        shares = logits.sigmoid()
        return {"opacity": shares[:, 0], "centre": shares[:, 1:3], "side": 2 * shares[:, 3:]}


class _BetaMix(_Mix):
    """Draws shares from a symmetric Beta distribution, which is not learned.

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

    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """``share_percent`` of the image itself; of a rectangle, before it is cut where it reaches beyond."""
        height_width("size", size)
        return {"share_percent": MeanStd(50.0, 50 / (2 * self.alpha + 1) ** 0.5)}

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class MixUp(_BetaMix):
    """A weighted mean of two images.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    """

    def kept(self, variables: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """The share, everywhere."""
        return variables["share"].view(-1, 1, 1, 1)


class CutMix(_BetaMix):
    """A rectangle of the partner, of the shape of the image, pasted into the image.

    Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019.
    """

    def kept(self, variables: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Nothing inside a rectangle of ``1 - share`` of the area with its centre at ``place``, all outside."""
        side = (1 - variables["share"]).sqrt()
        inside = torch.ones((), dtype=torch.bool, device=side.device)
        for axis, length in enumerate(size):
            pixels = torch.arange(length, device=side.device)
            centre, half = variables["place"][:, axis, None] * length, side[:, None] * length / 2
            within = (pixels + 0.5 - centre).abs() <= half
            inside = inside & (within[:, :, None] if axis == 0 else within[:, None, :])
        return ~inside[:, None]
