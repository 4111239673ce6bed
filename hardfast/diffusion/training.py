"""Trains a small class-conditional diffusion model."""

from __future__ import annotations

import math

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from hardfast.distill.batches import ShuffledBatches
from hardfast.ops import _checks

_WATCHED = 100  # steps from one look at the loss to the next


def train_denoiser(
    model: nn.Module,
    latents: Tensor,
    labels: Tensor,
    alpha_bar: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    null_label: int,
    null_fraction: float = 0.1,
    ema_decay: float = 0.999,
    seed: int = 0,
    progress: str | None = None,
) -> nn.Module:
    """Trains a denoiser to predict the noise in noisy latents, given their class.

    Args:
        model: called as ``denoiser(latents, t, labels)``; trained in place.
        latents: ``[N, ...]``, clean, roughly in [-1, 1].
        labels: ``[N]``, int64.
        alpha_bar: ``[T]``, the share of signal in the latents at each time.
        steps: >= 1.
        batch_size: latents a step.
        learning_rate: the highest, of AdamW, positive; it falls to 0 along half a cosine.
        null_label: stands for no class, in ``null_fraction`` of the latents, for classifier-free guidance.
        null_fraction: in [0, 1].
        ema_decay: of the running average of the weights, which is returned; in [0, 1].
        seed: of batches and noise.
        progress: text before a progress bar; None for no bar.

    Returns:
        The average of the weights on the way, in evaluation mode and constant.

    Raises:
        FloatingPointError: the loss is no number.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, 2020, equation 14; Ho and Salimans, Classifier-Free
    Diffusion Guidance, 2022, algorithm 1.
    """
    _checks.integer("steps", steps, 1)
    _checks.positive("learning_rate", learning_rate)
    for name, value in (("null_fraction", null_fraction), ("ema_decay", ema_decay)):
        if not 0 <= _checks.number(name, value) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    generator = torch.Generator().manual_seed(seed)
    batches = ShuffledBatches(len(latents), batch_size, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    average = ModelEmaV3(model, decay=ema_decay, use_warmup=True)
    scale, spread = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    model.train()
    for step in tqdm(range(steps), desc=progress, unit="step", leave=False, disable=True if progress is None else None):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        index = batches.indices(step)
        clean = latents[index]
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(len(alpha_bar), (len(clean),), generator=generator)
        dropped = torch.rand(len(clean), generator=generator) < null_fraction
        shape = (-1, *[1] * (clean.dim() - 1))
        noisy = scale[t].view(shape) * clean + spread[t].view(shape) * noise
        prediction = model(noisy, t, labels[index].masked_fill(dropped, null_label))
        loss = F.mse_loss(prediction, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update(model, step=step)
        if (step % _WATCHED == 0 or step == steps - 1) and not math.isfinite(loss.item()):
            raise FloatingPointError(f"the denoiser's loss is not finite at step {step}; lower its learning_rate")
    return average.module.eval().requires_grad_(False)
