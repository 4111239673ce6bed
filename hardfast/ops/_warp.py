"""What the warps share: checks, sizes, fill, colour and anti-aliasing, and the rules of their ops.

Every warp is an op ``(image, *parameters, fill, color, size, samples, mode, padding_mode, align_corners, *options)``
and a backward that takes the gradient of the output first, no size, and last which gradients are wanted.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hardfast.ops import _checks
from hardfast.ops._library import LIBRARY, register_fallback
from hardfast.ops._transforms import differentiable
from hardfast.reference._sampling import Sampling, Values, compute_dtype, sub_samples, to_pixel_dtype

LONGEST_SIDE = 2**31 - 9  # the kernels count pixels along a side, and some beyond its ends, in 32 bits
MODES = ("bilinear", "nearest", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection", "fill")
FUSED_COLOR_CHANNELS = 4  # so many channels of a pixel are at hand together in the kernels
CHECKED_FLOW = 4096  # to look for NaN in a larger flow takes time that shows


def check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a tensor, got {type(image).__name__}")
    if image.dtype not in (*_checks.FLOATING, torch.uint8):
        raise TypeError(f"image must be float32, float64, float16, bfloat16 or uint8, got {image.dtype}")
    _checks.strided("image", image)
    shape = image.shape
    if len(shape) != 4:
        raise ValueError(f"image must have shape [B, C, H, W], got {list(shape)}")
    if shape[2] == 0 or shape[3] == 0:
        raise ValueError(f"image must have at least one pixel, got shape {list(shape)}")


def check_parameter(name: str, value: Tensor, image: Tensor, shape: Sequence[int | str]) -> None:
    """Checks a map parameter of ``[1 or B, *shape]``, where a name in ``shape`` stands for any length but 0."""
    _checks.floating_tensor(name, value)
    lengths = value.shape[1:]
    fits = len(lengths) == len(shape)
    for length, expected in zip(lengths, shape, strict=False):
        fits = fits and (length > 0 if isinstance(expected, str) else length == expected)
    if not fits:
        raise ValueError(f"{name} must have shape [1 or B, {', '.join(map(str, shape))}], got {list(value.shape)}")
    if value.device != image.device:
        raise ValueError(f"{name} must be on the device of image, {image.device}, got {value.device}")
    if value.dtype == torch.float64 and image.dtype != torch.float64:
        raise TypeError(f"{name} must be float32 or narrower for a {image.dtype} image, got {value.dtype}")


def warp_image(
    op: Callable[..., Tensor],
    image: Tensor,
    parameters: Mapping[str, Tensor],
    size: Sequence[int] | None,
    sampling: Sampling,
    *options: str,
) -> Tensor:
    """Calls ``op`` on checked arguments; ``parameters`` have passed :func:`check_parameter`."""
    _checks.one_of("mode", sampling.mode, MODES)
    _checks.one_of("padding_mode", sampling.padding_mode, PADDING_MODES)
    if sampling.fill is not None and sampling.padding_mode != "fill":
        raise ValueError(
            f"fill is used only with padding_mode='fill', got fill with padding_mode={sampling.padding_mode!r}"
        )
    align_corners = _checks.flag("align_corners", sampling.align_corners)
    out_size = _output_size(image, size)
    samples = _samples(sampling.antialias, image, out_size)
    fill = _fill_values(sampling.fill, image)
    color = _color_maps(sampling.color, image)
    check_batches({"image": image, **parameters, "fill": fill, "color": color})
    refuse_gradients_of_bytes("image", image, [*parameters.values(), fill, color])
    dtype = compute_dtype(image)
    inputs = [value if value.dtype == dtype else value.to(dtype) for value in parameters.values()]
    rules = (out_size, samples, sampling.mode, sampling.padding_mode, align_corners, *options)
    if color is None or image.shape[1] <= FUSED_COLOR_CHANNELS:
        return op(image, *inputs, fill, color, *rules)
    # In the dtype of the arithmetic, so that pixels are rounded once, after the colour.
    output = op(image.to(dtype), *inputs, fill, None, *rules)
    return to_pixel_dtype(colored(output, color), image.dtype)


def _whole_numbers(values: Any) -> list[int] | None:
    """``values`` as positive integers that a side may have, numpy's included; None if they are anything else."""
    try:
        numbers: list[Any] = [n if isinstance(n, (int, torch.SymInt)) else operator.index(n) for n in values]
    except TypeError:
        return None
    return numbers if all(1 <= n <= LONGEST_SIDE for n in numbers) else None


def _output_size(image: Tensor, size: Sequence[int] | None) -> list[int]:
    if size is None:
        return list(image.shape[2:])
    return height_width("size", size)


def height_width(name: str, size: Any) -> list[int]:
    numbers = _whole_numbers(size)
    if numbers is None or len(numbers) != 2:
        raise ValueError(f"{name} must be (height, width), two positive whole numbers of pixels, got {size!r}")
    return numbers


def _samples(antialias: bool | int | Sequence[int], image: Tensor, size: list[int]) -> list[int]:
    if isinstance(antialias, bool):
        return list(sub_samples(antialias, image, size))
    numbers = _whole_numbers(antialias)
    if numbers is None:
        numbers = _whole_numbers([antialias, antialias])
    if numbers is None or len(numbers) != 2:
        raise ValueError(
            "antialias must be True, False, a positive whole number of sub-samples along each axis, or a pair of them "
            f"(along y, along x), got {antialias!r}"
        )
    return numbers


def _fill_values(fill: Values | None, image: Tensor) -> Tensor | None:
    """``fill`` as ``[1, C]`` or ``[B, C]`` in the dtype of the arithmetic."""
    if fill is None:
        return None
    values = _checks.real_values("fill", fill, compute_dtype(image), image.device)
    channels = image.shape[1]
    if values.dim() == 0:
        return values.expand(1, channels)
    if values.dim() > 2 or values.shape[-1] != channels:
        raise ValueError(
            f"fill must be a number or have shape [C] = [{channels}] or [B, C] = [B, {channels}], "
            f"got {list(values.shape)}"
        )
    return values if values.dim() == 2 else values[None]


def _color_maps(color: Values | None, image: Tensor) -> Tensor | None:
    """``color`` as ``[1, C, C + 1]`` or ``[B, C, C + 1]`` in the dtype of the arithmetic."""
    if color is None:
        return None
    maps = _checks.real_values("color", color, compute_dtype(image), image.device)
    channels = image.shape[1]
    if maps.dim() not in (2, 3) or maps.shape[-2] != channels or maps.shape[-1] != channels + 1:
        raise ValueError(
            f"color must have shape [C, C + 1] = [{channels}, {channels + 1}] or [B, C, C + 1], got {list(maps.shape)}"
        )
    return maps if maps.dim() == 3 else maps[None]


def check_batches(tensors: Mapping[str, Tensor | None]) -> None:
    batch = 1
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        length = tensor.shape[0]
        if length == 1 or length == batch:
            continue
        if batch != 1:
            raise ValueError(f"{name} must have batch size 1 or {batch}, as the others, got shape {list(tensor.shape)}")
        batch = length


def refuse_gradients_of_bytes(name: str, image: Tensor, inputs: Sequence[Tensor | None]) -> None:
    """Raises ``TypeError`` where gradients to ``inputs`` would run through pixels that are rounded to bytes."""
    if image.dtype != torch.uint8 or not torch.is_grad_enabled():
        return
    if any(value is not None and value.requires_grad for value in inputs):
        raise TypeError(
            f"{name} must have a floating dtype where gradients are asked for, got uint8, to which pixels are rounded "
            f"(convert {name}, or use torch.no_grad())"
        )


def colored(output: Tensor, color: Tensor) -> Tensor:
    """``reference._sampling.colored`` as one matrix product that keeps the memory format."""
    batch = output.shape[0] if color.shape[0] == 1 else color.shape[0]
    pixels = output.flatten(2).expand(batch, -1, -1)  # [B, C, H * W]
    color = color.expand(batch, -1, -1)
    matrix, offset = color[..., :-1], color[..., -1:]
    if _is_channels_last(output):
        product = torch.baddbmm(offset.mT, pixels.mT, matrix.mT).mT
    else:
        product = torch.baddbmm(offset, matrix, pixels)
    return product.unflatten(2, output.shape[2:])


def _is_channels_last(image: Tensor) -> bool:
    return image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()


def _in_format_of(result: Tensor, image: Tensor) -> Tensor:
    return result.contiguous(memory_format=torch.channels_last if _is_channels_last(image) else torch.contiguous_format)


class Warp:
    """Defines ``hardfast::<name>`` and ``hardfast::_<name>_backward`` with all their rules.

    Args:
        name: of the op.
        parameters: names of the tensors that define the map.
        reference: the op in plain PyTorch, ``(image, *parameters, size, *, mode, padding_mode, ...)``.
        options: names of further arguments, strings, that ``reference`` takes by keyword.
    """

    def __init__(
        self, name: str, parameters: Sequence[str], reference: Callable[..., Tensor], options: Sequence[str] = ()
    ) -> None:
        self.tensors = len(parameters) + 3  # image, fill and color
        self.reference = reference
        self.option_names = ("mode", "padding_mode", "align_corners", *options)
        tensors = f"Tensor image, {''.join(f'Tensor {p}, ' for p in parameters)}Tensor? fill, Tensor? color"
        rules = (
            f"SymInt[2] samples, str mode, str padding_mode, bool align_corners{''.join(f', str {o}' for o in options)}"
        )
        gradients = ", ".join(["Tensor"] * self.tensors)
        LIBRARY.define(f"{name}({tensors}, SymInt[2] size, {rules}) -> Tensor")
        LIBRARY.define(
            f"_{name}_backward(Tensor grad, {tensors}, {rules}, bool[{self.tensors}] output_mask) -> ({gradients})"
        )
        torch.library.register_fake(f"hardfast::{name}", self._fake, lib=LIBRARY)
        torch.library.register_fake(f"hardfast::_{name}_backward", self._fake_backward, lib=LIBRARY)
        register_fallback(name, self._reference)
        register_fallback(f"_{name}_backward", self._reference_backward)
        self.forward = differentiable(name, setup_context=self._setup_context, backward=self._autograd, vmap=self._vmap)
        self.backward = differentiable(
            f"_{name}_backward",
            setup_context=self._setup_context_backward,
            backward=self._double_autograd,
            vmap=self._vmap_backward,
        )

    def _fake(self, image: Tensor, *args: Any) -> Tensor:
        tensors, size = (image, *args[: self.tensors - 1]), args[self.tensors - 1]
        batch = torch.broadcast_shapes(*(t.shape[:1] for t in tensors if t is not None))[0]
        return _in_format_of(image.new_empty([batch, image.shape[1], *size]), image)

    def _fake_backward(self, grad: Tensor, image: Tensor, *args: Any) -> tuple[Tensor, ...]:
        mask = args[-1]
        grad_image = _in_format_of(image.new_empty(image.shape), image) if mask[0] else image.new_empty([0])
        others = zip(args[: self.tensors - 1], mask[1:], strict=True)
        return grad_image, *(args[0].new_empty(t.shape if wanted else [0]) for t, wanted in others)

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[: self.tensors])
        ctx.options = inputs[self.tensors + 1 :]  # the gradient has the size

    def _autograd(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        mask = list(ctx.needs_input_grad[: self.tensors])
        grads = self.backward(grad, *ctx.saved_tensors, *ctx.options, mask)
        wanted = [g if m else None for g, m in zip(grads, mask, strict=True)]
        return *wanted, None, *(None,) * len(ctx.options)  # none to the size, which ctx.options leave out

    def _setup_context_backward(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[: self.tensors + 1])
        ctx.options = inputs[self.tensors + 1 :]

    def _double_autograd(self, ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        wanted = [i for i in range(len(saved)) if ctx.needs_input_grad[i]]

        def gradients(*varied: Tensor) -> tuple[Tensor, ...]:
            inputs = list(saved)
            for i, value in zip(wanted, varied, strict=True):
                inputs[i] = value
            return self._reference_backward(*inputs, *ctx.options)

        results: list[Any] = [None] * (len(saved) + len(ctx.options))
        for i, result in zip(wanted, torch.func.vjp(gradients, *(saved[i] for i in wanted))[1](grads), strict=True):
            results[i] = result
        return tuple(results)

    def _reference(self, image: Tensor, *args: Any) -> Tensor:
        *parameters, fill, color, size, samples = args[: self.tensors + 1]
        options = dict(zip(self.option_names, args[self.tensors + 1 :], strict=True))
        output = self.reference(image, *parameters, size, fill=fill, color=color, antialias=samples, **options)
        return _in_format_of(output, image)

    def _reference_backward(self, grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
        tensors, options, mask = args[: self.tensors], args[self.tensors : -1], args[-1]
        wanted = [i for i in range(self.tensors) if mask[i]]
        image = tensors[0]
        grads = [image.new_empty(0), *(tensors[1].new_empty(0) for _ in tensors[1:])]
        if not wanted:
            return tuple(grads)

        def output(*varied: Tensor) -> Tensor:
            inputs = list(tensors)
            for i, value in zip(wanted, varied, strict=True):
                inputs[i] = value
            return self._reference(*inputs, list(grad.shape[2:]), *options)

        for i, result in zip(wanted, torch.func.vjp(output, *(tensors[i] for i in wanted))[1](grad), strict=True):
            grads[i] = _in_format_of(result, image) if i == 0 else result.contiguous()
        return tuple(grads)

    def _vmap(self, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        tensors, options, dims = args[: self.tensors], args[self.tensors :], in_dims[: self.tensors]
        mapped = _mapped_first(tensors, dims, info.batch_size)
        batch = _common_batch(mapped)
        folded = _fold(tensors, dims, mapped, batch, [False] * self.tensors)
        if folded is None:
            each = [self.forward(*(t if t is None else t[k] for t in mapped), *options) for k in range(info.batch_size)]
            return torch.stack(each), 0
        return self.forward(*folded, *options).unflatten(0, (info.batch_size, batch)), 0

    def _vmap_backward(
        self, info: Any, in_dims: tuple[Any, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        count = self.tensors + 1
        tensors, options, mask, dims = args[:count], args[count:-1], args[-1], in_dims[:count]
        mapped = _mapped_first(tensors, dims, info.batch_size)
        batch = _common_batch(mapped)
        folded = _fold(tensors, dims, mapped, batch, [False, *mask])
        out_dims = (0,) * self.tensors
        if folded is None:
            each = (
                self.backward(*(t if t is None else t[k] for t in mapped), *options, mask)
                for k in range(info.batch_size)
            )
            return tuple(torch.stack(grads) for grads in zip(*each, strict=True)), out_dims
        grads = []
        for value, grad, wanted in zip(mapped[1:], self.backward(*folded, *options, mask), mask, strict=True):
            if not wanted:
                grads.append(grad.expand(info.batch_size, 0))
                continue
            unfolded = grad.unflatten(0, (info.batch_size, batch))
            grads.append(unfolded if value.shape[1] == batch else unfolded.sum(1, keepdim=True))
        return tuple(grads), out_dims


def _mapped_first(tensors: Sequence[Tensor | None], dims: Sequence[int | None], length: int) -> list[Any]:
    """Every tensor as ``[N, B or 1, ...]``, a view, with ``N`` the mapped dimension."""
    return [
        None if t is None else t.expand(length, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, dims, strict=True)
    ]


def _common_batch(mapped: Sequence[Tensor | None]) -> int:
    return torch.broadcast_shapes(*(t.shape[1:2] for t in mapped if t is not None))[0]


def _fold(
    tensors: Sequence[Tensor | None],
    dims: Sequence[int | None],
    mapped: Sequence[Tensor | None],
    batch: int,
    wanted: Sequence[bool],
) -> list[Tensor | None] | None:
    """Joins the mapped dimension with the batch; None if an image or a flow would be repeated in memory for it.

    What all samples share stays a batch of 1, unless its gradient is ``wanted``, which is one for each.
    """
    folded: list[Tensor | None] = []
    for value, dim, moved, differentiated in zip(tensors, dims, mapped, wanted, strict=True):
        if value is None or moved is None:
            folded.append(None)
            continue
        if dim is None and value.shape[0] == 1 and not differentiated:
            folded.append(value)
            continue
        repeats = moved.shape[1] != batch or (dim is None and batch > 1)
        if repeats and value.dim() == 4:
            return None
        folded.append(moved.expand(moved.shape[0], batch, *moved.shape[2:]).flatten(0, 1))
    return folded
