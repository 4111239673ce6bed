"""Augmentors that draw in the latent space of a generative model: an autoencoder's codes, a diffusion model's noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from hardfast.augment.augmentor import Augmentor
from hardfast.diffusion.sampling import Sampler
from hardfast.ops import _checks


class _LearnedNormal(Augmentor):
    """Independent normal variables, the mean of each and the scale of each channel learned.

    Args:
        shape: of the variables of one image, channels first.
        scale: initial standard deviation, positive.
    """

    def __init__(self, shape: Sequence[int], scale: float) -> None:
        super().__init__()
        _checks.positive("initial_scale", scale)
        self.mean = nn.Parameter(torch.zeros(*shape))
        # Stored as its logarithm, so that it is positive and one step of Adam changes every scale by the same factor.
        self.log_scale = nn.Parameter(torch.full((shape[0], *[1] * (len(shape) - 1)), scale).log())

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal numbers, by the name ``"normal"``."""
        shape = (len(images), *self.mean.shape)
        return {"normal": torch.randn(shape, generator=generator, device=self.mean.device)}

    def _normal(self, noise: Mapping[str, Tensor]) -> Tensor:
        return self.mean + self.log_scale.exp() * noise["normal"]

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        """The mean scale, and how far the mean has moved."""
        return {
            "scale_latents": self.log_scale.exp().mean().item(),
            "mean_latents": self.mean.square().mean().sqrt().item(),
        }


class LatentAugmentor(_LearnedNormal):
    """Moves the code of every image in the latent space of an autoencoder.

    Args:
        encode: maps images ``[B, C, H, W]`` to codes ``[B, ...]``; a constant.
        decode: maps codes to images, differentiably; a constant.
        code_shape: of the code of one image, channels first.
        initial_scale: standard deviation of the moves at the start, in the units of the codes, positive.

    The parameters of ``encode`` and ``decode`` are not part of the module.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        code_shape: Sequence[int],
        *,
        initial_scale: float = 0.1,
    ) -> None:
        super().__init__(code_shape, initial_scale)
        self._networks = (encode, decode)  # in a tuple they are no submodules, whose parameters would be learned

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The codes of the images, moved, by the name ``"codes"``."""
        with torch.no_grad():
            codes = self._networks[0](images)
        return {"codes": codes + self._normal(noise)}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """The images of the codes."""
        return self._networks[1](variables["codes"])


class DiffusionAugmentor(_LearnedNormal):
    """Puts every image under noise and removes it with a diffusion model; the distribution of the noise is learned.

    The gradient goes through the chain of the sampler, in the memory that its strategy takes.

    Args:
        sampler: of a constant denoiser.
        encode: maps images to clean latents ``[B, ...]``; a constant.
        decode: maps clean latents to images, differentiably; a constant.
        latent_shape: of one image, channels first.
        condition: maps images ``[B, C, H, W]`` to what the denoiser takes for each, such as the teacher's answer; None
            for a model without conditions.
        null_condition: ``[1, ...]``, for samplers with classifier-free guidance.
        strength: part of the sampler's steps that follow the noise, in (0, 1]: at 1 little is left of the image.

    The parameters of the networks are not part of the module.
    """

    norm_preserved: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __init__(
        self,
        sampler: Sampler,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        latent_shape: Sequence[int],
        *,
        condition: Callable[[Tensor], Tensor] | None = None,
        null_condition: Tensor | None = None,
        strength: float = 0.5,
    ) -> None:
        super().__init__(latent_shape, 1.0)
        if not 0 < _checks.number("strength", strength) <= 1:
            raise ValueError(f"strength must be in (0, 1], got {strength}")
        schedule = sampler.schedule.last(max(1, round(strength * len(sampler.schedule))))
        self._sampler = dataclasses.replace(sampler, schedule=schedule)
        self._networks = (encode, decode, condition)  # in a tuple they are no submodules
        self._null_condition = null_condition

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Noise in the latent space, by the name ``"noise"``."""
        return {"noise": self._normal(noise)}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """What the diffusion model makes of the images under that noise."""
        encode, decode, condition = self._networks
        with torch.no_grad():
            clean = encode(images)
            conditioning = None if condition is None else condition(images)
        signal = float(self._sampler.schedule.alpha_bar[0])
        latents = signal**0.5 * clean + (1 - signal) ** 0.5 * variables["noise"]
        return decode(self._sampler(latents, conditioning, self._null_condition).latents)
