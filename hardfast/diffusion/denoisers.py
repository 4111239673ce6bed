"""What the sampler calls: ``denoiser(latents, t, conditioning) -> prediction``, and adapters for diffusers' models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn


class Denoiser(Protocol):
    """Any callable that predicts, from noisy latents, what its schedule's ``prediction_type`` says.

    ``latents`` are ``[B, ...]``, ``t`` is ``[B]``, ``conditioning`` is ``[B, ...]`` or None; the prediction has the
    shape of ``latents``. Samples must not influence one another. For ``memory="nested"`` it also has a method
    ``recompute_blocks()``, a context in which its blocks are recomputed in the backward.

    A module without trainable parameters is taken for a constant: it must not hide other tensors that need a gradient.
    Other callables may.
    """

    def __call__(self, latents: Tensor, t: Tensor, conditioning: Tensor | None) -> Tensor: ...


class _DiffusersDenoiser(nn.Module):
    """Holds a diffusers model; it can be compiled, ``Adapter(torch.compile(model))``, except under ``"nested"``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @contextmanager
    def recompute_blocks(self) -> Iterator[None]:
        """Turns the model's own gradient checkpointing on inside the block."""
        model: Any = self.model
        if model.is_gradient_checkpointing:
            yield
            return
        model.enable_gradient_checkpointing()
        try:
            yield
        finally:
            model.disable_gradient_checkpointing()


class ClassUNetDenoiser(_DiffusersDenoiser):
    """A diffusers ``UNet2DModel``; the conditioning is class labels ``[B]``, int64, or None without classes.

    With ``class_embed_type="identity"`` the conditioning is the class embedding itself, ``[B, D]``, to which gradients
    and offsets apply.
    """

    def forward(self, latents: Tensor, t: Tensor, conditioning: Tensor | None) -> Tensor:
        return self.model(latents, t, class_labels=conditioning, return_dict=False)[0]


class PromptUNetDenoiser(_DiffusersDenoiser):
    """A diffusers ``UNet2DConditionModel``; the conditioning is prompt embeddings ``[B, L, D]``."""

    def forward(self, latents: Tensor, t: Tensor, conditioning: Tensor | None) -> Tensor:
        return self.model(latents, t, encoder_hidden_states=conditioning, return_dict=False)[0]


class TransformerDenoiser(_DiffusersDenoiser):
    """A diffusers ``DiTTransformer2DModel``; the conditioning is class labels ``[B]``, int64.

    Where the model predicts a variance too, in more channels, that part is dropped.
    """

    def forward(self, latents: Tensor, t: Tensor, conditioning: Tensor | None) -> Tensor:
        prediction = self.model(latents, timestep=t, class_labels=conditioning, return_dict=False)[0]
        return prediction[:, : latents.shape[1]]
