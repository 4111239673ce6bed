"""Stable Diffusion 1.x and 2.x, and few-step models of the same layout, as what the sampler and the guidance need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardfast.diffusion.denoisers import PromptUNetDenoiser
from hardfast.diffusion.memory import Memory
from hardfast.diffusion.sampling import Sampler
from hardfast.diffusion.schedule import Schedule
from hardfast.models.pretrained import load_whole, pretrained_folder
from hardfast.ops import _checks

SCHEDULERS = ("ddim", "euler")

_FILES = (
    "unet/config.json",
    "unet/diffusion_pytorch_model*.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model*.safetensors",
    "text_encoder/config.json",
    "text_encoder/model*.safetensors",
    ("tokenizer/tokenizer.json", "tokenizer/vocab.json"),
    ("tokenizer/tokenizer.json", "tokenizer/merges.txt"),
    "scheduler/scheduler_config.json",
)


class StableDiffusion(nn.Module):
    """A frozen latent diffusion model with prompts; latents, prompt embeddings and images are float32 in any case.

    So variables of a search, and Adam's numbers of them, never are in half precision; only the networks compute in it.

    Args:
        unet: diffusers' ``UNet2DConditionModel``.
        vae: diffusers' ``AutoencoderKL``.
        text_encoder: transformers' ``CLIPTextModel``.
        tokenizer: transformers' ``CLIPTokenizer``.
        schedule: see :class:`~hardfast.diffusion.Schedule`.
        attention: of the U-Net, as for :class:`~hardfast.diffusion.PromptUNetDenoiser`.
        recompute_decoder: whether the blocks of the decoder are computed again in the backward, which keeps the
            input of each instead of all that is inside.
    """

    vae: Any
    text_encoder: Any

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        schedule: Schedule,
        *,
        attention: str | None = None,
        recompute_decoder: bool = True,
    ) -> None:
        super().__init__()
        self.denoiser = _PromptDenoiser(unet, attention)
        self.vae, self.text_encoder = vae, text_encoder
        self.tokenizer, self.schedule = tokenizer, schedule
        if recompute_decoder:
            vae.enable_gradient_checkpointing()
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> StableDiffusion:
        """Leaves the model in evaluation mode."""
        return super().train(False)

    @property
    def scale(self) -> int:
        """Pixels of an image's side for one of the latents' side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, size: int | None = None) -> tuple[int, int, int]:
        """``(C, H, W)`` of the latents of square images of ``size`` pixels; the size that it was trained at if None."""
        config: Any = self.denoiser.model.config
        if size is None:
            size = config.sample_size * self.scale
        _checks.integer("size", size, 1)
        if size % self.scale:
            raise ValueError(f"size must be a multiple of {self.scale} pixels, got {size}")
        return config.in_channels, size // self.scale, size // self.scale

    def sampler(self, guidance_scale: float = 3.0, memory: str | Memory = "per_step") -> Sampler:
        """Its chain; a few-step model takes no guidance, a scale of 1."""
        return Sampler(self.denoiser, self.schedule, guidance_scale=guidance_scale, memory=memory)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``[N, L, D]`` of prompts; that of ``""`` is the null prompt's.

        Raises:
            ValueError: a prompt is longer than the text encoder takes.
        """
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"prompts must be a sequence of at least one string, got {prompts!r}")
        length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        for prompt, tokens in zip(prompts, self.tokenizer(list(prompts)).input_ids, strict=True):
            if len(tokens) > length:
                raise ValueError(f"prompts must have at most {length} tokens, got {len(tokens)} in {prompt!r}")
        tokens = self.tokenizer(list(prompts), padding="max_length", max_length=length, return_tensors="pt")
        # Like the published pipeline: padding is attended to unless the encoder's configuration says otherwise.
        mask = tokens.attention_mask if getattr(self.text_encoder.config, "use_attention_mask", False) else None
        device = self.text_encoder.device
        mask = None if mask is None else mask.to(device)
        return self.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0].float()

    def embed_classes(self, class_names: Sequence[str], template: str = "a photograph of a {}") -> Tensor:
        """Embeddings ``[K, L, D]`` of the prompt of each class."""
        if "{}" not in template:
            raise ValueError(f"template must have {{}} where the name of the class goes, got {template!r}")
        return self.embed([template.replace("{}", name) for name in class_names])

    def decode(self, latents: Tensor) -> Tensor:
        """Maps clean latents ``[B, C, H, W]`` to images ``[B, 3, S, S]``, nominally in [0, 1]; differentiable."""
        latents = latents / self.vae.config.scaling_factor
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float() / 2 + 0.5

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Maps images ``[B, 3, S, S]`` in [0, 1] to the mode of their clean latents, for inversion."""
        posterior = self.vae.encode((2 * images - 1).to(self.vae.dtype), return_dict=False)[0]
        return posterior.mode().float() * self.vae.config.scaling_factor


def load_stable_diffusion(
    source: str | Path,
    *,
    steps: int = 20,
    scheduler: str = "ddim",
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    attention: str | None = None,
    recompute_decoder: bool = True,
) -> StableDiffusion:
    """Loads a model in the layout of diffusers' ``StableDiffusionPipeline``, from safetensors, without safety checker.

    Args:
        source: a folder, or a repository in the hub's cache, such as ``"stabilityai/sd-turbo"``.
        steps: denoiser calls of a chain, >= 1: 20 for SD 1.x and 2.x, 4 or less for few-step models.
        scheduler: ``"ddim"``, or ``"euler"`` for few-step models; its settings are those of the published scheduler.
        dtype: that the networks compute in: float32, float16 or bfloat16.
        variant: of the files of the weights, such as ``"fp16"``; None for the ones without.
        attention: as for :class:`StableDiffusion`.
        recompute_decoder: as for :class:`StableDiffusion`.

    Errors: ``FileNotFoundError`` names what is missing and how to get it; ``ValueError`` a model of another kind.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022.
    """
    _checks.one_of("scheduler", scheduler, SCHEDULERS)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, got {dtype}")
    folder = pretrained_folder(source, _FILES, "Stable Diffusion model")
    from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
    from diffusers.utils import is_accelerate_available
    from transformers import CLIPTextModel, CLIPTokenizer

    options: dict[str, Any] = {"variant": variant, "use_safetensors": True}
    # Without accelerate diffusers warns, unless it is told to do without.
    own = {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available(), **options}
    unet = load_whole(UNet2DConditionModel, folder, "unet", **own)
    vae = load_whole(AutoencoderKL, folder, "vae", **own)
    text_encoder = load_whole(CLIPTextModel, folder, "text_encoder", **options)
    if unet.config.in_channels != vae.config.latent_channels or unet.config.addition_embed_type is not None:
        raise ValueError(
            f"source must be a text-to-image model of the layout of Stable Diffusion 1.x or 2.x, got {folder}: "
            f"its U-Net takes {unet.config.in_channels} channels and {unet.config.addition_embed_type} embeddings"
        )
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    if scheduler == "ddim":
        # Latents are not within [-1, 1]; the published configuration of another scheduler may not say so.
        schedule = Schedule.from_scheduler(DDIMScheduler.from_config(config, clip_sample=False), steps)
    else:
        schedule = Schedule.from_scheduler(EulerDiscreteScheduler.from_config(config), steps)
    return StableDiffusion(
        unet, vae, text_encoder.to(dtype), tokenizer, schedule, attention=attention, recompute_decoder=recompute_decoder
    )


class _PromptDenoiser(PromptUNetDenoiser):
    """Computes in the dtype of the model, whatever that of the latents, and predicts in theirs."""

    def forward(self, latents: Tensor, t: Tensor, conditioning: Tensor | None) -> Tensor:
        dtype: Any = self.model.dtype
        prompts = None if conditioning is None else conditioning.to(dtype)
        return super().forward(latents.to(dtype), t, prompts).to(latents.dtype)
