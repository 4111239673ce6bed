"""``guided_step``: classifier-free guidance and one DDIM update in one pass over the latents."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hardfast.ops import _checks
from hardfast.ops._library import LIBRARY, register_fallback
from hardfast.ops._transforms import differentiable
from hardfast.reference.guided_step import linear_step, linear_step_backward

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# Tensors are [B, ...], results contiguous, coefficients [1 or B, 7]: kernels/guided_step_params.h names the columns.
LIBRARY.define(
    "guided_step(Tensor latents, Tensor cond, Tensor? uncond, Tensor? noise, Tensor coefficients, float? clip) "
    "-> (Tensor next, Tensor clean)"
)
LIBRARY.define(
    "_guided_step_backward(Tensor? grad_next, Tensor? grad_clean, Tensor? latents, Tensor? cond, Tensor? uncond, "
    "Tensor? noise, Tensor coefficients, float? clip, bool[5] output_mask) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


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
    """One denoising step: classifier-free guidance, the DDIM update and the predicted clean latents.

    Equivalent to, for ``prediction_type="epsilon"``, with ``a = alpha_bar`` and ``b = alpha_bar_next``::

        epsilon = noise_uncond + guidance_scale * (noise_cond - noise_uncond)
        clean = ((latents - (1 - a) ** 0.5 * epsilon) / a**0.5).clamp(-clip_range, clip_range)
        variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        next_latents = b**0.5 * clean + (1 - b - variance) ** 0.5 * epsilon + variance**0.5 * noise

    and, for ``"v_prediction"`` and ``"sample"``, to the same with ``clean`` and ``epsilon`` from the guided prediction
    as in diffusers' ``DDIMScheduler``. As there, clipping does not change ``epsilon``.

    Args:
        latents: ``[B, ...]``, float32, float64, float16 or bfloat16: images, sequences, anything.
        noise_cond: the denoiser's conditional prediction, of the shape of ``latents``; what it predicts is
            ``prediction_type``.
        noise_uncond: its unconditional prediction; None for no guidance.
        alpha_bar: cumulative product of the schedule's alphas at this step, a number, ``[]`` or one a sample ``[B]``,
            in (0, 1]; 0 is allowed except for ``"epsilon"``, 1 except for ``"sample"`` and with ``eta`` > 0.
        alpha_bar_next: the same at the next, less noisy step, in (0, 1]. Without ``eta`` it may also be noisier, which
            inverts the sampler.
        guidance_scale: a number, ``[]`` or ``[B]``. 1 is the conditional prediction itself.
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        eta: between 0 (deterministic) and 1 (as much fresh noise as DDPM).
        noise: standard normal, of the shape of ``latents``; given exactly if ``eta`` > 0.
        clip_range: the clean latents are kept within ``[-clip_range, clip_range]``; None for no clipping.

    Returns:
        ``(next_latents, clean)``, in the shape and memory format of ``latents``. Where dtypes differ the widest is used
        for all.

    Gradients: to all tensors, the schedule and the guidance scale included, to any order in reverse mode.

    Memory: the two outputs; the backward allocates the gradients asked for. Without clipping, and where the schedule
    needs no gradient, nothing but its coefficients is kept for the backward. Elements of a sample that are not
    contiguous, or not in the memory format of ``latents``, are copied.

    Errors: ``TypeError`` and ``ValueError`` name the argument. The values of schedule tensors on a GPU and in compiled
    graphs are not inspected: there a value out of range gives NaN or infinity. No device synchronisation.

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, equation 6; Song et al., Denoising Diffusion
    Implicit Models, 2021, equations 9, 12 and 16; Salimans and Ho, Progressive Distillation, 2022, appendix D, for v.
    """
    _check_tensors(latents, noise_cond, noise_uncond, noise)
    _checks.one_of("prediction_type", prediction_type, PREDICTION_TYPES)
    _check_options(eta, noise, clip_range)
    _check_schedule(latents, alpha_bar, alpha_bar_next, guidance_scale, prediction_type, eta)
    if noise_uncond is None and (isinstance(guidance_scale, Tensor) or guidance_scale != 1):
        raise ValueError(f"noise_uncond must be given for guidance, got None with guidance_scale={guidance_scale}")

    dtype = latents.dtype
    for tensor in (noise_cond, noise_uncond, noise):
        if tensor is not None and tensor.dtype != dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    coefficients = _coefficients(alpha_bar, alpha_bar_next, guidance_scale, prediction_type, eta)
    order = _memory_order(latents)

    def ordered(tensor: Tensor) -> Tensor:
        tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
        return tensor if order is None else tensor.permute(order)

    following, clean = _forward(
        ordered(latents),
        ordered(noise_cond),
        None if noise_uncond is None else ordered(noise_uncond),
        None if noise is None else ordered(noise),
        _on_device(coefficients, latents.device, torch.float64 if dtype == torch.float64 else torch.float32),
        None if clip_range is None else float(clip_range),
    )
    return (following, clean) if order is None else (following.movedim(-1, 1), clean.movedim(-1, 1))


def _check_tensors(latents: Tensor, cond: Tensor, uncond: Tensor | None, noise: Tensor | None) -> None:
    for name, tensor in (("latents", latents), ("noise_cond", cond), ("noise_uncond", uncond), ("noise", noise)):
        if tensor is None and name in ("noise_uncond", "noise"):
            continue
        _checks.floating_tensor(name, tensor)
        assert tensor is not None
        if tensor.dim() == 0:
            raise ValueError(f"{name} must have shape [B, ...], got []")
        if tensor.shape != latents.shape:
            raise ValueError(f"{name} must have the shape of latents, {list(latents.shape)}, got {list(tensor.shape)}")
        if tensor.device != latents.device:
            raise ValueError(f"{name} must be on the device of latents, {latents.device}, got {tensor.device}")


def _check_options(eta: float, noise: Tensor | None, clip_range: float | None) -> None:
    if isinstance(eta, bool) or not isinstance(eta, (int, float)):
        raise TypeError(f"eta must be a number, got {type(eta).__name__}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    if eta > 0 and noise is None:
        raise ValueError(f"noise must be given with eta > 0, got None with eta={eta}")
    if eta == 0 and noise is not None:
        raise ValueError("noise is used only with eta > 0, got noise with eta=0")
    if clip_range is None:
        return
    if isinstance(clip_range, bool) or not isinstance(clip_range, (int, float)):
        raise TypeError(f"clip_range must be a number or None, got {type(clip_range).__name__}")
    if not 0 < clip_range < math.inf:
        raise ValueError(f"clip_range must be positive and finite, or None, got {clip_range}")


def _check_schedule(
    latents: Tensor,
    alpha_bar: float | Tensor,
    alpha_bar_next: float | Tensor,
    guidance_scale: float | Tensor,
    prediction_type: str,
    eta: float,
) -> None:
    values = {"alpha_bar": alpha_bar, "alpha_bar_next": alpha_bar_next, "guidance_scale": guidance_scale}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
            raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
        if not isinstance(value, Tensor):
            continue
        _checks.floating_tensor(name, value)
        if value.dim() > 1 or (value.dim() == 1 and value.shape[0] not in (1, latents.shape[0])):
            raise ValueError(f"{name} must have shape [] or [B] = [{latents.shape[0]}], got {list(value.shape)}")
        if value.device != latents.device and value.device.type != "cpu":
            raise ValueError(
                f"{name} must be on the CPU or the device of latents, {latents.device}, got {value.device}"
            )
    low, high = "(" if prediction_type == "epsilon" else "[", ")" if prediction_type == "sample" or eta > 0 else "]"
    _in_range("alpha_bar", alpha_bar, f"{low}0, 1{high}")
    _in_range("alpha_bar_next", alpha_bar_next, "(0, 1]")
    if eta > 0 and _inspectable(alpha_bar) and _inspectable(alpha_bar_next) and _any(alpha_bar > alpha_bar_next):
        raise ValueError(
            f"alpha_bar_next must be at least alpha_bar with eta > 0, got {alpha_bar_next} and {alpha_bar}"
        )


def _in_range(name: str, value: float | Tensor, interval: str) -> None:
    if isinstance(value, Tensor):
        if not _checks.inspectable(value):
            return
        value = value.detach()
    low = value > 0 if interval[0] == "(" else value >= 0
    high = value <= 1 if interval[-1] == "]" else value < 1
    if _any(low == False) or _any(high == False):  # noqa: E712 (of a number or of every element)
        raise ValueError(f"{name} must be in {interval}, got {value}")


def _any(condition: bool | Tensor) -> bool:
    return bool(condition.any()) if isinstance(condition, Tensor) else condition


def _inspectable(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) or _checks.inspectable(value)


def _coefficients(
    alpha_bar: float | Tensor,
    alpha_bar_next: float | Tensor,
    guidance_scale: float | Tensor,
    prediction_type: str,
    eta: float,
) -> list[Any]:
    """The columns of ``coefficients``, numbers or tensors ``[]`` or ``[B]``, in float64."""
    a, b = _widened(alpha_bar), _widened(alpha_bar_next)
    root, root_rest = a**0.5, (1 - a) ** 0.5
    variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b) if eta > 0 else 0.0
    to_epsilon = _at_least_zero(1 - b - variance) ** 0.5
    to_noise = variance**0.5 if eta > 0 else 0.0
    if prediction_type == "epsilon":
        from_latents, from_prediction = (1 / root, -root_rest / root), (0.0, to_epsilon)
    elif prediction_type == "v_prediction":
        from_latents, from_prediction = (root, -root_rest), (to_epsilon * root_rest, to_epsilon * root)
    else:
        from_latents, from_prediction = (0.0, 1.0), (to_epsilon / root_rest, -to_epsilon * root / root_rest)
    return [_widened(guidance_scale), *from_latents, b**0.5, *from_prediction, to_noise]


def _widened(value: float | Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    if torch.compiler.is_compiling():
        return torch.ones([], dtype=torch.float64) * value  # else each number would have a graph of its own
    return float(value)


def _at_least_zero(value: Any) -> Any:
    return value.clamp(min=0) if isinstance(value, Tensor) else max(value, 0.0)


def _on_device(columns: list[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """``[1 or B, 7]``. A few numbers from the CPU travel without waiting for the device."""
    tensors = [column for column in columns if isinstance(column, Tensor)]
    if not tensors:
        values = torch.tensor([columns], dtype=dtype, device="cpu")
        return values if device.type == "cpu" else values.to(device, non_blocking=True)
    if any(tensor.device == device for tensor in tensors):
        columns = [c.to(device, non_blocking=True) if isinstance(c, Tensor) else c for c in columns]
        tensors = [column for column in columns if isinstance(column, Tensor)]
    like = tensors[0]
    columns = [c if isinstance(c, Tensor) else torch.full([], c, dtype=like.dtype, device=like.device) for c in columns]
    stacked = torch.stack(torch.broadcast_tensors(*columns), -1)
    return stacked.reshape(-1, len(columns)).to(dtype).to(device, non_blocking=True)


def _memory_order(latents: Tensor) -> list[int] | None:
    """The order of dimensions in memory where channels are last; None where they are not."""
    if latents.dim() < 3 or latents.is_contiguous() or latents.stride(1) != 1:
        return None
    return [0, *range(2, latents.dim()), 1]


@torch.library.register_fake("hardfast::guided_step", lib=LIBRARY)
def _fake(
    latents: Tensor,
    cond: Tensor,
    uncond: Tensor | None,
    noise: Tensor | None,
    coefficients: Tensor,
    clip: float | None,
) -> tuple[Tensor, Tensor]:
    return latents.new_empty(latents.shape), latents.new_empty(latents.shape)


@torch.library.register_fake("hardfast::_guided_step_backward", lib=LIBRARY)
def _fake_backward(
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
    like: Any = grad_next if grad_next is not None else grad_clean
    grads = [like.new_empty(like.shape if wanted else [0]) for wanted in output_mask[:4]]
    return (*grads, coefficients.new_empty(coefficients.shape if output_mask[4] else [0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, coefficients, clip = inputs
    # Without clipping the gradients to the tensors do not depend on them: a long chain of steps keeps nothing alive.
    needed = ctx.needs_input_grad[4] or clip is not None
    ctx.save_for_backward(*(tensors if needed else [None] * 4), coefficients)
    ctx.set_materialize_grads(False)
    ctx.clip = clip


def _autograd(ctx: Any, grad_next: Tensor | None, grad_clean: Tensor | None) -> tuple[Any, ...]:
    if grad_next is None and grad_clean is None:
        return (None,) * 6
    mask = list(ctx.needs_input_grad[:5])
    grads = _backward(grad_next, grad_clean, *ctx.saved_tensors, ctx.clip, mask)
    return *(grad if wanted else None for grad, wanted in zip(grads, mask, strict=True)), None


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, clip, mask = inputs
    ctx.save_for_backward(*tensors)
    ctx.clip, ctx.mask = clip, mask


def _double_autograd(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    given = [k for k, tensor in enumerate(tensors) if tensor is not None]

    def gradients(*values: Tensor) -> tuple[Tensor, ...]:
        arguments: list[Any] = [*([None] * len(tensors)), ctx.clip, ctx.mask]
        for k, value in zip(given, values, strict=True):
            arguments[k] = value
        return linear_step_backward(*arguments)

    second = torch.func.vjp(gradients, *(tensors[k] for k in given))[1](grads)
    result: list[Any] = [None] * (len(tensors) + 2)
    for k, value in zip(given, second, strict=True):
        result[k] = value
    return tuple(result)


register_fallback("guided_step", linear_step)
register_fallback("_guided_step_backward", linear_step_backward)


def _fold(value: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """Joins the mapped dimension (or copies along it) with the samples."""
    if value is None:
        return None
    return (value.expand(batch, *value.shape) if dim is None else value.movedim(dim, 0)).flatten(0, 1)


def _fold_coefficients(value: Tensor, dim: int | None, batch: int, samples: int) -> Tensor:
    mapped = value.expand(batch, *value.shape) if dim is None else value.movedim(dim, 0)
    return mapped.expand(batch, samples, mapped.shape[-1]).flatten(0, 1)


def _samples(values: tuple[Any, ...], in_dims: tuple[Any, ...]) -> int:
    value, dim = next((v, d) for v, d in zip(values, in_dims, strict=True) if isinstance(v, Tensor))
    return value.shape[0] if dim is None else value.movedim(dim, 0).shape[1]


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    *tensors, coefficients, clip = args
    samples = _samples(args[:1], in_dims[:1])
    outputs = _forward(
        *(_fold(tensor, dim, info.batch_size) for tensor, dim in zip(tensors, in_dims[:4], strict=True)),
        _fold_coefficients(coefficients, in_dims[4], info.batch_size, samples),
        clip,
    )
    following, clean = (output.unflatten(0, (info.batch_size, samples)) for output in outputs)
    return (following, clean), (0, 0)


def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    *tensors, coefficients, clip, mask = args
    samples = _samples(args[:2], in_dims[:2])
    *grads, grad_coefficients = _backward(
        *(_fold(tensor, dim, info.batch_size) for tensor, dim in zip(tensors, in_dims[:6], strict=True)),
        _fold_coefficients(coefficients, in_dims[6], info.batch_size, samples),
        clip,
        mask,
    )
    unfolded = [
        grad.unflatten(0, (info.batch_size, samples)) if wanted else grad.expand(info.batch_size, 0)
        for grad, wanted in zip(grads, mask[:4], strict=True)
    ]
    if mask[4]:
        grad_coefficients = grad_coefficients.unflatten(0, (info.batch_size, samples))
        rows = coefficients.shape[0] if in_dims[6] is None else coefficients.movedim(in_dims[6], 0).shape[1]
        if rows == 1:
            grad_coefficients = grad_coefficients.sum(1, keepdim=True)
    else:
        grad_coefficients = grad_coefficients.expand(info.batch_size, 0)
    return (*unfolded, grad_coefficients), (0,) * 5


_forward = differentiable("guided_step", setup_context=_setup_context, backward=_autograd, vmap=_vmap)
_backward = differentiable(
    "_guided_step_backward", setup_context=_setup_context_backward, backward=_double_autograd, vmap=_vmap_backward
)
