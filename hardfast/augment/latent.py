"""Augmentors that edit the codes of an autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hardfast.augment.augmentor import Augmentor, MeanStd
from hardfast.models.autoencoder import AutoencoderCodec
from hardfast.ops import _checks

if TYPE_CHECKING:
    from typing_extensions import Self

EDITS = ("gaussian", "network")
POSTERIORS = ("mode", "sample")


class AugmentorWithConstants(Augmentor):
    """An augmentor around networks that it does not learn.

    They are neither in ``parameters()`` nor in the state dict, but follow the augmentor to a device or dtype: a network
    that is given to it moves itself, not a copy.
    """

    #: Modules and methods of modules; in a tuple they are no submodules, whose parameters would be learned.
    _networks: tuple[Any, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        modules = [getattr(network, "__self__", network) for network in self._networks]
        for module in {id(module): module for module in modules if isinstance(module, nn.Module)}.values():
            module._apply(fn)
        return super()._apply(fn, recurse)


class LearnedNormal(AugmentorWithConstants):
    """Independent normal variables, the mean of each and the scale of each channel learned.

    The mean is stored in units of ``scale``: one step of Adam then moves mean and scale equally far at the start.

    Args:
        shape: of the variables of one image, channels first.
        scale: initial standard deviation, positive.
    """

    #: What the variables are, in the names of :meth:`describe`.
    described: str

    def __init__(self, shape: Sequence[int], scale: float) -> None:
        super().__init__()
        _checks.positive("initial_scale", scale)
        self.initial_scale = scale
        self.mean_offset = nn.Parameter(torch.zeros(*shape))
        # Stored as its logarithm, so that it is positive and one step of Adam changes every scale by the same factor.
        self.log_scale = nn.Parameter(torch.full((shape[0], *[1] * (len(shape) - 1)), scale).log())

    @property
    def mean(self) -> Tensor:
        """Mean of the variables of one image."""
        return self.initial_scale * self.mean_offset

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal numbers, by the name ``"normal"``."""
        return {"normal": self._standard_normal(len(images), generator)}

    def _standard_normal(self, count: int, generator: torch.Generator | None) -> Tensor:
        like = self.mean_offset
        return torch.randn(count, *like.shape, generator=generator, device=like.device, dtype=like.dtype)

    def _normal(self, noise: Mapping[str, Tensor]) -> Tensor:
        return self.mean + self.log_scale.exp() * noise["normal"]

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        """The mean scale, and how far the mean has moved."""
        return {
            "scale_latents": self.log_scale.exp().mean().item(),
            "mean_latents": self.mean.square().mean().sqrt().item(),
        }

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Gives the distribution by channel, in percent of the spread that its numbers have by themselves.

        Args:
            size: ``(height, width)`` of the images; the answer does not depend on it.
        """
        means, variances, spreads = (value.double().cpu() for value in self._moments())
        means, variances = means / spreads[:, None], variances / spreads[:, None] ** 2
        std = (variances.mean(1) + means.var(1, correction=0)).sqrt()
        return {
            f"{self.described}_{channel}_percent": MeanStd(
                100 * float(means[channel].mean()), 100 * float(std[channel])
            )
            for channel in range(len(means))
        }

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance of every variable, ``[C, N]``, and the spread of each channel by itself, ``[C]``."""
        mean = self.mean.flatten(1)
        variance = (2 * self.log_scale).exp().expand_as(self.mean).flatten(1)
        return mean, variance, torch.ones_like(mean[:, 0])


class LatentAugmentor(LearnedNormal):
    """Moves the code of every image in the latent space of an autoencoder.

    ``edit="gaussian"`` moves all codes alike, ``code + mean + scale * normal``. ``edit="network"`` makes that depend on
    the code: a 1x1 convolution of it adds to the mean, in units of the initial scale, and to the logarithm of the
    scale. It starts at 0, where both are the same.

    Args:
        encode: maps images ``[B, C, H, W]`` to codes ``[B, ...]``; a constant.
        decode: maps codes to images, differentiably; a constant.
        code_shape: of the code of one image, channels first.
        initial_scale: standard deviation of the moves at the start, in the units of the codes, positive.
        edit: ``"gaussian"`` or ``"network"``.
        posterior: ``"mode"``, or ``"sample"`` for an ``encode`` that gives mean and standard deviation of a posterior,
            from which the codes are then drawn.
        codes: codes of typical images ``[N, ...]``, N at least 2, in whose spread :meth:`describe` measures; None for
            standard normal ones.

    The parameters of ``encode`` and ``decode`` are not part of the module; where they are modules, or methods of
    modules, these follow it to a device or dtype.
    """

    described = "code"
    code_mean: Tensor
    code_covariance: Tensor

    def __init__(
        self,
        encode: Callable[[Tensor], Any],
        decode: Callable[[Tensor], Tensor],
        code_shape: Sequence[int],
        *,
        initial_scale: float = 0.1,
        edit: str = "gaussian",
        posterior: str = "mode",
        codes: Tensor | None = None,
    ) -> None:
        super().__init__(code_shape, initial_scale)
        _checks.one_of("edit", edit, EDITS)
        _checks.one_of("posterior", posterior, POSTERIORS)
        self.edit, self.posterior = edit, posterior
        self._networks = (encode, decode)
        channels = code_shape[0]
        if edit == "network":
            self.edit_weight = nn.Parameter(torch.zeros(2 * channels, channels))
        mean, covariance = torch.zeros(channels), torch.eye(channels)
        if codes is not None:
            if codes.shape[1:] != tuple(code_shape) or len(codes) < 2:
                raise ValueError(f"codes must have shape [N, {list(code_shape)}], N >= 2, got {list(codes.shape)}")
            columns = codes.detach().float().transpose(0, 1).flatten(1)
            mean, covariance = columns.mean(1), torch.cov(columns).view(channels, channels)
            if not bool((covariance.diagonal() > 0).all()):
                raise ValueError("codes must differ in every channel, got one that is the same everywhere")
        self.register_buffer("code_mean", mean, persistent=False)
        self.register_buffer("code_covariance", covariance, persistent=False)

    @classmethod
    def from_autoencoder(
        cls,
        vae: Any,
        image_size: tuple[int, int],
        channels: int = 3,
        *,
        posterior: str = "mode",
        reference: Tensor | None = None,
        **options: Any,
    ) -> LatentAugmentor:
        """Makes one of an autoencoder of diffusers; see :class:`~hardfast.models.AutoencoderCodec`.

        Args:
            vae: such as :func:`~hardfast.models.load_autoencoder` gives; made constant.
            image_size: ``(height, width)`` in pixels, any.
            channels: of the images; 1 for grey ones, with a model for grey or for colour.
            posterior: ``"mode"`` or ``"sample"``, as for the class.
            reference: images ``[N, channels, height, width]``, N at least 2, in the spread of whose codes
                :meth:`describe` measures; None for a spread of 1, which published models have.
            options: ``initial_scale`` and ``edit``, as for the class.
        """
        codec = AutoencoderCodec(vae, image_size, channels).eval().requires_grad_(False)
        with torch.no_grad():
            codes = None if reference is None else torch.cat([codec.encode(part) for part in reference.split(64)])
        encode = codec.posterior if posterior == "sample" else codec.encode
        return cls(encode, codec.decode, codec.code_shape(), posterior=posterior, codes=codes, **options)

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal numbers, by the name ``"normal"``; those of a sampled posterior by ``"posterior"``."""
        noise = super().noise(images, generator)
        if self.posterior == "sample":
            noise["posterior"] = self._standard_normal(len(images), generator)
        return noise

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The codes of the images, moved, by the name ``"codes"``."""
        with torch.no_grad():
            codes = self._networks[0](images)
            if self.posterior == "sample":
                mean, std = codes
                codes = mean + std * noise["posterior"]
        if self.edit == "gaussian":
            return {"codes": codes + self._normal(noise)}
        shift, log_change = torch.einsum("oc,bc...->bo...", self.edit_weight, codes).chunk(2, 1)
        scale = (self.log_scale + log_change).exp()
        return {"codes": codes + self.mean + self.initial_scale * shift + scale * noise["normal"]}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """The images of the codes."""
        return self._networks[1](variables["codes"])

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        """The mean scale, how far the mean has moved, and the size of the network's weights."""
        scalars = super().scalars()
        if self.edit == "network":
            scalars["edit_latents"] = self.edit_weight.square().mean().sqrt().item()
        return scalars

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, _ = super()._moments()
        if self.edit == "network":
            shift, log_change = (self.edit_weight @ self.code_mean).chunk(2)
            of_shift, of_log_change = (self.edit_weight @ self.code_covariance * self.edit_weight).sum(1).chunk(2)
            shift, of_shift = self.initial_scale * shift, self.initial_scale**2 * of_shift
            # The mean square of a scale whose logarithm is normal.
            variance = variance * (2 * log_change + 2 * of_log_change).exp()[:, None] + of_shift[:, None]
            mean = mean + shift[:, None]
        return mean, variance, self.code_covariance.diagonal().sqrt()
