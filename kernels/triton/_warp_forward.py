"""The forward kernel of every warp: a program makes one tile of output pixels, a few channels at a time."""

import triton
import triton.language as tl

from hardfast._triton._warp_map import tile_pixels
from hardfast._triton._warp_sample import (
    interpolate,
    load_outside,
    pixel_taps,
    round_half_even,
    sub_sample_share,
    zeros_tuple,
)


@triton.jit
def sampled_channels(
    image,
    maps,
    fill,
    sample,
    first,
    y,
    x,
    exists,
    sizes,
    MAP: tl.constexpr,
    INTERPOLATION: tl.constexpr,
    TAPS: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    GROUP: tl.constexpr,
    T: tl.constexpr,
):
    """GROUP channels of the warped image from ``first`` on, averaged over the sub-samples."""
    sub_samples = sizes[5] * sizes[6]
    sums = zeros_tuple(GROUP, y.shape[0], T)
    for s in range(0, sub_samples):
        rows, columns = pixel_taps(
            maps, sample, y, x, s, exists, sizes, MAP, INTERPOLATION, TAPS, PADDING, ALIGN_CORNERS, T
        )
        next_sums = ()
        for c in tl.static_range(GROUP):
            channel = tl.minimum(first + c, sizes[0] - 1)  # those beyond the last are computed in vain
            outside = load_outside(fill, sample, channel, PADDING, T)
            value = interpolate(image, sample, channel, rows, columns, outside, TAPS, T)
            next_sums = next_sums + (sums[c] + value,)
        sums = next_sums
    share = sub_sample_share(sizes, T)
    means = ()
    for c in tl.static_range(GROUP):
        means = means + (sums[c] * share,)
    return means


@triton.jit
def mix_channels(values, color, sample, COLOR: tl.constexpr, T: tl.constexpr):
    """The colour matrix, its last column added, times the sampled channels."""
    matrix = color[0] + sample * color[1]
    mixed = ()
    for k in tl.static_range(COLOR):
        value = tl.zeros(values[0].shape, T) + tl.load(matrix + k * (COLOR + 1) + COLOR).to(T)
        for c in tl.static_range(COLOR):
            value += tl.load(matrix + k * (COLOR + 1) + c).to(T) * values[c]
        mixed = mixed + (value,)
    return mixed


@triton.jit
def warp_kernel(
    output,
    image,
    maps,
    fill,
    color,
    sizes,
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
    out_height, out_width = sizes[3], sizes[4]
    tiles = tl.cdiv(out_height, TILE_H) * tl.cdiv(out_width, TILE_W)
    program = tl.program_id(0)
    sample = tl.cast(program // tiles, tl.int64)
    y, x, exists = tile_pixels(program % tiles, out_height, out_width, TILE_H, TILE_W)
    offset = tl.cast(y, tl.int64) * output[3] + tl.cast(x, tl.int64) * output[4]
    for group in range(0, sizes[0], GROUP):
        first = tl.cast(group, tl.int32)
        end = tl.where(exists, sizes[0], 0)
        values = sampled_channels(
            image,
            maps,
            fill,
            sample,
            first,
            y,
            x,
            exists,
            sizes,
            MAP,
            INTERPOLATION,
            TAPS,
            PADDING,
            ALIGN_CORNERS,
            GROUP,
            T,
        )
        if COLOR > 0:
            values = mix_channels(values, color, sample, COLOR, T)
        for c in tl.static_range(GROUP):
            pixel = output[0] + sample * output[1] + tl.cast(first + c, tl.int64) * output[2] + offset
            if output[0].dtype.element_ty == tl.uint8:
                above = tl.where(values[c] > 0.0, values[c], 0.0)
                result = round_half_even(tl.where(above < 255.0, above, 255.0)).to(tl.int32).to(tl.uint8)
            else:
                result = values[c].to(output[0].dtype.element_ty)
            tl.store(pixel, result, mask=first + c < end)
