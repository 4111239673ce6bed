"""Teachers and students, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from hardfast.models.autoencoder import (
    AutoencoderCodec,
    load_autoencoder,
    small_autoencoder,
    small_vdvae,
    train_autoencoder,
    train_vdvae,
)
from hardfast.models.clip import ZeroShotCLIP, fill_templates, load_zero_shot_clip
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


def _resnet18(in_channels: int = 1, num_classes: int = 10) -> nn.Module:
    """timm's ResNet18, untrained."""
    import timm

    return timm.create_model("resnet18", pretrained=False, in_chans=in_channels, num_classes=num_classes)


def _vit_digits(in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> nn.Module:
    """timm's vision transformer in the size of HARD's shift experiment."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=image_size,
        patch_size=7,
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=64,
        depth=6,
        num_heads=8,
        mlp_ratio=2,
    )


#: Name -> function that makes the model; all map images ``[B, C, H, W]`` to logits ``[B, num_classes]``.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": CNN,
    "mlp": MLP,
    "resnet18": _resnet18,
    "shift_robust_cnn": ShiftRobustCNN,
    "vit_digits": _vit_digits,
}


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Makes a model, with weights from PyTorch's global random state.

    Args:
        name: a key of :data:`MODELS`.
        kwargs: arguments of that model.

    Raises:
        ValueError: the name is unknown; the message lists the valid ones.
        TypeError: the model has no such argument.
    """
    if name not in MODELS:
        raise ValueError(f"name must be one of {sorted(MODELS)}; got {name!r}")
    return MODELS[name](**kwargs)
