"""``affine_warp``: sample images under one affine map a sample, without ever storing the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hardfast import reference
from hardfast.ops import _checks
from hardfast.ops._library import LIBRARY, register_fallback
from hardfast.ops._transforms import differentiable

MODES = ("bilinear", "nearest")
PADDING_MODES = ("zeros", "border", "reflection", "fill")

LIBRARY.define(
    "affine_warp(Tensor image, Tensor theta, Tensor? fill, SymInt[2] size, str mode, str padding_mode, "
    "bool align_corners) -> Tensor"
)
LIBRARY.define(
    "_affine_warp_backward(Tensor grad, Tensor image, Tensor theta, Tensor? fill, str mode, str padding_mode, "
    "bool align_corners, bool[2] output_mask) -> (Tensor, Tensor)"
)


def affine_warp(
    image: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float | Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Warps each image of a batch by its own affine map.

    Equivalent to::

        grid = F.affine_grid(theta, [B, C, *size], align_corners)
        F.grid_sample(image, grid, mode, padding_mode, align_corners)

    except that coordinates of float16 and bfloat16 images are float32, and that ``padding_mode="fill"`` exists.

    Args:
        image: ``[B, C, H, W]``, float32, float64, float16 or bfloat16, any strides.
        theta: ``[B, 2, 3]``, maps normalised output positions ``(x, y, 1)`` to normalised input positions, where
            -1 and 1 are the edges of the image (with ``align_corners``, the centres of its corner pixels). Any
            floating dtype up to float32, and float64 for a float64 image. Finite.
        size: ``(H_out, W_out)`` in pixels; that of ``image`` if None.
        mode: ``"bilinear"`` or ``"nearest"``.
        padding_mode: what lies outside the image: ``"zeros"``, ``"border"``, ``"reflection"`` or ``"fill"``.
        align_corners: as in ``F.grid_sample``.
        fill: the value outside the image for ``padding_mode="fill"``: a number, or one a channel ``[C]``, or one a
            sample and channel ``[B, C]``. 0 if None.

    Returns:
        ``[B, C, H_out, W_out]`` in the dtype and memory format of ``image``.

    Gradients: to ``image``, ``theta`` and ``fill``, to any order in reverse mode; bitwise reproducible on the CPU for
    any number of threads. With ``mode="nearest"`` the gradient to ``theta`` is zero, as in PyTorch.

    Memory: the output, or the gradients that are asked for, and at most 0.6 MiB of scratch per thread. On a GPU the
    gradient to ``image`` takes eight bytes of scratch per element.

    Errors: ``TypeError`` and ``ValueError`` name the argument. On a GPU and in compiled graphs the values of ``theta``
    are not inspected: there a non-finite position samples some pixel at or beyond an edge of the image.

    Source: Jaderberg et al., Spatial Transformer Networks, 2015, equations 1 and 3 to 7.
    """
    _check_images(image, theta)
    _checks.one_of("mode", mode, MODES)
    _checks.one_of("padding_mode", padding_mode, PADDING_MODES)
    out_size = _output_size(image, size)
    theta = theta.to(_coordinate_dtype(image))
    if padding_mode != "fill":
        if fill is not None:
            raise ValueError(f"fill is used only with padding_mode='fill', got fill with padding_mode={padding_mode!r}")
        return _forward(image, theta, None, out_size, mode, padding_mode, align_corners)
    values = _fill_values(image, 0.0 if fill is None else fill)
    output = _forward(image, theta, values.detach(), out_size, mode, padding_mode, align_corners)
    if not values.requires_grad:
        return output
    # The warp is affine in the fill value: its gradient is what the warped image leaves uncovered. The difference
    # carries that gradient and is zero.
    covered = _forward(torch.ones_like(image[:, :1]), theta, None, out_size, mode, "zeros", align_corners)
    return output + (1 - covered) * (values - values.detach())[:, :, None, None].to(image.dtype)


def _check_images(image: Tensor, theta: Tensor) -> None:
    _checks.floating_tensor("image", image)
    _checks.floating_tensor("theta", theta)
    if image.dim() != 4:
        raise ValueError(f"image must have shape [B, C, H, W], got {list(image.shape)}")
    if theta.dim() != 3 or theta.shape[1:] != (2, 3) or theta.shape[0] != image.shape[0]:
        raise ValueError(f"theta must have shape [{image.shape[0]}, 2, 3] (one map a sample), got {list(theta.shape)}")
    if theta.device != image.device:
        raise ValueError(f"theta must be on the device of image, {image.device}, got {theta.device}")
    if theta.dtype == torch.float64 and image.dtype != torch.float64:
        raise TypeError(f"theta must be float32 or narrower for a {image.dtype} image, got {theta.dtype}")
    if image.shape[2] == 0 or image.shape[3] == 0:
        raise ValueError(f"image must have at least one pixel, got shape {list(image.shape)}")
    _checks.finite("theta", theta)


def _coordinate_dtype(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _output_size(image: Tensor, size: Sequence[int] | None) -> list[int]:
    if size is None:
        return [image.shape[2], image.shape[3]]
    out_size = list(size)
    if len(out_size) != 2 or any(isinstance(n, float) or n < 1 for n in out_size):
        raise ValueError(f"size must be (height, width), two positive whole numbers of pixels, got {size!r}")
    return out_size


def _fill_values(image: Tensor, fill: float | Sequence[float] | Tensor) -> Tensor:
    """``fill`` as ``[1, C]`` or ``[B, C]`` in the dtype of the arithmetic."""
    values = torch.as_tensor(fill, dtype=_coordinate_dtype(image), device=image.device)
    batch, channels = image.shape[:2]
    if values.dim() == 0:
        return values.expand(1, channels)
    if values.shape in ((channels,), (batch, channels)):
        return values.reshape(batch if values.dim() == 2 else 1, channels)
    raise ValueError(
        f"fill must be a number or have shape [C] = [{channels}] or [B, C] = [{batch}, {channels}], "
        f"got {list(values.shape)}"
    )


@torch.library.register_fake("hardfast::affine_warp", lib=LIBRARY)
def _fake(
    image: Tensor, theta: Tensor, fill: Tensor | None, size: list[int], mode: str, padding_mode: str, align: bool
) -> Tensor:
    return _in_format_of(image.new_empty([image.shape[0], image.shape[1], size[0], size[1]]), image)


@torch.library.register_fake("hardfast::_affine_warp_backward", lib=LIBRARY)
def _fake_backward(
    grad: Tensor,
    image: Tensor,
    theta: Tensor,
    fill: Tensor | None,
    mode: str,
    padding_mode: str,
    align: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:
    grad_image = _in_format_of(image.new_empty(image.shape), image) if output_mask[0] else image.new_empty([0])
    return grad_image, theta.new_empty(theta.shape if output_mask[1] else [0])


def _in_format_of(result: Tensor, image: Tensor) -> Tensor:
    channels_last = image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, theta, fill, _, mode, padding_mode, align_corners = inputs
    ctx.save_for_backward(image, theta, fill)
    ctx.options = (mode, padding_mode, align_corners)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    image, theta, fill = ctx.saved_tensors
    mask = list(ctx.needs_input_grad[:2])
    grad_image, grad_theta = _backward(grad, image, theta, fill, *ctx.options, mask)
    return grad_image if mask[0] else None, grad_theta if mask[1] else None, None, None, None, None, None


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, image, theta, fill, mode, padding_mode, align_corners, mask = inputs
    ctx.save_for_backward(grad, image, theta, fill)
    ctx.options = (mode, padding_mode, align_corners)
    ctx.mask = mask


def _double_autograd(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    grad, image, theta, fill = ctx.saved_tensors

    def gradients(grad: Tensor, image: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        mode, padding_mode, align_corners = ctx.options
        return _reference_backward(grad, image, theta, fill, mode, padding_mode, align_corners, ctx.mask)

    vjp = torch.func.vjp(gradients, grad, image, theta)[1]
    return *vjp(grads), None, None, None, None, None


def _reference(
    image: Tensor, theta: Tensor, fill: Tensor | None, size: list[int], mode: str, padding_mode: str, align: bool
) -> Tensor:
    output = reference.affine_warp(
        image,
        theta,
        (size[0], size[1]),
        mode=mode,
        padding_mode=padding_mode,
        align_corners=align,
        fill=0.0 if fill is None else fill,
    )
    return _in_format_of(output, image)


def _reference_backward(
    grad: Tensor,
    image: Tensor,
    theta: Tensor,
    fill: Tensor | None,
    mode: str,
    padding_mode: str,
    align: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:
    size = list(grad.shape[2:])
    vjp = torch.func.vjp(lambda i, t: _reference(i, t, fill, size, mode, padding_mode, align), image, theta)[1]
    grad_image, grad_theta = vjp(grad)
    return (
        _in_format_of(grad_image, image) if output_mask[0] else image.new_empty(0),
        grad_theta if output_mask[1] else theta.new_empty(0),
    )


register_fallback("affine_warp", _reference)
register_fallback("_affine_warp_backward", _reference_backward)


def _fold(value: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """Joins the mapped dimension (or copies along it) with the batch dimension."""
    if value is None:
        return None
    moved = value.expand(batch, *value.shape) if dim is None else value.movedim(dim, 0)
    return moved.flatten(0, 1)


def _fold_fill(fill: Tensor | None, dim: int | None, batch: int, samples: int) -> Tensor | None:
    if fill is None:
        return None
    moved = fill.expand(batch, *fill.shape) if dim is None else fill.movedim(dim, 0)
    return moved.expand(batch, samples, moved.shape[-1]).flatten(0, 1)


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    image, theta, fill, *options = args
    samples = image.shape[0] if in_dims[0] is None else image.movedim(in_dims[0], 0).shape[1]
    output = _forward(
        _fold(image, in_dims[0], info.batch_size),
        _fold(theta, in_dims[1], info.batch_size),
        _fold_fill(fill, in_dims[2], info.batch_size, samples),
        *options,
    )
    return output.unflatten(0, (info.batch_size, samples)), 0


def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    grad, image, theta, fill, *options, mask = args
    samples = grad.shape[0] if in_dims[0] is None else grad.movedim(in_dims[0], 0).shape[1]
    grads = _backward(
        _fold(grad, in_dims[0], info.batch_size),
        _fold(image, in_dims[1], info.batch_size),
        _fold(theta, in_dims[2], info.batch_size),
        _fold_fill(fill, in_dims[3], info.batch_size, samples),
        *options,
        mask,
    )
    unfolded = tuple(
        g.unflatten(0, (info.batch_size, samples)) if wanted else g.expand(info.batch_size, 0)
        for g, wanted in zip(grads, mask, strict=True)
    )
    return unfolded, (0, 0)


_forward = differentiable("affine_warp", setup_context=_setup_context, backward=_autograd, vmap=_vmap)
_backward = differentiable(
    "_affine_warp_backward", setup_context=_setup_context_backward, backward=_double_autograd, vmap=_vmap_backward
)
