"""The pixels of a very deep VAE: a mixture of discretised logistics for each pixel, one choice for all its channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Below this the logarithm of a logistic's scale is cut off.
LEAST_LOG_SCALE = -7.0


class PixelMixture(NamedTuple):
    """What the head says of ``[B, C, H, W]`` pixels on the scale [-1, 1], with M components.

    Args:
        logits: of the components, ``[B, M, H, W]``.
        means: ``[B, C, M, H, W]``.
        log_scales: ``[B, C, M, H, W]``.
        coefficients: ``[B, 3, M, H, W]``, by which green follows red, blue red, and blue green; None for grey pixels.
    """

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    coefficients: Tensor | None

    def nll(self, pixels: Tensor) -> Tensor:
        """Minus the log-likelihood of pixels in 256 levels, nats for each image ``[B]``.

        Args:
            pixels: ``[B, C, H, W]`` on the scale [-1, 1].
        """
        x = pixels.unsqueeze(2)
        distance = x - self._conditional_means(list(x.unbind(1)))
        precision = torch.exp(-self.log_scales)
        upper, lower = precision * (distance + 1 / 255), precision * (distance - 1 / 255)
        # log(sigmoid(upper) - sigmoid(lower)), in a form that cancels nowhere.
        inside = torch.log(-torch.expm1(lower - upper)) - F.softplus(-upper) - F.softplus(lower)
        # The outermost levels hold all that lies beyond them.
        log_probability = torch.where(
            x < -0.999, -F.softplus(-upper), torch.where(x > 0.999, -F.softplus(lower), inside)
        )
        per_component = log_probability.sum(1) + self.logits.log_softmax(1)
        return -per_component.logsumexp(1).sum((1, 2))

    def mean(self) -> Tensor:
        """The mean of each pixel, ``[B, C, H, W]`` in [-1, 1]."""
        weights = self.logits.softmax(1)
        channels: list[Tensor] = []
        for _ in range(self.means.shape[1]):
            channels.append(self._conditional_means(channels)[:, len(channels)])
        return torch.stack([(weights * channel).sum(1) for channel in channels], 1).clamp(-1, 1)

    def soft_sample(self, gumbel: Tensor, logistic: Tensor, temperature: float) -> Tensor:
        """Pixels of given noise, ``[B, C, H, W]`` in [-1, 1], differentiable in all that the head says.

        Args:
            gumbel: standard Gumbel numbers ``[B, M, H, W]``: in place of the component that they select stands the
                average of all, weighted by a softmax; at a temperature near 0 it is that component.
            logistic: standard logistic numbers ``[B, C, H, W]``.
            temperature: of that softmax, positive.
        """
        weights = ((self.logits + gumbel) / temperature).softmax(1).unsqueeze(1)
        means = (weights * self.means).sum(2)
        drawn = means + (weights * self.log_scales).sum(2).exp() * logistic
        if self.coefficients is None:
            return drawn.clamp(-1, 1)
        green_red, blue_red, blue_green = (weights * self.coefficients).sum(2).unbind(1)
        red = drawn[:, 0].clamp(-1, 1)
        green = (drawn[:, 1] + green_red * red).clamp(-1, 1)
        blue = (drawn[:, 2] + blue_red * red + blue_green * green).clamp(-1, 1)
        return torch.stack([red, green, blue], 1)

    def _conditional_means(self, channels: list[Tensor]) -> Tensor:
        """Means of the channels given those before them, as far as these are known."""
        if self.coefficients is None or not channels:
            return self.means
        green_red, blue_red, blue_green = self.coefficients.unbind(1)
        red, green, blue = self.means.unbind(1)
        green = green + green_red * channels[0]
        if len(channels) > 1:
            blue = blue + blue_red * channels[0] + blue_green * channels[1]
        return torch.stack([red, green, blue], 1)


class PixelHead(nn.Module):
    """Maps features ``[B, width, H, W]`` to a :class:`PixelMixture`.

    Args:
        width: of the features.
        channels: of the images, 1 or 3.
        mixtures: components.
    """

    def __init__(self, width: int, channels: int, mixtures: int) -> None:
        super().__init__()
        self.channels, self.mixtures = channels, mixtures
        self.kinds = 3 if channels == 3 else 2  # of parameters of a channel: grey has nothing to follow
        self.out_conv = nn.Conv2d(width, mixtures * (1 + self.kinds * channels), 1)
        nn.init.zeros_(self.out_conv.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> PixelMixture:
        values = self.out_conv(features)
        logits, rest = values[:, : self.mixtures], values[:, self.mixtures :]
        # Channel by channel: its means, its scales and, for colour, one of the three coefficients.
        rest = rest.unflatten(1, (self.channels, self.kinds, self.mixtures))
        coefficients = rest[:, :, 2].tanh() if self.kinds == 3 else None
        return PixelMixture(logits, rest[:, :, 0], rest[:, :, 1].clamp(min=LEAST_LOG_SCALE), coefficients)
