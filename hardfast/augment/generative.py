"""An augmentor that draws the noise from which a diffusion model makes an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hardfast.augment.latent import LearnedNormal
from hardfast.diffusion.sampling import Sampler
from hardfast.ops import _checks


class DiffusionAugmentor(LearnedNormal):
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
    described = "noise"

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
