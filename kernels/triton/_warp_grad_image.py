"""Gradient to the image, in 64-bit fixed point: integer sums do not depend on the order of the atomic additions.

The unit is a power of two per image, chosen from its largest upstream gradient and from how many output pixels could
meet in one input pixel, so that no sum overflows: of N output pixels, 60 - log2(N) bits are kept below that largest
gradient (44 for 256 x 256 of them), which is more than a float32 sum keeps wherever gradients are of one magnitude. An
infinite or NaN gradient has no unit: it makes the gradient of its whole image NaN.

The sums take 8 bytes an element, so a launch sums only a piece of the images: some of them, or some channels of one, or
some rows of a channel, as scratch of a hundredth of what the call holds, or of 4 MiB, has room for. The programs of a
piece visit every output pixel of its images: a float32 image of 3 x 1024 x 1024 takes six pieces.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hardfast._triton._warp_map import tile_pixels
from hardfast._triton._warp_sample import load_upstream, pixel_taps, sub_sample_share

# Of the 63 bits beside the sign: one for the carry of the largest gradient to a power of two, and two for bicubic
# weights, whose absolute values sum up to 2.25 where padding makes taps coincide.
SPARE_BITS = 3


@triton.jit
def scatter_kernel(
    accumulators,
    scales,
    grad,
    maps,
    color,
    sizes,
    piece,
    per_sample,
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
    """``piece``: first image, channel and row, then the counts of channels and rows.

    ``per_sample`` is 1, or 0 where all samples share one image.
    """
    width, out_height, out_width = sizes[2], sizes[3], sizes[4]
    first_channel, first_row, channels, height = piece[1], piece[2], piece[3], piece[4]
    tiles = tl.cdiv(out_height, TILE_H) * tl.cdiv(out_width, TILE_W)
    program = tl.program_id(0)
    target = tl.cast(program // tiles, tl.int64) * per_sample
    sample = tl.cast(program // tiles, tl.int64) + piece[0]
    y, x, exists = tile_pixels(program % tiles, out_height, out_width, TILE_H, TILE_W)
    offset = tl.cast(y, tl.int64) * grad[3] + tl.cast(x, tl.int64) * grad[4]
    scale = tl.load(scales + sample * per_sample)
    share = sub_sample_share(sizes, T)
    for s in range(0, sizes[5] * sizes[6]):
        rows, columns = pixel_taps(
            maps, sample, y, x, s, exists, sizes, MAP, INTERPOLATION, TAPS, PADDING, ALIGN_CORNERS, T
        )
        for channel in range(0, channels):
            upstream = load_upstream(grad, color, sample, first_channel + channel, offset, exists, COLOR, T) * share
            plane = accumulators + (target * channels + channel) * height * width
            for j in tl.static_range(TAPS):
                for i in tl.static_range(TAPS):
                    units = (upstream * (rows[2][j] * columns[2][i])).to(tl.float64) * scale
                    units = tl.floor(tl.where(scale > 0.0, units, 0.0) + 0.5).to(tl.int64)
                    row = rows[0][j] - first_row
                    place = plane + tl.cast(row, tl.int64) * width + columns[0][i]
                    inside = rows[1][j] & columns[1][i] & (row >= 0) & (row < height) & (units != 0)
                    tl.atomic_add(place, units, mask=inside, sem="relaxed")


@triton.jit
def to_image_kernel(grad_image, accumulators, units, sizes, piece, count, BLOCK: tl.constexpr):
    """Fixed point to the dtype of the image; leaves the accumulators zero for the next piece."""
    channels, height, width = piece[3], piece[4], sizes[2]
    index = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = index < count
    x = index % width
    y = index // width % height + piece[2]
    channel = index // width // height % channels + piece[1]
    image = index // width // height // channels + piece[0]
    value = tl.load(accumulators + index, mask=exists, other=0).to(tl.float64)
    value *= tl.load(units + image, mask=exists, other=0.0)
    if grad_image[0].dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    pixel = grad_image[0] + image * grad_image[1] + channel * grad_image[2] + y * grad_image[3] + x * grad_image[4]
    tl.store(pixel, value.to(grad_image[0].dtype.element_ty), mask=exists)
    tl.store(accumulators + index, tl.zeros([BLOCK], tl.int64), mask=exists)


def fixed_point(grad: Tensor, color: Tensor | None, shared: bool) -> tuple[Tensor, Tensor]:
    """Units per one and its inverse, ``[B]``, or ``[1]`` for a shared image; 0 and NaN where there is no unit."""
    largest = torch.linalg.vector_norm(grad, float("inf"), dim=(1, 2, 3)).double()
    if color is not None:
        largest = largest * color[:, :, :-1].abs().sum(1).amax(1).double()
    pixels = grad.shape[2] * grad.shape[3]
    if shared:
        largest = largest.amax(0, keepdim=True)
        pixels *= grad.shape[0]
    finite = largest.isfinite()
    bits = 63 - SPARE_BITS - (pixels - 1).bit_length()
    exponents = torch.frexp(torch.where(finite, largest, 0.0)).exponent
    scales = torch.exp2((bits - exponents).clamp(max=1000).double())
    return torch.where(finite, scales, 0.0), torch.where(finite, 1.0 / scales, torch.nan)
