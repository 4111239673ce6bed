"""A very deep VAE, in the layout of the checkpoints that openai/vdvae released."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardfast.models.vdvae_output import PixelHead, PixelMixture
from hardfast.ops import _checks


class Layer(NamedTuple):
    """One block of a layer string: the side of its input, and the factor or the side that it is joined by."""

    side: int
    other: int | None


def parse_layers(name: str, text: str, joint: str) -> tuple[Layer, ...]:
    """Reads a layer string such as ``"32x11,32d2,16x6"``.

    Args:
        name: of the argument, for messages.
        text: blocks separated by commas: ``32x11`` are eleven of side 32; ``32d2`` one of side 32 that then pools by 2;
            ``32m16`` one of side 32 that takes in what was decoded at side 16; ``32`` a single one.
        joint: ``"d"`` for an encoder, ``"m"`` for a decoder.
    """
    layers: list[Layer] = []
    for item in text.split(","):
        separator = next((letter for letter in ("x", joint) if letter in item), "")
        parts = item.split(separator) if separator else [item]
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(f"{name} must be blocks such as 32x11 or 32{joint}2 separated by commas, got {item!r}")
        side, *count = map(int, parts)
        layers += [Layer(side, None)] * (count[0] if count else 1) if separator != joint else [Layer(side, count[0])]
    return tuple(layers)


@dataclass(frozen=True)
class VDVAEConfig:
    """The shape of a very deep VAE; ``CIFAR10``, ``IMAGENET32`` and ``IMAGENET64`` are those of the released ones.

    Args:
        image_size: side of the square images in pixels.
        channels: of the images, 1 or 3.
        encoder_layers: as for :func:`parse_layers`, from the images' side downwards.
        decoder_layers: upwards, ending at the images' side; every side must occur in the encoder.
        width: channels of the features.
        z_dim: channels of the latents of a block.
        bottleneck: part of the width inside a block.
        mixtures: logistics that a pixel mixes.
        pixel_mean: of the pixels in [0, 255], which the encoder subtracts.
        pixel_std: in the same unit, by which it divides.
    """

    CIFAR10: ClassVar[VDVAEConfig]
    IMAGENET32: ClassVar[VDVAEConfig]
    IMAGENET64: ClassVar[VDVAEConfig]

    image_size: int
    channels: int
    encoder_layers: str
    decoder_layers: str
    width: int
    z_dim: int = 16
    bottleneck: float = 0.25
    mixtures: int = 10
    pixel_mean: float = 127.5
    pixel_std: float = 127.5

    def __post_init__(self) -> None:
        for name in ("image_size", "width", "z_dim", "mixtures"):
            _checks.integer(name, getattr(self, name), 1)
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels!r}")
        _checks.positive("pixel_std", self.pixel_std)
        if int(self.width * _checks.positive("bottleneck", self.bottleneck)) < 1:
            raise ValueError(f"bottleneck must leave a channel of width {self.width}, got {self.bottleneck}")
        side, sides = self.image_size, {self.image_size}
        for layer in self.encoder:
            if layer.side != side or side % (layer.other or 1):
                raise ValueError(
                    f"encoder_layers must go down from {self.image_size} without a gap, got {layer} at {side}"
                )
            side //= layer.other or 1
            sides.add(side)
        decoded: set[int] = set()
        for layer in self.decoder:
            if layer.side not in sides:
                raise ValueError(f"decoder_layers must have sides of the encoder, {sorted(sides)}, got {layer.side}")
            if layer.other is not None and (layer.other not in decoded or layer.side % layer.other):
                raise ValueError(
                    f"decoder_layers must take in smaller sides decoded before, got {layer.other} in {layer}"
                )
            decoded.add(layer.side)
        if self.decoder[-1].side != self.image_size:
            raise ValueError(f"decoder_layers must end at {self.image_size}, got {self.decoder[-1].side}")

    @property
    def encoder(self) -> tuple[Layer, ...]:
        """The blocks of the encoder."""
        return parse_layers("encoder_layers", self.encoder_layers, "d")

    @property
    def decoder(self) -> tuple[Layer, ...]:
        """The blocks of the decoder; each has latents."""
        return parse_layers("decoder_layers", self.decoder_layers, "m")


VDVAEConfig.CIFAR10 = VDVAEConfig(
    image_size=32,
    channels=3,
    encoder_layers="32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3",
    decoder_layers="1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21",
    width=384,
    pixel_mean=120.63838,
    pixel_std=64.16736,
)
VDVAEConfig.IMAGENET32 = VDVAEConfig(
    image_size=32,
    channels=3,
    encoder_layers="32x15,32d2,16x9,16d2,8x8,8d2,4x6,4d4,1x6",
    decoder_layers="1x2,4m1,4x4,8m4,8x9,16m8,16x19,32m16,32x40",
    width=512,
    pixel_mean=116.2373,
    pixel_std=69.37404,
)
VDVAEConfig.IMAGENET64 = VDVAEConfig(
    image_size=64,
    channels=3,
    encoder_layers="64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5",
    decoder_layers="1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12",
    width=512,
    pixel_mean=115.92961967,
    pixel_std=69.37404,
)

_SERVER = "https://openaipublic.blob.core.windows.net/very-deep-vaes-assets"
#: Where the released weights are to be had.
RELEASED = {
    VDVAEConfig.CIFAR10: f"{_SERVER}/vdvae-assets-2/cifar10-seed0-iter-900000-model-ema.th",
    VDVAEConfig.IMAGENET32: f"{_SERVER}/vdvae-assets/imagenet32-iter-1700000-model-ema.th",
    VDVAEConfig.IMAGENET64: f"{_SERVER}/vdvae-assets-2/imagenet64-iter-1600000-model-ema.th",
}


class Gaussian(NamedTuple):
    """Independent normal latents ``[B, z_dim, S, S]`` of one block."""

    mean: Tensor
    log_std: Tensor

    def divergence(self, other: Gaussian) -> Tensor:
        """KL(self || other) in nats, for each image ``[B]``."""
        squares = (2 * self.log_std).exp() + (self.mean - other.mean).square()
        per_latent = other.log_std - self.log_std + squares * (-2 * other.log_std).exp() / 2 - 0.5
        return per_latent.flatten(1).sum(1)


class NegativeELBO(NamedTuple):
    """Nats for each number of an image, averaged over the batch: ``loss`` is the sum of the other two."""

    loss: Tensor
    distortion: Tensor
    rate: Tensor


#: Chooses the latents of a block from its number, its posterior (computed when called; None without images) and prior.
Chooser = Callable[[int, "Callable[[], Gaussian] | None", Gaussian], Tensor]


def _pointwise(inputs: int, outputs: int, kernel: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Bottleneck(nn.Module):
    """Four convolutions, each after a GELU; the two inside see neighbours, unless the side is 1 or 2.

    ``gain`` multiplies the initial weights of the last one.
    """

    def __init__(self, inputs: int, inside: int, outputs: int, side: int, gain: float = 1.0) -> None:
        super().__init__()
        kernel = 3 if side > 2 else 1
        self.c1 = _pointwise(inputs, inside)
        self.c2 = _pointwise(inside, inside, kernel)
        self.c3 = _pointwise(inside, inside, kernel)
        self.c4 = _pointwise(inside, outputs)
        with torch.no_grad():
            self.c4.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.c1, self.c2, self.c3, self.c4):
            x = layer(F.gelu(x))
        return x


class _Encoder(nn.Module):
    def __init__(self, config: VDVAEConfig) -> None:
        super().__init__()
        width, inside, gain = config.width, int(config.width * config.bottleneck), len(config.encoder) ** -0.5
        self.layers = config.encoder
        self.in_conv = _pointwise(config.channels, width, 3)
        self.enc_blocks = nn.ModuleList(Bottleneck(width, inside, width, layer.side, gain) for layer in self.layers)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """The last features of every side."""
        x = self.in_conv(images)
        features = {x.shape[2]: x}
        for layer, block in zip(self.layers, self.enc_blocks, strict=True):
            x = x + block(x)
            if layer.other is not None:
                x = F.avg_pool2d(x, layer.other)
            features[layer.side // (layer.other or 1)] = x
        return features


class _DecoderBlock(nn.Module):
    def __init__(self, config: VDVAEConfig, side: int) -> None:
        super().__init__()
        width, inside, gain = config.width, int(config.width * config.bottleneck), len(config.decoder) ** -0.5
        self.z_dim = config.z_dim
        self.enc = Bottleneck(2 * width, inside, 2 * config.z_dim, side)
        self.prior = Bottleneck(width, inside, 2 * config.z_dim + width, side, gain=0.0)
        self.z_proj = _pointwise(config.z_dim, width)
        self.resnet = Bottleneck(width, inside, width, side, gain)
        with torch.no_grad():
            self.z_proj.weight.mul_(gain)

    def posterior(self, x: Tensor, encoded: Tensor) -> Gaussian:
        return Gaussian(*self.enc(torch.cat([x, encoded], 1)).chunk(2, 1))

    def split_prior(self, x: Tensor) -> tuple[Gaussian, Tensor]:
        """The prior, and what is added to the features whatever the latents."""
        mean, log_std, features = self.prior(x).split([self.z_dim, self.z_dim, x.shape[1]], 1)
        return Gaussian(mean, log_std), features

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        x = x + self.z_proj(latents)
        return x + self.resnet(x)


class _Decoder(nn.Module):
    def __init__(self, config: VDVAEConfig) -> None:
        super().__init__()
        self.layers = config.decoder
        self.sides = sorted({layer.side for layer in self.layers})
        self.dec_blocks = nn.ModuleList(_DecoderBlock(config, layer.side) for layer in self.layers)
        self.bias_xs = nn.ParameterList(nn.Parameter(torch.zeros(1, config.width, s, s)) for s in self.sides)
        self.out_net = PixelHead(config.width, config.channels, config.mixtures)
        self.gain = nn.Parameter(torch.ones(1, config.width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, config.width, 1, 1))

    def forward(self, count: int, choose: Chooser, encoded: Mapping[int, Tensor] | None) -> PixelMixture:
        states = {s: bias.expand(count, -1, -1, -1) for s, bias in zip(self.sides, self.bias_xs, strict=True)}
        for index, (layer, block) in enumerate(zip(self.layers, self.dec_blocks, strict=True)):
            assert isinstance(block, _DecoderBlock)
            x = states[layer.side]
            if layer.other is not None:
                x = x + F.interpolate(states[layer.other], size=(layer.side, layer.side))
            prior, features = block.split_prior(x)
            posterior = None if encoded is None else partial(block.posterior, x, encoded[layer.side])
            states[layer.side] = block(x + features, choose(index, posterior, prior))
        return self.out_net(states[self.sides[-1]] * self.gain + self.bias)


class VDVAE(nn.Module):
    """A VAE whose decoder has latents in every block, each with a posterior and a prior given those before it.

    Args:
        config: its shape.

    Images are ``[B, channels, image_size, image_size]`` in [0, 1]; what the network takes is computed inside.
    Parameters have the names and shapes of openai/vdvae.

    Source: Child, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images, 2021.
    """

    def __init__(self, config: VDVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """``(z_dim, S, S)`` of the latents of one image in every block."""
        return [(self.config.z_dim, layer.side, layer.side) for layer in self.decoder.layers]

    def split_latents(self, flat: Tensor) -> list[Tensor]:
        """Numbers ``[B, N]``, as many as one image has latents, as one tensor for each block."""
        parts = flat.split([math.prod(shape) for shape in self.latent_shapes], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.latent_shapes, strict=True)]

    def normal(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal numbers for the latents of ``count`` images, ``[count, N]``."""
        total = sum(math.prod(shape) for shape in self.latent_shapes)
        like = self.decoder.gain
        return torch.randn(count, total, generator=generator, device=like.device, dtype=like.dtype)

    def encode(self, images: Tensor) -> dict[int, Tensor]:
        """What the posteriors take from the images: features ``[B, width, S, S]`` by side."""
        size, config = self.config.image_size, self.config
        if images.dim() != 4 or images.shape[1:] != (config.channels, size, size):
            raise ValueError(f"images must have shape [B, {config.channels}, {size}, {size}], got {list(images.shape)}")
        return self.encoder((255 * images - config.pixel_mean) / config.pixel_std)

    def decode(self, count: int, choose: Chooser, encoded: Mapping[int, Tensor] | None = None) -> PixelMixture:
        """The pixels of ``count`` images.

        Args:
            count: B.
            choose: called for each block with its number, a function that computes its posterior (None without
                ``encoded``) and its prior; returns the latents ``[B, z_dim, S, S]``.
            encoded: as :meth:`encode` gives it; None where no latents come from a posterior.
        """
        return self.decoder(count, choose, encoded)

    def elbo(self, images: Tensor, generator: torch.Generator | None = None) -> NegativeELBO:
        """What training minimises: the bound on the code length of images in 256 levels."""
        normals = self.split_latents(self.normal(len(images), generator))
        rates = []

        def choose(index: int, posterior: Callable[[], Gaussian] | None, prior: Gaussian) -> Tensor:
            assert posterior is not None
            here = posterior()
            rates.append(here.divergence(prior))
            return here.mean + here.log_std.exp() * normals[index]

        mixture = self.decode(len(images), choose, self.encode(images))
        numbers = images[0].numel()
        distortion, rate = mixture.nll(2 * images - 1).mean() / numbers, torch.stack(rates).sum(0).mean() / numbers
        return NegativeELBO(distortion + rate, distortion, rate)

    def reconstruct(self, images: Tensor) -> Tensor:
        """The images' mean pixels given the mean of every posterior, in [0, 1]."""

        def choose(index: int, posterior: Callable[[], Gaussian] | None, prior: Gaussian) -> Tensor:
            assert posterior is not None
            return posterior().mean

        return self.decode(len(images), choose, self.encode(images)).mean() / 2 + 0.5

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """New images: mean pixels given latents from the priors, in [0, 1]."""
        normals = self.split_latents(self.normal(count, generator))

        def choose(index: int, posterior: Callable[[], Gaussian] | None, prior: Gaussian) -> Tensor:
            return prior.mean + prior.log_std.exp() * normals[index]

        return self.decode(count, choose).mean() / 2 + 0.5


def load_vdvae(path: str | Path, config: VDVAEConfig) -> VDVAE:
    """Loads released weights, or others of the same layout, and runs no code from the file.

    Args:
        path: as ``torch.save`` wrote the state dict; its keys may begin with ``module.``.
        config: of the network in it.

    Returns:
        The network on the CPU, float32, constant, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file; the message says where it is to be had.
        ValueError: the file is damaged, or its first key or shape that does not fit is named.
    """
    path = Path(path)
    if not path.is_file():
        source = RELEASED.get(config)
        advice = f"download {source}" if source else f"those of openai/vdvae are {', '.join(RELEASED.values())}"
        raise FileNotFoundError(f"weights {path} of a very deep VAE are missing; {advice}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"weights {path} must be a state dict as torch.save writes it: {error}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"weights {path} must be a state dict of tensors, got {type(weights).__name__}")
    weights = {str(key).removeprefix("module."): value.float() for key, value in weights.items()}
    with torch.device("meta"):
        model = VDVAE(config)
    expected = model.state_dict()
    for key, value in expected.items():
        if key not in weights:
            raise ValueError(f"weights {path} must have {key} of shape {list(value.shape)}, which is missing")
        if weights[key].shape != value.shape:
            raise ValueError(
                f"weights {path} must have {key} of shape {list(value.shape)}, got {list(weights[key].shape)}"
            )
    unknown = next((key for key in weights if key not in expected), None)
    if unknown is not None:
        raise ValueError(f"weights {path} must have no {unknown}: this is not the configuration they were made with")
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)
