"""Triton kernels of ``guided_step``: every input read once, every output written once.

The arithmetic is that of kernels/math/guidance.h:

    prediction = uncond + guidance * (cond - uncond)
    clean      = clip(c_1 latents + c_2 prediction)
    next       = c_3 clean + c_4 latents + c_5 prediction + c_6 noise
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from hardfast._triton._device import on_device_of

COEFFICIENTS = 7
# Four 16-byte loads a thread of each tensor at four warps: enough in flight to fill the memory bus. The partial sums
# of the coefficients' gradient, 7 a block, are then below one percent of a tensor.
BLOCK = 2048


@triton.jit
def _load(pointer, row, sample, columns, mask, given: tl.constexpr, dtype: tl.constexpr):
    if given:
        return tl.load(pointer + sample * row + columns, mask=mask, other=0.0).to(dtype)
    return tl.zeros(columns.shape, dtype)


@triton.jit
def _store(pointer, sample, elements, columns, mask, values, wanted: tl.constexpr):
    if wanted:
        tl.store(pointer + sample * elements + columns, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _clipped(value, bound: tl.constexpr):
    # Comparisons, so that NaN stays.
    return tl.where(value < -bound, -bound, tl.where(value > bound, bound, value))


@triton.jit
def forward_kernel(
    latents,  # [B, ...], samples latents_row apart
    cond,
    uncond,
    noise,
    coefficients,  # [1 or B, 7]
    next_latents,  # [B, ...] contiguous
    clean,
    elements,
    blocks,
    latents_row,
    cond_row,
    uncond_row,
    noise_row,
    coefficients_row,
    bound: tl.constexpr,  # None: no clipping. A constant, so that float64 keeps all of its digits
    has_uncond: tl.constexpr,
    has_noise: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample, columns = program // blocks, (program % blocks) * block + tl.arange(0, block)
    mask = columns < elements
    c = coefficients + sample * coefficients_row
    dtype: tl.constexpr = coefficients.dtype.element_ty
    x = _load(latents, latents_row, sample, columns, mask, True, dtype)
    prediction = _load(cond, cond_row, sample, columns, mask, True, dtype)
    if has_uncond:
        base = _load(uncond, uncond_row, sample, columns, mask, True, dtype)
        prediction = base + tl.load(c) * (prediction - base)
    kept = tl.load(c + 1) * x + tl.load(c + 2) * prediction
    if bound is not None:
        kept = _clipped(kept, bound)
    following = tl.load(c + 3) * kept + (tl.load(c + 4) * x + tl.load(c + 5) * prediction)
    if has_noise:
        following += tl.load(c + 6) * _load(noise, noise_row, sample, columns, mask, True, dtype)
    _store(clean, sample, elements, columns, mask, kept, True)
    _store(next_latents, sample, elements, columns, mask, following, True)


@triton.jit
def backward_kernel(
    grad_next,
    grad_clean,
    latents,
    cond,
    uncond,
    noise,
    coefficients,
    grad_latents,
    grad_cond,
    grad_uncond,
    grad_noise,
    sums,  # [B, blocks, 7]
    elements,
    blocks,
    grad_next_row,
    grad_clean_row,
    latents_row,
    cond_row,
    uncond_row,
    noise_row,
    coefficients_row,
    bound: tl.constexpr,
    has_next: tl.constexpr,
    has_clean: tl.constexpr,
    has_inputs: tl.constexpr,
    has_uncond: tl.constexpr,
    has_noise: tl.constexpr,
    to_latents: tl.constexpr,
    to_cond: tl.constexpr,
    to_uncond: tl.constexpr,
    to_noise: tl.constexpr,
    to_coefficients: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample, columns = program // blocks, (program % blocks) * block + tl.arange(0, block)
    mask = columns < elements
    c = coefficients + sample * coefficients_row
    dtype: tl.constexpr = coefficients.dtype.element_ty
    guidance, next_from_clean = tl.load(c), tl.load(c + 3)
    following = _load(grad_next, grad_next_row, sample, columns, mask, has_next, dtype)
    to_clean = next_from_clean * following + _load(grad_clean, grad_clean_row, sample, columns, mask, has_clean, dtype)
    x = _load(latents, latents_row, sample, columns, mask, has_inputs, dtype)
    conditional = _load(cond, cond_row, sample, columns, mask, has_inputs, dtype)
    base = conditional
    if has_uncond:
        base = _load(uncond, uncond_row, sample, columns, mask, True, dtype)
    prediction = base + guidance * (conditional - base)
    kept = tl.load(c + 1) * x + tl.load(c + 2) * prediction
    if bound is not None:
        to_clean = tl.where((kept < -bound) | (kept > bound), 0.0, to_clean)
        kept = _clipped(kept, bound)
    to_prediction = tl.load(c + 2) * to_clean + tl.load(c + 5) * following
    from_latents = tl.load(c + 1) * to_clean + tl.load(c + 4) * following
    _store(grad_latents, sample, elements, columns, mask, from_latents, to_latents)
    _store(grad_cond, sample, elements, columns, mask, guidance * to_prediction, to_cond)
    _store(grad_uncond, sample, elements, columns, mask, (1.0 - guidance) * to_prediction, to_uncond)
    _store(grad_noise, sample, elements, columns, mask, tl.load(c + 6) * following, to_noise)
    if to_coefficients:
        # Masked elements are zero in every input, hence in every product.
        fresh = _load(noise, noise_row, sample, columns, mask, has_noise, dtype)
        out = sums + program * 7
        tl.store(out, tl.sum(to_prediction * (conditional - base), 0))
        tl.store(out + 1, tl.sum(to_clean * x, 0))
        tl.store(out + 2, tl.sum(to_clean * prediction, 0))
        tl.store(out + 3, tl.sum(following * kept, 0))
        tl.store(out + 4, tl.sum(following * x, 0))
        tl.store(out + 5, tl.sum(following * prediction, 0))
        tl.store(out + 6, tl.sum(following * fresh, 0))


def forward(
    latents: Tensor,
    cond: Tensor,
    uncond: Tensor | None,
    noise: Tensor | None,
    coefficients: Tensor,
    clip: float | None,
) -> tuple[Tensor, Tensor]:
    """``hardfast::guided_step``."""
    batch, elements = latents.shape[0], math.prod(latents.shape[1:])
    following, clean = (latents.new_empty(latents.shape) for _ in range(2))
    blocks = triton.cdiv(elements, BLOCK)
    if latents.numel() == 0:
        return following, clean
    inputs = [_contiguous_samples(tensor) for tensor in (latents, cond, uncond, noise)]
    coefficients = coefficients.contiguous()
    with on_device_of(latents):
        forward_kernel[(batch * blocks,)](
            *inputs,
            coefficients,
            following,
            clean,
            elements,
            blocks,
            *(_row(tensor) for tensor in inputs),
            _row(coefficients),
            clip,
            has_uncond=uncond is not None,
            has_noise=noise is not None,
            block=BLOCK,
        )
    return following, clean


def backward(
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
    """``hardfast::_guided_step_backward``."""
    given = grad_next if grad_next is not None else grad_clean
    assert given is not None
    batch, elements = given.shape[0], math.prod(given.shape[1:])
    blocks = triton.cdiv(elements, BLOCK)
    grads = [given.new_empty(given.shape if wanted else [0]) for wanted in output_mask[:4]]
    sums = coefficients.new_empty([batch, blocks, COEFFICIENTS] if output_mask[4] else [0])
    if given.numel() > 0:
        inputs = [_contiguous_samples(tensor) for tensor in (grad_next, grad_clean, latents, cond, uncond, noise)]
        coefficients = coefficients.contiguous()
        with on_device_of(given):
            backward_kernel[(batch * blocks,)](
                *inputs,
                coefficients,
                *grads,
                sums,
                elements,
                blocks,
                *(_row(tensor) for tensor in inputs),
                _row(coefficients),
                clip,
                has_next=grad_next is not None,
                has_clean=grad_clean is not None,
                has_inputs=latents is not None,
                has_uncond=uncond is not None,
                has_noise=noise is not None,
                to_latents=output_mask[0],
                to_cond=output_mask[1],
                to_uncond=output_mask[2],
                to_noise=output_mask[3],
                to_coefficients=output_mask[4],
                block=BLOCK,
            )
    if not output_mask[4]:
        return (*grads, sums)
    return (*grads, sums.sum((0, 1))[None] if coefficients.shape[0] == 1 else sums.sum(1))


def _contiguous_samples(tensor: Tensor | None) -> Tensor | None:
    """Samples may lie apart; within a sample the elements are contiguous."""
    if tensor is None or tensor.is_contiguous() or tensor[0].is_contiguous():
        return tensor
    return tensor.contiguous()


def _row(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.shape[0] == 1 else tensor.stride(0)
