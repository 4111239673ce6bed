"""Padding, interpolation weights and reads: what happens around one input position.

Every mode is a product of two axes with 1 (nearest), 2 (bilinear) or 4 (bicubic) taps each: ``TAPS``. An axis is a
tuple of (indices, inside, weights, slopes), one entry a tap, where ``slopes`` are the derivatives of the weights.
"""

import triton
import triton.language as tl

from hardfast._triton._warp_map import input_position, sub_position


@triton.jit
def zeros_tuple(COUNT: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr):
    values = ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.zeros([BLOCK], T),)
    return values


@triton.jit
def sub_sample_share(sizes, T: tl.constexpr):
    """The weight of one sub-sample in its output pixel."""
    return (1.0 / tl.cast(sizes[5] * sizes[6], tl.float64)).to(T)


@triton.jit
def clip_position(x, last):
    """Clips to 0..last; the slope is 0 there, the limits included, and NaN becomes 0."""
    slope = tl.where((x > 0.0) & (x < last), 1.0, 0.0)
    above = tl.where(x > 0.0, x, 0.0)
    return tl.where(above < last, above, last), slope


@triton.jit
def pad_position(x, length, PADDING: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """The position after padding, and its derivative."""
    n = tl.cast(length, tl.float64)
    if PADDING == "border":
        position, slope = clip_position(x, n - 1.0)
    elif PADDING == "reflection":
        if ALIGN_CORNERS:
            low = 0.0
            span = tl.maximum(n - 1.0, 1.0)
        else:
            low = -0.5
            span = n
        distance = tl.abs(x - low)
        turns = tl.floor(distance / span)
        odd = turns - 2.0 * tl.floor(turns * 0.5) != 0.0
        rest = distance - turns * span
        position, slope = clip_position(tl.where(odd, span - rest, rest) + low, n - 1.0)
        slope = tl.where(odd != (x < low), -slope, slope)
    else:
        position = x
        slope = tl.full(x.shape, 1.0, tl.float64)
    return position, slope


@triton.jit
def whole(x, length):
    """A whole position as an index, kept within four pixels of the image; NaN is before it."""
    n = tl.cast(length, tl.float64)
    above = tl.where(x > -4.0, x, -4.0)
    return tl.where(above < n + 3.0, above, n + 3.0).to(tl.int32)


@triton.jit
def round_half_even(x):
    floor = tl.floor(x)
    rest = x - floor
    odd = floor - 2.0 * tl.floor(floor * 0.5) != 0.0
    return tl.where((rest > 0.5) | ((rest == 0.5) & odd), floor + 1.0, floor)


@triton.jit
def fraction(x, floor, T: tl.constexpr):
    """The part behind the point; 0 for positions that are not finite, so that they spread no NaN."""
    return tl.where(tl.abs(x) < 1e18, x - floor, 0.0).to(T)


@triton.jit
def near_weight(x):
    """Keys' kernel with a = -0.75 and its derivative, 0 <= x <= 1."""
    return (1.25 * x - 2.25) * x * x + 1.0, (3.75 * x - 4.5) * x


@triton.jit
def far_weight(x):
    """The same at 1 + x, which this form keeps exact near its zeros."""
    rest = 1.0 - x
    return -0.75 * x * rest * rest, -0.75 * rest * (1.0 - 3.0 * x)


@triton.jit
def bicubic_index(floor, base, offset: tl.constexpr, length, PADDING: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """The pixel that a bicubic tap reads: padding applies to each tap, which lies at a whole position."""
    if PADDING == "border":
        index = tl.minimum(tl.maximum(base + offset, 0), length - 1)
    elif PADDING == "reflection":
        if ALIGN_CORNERS:
            period = tl.maximum(2 * length - 2, 1)
            mirror = 2 * length - 2
        else:
            period = tl.maximum(2 * length, 1)
            mirror = 2 * length - 1
        p = tl.cast(period, tl.float64)
        rest = floor - tl.floor(floor / p) * p
        rest = tl.where(rest > 0.0, rest, 0.0)
        index = tl.where(rest < p, rest, 0.0).to(tl.int32) + offset
        index = tl.where(index < 0, index + period, index)
        index = tl.where(index >= period, index - period, index)
        index = tl.where(index < length, index, mirror - index)
        index = tl.minimum(tl.maximum(index, 0), length - 1)
    else:
        index = base + offset
    return index


@triton.jit
def axis_taps(
    x,
    length,
    exists,
    TAPS: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    T: tl.constexpr,
):
    """The taps of one axis around positions in pixels; none is inside where ``exists`` is false."""
    if TAPS == 4:
        floor = tl.floor(x)
        t = fraction(x, floor, T)
        base = whole(floor, length)
        first, first_slope = far_weight(t)
        second, second_slope = near_weight(t)
        third, third_slope = near_weight(1.0 - t)
        fourth, fourth_slope = far_weight(1.0 - t)
        weights = (first, second, third, fourth)
        slopes = (first_slope, second_slope, -third_slope, -fourth_slope)
        indices = ()
        for k in tl.static_range(4):
            indices = indices + (bicubic_index(floor, base, k - 1, length, PADDING, ALIGN_CORNERS),)
    elif TAPS == 2:
        position, slope = pad_position(x, length, PADDING, ALIGN_CORNERS)
        slope = slope.to(T)
        floor = tl.floor(position)
        t = fraction(position, floor, T)
        base = whole(floor, length)
        weights = (1.0 - t, t)
        slopes = (-slope, slope)
        indices = (base, base + 1)
    else:
        position, _ = pad_position(x, length, PADDING, ALIGN_CORNERS)
        indices = (whole(round_half_even(position), length),)
        weights = (tl.full(x.shape, 1.0, T),)
        slopes = (tl.zeros(x.shape, T),)
    inside = ()
    for k in tl.static_range(TAPS):
        inside = inside + (exists & (indices[k] >= 0) & (indices[k] < length),)
    return indices, inside, weights, slopes


@triton.jit
def pixel_taps(
    maps,
    sample,
    y,
    x,
    sub_sample,
    exists,
    sizes,
    MAP: tl.constexpr,
    INTERPOLATION: tl.constexpr,
    TAPS: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    T: tl.constexpr,
):
    """The taps of both axes, rows and columns, around what a sub-sample of an output pixel reads."""
    out_y = sub_position(y, sub_sample // sizes[6], sizes[5])
    out_x = sub_position(x, sub_sample % sizes[6], sizes[6])
    position_x, position_y = input_position(maps, sample, out_y, out_x, sizes, MAP, INTERPOLATION, ALIGN_CORNERS)
    rows = axis_taps(position_y, sizes[1], exists, TAPS, PADDING, ALIGN_CORNERS, T)
    columns = axis_taps(position_x, sizes[2], exists, TAPS, PADDING, ALIGN_CORNERS, T)
    return rows, columns


@triton.jit
def load_outside(fill, sample, channel, PADDING: tl.constexpr, T: tl.constexpr):
    """What lies outside the image in one channel."""
    if PADDING == "fill":
        return tl.load(fill[0] + sample * fill[1] + channel).to(T)
    else:
        return tl.full((), 0.0, T)


@triton.jit
def load_tap(channel_image, image, rows, columns, j: tl.constexpr, i: tl.constexpr, outside, T: tl.constexpr):
    inside = rows[1][j] & columns[1][i]
    offset = tl.cast(rows[0][j], tl.int64) * image[3] + tl.cast(columns[0][i], tl.int64) * image[4]
    return tl.where(inside, tl.load(channel_image + offset, mask=inside, other=0).to(T), outside)


@triton.jit
def interpolate(image, sample, channel, rows, columns, outside, TAPS: tl.constexpr, T: tl.constexpr):
    """The image at one position, in one channel."""
    channel_image = image[0] + sample * image[1] + tl.cast(channel, tl.int64) * image[2]
    value = tl.zeros(rows[2][0].shape, T)
    for j in tl.static_range(TAPS):
        along_x = tl.zeros(rows[2][0].shape, T)
        for i in tl.static_range(TAPS):
            along_x += columns[2][i] * load_tap(channel_image, image, rows, columns, j, i, outside, T)
        value += rows[2][j] * along_x
    return value


@triton.jit
def position_slopes(image, sample, channel, rows, columns, outside, TAPS: tl.constexpr, T: tl.constexpr):
    """The derivatives of ``interpolate`` by the position (x, y) in pixels."""
    channel_image = image[0] + sample * image[1] + tl.cast(channel, tl.int64) * image[2]
    slope_x = tl.zeros(rows[2][0].shape, T)
    slope_y = tl.zeros(rows[2][0].shape, T)
    for j in tl.static_range(TAPS):
        along_x = tl.zeros(rows[2][0].shape, T)
        change_x = tl.zeros(rows[2][0].shape, T)
        for i in tl.static_range(TAPS):
            tap = load_tap(channel_image, image, rows, columns, j, i, outside, T)
            along_x += columns[2][i] * tap
            change_x += columns[3][i] * tap
        slope_x += rows[2][j] * change_x
        slope_y += rows[3][j] * along_x
    return slope_x, slope_y


@triton.jit
def outside_weight(rows, columns, TAPS: tl.constexpr, T: tl.constexpr):
    """The weight of the taps outside the image: exactly 0 where all are inside."""
    beside = tl.zeros(rows[2][0].shape, T)
    across = tl.zeros(rows[2][0].shape, T)
    for i in tl.static_range(TAPS):
        across += columns[2][i]
        beside += tl.where(columns[1][i], 0.0, columns[2][i])
    weight = tl.zeros(rows[2][0].shape, T)
    for j in tl.static_range(TAPS):
        weight += rows[2][j] * tl.where(rows[1][j], beside, across)
    return weight


@triton.jit
def load_upstream(grad, color, sample, channel, offset, exists, COLOR: tl.constexpr, T: tl.constexpr):
    """The gradient to a sampled channel: that of the output, brought back through the colour matrix if there is one.

    ``COLOR`` is the number of channels that the matrix mixes, 0 without one.
    """
    pixel = grad[0] + sample * grad[1] + offset
    if COLOR > 0:
        value = tl.zeros(offset.shape, T)
        for k in tl.static_range(COLOR):
            factor = tl.load(color[0] + sample * color[1] + k * (COLOR + 1) + channel).to(T)
            value += factor * tl.load(pixel + k * tl.cast(grad[2], tl.int64), mask=exists, other=0).to(T)
    else:
        value = tl.load(pixel + tl.cast(channel, tl.int64) * grad[2], mask=exists, other=0).to(T)
    return value
