"""Teachers and students, by name."""

from __future__ import annotations

from hardfast.models.autoencoder import (
    AutoencoderCodec,
    load_autoencoder,
    small_autoencoder,
    small_vdvae,
    train_autoencoder,
    train_vdvae,
)
from hardfast.models.clip import ZeroShotCLIP, fill_templates, load_zero_shot_clip
from hardfast.models.networks import MODELS, create_model, create_network
from hardfast.models.normalised import Normalised, create_timm_model
from hardfast.models.small import CNN, MLP, ShiftRobustCNN
from hardfast.models.vdvae import VDVAE, VDVAEConfig, load_vdvae

__all__ = [
    "CNN",
    "MLP",
    "MODELS",
    "VDVAE",
    "AutoencoderCodec",
    "Normalised",
    "ShiftRobustCNN",
    "VDVAEConfig",
    "ZeroShotCLIP",
    "create_model",
    "create_network",
    "create_timm_model",
    "fill_templates",
    "load_autoencoder",
    "load_vdvae",
    "load_zero_shot_clip",
    "small_autoencoder",
    "small_vdvae",
    "train_autoencoder",
    "train_vdvae",
]
