"""Randomly initialised models of the published classes, small, in the folders in which they are published."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SYMBOLS = string.ascii_lowercase + ".,(-"
TOKENS = [*SYMBOLS, *(symbol + "</w>" for symbol in SYMBOLS), "ph", "<|startoftext|>", "<|endoftext|>"]
VOCABULARY = {token: number for number, token in enumerate(TOKENS)}
MERGES = [("p", "h")]
TEXT = {
    "vocab_size": len(TOKENS),
    "hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": VOCABULARY["<|startoftext|>"],
    "eos_token_id": VOCABULARY["<|endoftext|>"],
    "projection_dim": 8,
}


def write_tokenizer(folder: Path, length: int) -> None:
    """The files of the older layout, which most published models have."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": length, "tokenizer_class": "CLIPTokenizer"})
    )


def write_clip(folder: Path, size: int = 16, length: int = 40) -> CLIPModel:
    torch.manual_seed(1)
    vision = {
        "hidden_size": 12,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 8,
        "projection_dim": 8,
    }
    config = CLIPConfig(
        text_config={**TEXT, "max_position_embeddings": length},
        vision_config=vision,
        projection_dim=8,
        initializer_factor=5.0,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    CLIPImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.3, 0.2, 0.25]).save_pretrained(folder)
    write_tokenizer(folder, length)
    return model


def write_stable_diffusion(
    folder: Path, *, scheduler=None, prediction_type: str = "epsilon", size: int = 16, length: int = 40
) -> StableDiffusionPipeline:
    """Latents are ``[4, size / 2, size / 2]``."""
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=size // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=size,
    )
    text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT, max_position_embeddings=length))
    if scheduler is None:
        scheduler = DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        )
    write_tokenizer(folder / "tokenizer", length)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def move_to_hub_cache(folder: Path, cache: Path, repository: str) -> None:
    """Turns a folder into what the hub's client leaves after a download."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    base = cache / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    (base / "snapshots").mkdir()
    folder.rename(base / "snapshots" / commit)
