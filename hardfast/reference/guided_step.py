"""Guidance and one DDIM step in plain PyTorch: what ``hardfast.ops.guided_step`` has to equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def guided_step(
    latents: Tensor,
    noise_cond: Tensor,
    noise_uncond: Tensor | None = None,
    *,
    alpha_bar: float | Tensor,
    alpha_bar_next: float | Tensor,
    guidance_scale: float | Tensor = 1.0,
    prediction_type: str = "epsilon",
    eta: float = 0.0,
    noise: Tensor | None = None,
    clip_range: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Same arguments and result as :func:`hardfast.ops.guided_step`, differentiable to any order."""
    dtype = latents.dtype
    for tensor in (noise_cond, noise_uncond, noise):
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    compute_dtype = torch.float64 if dtype == torch.float64 else torch.float32

    def per_sample(value: float | Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=compute_dtype, device=latents.device)
        return value.reshape([-1] + [1] * (latents.dim() - 1)) if value.dim() == 1 else value

    a, a_next = per_sample(alpha_bar), per_sample(alpha_bar_next)
    x, prediction = latents.to(compute_dtype), noise_cond.to(compute_dtype)
    if noise_uncond is not None:
        uncond = noise_uncond.to(compute_dtype)
        prediction = uncond + per_sample(guidance_scale) * (prediction - uncond)
    if prediction_type == "epsilon":
        clean, epsilon = (x - (1 - a).sqrt() * prediction) / a.sqrt(), prediction
    elif prediction_type == "v_prediction":
        clean = a.sqrt() * x - (1 - a).sqrt() * prediction
        epsilon = a.sqrt() * prediction + (1 - a).sqrt() * x
    else:
        clean, epsilon = prediction, (x - a.sqrt() * prediction) / (1 - a).sqrt()
    if clip_range is not None:
        clean = clean.clamp(-clip_range, clip_range)
    if eta == 0:
        following = a_next.sqrt() * clean + (1 - a_next).sqrt() * epsilon
    else:
        assert noise is not None
        variance = eta**2 * (1 - a_next) / (1 - a) * (1 - a / a_next)
        following = a_next.sqrt() * clean + (1 - a_next - variance).clamp(min=0).sqrt() * epsilon
        following = following + variance.sqrt() * noise.to(compute_dtype)
    return following.to(dtype), clean.to(dtype)


def linear_step(
    latents: Tensor,  # [B, ...]
    cond: Tensor,
    uncond: Tensor | None,
    noise: Tensor | None,
    coefficients: Tensor,  # [1 or B, 7]: kernels/guided_step_params.h names the columns
    clip: float | None,
) -> tuple[Tensor, Tensor]:
    """The step with the schedule folded into linear coefficients: the operator ``hardfast::guided_step``."""
    c, dtype = _columns(coefficients, latents), latents.dtype
    x, prediction = latents.to(coefficients.dtype), _guided(cond, uncond, c[0])
    clean = c[1] * x + c[2] * prediction
    if clip is not None:
        clean = clean.clamp(-clip, clip)
    following = c[3] * clean + c[4] * x + c[5] * prediction
    if noise is not None:
        following = following + c[6] * noise.to(coefficients.dtype)
    return following.to(dtype).contiguous(), clean.to(dtype).contiguous()


def linear_step_backward(
    grad_next: Tensor | None,
    grad_clean: Tensor | None,
    latents: Tensor | None,
    cond: Tensor | None,
    uncond: Tensor | None,
    noise: Tensor | None,
    coefficients: Tensor,
    clip: float | None,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    """The operator ``hardfast::_guided_step_backward``; the inputs are read only by clipping and coefficients."""
    given: Any = grad_next if grad_next is not None else grad_clean
    c, dtype = _columns(coefficients, given), coefficients.dtype
    x, prediction, contrast, fresh = (torch.zeros_like(given, dtype=dtype) for _ in range(4))
    to_next = x if grad_next is None else grad_next.to(dtype)
    to_clean = c[3] * to_next + (x if grad_clean is None else grad_clean.to(dtype))
    if latents is not None and cond is not None:
        x, prediction = latents.to(dtype), _guided(cond, uncond, c[0])
        contrast = contrast if uncond is None else cond.to(dtype) - uncond.to(dtype)
        fresh = fresh if noise is None else noise.to(dtype)
    clean = c[1] * x + c[2] * prediction
    if clip is not None:
        to_clean = torch.where(clean.abs() > clip, 0, to_clean)
        clean = clean.clamp(-clip, clip)
    to_prediction = c[2] * to_clean + c[5] * to_next
    grads = (c[1] * to_clean + c[4] * to_next, c[0] * to_prediction, (1 - c[0]) * to_prediction, c[6] * to_next)
    results = [
        grad.to(given.dtype).contiguous() if wanted else given.new_empty(0)
        for grad, wanted in zip(grads, output_mask[:4], strict=True)
    ]
    if not output_mask[4]:
        return (*results, coefficients.new_empty(0))
    terms = (
        (to_prediction, contrast),
        (to_clean, x),
        (to_clean, prediction),
        (to_next, clean),
        (to_next, x),
        (to_next, prediction),
        (to_next, fresh),
    )
    sums = torch.stack([(grad * factor)[..., None].flatten(1).sum(1) for grad, factor in terms], 1)
    return (*results, sums.sum(0, keepdim=True) if coefficients.shape[0] == 1 else sums)


def _columns(coefficients: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """Each coefficient as ``[1 or B, 1, ...]``."""
    return coefficients.reshape(*coefficients.shape, *[1] * (like.dim() - 1)).unbind(1)


def _guided(cond: Tensor, uncond: Tensor | None, guidance: Tensor) -> Tensor:
    if uncond is None:
        return cond.to(guidance.dtype)
    base = uncond.to(guidance.dtype)
    return base + guidance * (cond.to(guidance.dtype) - base)
