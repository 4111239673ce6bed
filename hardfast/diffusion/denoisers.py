"""What the sampler calls: ``denoiser(latents, t, conditioning) -> prediction``, and adapters for diffusers' models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hardfast.ops import _checks

ATTENTION = ("sdpa", "xformers")


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
    """Holds a diffusers model; it can be compiled, ``Adapter(torch.compile(model))``, except under ``"nested"``.

    Args:
        model: of the class that the adapter names.
        attention: ``"sdpa"`` for PyTorch's ``scaled_dot_product_attention``, ``"xformers"`` for xformers' memory
            efficient attention (NVIDIA GPUs only); None leaves the model's as it is. The model itself is changed.

    Errors: ``TypeError`` for a model whose attention cannot be chosen; ``ModuleNotFoundError`` where xformers is not
    installed, ``RuntimeError`` where it cannot run: the model then keeps its attention.
    """

    def __init__(self, model: nn.Module, attention: str | None = None) -> None:
        super().__init__()
        self.model = model
        if attention is not None:
            _checks.one_of("attention", attention, ATTENTION)
            _set_attention(model, attention)

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


def _set_attention(model: Any, attention: str) -> None:
    if not hasattr(model, "enable_xformers_memory_efficient_attention"):
        raise TypeError(f"model must be a diffusers model for its attention to be chosen, got {type(model).__name__}")
    if attention == "sdpa":
        # diffusers' way back to scaled_dot_product_attention, from any attention
        model.disable_xformers_memory_efficient_attention()
        return
    try:
        model.enable_xformers_memory_efficient_attention()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "attention='xformers' needs xformers, which is not installed: install the release that is built for "
            f"torch {torch.__version__}, or use attention='sdpa', which comes with PyTorch",
            name="xformers",
        ) from error
    except (ValueError, RuntimeError) as error:  # no GPU, and no kernels for this torch or this GPU
        raise RuntimeError(
            f"attention='xformers' cannot run here ({error}): it needs an NVIDIA GPU and an xformers built for torch "
            f"{torch.__version__}; or use attention='sdpa', which comes with PyTorch"
        ) from error
