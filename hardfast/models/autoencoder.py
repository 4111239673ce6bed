"""Autoencoders: diffusers' ones as two functions of images in [0, 1], and small ones of both kinds trained here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from hardfast.models.pretrained import load_whole, pretrained_folder
from hardfast.models.vdvae import VDVAE, VDVAEConfig
from hardfast.ops import _checks

_Network = TypeVar("_Network", bound=nn.Module)


class AutoencoderCodec(nn.Module):
    """An autoencoder of diffusers for images of one size in [0, 1], grey ones included.

    Grey images go into a model for colour as three equal channels, and come out as the mean of the three. Images whose
    sides the model's stride does not divide are continued by their border, and cropped on the way out.

    Args:
        vae: such as ``AutoencoderKL`` or ``AutoencoderTiny``; takes and gives images in [-1, 1].
        image_size: ``(height, width)`` in pixels.
        channels: of the images, 1 or 3.

    Codes are in the model's own scaling, in which those of the data that it was trained on have a spread near 1.
    """

    vae: Any

    def __init__(self, vae: Any, image_size: tuple[int, int], channels: int = 3) -> None:
        super().__init__()
        height, width = image_size
        _checks.integer("image_size", height, 1)
        _checks.integer("image_size", width, 1)
        self.vae_channels = int(vae.config.in_channels)
        if channels != self.vae_channels and (channels, self.vae_channels) != (1, 3):
            raise ValueError(
                f"channels must be those of the autoencoder, {self.vae_channels}, or 1 of its 3, got {channels!r}"
            )
        self.vae, self.image_size, self.channels = vae, (height, width), channels
        stride = _stride(vae)
        self.padding = (0, -width % stride, 0, -height % stride)
        self.scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the codes of images; the latter is 0 where the model has no posterior."""
        if images.dim() != 4 or images.shape[1:] != (self.channels, *self.image_size):
            raise ValueError(
                f"images must have shape [B, {self.channels}, {self.image_size[0]}, {self.image_size[1]}], "
                f"got {list(images.shape)}"
            )
        images = images.expand(-1, self.vae_channels, -1, -1)
        images = F.pad(2 * images - 1, self.padding, mode="replicate")
        found = self.vae.encode(images, return_dict=False)[0]
        mean = found if isinstance(found, Tensor) else found.mean
        std = torch.zeros_like(mean) if isinstance(found, Tensor) else found.std
        return (mean - self.shift) * self.scale, std * self.scale

    def encode(self, images: Tensor) -> Tensor:
        """Codes ``[B, ...]`` of images ``[B, C, H, W]``: the mode of the posterior."""
        return self.posterior(images)[0]

    def decode(self, codes: Tensor) -> Tensor:
        """Images ``[B, C, H, W]``, nominally in [0, 1]; differentiable."""
        height, width = self.image_size
        images = self.vae.decode(codes / self.scale + self.shift, return_dict=False)[0][..., :height, :width] / 2 + 0.5
        return images if self.channels == self.vae_channels else images.mean(1, keepdim=True)

    @torch.no_grad()
    def code_shape(self) -> tuple[int, ...]:
        """``(C, ...)`` of the code of one image."""
        like = next(self.vae.parameters())
        blank = torch.zeros(1, self.channels, *self.image_size, device=like.device, dtype=like.dtype)
        return tuple(self.encode(blank).shape[1:])


def _stride(vae: Any) -> int:
    """Pixels of an image's side for one of the code's."""
    for place in (vae, vae.config):
        for name in ("spatial_compression_ratio", "spatial_scale_factor"):
            if getattr(place, name, None):
                return int(getattr(place, name))
    blocks = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    return 2 ** (len(blocks) - 1)


def load_autoencoder(source: str | Path) -> Any:
    """Loads an autoencoder of diffusers, constant, from safetensors.

    Args:
        source: a folder with its ``config.json`` and ``diffusion_pytorch_model.safetensors``, or that of a pipeline
            which has them in ``vae``; or a repository in the hub's cache, such as ``"madebyollin/taesd"``.

    Raises:
        FileNotFoundError: something is missing; the message names it and how to get it.
        ValueError: the model is no autoencoder of diffusers, or its weights are damaged.
    """
    import diffusers
    from diffusers.utils import is_accelerate_available

    folder = pretrained_folder(source, [("config.json", "vae/config.json")], "autoencoder")
    subfolder = "" if (folder / "config.json").is_file() else "vae"
    weights = str(Path(subfolder) / "diffusion_pytorch_model*.safetensors")
    pretrained_folder(source, [weights], "autoencoder")
    path = folder / subfolder / "config.json"
    name = str(json.loads(path.read_text()).get("_class_name"))
    model_class = getattr(diffusers, name, None) if name.startswith(("Autoencoder", "VQModel")) else None
    if model_class is None:
        raise ValueError(f"{path} must be that of an autoencoder of diffusers, got the class {name}")
    # Without accelerate diffusers warns, unless it is told to do without.
    options = {"use_safetensors": True, "low_cpu_mem_usage": is_accelerate_available()}
    return load_whole(model_class, folder, subfolder, **options).eval().requires_grad_(False)


def small_autoencoder(channels: int = 1) -> Any:
    """An untrained ``AutoencoderKL`` for small images: codes ``[4, S / 4, S / 4]``.

    Args:
        channels: of the images.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def small_vdvae(channels: int = 1) -> VDVAE:
    """An untrained very deep VAE for images of 28 x 28 pixels.

    Its decoder has nine blocks: two of side 1, three of side 7, three of side 14 and one of side 28. Trained for
    minutes on digits, it keeps the shape of the digit in the first two of side 14, numbers 5 and 6: where later blocks
    draw from the prior, it is lost unless these follow the posterior.

    Args:
        channels: of the images, 1 or 3.
    """
    return VDVAE(small_vdvae_config(channels))


def small_vdvae_config(channels: int = 1) -> VDVAEConfig:
    """The shape of :func:`small_vdvae`."""
    return VDVAEConfig(
        image_size=28,
        channels=channels,
        encoder_layers="28d2,14x1,14d2,7x1,7d7,1x1",
        decoder_layers="1x2,7m1,7x2,14m7,14x2,28m14",
        width=32,
        z_dim=8,
        bottleneck=0.5,
        mixtures=3,
    )


def train_autoencoder(
    vae: Any,
    images: Tensor,
    *,
    steps: int = 1000,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    kl_weight: float = 3e-4,
    seed: int = 0,
    progress: str | None = None,
) -> Any:
    """Trains an ``AutoencoderKL`` of diffusers, in place.

    The loss is the mean squared error of the images on the scale [-1, 1], each pixel's, and ``kl_weight`` times the
    divergence of the posterior from the standard normal, each code's. At the end the codes are rescaled, in the
    weights of the layers that make and read them: those of ``images`` have mean 0 and spread 1 in every channel.

    Args:
        vae: with its two 1x1 convolutions around the codes, as ``AutoencoderKL`` has them unless told otherwise.
        images: ``[N, C, H, W]`` in [0, 1], sides multiples of the model's stride.
        steps: >= 1.
        batch_size: images a step.
        learning_rate: the highest, of Adam, positive; after a twentieth of the steps it falls to 0 along half a cosine.
        kl_weight: at least 0.
        seed: of batches and noise; the weights at the start are those of ``vae``.
        progress: text before a progress bar; None for no bar.

    Returns:
        ``vae``, constant, in evaluation mode.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2014; Rombach et al., High-Resolution Image Synthesis
    with Latent Diffusion Models, 2022.
    """
    _checks.not_negative("kl_weight", kl_weight)
    if getattr(vae, "quant_conv", None) is None or getattr(vae, "post_quant_conv", None) is None:
        raise ValueError("vae must have quant_conv and post_quant_conv, in whose weights the codes are rescaled")

    def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
        target = 2 * batch - 1
        posterior = vae.encode(target, return_dict=False)[0]
        codes = posterior.mean + posterior.std * _normal_like(posterior.mean, generator)
        error = F.mse_loss(vae.decode(codes, return_dict=False)[0], target)
        return error + kl_weight * posterior.kl().sum() / posterior.mean.numel()

    _train(vae, images, loss, steps, batch_size, learning_rate, seed, progress)
    with torch.no_grad():
        codes = torch.cat([vae.encode(2 * part - 1, return_dict=False)[0].mean for part in images.split(256)])
        mean, std = codes.mean((0, 2, 3)), codes.std((0, 2, 3))
        count = len(mean)
        write, read = vae.quant_conv, vae.post_quant_conv
        read.bias += read.weight[:, :, 0, 0] @ mean
        read.weight *= std[None, :, None, None]
        write.weight[:count] /= std[:, None, None, None]
        write.bias[:count] = (write.bias[:count] - mean) / std
        write.bias[count:] -= 2 * std.log()  # the logarithm of the variance
    return vae.eval().requires_grad_(False)


def train_vdvae(
    model: VDVAE,
    images: Tensor,
    *,
    steps: int = 500,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: str | None = None,
) -> VDVAE:
    """Trains a very deep VAE by its ELBO, in place.

    Args:
        model: from :func:`small_vdvae`, or any other.
        images: ``[N, C, H, W]`` in [0, 1].
        steps: >= 1.
        batch_size: images a step.
        learning_rate: the highest, of Adam, positive; after a twentieth of the steps it falls to 0 along half a cosine.
        seed: of batches and noise; the weights at the start are those of ``model``.
        progress: text before a progress bar; None for no bar.

    Returns:
        ``model``, constant, in evaluation mode.
    """
    return _train(
        model, images, lambda batch, generator: model.elbo(batch, generator).loss,
        steps, batch_size, learning_rate, seed, progress,
    ).eval().requires_grad_(False)  # fmt: skip


def _train(
    network: _Network,
    images: Tensor,
    loss: Callable[[Tensor, torch.Generator], Tensor],
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    progress: str | None,
) -> _Network:
    # The training of students imports augmentors, which import this module.
    from hardfast.distill.batches import ShuffledBatches

    _checks.integer("steps", steps, 1)
    _checks.positive("learning_rate", learning_rate)
    generator = torch.Generator(images.device).manual_seed(seed)
    batches = ShuffledBatches(len(images), batch_size, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    network.requires_grad_(True).train()
    warmup = 1 + steps // 20
    for step in tqdm(range(steps), desc=progress, unit="step", leave=False, disable=True if progress is None else None):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad(set_to_none=True)
        loss(images[batches.indices(step)], generator).backward()
        # Early gradients of deep VAEs are now and then a thousand times the usual ones.
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def _normal_like(values: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)
