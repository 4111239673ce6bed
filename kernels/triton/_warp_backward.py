"""Launches of the gradients of a warp: each input's alone, so that nothing is computed that nobody asked for."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import triton
from torch import Tensor

from hardfast._triton._device import on_device_of
from hardfast._triton._warp_grad_color import grad_color_kernel, grad_fill_kernel
from hardfast._triton._warp_grad_flow import gather_kernel, grad_position_kernel
from hardfast._triton._warp_grad_image import fixed_point, scatter_kernel, to_image_kernel
from hardfast._triton._warp_grad_map import grad_matrix_kernel, grad_spline_kernel
from hardfast._triton._warp_launch import GROUP, TILE_H, TILE_W, Warp, empty_in_format_of, with_strides
from hardfast._triton._warp_reduce import strips_per_sample, sum_partials

# Scratch of the gradients to image and flow: a hundredth of what the call holds anyway, or this much, or one row.
SCRATCH_BYTES = 4 << 20
SPLINE_POINTS = 8  # control points that a program of the thin plate's gradient serves
SPLINE_TILE_H = 4  # its tiles are lower: each pixel is held once per point
GATHER_LANES = 256
CONVERT_BLOCK = 512


def launch_backward(warp: Warp, grad: Tensor, output_mask: list[bool]) -> tuple[Tensor, ...]:
    """The gradients of image, maps, fill and color, in this order; of shape [0] where not asked for."""
    wanted_image, *wanted_maps, wanted_fill, wanted_color = output_mask
    with on_device_of(grad):
        grads = [_grad_image(warp, grad)] if wanted_image else [warp.image.new_empty(0)]
        grads += _grad_maps(warp, grad, wanted_maps)
        for values, wanted, launch in (
            (warp.fill, wanted_fill, _grad_fill),
            (warp.color, wanted_color, _grad_color),
        ):
            asked = values is not None and wanted
            grads.append(launch(warp, grad, values) if asked else warp.maps[0].new_empty(0))
    return tuple(grads)


def _strips(warp: Warp, values: int, tiles: int) -> int:
    pixels = warp.out_size[0] * warp.out_size[1]
    return strips_per_sample(tiles, values, warp.channels * pixels * warp.image.element_size())


def _scratch_items(warp: Warp, item_bytes: int) -> int:
    """How many items of scratch a launch may use, at least one."""
    output_elements = warp.batch * warp.channels * warp.out_size[0] * warp.out_size[1]
    held = (warp.image.numel() + 2 * output_elements) * warp.image.element_size()
    return max(1, max(held // 100, SCRATCH_BYTES) // item_bytes)


def _partials(warp: Warp, strips: int, values: int) -> Tensor:
    return torch.empty((warp.batch, strips, values), dtype=torch.float64, device=warp.image.device)


def _inputs(warp: Warp, grad: Tensor) -> tuple[Any, ...]:
    return (
        with_strides(grad),
        with_strides(warp.image),
        warp.map_argument,
        warp.fill_argument,
        warp.color_argument,
        warp.sizes,
    )


def _grad_image(warp: Warp, grad: Tensor) -> Tensor:
    grad_image = empty_in_format_of(warp.image, tuple(warp.image.shape))
    if grad_image.numel() == 0 or grad.numel() == 0:
        return grad_image.zero_()
    shared = warp.image.shape[0] == 1
    scales, units = fixed_point(grad, warp.color, shared)
    images, channels, height, width = warp.image.shape
    lines = _scratch_items(warp, 8 * width)
    rows_step = min(height, lines)
    channel_step = min(channels, max(1, lines // height))
    image_step = min(images, max(1, lines // (channels * height)))
    accumulators = torch.zeros(image_step * channel_step * rows_step * width, dtype=torch.int64, device=grad.device)
    for image, channel, row in itertools.product(
        range(0, images, image_step), range(0, channels, channel_step), range(0, height, rows_step)
    ):
        images_here = min(image_step, images - image)
        counts = min(channel_step, channels - channel), min(rows_step, height - row)
        piece = (image, channel, row, *counts)
        scatter_kernel[((warp.batch if shared else images_here) * warp.tiles,)](
            accumulators,
            scales,
            with_strides(grad),
            warp.map_argument,
            warp.color_argument,
            warp.sizes,
            piece,
            0 if shared else 1,
            **warp.constants(),
        )
        count = images_here * counts[0] * counts[1] * width
        to_image_kernel[(triton.cdiv(count, CONVERT_BLOCK),)](
            with_strides(grad_image), accumulators, units, warp.sizes, piece, count, BLOCK=CONVERT_BLOCK
        )
    return grad_image


def _grad_maps(warp: Warp, grad: Tensor, wanted: list[bool]) -> list[Tensor]:
    grads = [torch.zeros_like(m) if w else m.new_empty(0) for m, w in zip(warp.maps, wanted, strict=True)]
    if not any(wanted) or grad.numel() == 0 or warp.mode == "nearest":
        return grads
    if warp.map == "flow":
        return [_grad_flow(warp, grad)]
    found = _grad_spline(warp, grad) if warp.map == "thin_plate" else [_grad_matrix(warp, grad)]
    return [f if w else g for f, g, w in zip(found, grads, wanted, strict=True)]


def _like(sums: Tensor, values: Tensor) -> Tensor:
    return torch.empty(values.shape, dtype=values.dtype, device=values.device).copy_(sums.view(values.shape))


def _grad_matrix(warp: Warp, grad: Tensor) -> Tensor:
    matrix = warp.maps[0]
    values = matrix[0].numel()
    strips = _strips(warp, values, warp.tiles)
    partials = _partials(warp, strips, values)
    grad_matrix_kernel[(warp.batch * strips,)](partials, *_inputs(warp, grad), strips, **warp.constants())
    return _like(sum_partials(partials, shared=matrix.shape[0] == 1), matrix)


def _grad_spline(warp: Warp, grad: Tensor) -> list[Tensor]:
    points, weights = warp.maps
    count = points.shape[1]
    values = 4 * count + 6
    tiles = triton.cdiv(warp.out_size[0], SPLINE_TILE_H) * triton.cdiv(warp.out_size[1], TILE_W)
    strips = _strips(warp, values, tiles)
    partials = _partials(warp, strips, values)
    constants = {**warp.constants(), "TILE_H": SPLINE_TILE_H, "POINTS": SPLINE_POINTS}
    grid = (warp.batch * strips * triton.cdiv(count, SPLINE_POINTS),)
    grad_spline_kernel[grid](partials, *_inputs(warp, grad), strips, **constants)
    sums = [sum_partials(partials, shared=m.shape[0] == 1) for m in warp.maps]
    return [_like(sums[0][:, : 2 * count], points), _like(sums[1][:, 2 * count :], weights)]


def _grad_flow(warp: Warp, grad: Tensor) -> Tensor:
    flow = warp.maps[0]
    shared = flow.shape[0] == 1
    flows, rows, columns = flow.shape[0], flow.shape[2], flow.shape[3]
    grad_flow = torch.empty(flow.shape, dtype=flow.dtype, device=flow.device)
    constants = warp.constants()
    fine_rows, fine_columns = warp.out_size[0] * warp.samples[0], warp.out_size[1] * warp.samples[1]

    def positions(target: Tensor, first: int, count: int, row: int, band: int) -> None:
        tiles = triton.cdiv(band, TILE_H) * triton.cdiv(fine_columns, TILE_W)
        sharing = warp.batch if shared else 1
        grad_position_kernel[(count * tiles,)](target, *_inputs(warp, grad), first, sharing, row, band, **constants)

    if constants["INTERPOLATION"] == "none":
        positions(grad_flow, 0, flows, 0, fine_rows)
        return grad_flow
    budget_rows = _scratch_items(warp, 2 * fine_columns * flow.element_size())
    band = min(fine_rows, budget_rows)
    step = max(1, min(flows, budget_rows // fine_rows))
    scratch = torch.empty(step * 2 * band * fine_columns, dtype=flow.dtype, device=flow.device)
    lanes, controls = _gather_block(warp, columns, fine_columns)
    for first in range(0, flows, step):
        count = min(step, flows - first)
        for row in range(0, fine_rows, band):
            rows_here = min(band, fine_rows - row)
            positions(scratch, first, count, row, rows_here)
            gather_kernel[(count * rows * triton.cdiv(columns, controls),)](
                grad_flow[first:],
                scratch,
                warp.sizes,
                rows,
                columns,
                row,
                rows_here,
                int(row > 0),
                INTERPOLATION=constants["INTERPOLATION"],
                ALIGN_CORNERS=constants["ALIGN_CORNERS"],
                T=constants["T"],
                CONTROLS=controls,
                LANES=lanes,
            )
    return grad_flow


def _gather_block(warp: Warp, columns: int, fine_columns: int) -> tuple[int, int]:
    """Lanes per control point, enough for its reach along a row, and the control points of a program."""
    reach = 4 if warp.interpolation == "cubic_bspline" else 2
    span = triton.next_power_of_2(reach * triton.cdiv(fine_columns, columns) + 2)
    lanes = max(4, min(GATHER_LANES, span))
    return lanes, GATHER_LANES // lanes


def _grad_fill(warp: Warp, grad: Tensor, fill: Tensor) -> Tensor:
    if not warp.has_fill or grad.numel() == 0:
        return torch.zeros_like(fill)
    strips = _strips(warp, warp.channels, warp.tiles)
    partials = _partials(warp, strips, warp.channels)
    group = min(warp.channels, GROUP)
    grad_fill_kernel[(warp.batch * strips * triton.cdiv(warp.channels, group),)](
        partials,
        with_strides(grad),
        warp.map_argument,
        warp.color_argument,
        warp.sizes,
        strips,
        GROUP=group,
        **warp.constants(),
    )
    return _like(sum_partials(partials, shared=fill.shape[0] == 1), fill)


def _grad_color(warp: Warp, grad: Tensor, color: Tensor) -> Tensor:
    if grad.numel() == 0:
        return torch.zeros_like(color)
    values = color[0].numel()
    strips = _strips(warp, values, warp.tiles)
    partials = _partials(warp, strips, values)
    grad_color_kernel[(warp.batch * strips,)](
        partials,
        with_strides(grad),
        with_strides(warp.image),
        warp.map_argument,
        warp.fill_argument,
        warp.sizes,
        strips,
        **warp.constants(),
    )
    return _like(sum_partials(partials, shared=color.shape[0] == 1), color)
