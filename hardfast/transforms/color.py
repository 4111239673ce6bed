"""``ColorJitter``: torchvision's, with factors and an order of its own for every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hardfast.ops import _checks
from hardfast.reference._sampling import compute_dtype
from hardfast.transforms import _arguments
from hardfast.transforms._base import Transform, uniform

FACTORS = ("brightness", "contrast", "saturation", "hue")
CLAMPS = ("each", "last", "never")
GRAY = (0.2989, 0.587, 0.114)  # torchvision's, whose sum is 0.9999

Choice = Tensor | bool


class ColorParameters(NamedTuple):
    """The factors of every image, as in ``torchvision.transforms.v2.functional.adjust_*``; None leaves one out."""

    brightness: Tensor | None = None  # [B]
    contrast: Tensor | None = None  # [B]
    saturation: Tensor | None = None  # [B]
    hue: Tensor | None = None  # [B], turns
    order: Tensor | None = None  # [B, 4], a permutation of 0..3 in the order above; None is the transform's own order


class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue of every image by its own draw.

    With ``clamp="each"`` equivalent to, for every image ``i``, in its order::

        v2.functional.adjust_brightness(images[i], brightness[i])    # clamp(b * x)
        v2.functional.adjust_contrast(images[i], contrast[i])        # clamp(c * x + (1 - c) * mean(gray(x)))
        v2.functional.adjust_saturation(images[i], saturation[i])    # clamp(s * x + (1 - s) * gray(x))
        v2.functional.adjust_hue(images[i], hue[i])                  # turns the hue of HSV

    ``clamp="last"`` clamps once, at the end, and ``clamp="never"`` not at all; they differ from the above where a value
    before the last leaves [0, 1]. There the first three factors are one affine map of the colours, ``matrix``, which
    :class:`Fused` leaves to a warp. Hue is not affine: with them it always comes last, as a step of its own.

    Args:
        brightness, contrast, saturation: a range ``(lowest, highest)`` of the factor, >= 0; a number d is
            ``(max(0, 1 - d), 1 + d)``; None is 1.
        hue: a range in turns of the colour circle, within [-0.5, 0.5]; a number d is (-d, d); None is 0.
        order: ``"random"`` (every image its own; torchvision draws one a call) or the four names in an order.
        clamp: ``"each"``, ``"last"`` or ``"never"``.

    Images have 1 channel (saturation and hue then change nothing) or 3, floating point in [0, 1] or uint8. uint8
    images are rounded down after each factor with ``clamp="each"``, as in torchvision, and otherwise to nearest, once
    (before hue, too).

    Gradients: to the images (through the mean as well), and to every factor; zero where a value is clamped.

    Memory: with ``clamp="each"``, several images a factor in plain PyTorch (``torch.compile`` fuses them), and with a
    random order every step considers every factor; otherwise one image, or two of a half or uint8 dtype.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] | None = None,
        contrast: float | Sequence[float] | None = None,
        saturation: float | Sequence[float] | None = None,
        hue: float | Sequence[float] | None = None,
        *,
        order: str | Sequence[str] = "random",
        clamp: str = "each",
    ) -> None:
        super().__init__()
        self.brightness = _arguments.factor_range("brightness", brightness, 1, 0, float("inf"))
        self.contrast = _arguments.factor_range("contrast", contrast, 1, 0, float("inf"))
        self.saturation = _arguments.factor_range("saturation", saturation, 1, 0, float("inf"))
        self.hue = _arguments.factor_range("hue", hue, 0, -0.5, 0.5)
        named = isinstance(order, Sequence) and not isinstance(order, str)
        if order != "random" and (not named or sorted(map(str, order)) != sorted(FACTORS)):
            raise ValueError(f"order must be 'random' or {list(FACTORS)} in any order, got {order!r}")
        if clamp not in CLAMPS:
            raise ValueError(f"clamp must be one of {list(CLAMPS)}, got {clamp!r}")
        self.order = order if order == "random" else tuple(order)
        self.clamp = clamp

    def matrix(self, images: Tensor, parameters: ColorParameters) -> Tensor:
        """The factors but hue as one map of the colours, ``[B, C, C + 1]``, for ``images [B, C, H, W]``.

        The last column is added; the contrast is about the mean gray of ``images`` after the factors before it.
        """
        channels, dtype = _channels(images), compute_dtype(images)
        if parameters.contrast is None:
            mean = torch.zeros(images.shape[:2], dtype=dtype, device=images.device)  # [B, C], of no effect
        else:
            mean = images.mean((2, 3), dtype=dtype)
        weights = _checks.real_values("gray", GRAY if channels == 3 else (1.0,), dtype, images.device)
        identity = torch.eye(channels, dtype=dtype, device=images.device)
        linear, offset = identity.expand(len(mean), -1, -1), torch.zeros_like(mean)
        for chosen in self._stages(parameters):
            ratio, about_mean, about_gray = _blend(parameters, chosen, mean[:, :1, None], channels)
            now = (linear @ mean[..., None])[..., 0]  # contrast alone adds, so before it nothing is added
            gray = (weights * now).sum(1, keepdim=True)
            step = ratio * identity + (1 - ratio) * about_gray * weights
            linear = step @ linear
            offset = (step @ offset[..., None])[..., 0] + ((1 - ratio) * about_mean)[..., 0] * gray
        return torch.cat([linear, offset[..., None]], -1)

    def finish(self, images: Tensor, parameters: ColorParameters) -> Tensor:
        """What follows the map of :meth:`matrix`: the clamp, and hue."""
        bound = 1 if images.is_floating_point() else 255
        result = images.clamp(0, bound) if self.clamp == "last" else images
        if parameters.hue is None or images.shape[1] == 1:
            return result
        return _round(_turn_hue(result.to(compute_dtype(images)), parameters.hue), images)

    def _sample(self, images: Tensor, generator: torch.Generator | None) -> ColorParameters:
        _channels(images)
        batch = images.shape[0]
        limits = (self.brightness, self.contrast, self.saturation, self.hue)
        factors = [None if limit is None else uniform(images, [batch], limit, generator) for limit in limits]
        keys = uniform(images, [batch, 4], (0, 1), generator) if self.order == "random" else None
        return ColorParameters(*factors)._replace(order=None if keys is None else keys.argsort(1))

    def _apply_batch(self, images: Tensor, parameters: ColorParameters) -> Tensor:
        channels = _channels(images)
        if self.clamp != "each":
            matrix = self.matrix(images, parameters)
            flat = images.to(matrix.dtype).flatten(2)
            colored = torch.baddbmm(matrix[..., channels:], matrix[..., :channels], flat).view(images.shape)
            result = self.finish(_round(colored, images), parameters)
        else:
            result = images.to(compute_dtype(images))
            for chosen in self._stages(parameters):
                result = self._step(result, images, parameters, chosen)
        return result.to(images.dtype).contiguous(memory_format=_format(images))

    def _step(self, values: Tensor, images: Tensor, parameters: ColorParameters, chosen: dict[str, Choice]) -> Tensor:
        """One factor with its clamp, as torchvision: every sample the one that is chosen for it."""
        channels, whole = images.shape[1], not images.is_floating_point()
        bound = 255 if whole else 1
        result = values
        if chosen.keys() != {"hue"}:
            ratio, about_mean, about_gray = _blend(parameters, chosen, values[:, :1, :1, :1], channels)
            gray = values
            if channels == 3:
                red, green, blue = values.unbind(1)
                # In torchvision's order of rounding: a whole number, rounded down, depends on it.
                gray = (GRAY[0] * red).add(green, alpha=GRAY[1]).add(blue, alpha=GRAY[2])[:, None]
                gray = gray.floor() if whole else gray
            target = about_mean * gray.mean((1, 2, 3), keepdim=True) + about_gray * gray
            result = torch.addcmul(ratio * values, 1 - ratio, target).clamp(0, bound)
        if "hue" in chosen and parameters.hue is not None and channels == 3:
            # torchvision's scale from [0, 1] to 256 levels
            turned = _turn_hue(values, parameters.hue) * ((255 + 1 - 1e-3) / 255 if whole else 1)
            result = _choose(chosen["hue"], turned, result)
        return result.floor() if whole else result

    def _stages(self, parameters: ColorParameters) -> list[dict[str, Choice]]:
        """For each step the factors it may be, and where (for which samples, or for all) it is that."""
        active = [name for name in FACTORS if getattr(parameters, name) is not None]
        if self.clamp != "each":
            active = [name for name in active if name != "hue"]
        order = parameters.order
        if order is None or len(active) < 2:
            names = FACTORS if self.order == "random" else self.order
            return [{name: True} for name in names if name in active]
        # The k-th step of a sample is the k-th of its active factors: those left out take no step.
        rank = order.argsort(1)  # [B, 4], the position of each factor
        ranks = {name: rank[:, FACTORS.index(name)] for name in active}
        before = {name: sum((other < own).long() for other in ranks.values()) for name, own in ranks.items()}
        return [{name: before[name] == step for name in active} for step in range(len(active))]


def _blend(
    parameters: ColorParameters, chosen: dict[str, Choice], like: Tensor, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``ratio`` of the image in a step, and whether the rest is the mean gray, or the gray image; ``like``'s shape."""
    ratio, about = torch.ones_like(like), {}
    for name in ("brightness", "contrast", "saturation"):
        about[name] = torch.zeros_like(like)
        factor = getattr(parameters, name)
        if name in chosen and factor is not None and not (name == "saturation" and channels == 1):
            factor = factor.to(like).view([-1] + [1] * (like.dim() - 1))
            ratio = _choose(chosen[name], factor, ratio)
            about[name] = _choose(chosen[name], torch.ones_like(like), about[name])
    return ratio, about["contrast"], about["saturation"]


def _choose(where: Choice, value: Tensor, other: Tensor) -> Tensor:
    if isinstance(where, Tensor):
        return torch.where(where.view([-1] + [1] * (value.dim() - 1)), value, other)
    return value


def _turn_hue(values: Tensor, turns: Tensor) -> Tensor:
    """Adds to the hue of HSV: ``values [B, 3, H, W]`` of any scale, ``turns [B]``."""
    red, green, blue = values.unbind(1)
    value, chroma = values.amax(1), values.amax(1) - values.amin(1)
    divisor = torch.where(chroma == 0, 1, chroma)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sector = sector + 6 * turns.to(values).view(-1, 1, 1)
    # Each colour is the value, less the chroma where the hue lies more than 1 sector off that colour's own two.
    channels = []
    for start in (5, 3, 1):
        distance = (start + sector).remainder(6)
        channels.append(value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1))
    return torch.stack(channels, 1)


def _round(values: Tensor, images: Tensor) -> Tensor:
    """Values in the dtype of the images."""
    if images.is_floating_point():
        return values.to(images.dtype)
    return values.round().clamp(0, 255).to(images.dtype)


def _channels(images: Tensor) -> int:
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, [B, C, H, W], got {list(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be floating point or uint8, got {images.dtype}")
    return images.shape[1]


def _format(images: Tensor) -> torch.memory_format:
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
