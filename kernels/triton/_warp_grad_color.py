"""Gradients of the fill values and of the colour matrix: sums over the output pixels, as in ``_warp_grad_map``."""

import triton
import triton.language as tl

from hardfast._triton._warp_forward import sampled_channels
from hardfast._triton._warp_map import tile_pixels
from hardfast._triton._warp_sample import (
    load_upstream,
    outside_weight,
    pixel_taps,
    sub_sample_share,
    zeros_tuple,
)


@triton.jit
def grad_fill_kernel(
    partials,
    grad,
    maps,
    color,
    sizes,
    strips,
    MAP: tl.constexpr,
    INTERPOLATION: tl.constexpr,
    TAPS: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    COLOR: tl.constexpr,
    GROUP: tl.constexpr,
    T: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """A program serves GROUP channels."""
    channels, out_height, out_width = sizes[0], sizes[3], sizes[4]
    tiles = tl.cdiv(out_height, TILE_H) * tl.cdiv(out_width, TILE_W)
    groups = tl.cdiv(channels, GROUP)
    program = tl.program_id(0)
    first = program % groups * GROUP
    strip = program // groups % strips
    sample = tl.cast(program // groups // strips, tl.int64)
    sums = zeros_tuple(GROUP, TILE_H * TILE_W, tl.float64)
    for tile in range(strip, tiles, strips):
        y, x, exists = tile_pixels(tile, out_height, out_width, TILE_H, TILE_W)
        weight = tl.zeros(y.shape, T)
        for s in range(0, sizes[5] * sizes[6]):
            rows, columns = pixel_taps(
                maps, sample, y, x, s, exists, sizes, MAP, INTERPOLATION, TAPS, PADDING, ALIGN_CORNERS, T
            )
            weight += outside_weight(rows, columns, TAPS, T)
        weight *= sub_sample_share(sizes, T)
        offset = tl.cast(y, tl.int64) * grad[3] + tl.cast(x, tl.int64) * grad[4]
        next_sums = ()
        for c in tl.static_range(GROUP):
            channel = tl.minimum(first + c, channels - 1)
            upstream = load_upstream(grad, color, sample, channel, offset, exists, COLOR, T)
            next_sums = next_sums + (sums[c] + tl.where(exists, upstream * weight, 0.0).to(tl.float64),)
        sums = next_sums
    row = partials + (sample * strips + strip) * channels + first
    for c in tl.static_range(GROUP):
        tl.store(row + c, tl.sum(sums[c], axis=0), mask=first + c < channels)


@triton.jit
def grad_color_kernel(
    partials,
    grad,
    image,
    maps,
    fill,
    sizes,
    strips,
    MAP: tl.constexpr,
    INTERPOLATION: tl.constexpr,
    TAPS: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    COLOR: tl.constexpr,
    T: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """All entries of the matrix: gradient k times channel c, and gradient k alone in the last column."""
    out_height, out_width = sizes[3], sizes[4]
    tiles = tl.cdiv(out_height, TILE_H) * tl.cdiv(out_width, TILE_W)
    program = tl.program_id(0)
    sample = tl.cast(program // strips, tl.int64)
    sums = zeros_tuple(COLOR * (COLOR + 1), TILE_H * TILE_W, tl.float64)
    for tile in range(program % strips, tiles, strips):
        y, x, exists = tile_pixels(tile, out_height, out_width, TILE_H, TILE_W)
        values = sampled_channels(
            image,
            maps,
            fill,
            sample,
            0,
            y,
            x,
            exists,
            sizes,
            MAP,
            INTERPOLATION,
            TAPS,
            PADDING,
            ALIGN_CORNERS,
            COLOR,
            T,
        )
        pixel = grad[0] + sample * grad[1] + tl.cast(y, tl.int64) * grad[3] + tl.cast(x, tl.int64) * grad[4]
        next_sums = ()
        for k in tl.static_range(COLOR):
            upstream = tl.load(pixel + k * tl.cast(grad[2], tl.int64), mask=exists, other=0).to(T)
            for c in tl.static_range(COLOR):
                product = tl.where(exists, upstream * values[c], 0.0).to(tl.float64)
                next_sums = next_sums + (sums[k * (COLOR + 1) + c] + product,)
            next_sums = next_sums + (sums[k * (COLOR + 1) + COLOR] + upstream.to(tl.float64),)
        sums = next_sums
    row = partials + tl.cast(program, tl.int64) * (COLOR * (COLOR + 1))
    for k in tl.static_range(COLOR * (COLOR + 1)):
        tl.store(row + k, tl.sum(sums[k], axis=0))
