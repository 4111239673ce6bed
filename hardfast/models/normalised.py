"""Networks that take images in [0, 1], which is what generators make, and normalise them themselves."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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


def create_timm_model(
    name: str,
    num_classes: int,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    in_channels: int = 3,
    new_head: bool = True,
) -> Normalised:
    """Makes a model of timm that takes images in [0, 1].

    Args:
        name: of timm, such as ``"resnet50"`` or ``"resnet50.a1_in1k"``.
        num_classes: number of logits, >= 1.
        weights: None for random ones from PyTorch's global random state; ``"hub"`` for timm's published ones from the
            hub's cache; else a file of such (``.safetensors``, ``.pth``).
        image_size: side of the images in pixels, for models that are made for one size; None for their own.
        in_channels: channels of the images; timm sums the published weights of the first layer over the three colours
            for one channel, and repeats them for more.
        new_head: whether weights for another number of classes are taken, and the last layer stays random.

    Raises:
        ValueError: timm has no such model, no published weights for it, or the file is damaged, of another model, or
            for another number of classes where ``new_head`` is false.
        FileNotFoundError: the weights are not on this computer; the message says how to get them.
    """
    import timm

    if not in_timm(name):
        raise ValueError(f"name must be a model of timm, such as those of timm.list_models(); got {name!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be >= 1; got {num_classes}")
    config = timm.models.get_pretrained_cfg(name)
    options: dict[str, Any] = {}
    if image_size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    file = None
    if weights is not None:
        file = _cached_weights(name) if weights == "hub" else Path(weights)
        if not file.is_file():
            raise FileNotFoundError(f"weights file {weights} of {name} is missing; get it from https://hf.co/timm")
    try:
        if file is not None:
            found = _classes_of(file, config)
            if found != num_classes and not new_head:
                raise ValueError(f"weights of {name} must be for {num_classes} classes, but {file} has {found}")
            # timm goes by the number that it is told of a file, and keeps the last layer only if that is right.
            options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file), "num_classes": found}}
        model = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        if file is None:
            raise
        raise ValueError(f"{file} must hold the published weights of {name}, got: {error}") from error
    normalisation = timm.data.resolve_model_data_config(model)
    mean, std = (normalisation[key] for key in ("mean", "std"))
    if in_channels != len(mean):
        mean, std = ((sum(values) / len(values),) * in_channels for values in (mean, std))
    return Normalised(model, mean, std)


def in_timm(name: str) -> bool:
    """Whether timm has a model of this name, and its weights too where the name says which."""
    import timm

    # timm takes any weights' name for a model that it knows, until the model is made.
    return timm.is_model(name) and ("." not in name or name in timm.list_pretrained(name))


def _classes_of(file: Path, config: Any) -> int:
    """Number of classes of the weights in a file, by their last layer, or else of those that timm publishes."""
    import timm

    layers = config.classifier or ()
    layer = layers if isinstance(layers, str) else next(iter(layers), "")
    weight = timm.models.load_state_dict(str(file), weights_only=True).get(f"{layer}.weight")
    return config.num_classes if weight is None else len(weight)


def _cached_weights(name: str) -> Path:
    import timm

    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise ValueError(f"weights must be a file or None for {name!r}, which timm publishes none for; got 'hub'")
    files = ("model.safetensors", "pytorch_model.bin")
    folder = pretrained_folder(config.hf_hub_id, [files], f"timm model {name}")
    return next(folder / file for file in files if (folder / file).is_file())
