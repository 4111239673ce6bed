"""CLIP as a zero-shot classifier: a teacher that was never trained on the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardfast.models.pretrained import load_whole, pretrained_folder
from hardfast.ops import affine_warp

_FILES = (
    "config.json",
    ("*.safetensors", "pytorch_model*.bin"),
    ("tokenizer.json", "vocab.json"),
    ("tokenizer.json", "merges.txt"),
    ("preprocessor_config.json", "processor_config.json"),
)


class ZeroShotCLIP(nn.Module):
    """A frozen classifier: the scaled cosine of an image's embedding and that of each class's prompts.

    Args:
        model: transformers' ``CLIPModel``; becomes constant and stays in evaluation mode.
        class_embeddings: ``[K, D]``, of unit length.
        mean: of the normalisation that the model was trained with, one number a channel.
        std: the same; positive.
    """

    class_embeddings: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, class_embeddings: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.size: int = model.config.vision_config.image_size
        self.register_buffer("class_embeddings", class_embeddings)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values), dtype=torch.float32)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> ZeroShotCLIP:
        """Leaves the classifier in evaluation mode, also as a part of something that is trained."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps square images ``[B, 3, S, S]`` in [0, 1] to logits ``[B, K]``, float32; differentiable in the images.

        Images of another size than the model's are resized, anti-aliased.
        """
        if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must have shape [B, 3, S, S], got {list(images.shape)}")
        images = images.float()
        if images.shape[2] != self.size:
            identity = torch.eye(2, 3, device=images.device)[None]
            images = affine_warp(images, identity, (self.size, self.size), padding_mode="border", antialias=True)
        pixels = ((images - self.mean) / self.std).to(self.model.dtype)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        embeddings = F.normalize(self.model.visual_projection(pooled).float(), dim=1)
        return self.model.logit_scale.float().exp() * F.linear(embeddings, self.class_embeddings.float())


def load_zero_shot_clip(
    source: str | Path, prompts: Sequence[Sequence[str]], *, dtype: torch.dtype = torch.float32
) -> ZeroShotCLIP:
    """Loads CLIP in the layout of transformers and embeds the prompts of the classes.

    Args:
        source: a folder, or a repository in the hub's cache, such as ``"openai/clip-vit-large-patch14"``.
        prompts: for each class at least one; several are averaged as embeddings of unit length.
        dtype: of the weights, floating point.

    Errors: ``FileNotFoundError`` names what is missing and how to get it; ``ValueError`` a class without prompts, or a
    prompt that is too long.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, section 3.1.
    """
    if isinstance(prompts, str) or any(isinstance(of_class, str) for of_class in prompts):
        raise TypeError(f"prompts must be a sequence of strings for each class, got {prompts!r}")
    if not prompts or not all(prompts):
        raise ValueError(f"prompts must be at least one for each class, got {prompts!r}")
    folder = pretrained_folder(source, _FILES, "CLIP model")
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    model = load_whole(CLIPModel, folder).to(dtype).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    with torch.no_grad():
        embeddings = torch.stack([_embed_class(model, tokenizer, list(of_class)) for of_class in prompts])
    processor = CLIPImageProcessor.from_pretrained(folder)
    return ZeroShotCLIP(model, embeddings, processor.image_mean, processor.image_std)


def fill_templates(
    class_names: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",)
) -> tuple[tuple[str, ...], ...]:
    """The prompts of each class: every template with its name in place of ``{}``."""
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"templates must have {{}} where the name of the class goes, got {template!r}")
    return tuple(tuple(template.replace("{}", name) for template in templates) for name in class_names)


def _embed_class(model: Any, tokenizer: Any, prompts: list[str]) -> Tensor:
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    longest = model.config.text_config.max_position_embeddings
    if tokens.input_ids.shape[1] > longest:
        raise ValueError(f"prompts must have at most {longest} tokens, got {tokens.input_ids.shape[1]} in {prompts}")
    pooled = model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
    embeddings = F.normalize(model.text_projection(pooled).float(), dim=1)
    return F.normalize(embeddings.mean(0), dim=0)
