"""An augmentor that edits the posterior of a range of blocks of a very deep VAE, HARD's strongest family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardfast.augment.augmentor import MeanStd
from hardfast.augment.latent import AugmentorWithConstants
from hardfast.models.vdvae import VDVAE, Gaussian
from hardfast.ops import _checks

PIXELS = ("mixture", "mean")
LATER = ("prior", "posterior")

#: Images that the VAE draws where :meth:`HierarchicalAugmentor.describe` has no others to measure by.
_DRAWN_IMAGES = 16


class HierarchicalAugmentor(AugmentorWithConstants):
    """Encodes every image by a very deep VAE and decodes it with edited posteriors.

    Blocks before ``start`` draw their latents from the posterior. Those in ``[start, end)`` draw them from an edited
    one: a learned 1x1 convolution for each block adds to the means and to the logarithms of the standard deviations,
    as a function of both; at 0, where it starts, it changes nothing. Later blocks draw from the prior, which fits
    their details to what the edits made.

    The standard deviation of all of them is ``elu(s) + 1`` for a logarithm s: for s <= 0 that is ``exp(s)``, and beyond
    it grows linearly, so that no edit makes it explode.

    The gradient reaches the edits, not the images; for it are kept what lies between the blocks and inside them from
    ``start`` on.

    Args:
        vae: a constant, and made one; no part of the module's parameters nor of its state dict. It follows the
            augmentor to a device or dtype (the network itself, not a copy).
        start: first block that is edited, from 0.
        end: block after the last one that is edited, at most as many as the decoder has.
        later: ``"prior"`` or, to keep the details of the image, ``"posterior"``.
        pixels: ``"mixture"`` draws them, with a soft choice of the component, so that all is differentiable; ``"mean"``
            takes the mean of each pixel.
        mixture_temperature: of that choice, positive.
        reference: images ``[N, C, S, S]``, N at least 2, by whose posteriors :meth:`describe` measures; None for images
            that the VAE draws.

    Source: the autoencoder of HARD (Nix, Burg and Sinz, 2023); Child, Very Deep VAEs, 2021; the form of the edit is
    this library's.
    """

    norm_preserved: ClassVar[frozenset[str]] = frozenset({"normal"})

    def __init__(
        self,
        vae: VDVAE,
        start: int,
        end: int,
        *,
        later: str = "prior",
        pixels: str = "mixture",
        mixture_temperature: float = 1.0,
        reference: Tensor | None = None,
    ) -> None:
        super().__init__()
        blocks = len(vae.latent_shapes)
        _checks.integer("start", start, 0)
        _checks.integer("end", end, start + 1)
        if end > blocks:
            raise ValueError(f"end must be at most {blocks}, the blocks of the decoder, got {end}")
        _checks.one_of("later", later, LATER)
        _checks.one_of("pixels", pixels, PIXELS)
        if reference is not None and len(reference) < 2:
            raise ValueError(f"reference must have at least 2 images, got {len(reference)}")
        self.start, self.end, self.later, self.pixels = start, end, later, pixels
        self.mixture_temperature = _checks.positive("mixture_temperature", mixture_temperature)
        self._networks = (vae.eval().requires_grad_(False),)
        self._reference = reference
        self._moments: tuple[Tensor, Tensor] | None = None
        width = 2 * vae.config.z_dim
        like = vae.decoder.gain
        self.edit_weight = nn.Parameter(torch.zeros(end - start, width, width, device=like.device, dtype=like.dtype))
        self.edit_bias = nn.Parameter(torch.zeros(end - start, width, device=like.device, dtype=like.dtype))

    @property
    def vae(self) -> VDVAE:
        """The network."""
        return self._networks[0]

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal numbers of all latents ``[B, N]``, by the name ``"normal"``.

        For drawn pixels also Gumbel numbers ``[B, mixtures, S, S]``, ``"gumbel"``, and logistic ones ``[B, C, S, S]``,
        ``"logistic"``.
        """
        noise, config = {"normal": self.vae.normal(len(images), generator)}, self.vae.config
        if self.pixels == "mixture":
            like, side = self.edit_weight, config.image_size
            for name, channels in (("gumbel", config.mixtures), ("logistic", config.channels)):
                shape = (len(images), channels, side, side)
                uniform = torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
                uniform = uniform.clamp(1e-5, 1 - 1e-5)  # the transformed numbers stay finite
                noise[name] = -(-uniform.log()).log() if name == "gumbel" else uniform.logit()
        return noise

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The noise and, for each image, the edits that it comes under.

        These are ``"edit_weight"`` ``[B, K, 2 * z_dim, 2 * z_dim]`` and ``"edit_bias"`` ``[B, K, 2 * z_dim]`` for K
        edited blocks, the same for all images: a search may part them.
        """
        count = len(images)
        return {
            **noise,
            "edit_weight": self.edit_weight.expand(count, -1, -1, -1),
            "edit_bias": self.edit_bias.expand(count, -1, -1),
        }

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """The images ``[B, C, S, S]`` decoded under the edits, in [0, 1]."""
        vae, weight, bias = self.vae, variables["edit_weight"], variables["edit_bias"]
        normals = vae.split_latents(variables["normal"])
        with torch.no_grad():
            encoded = vae.encode(images)

        def choose(index: int, posterior: Callable[[], Gaussian] | None, prior: Gaussian) -> Tensor:
            assert posterior is not None
            if index >= self.end and self.later == "prior":
                mean, log_std = prior
            else:
                mean, log_std = posterior()
            if self.start <= index < self.end:
                edit = index - self.start
                both = torch.cat([mean, log_std], 1)
                change = torch.baddbmm(bias[:, edit, :, None], weight[:, edit], both.flatten(2))
                mean, log_std = (both + change.view_as(both)).chunk(2, 1)
            return mean + (F.elu(log_std) + 1) * normals[index]

        mixture = vae.decode(len(images), choose, encoded)
        if self.pixels == "mean":
            drawn = mixture.mean()
        else:
            drawn = mixture.soft_sample(variables["gumbel"], variables["logistic"], self.mixture_temperature)
        return drawn / 2 + 0.5

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        """The size of the edits."""
        return {
            "edit_weight": self.edit_weight.square().mean().sqrt().item(),
            "edit_bias": self.edit_bias.square().mean().sqrt().item(),
        }

    @torch.no_grad()
    def arrays(self) -> dict[str, Tensor]:
        """The edits of all blocks."""
        return {"edit_weight": self.edit_weight, "edit_bias": self.edit_bias}

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Gives what the edits do to the posteriors, over images, places and channels.

        Args:
            size: ``(height, width)`` of the images; the answer does not depend on it.

        Returns:
            For every edited block, counted from 0 in the decoder, ``block_<k>_mean_percent``, by how much the
            posterior's mean moves, in percent of its standard deviation (root mean square), and
            ``block_<k>_spread_percent``, the change of the standard deviation's logarithm, times 100. Each edit is
            measured on posteriors that no other edit has changed.
        """
        means, covariances = self._posterior_moments()
        weight, bias = self.edit_weight.double().cpu(), self.edit_bias.double().cpu()
        z_dim = self.vae.config.z_dim
        change = torch.einsum("koc,kc->ko", weight, means) + bias
        variance = torch.einsum("koc,kcd,kod->ko", weight, covariances, weight)
        # The mean square of a standard deviation whose logarithm is normal.
        log_std, log_variance = means[:, z_dim:], covariances.diagonal(0, 1, 2)[:, z_dim:]
        unit = torch.cat([(log_std + log_variance).exp(), torch.ones_like(log_std)], 1)
        change, variance = change / unit, variance / unit.square()
        described = {}
        for number in range(self.end - self.start):
            for name, part in (("mean", slice(0, z_dim)), ("spread", slice(z_dim, None))):
                here = change[number, part]
                std = (variance[number, part].mean() + here.var(correction=0)).sqrt()
                key = f"block_{self.start + number}_{name}_percent"
                described[key] = MeanStd(100 * float(here.mean()), 100 * float(std))
        return described

    def extra_repr(self) -> str:
        return f"start={self.start}, end={self.end}, later={self.later!r}, pixels={self.pixels!r}"

    def _posterior_moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``[K, 2 * z_dim]`` and covariance of the parameters of the posteriors; computed once."""
        if self._moments is None:
            vae, found = self.vae, []
            like = vae.decoder.gain
            seeded = torch.Generator(like.device).manual_seed(0)
            images = self._reference
            images = vae.sample(_DRAWN_IMAGES, seeded) if images is None else images.to(like.device, like.dtype)

            def choose(index: int, posterior: Callable[[], Gaussian] | None, prior: Gaussian) -> Tensor:
                assert posterior is not None
                here = posterior()
                if self.start <= index < self.end:
                    found.append(torch.cat(here, 1).transpose(0, 1).flatten(1).double().cpu())
                return here.mean

            vae.decode(len(images), choose, vae.encode(images))
            means, covariances = torch.stack([x.mean(1) for x in found]), torch.stack([torch.cov(x) for x in found])
            self._moments = means, covariances
        return self._moments
