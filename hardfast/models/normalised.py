"""Networks that take images in [0, 1], which is what generators make, and normalise them themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hardfast.models.pretrained import pretrained_folder


class Normalised(nn.Module):
    """A network with the normalisation that it was trained with in front: ``model((images - mean) / std)``.

    Args:
        model: maps normalised images ``[B, C, H, W]`` to logits ``[B, K]``.
        mean: one number a channel.
        std: the same; positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean) or min(std) <= 0:
            raise ValueError(f"mean and std must be as many numbers, std positive; got {tuple(mean)} and {tuple(std)}")
        self.model = model
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values), dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``[B, C, H, W]`` in [0, 1] to logits ``[B, K]``; differentiable in the images."""
        return self.model((images - self.mean) / self.std)


def create_timm_model(name: str, num_classes: int, *, weights: str | Path | None = None) -> Normalised:
    """Makes a model of timm that takes images in [0, 1].

    Args:
        name: of timm, such as ``"resnet50"`` or ``"resnet50.a1_in1k"``.
        num_classes: number of logits, >= 1.
        weights: None for random ones from PyTorch's global random state; ``"hub"`` for timm's published ones from the
            hub's cache; else a file of published ones (``.safetensors``, ``.pth``). Where their classes are not as
            many, the last layer stays random.

    Raises:
        ValueError: timm has no such model, or no published weights for it.
        FileNotFoundError: the weights are not on this computer; the message says how to get them.
    """
    import timm

    if not timm.is_model(name):
        raise ValueError(f"name must be a model of timm, such as those of timm.list_models(); got {name!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be >= 1; got {num_classes}")
    overlay = {}
    if weights is not None:
        overlay = {"file": str(_cached_weights(name) if weights == "hub" else Path(weights))}
        if not Path(overlay["file"]).is_file():
            raise FileNotFoundError(f"weights file {weights} of {name} is missing; get it from https://hf.co/timm")
    model = timm.create_model(
        name, pretrained=weights is not None, num_classes=num_classes, pretrained_cfg_overlay=overlay
    )
    config = timm.data.resolve_model_data_config(model)
    return Normalised(model, config["mean"], config["std"])


def _cached_weights(name: str) -> Path:
    import timm

    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise ValueError(f"weights must be a file or None for {name!r}, which timm publishes none for; got 'hub'")
    files = ("model.safetensors", "pytorch_model.bin")
    folder = pretrained_folder(config.hf_hub_id, [files], f"timm model {name}")
    return next(folder / file for file in files if (folder / file).is_file())
