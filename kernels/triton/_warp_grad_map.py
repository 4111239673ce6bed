"""Gradients of the affine, projective and thin-plate maps: sums over the output pixels of a sample.

A program walks over every ``strips``-th tile of one sample with its sums in registers and leaves them as one row of
``partials``; ``_warp_reduce`` joins the rows. Products with positions and sums are in float64.
"""

import triton
import triton.language as tl

from hardfast._triton._warp_map import (
    affine_axis,
    from_centre,
    half_extent,
    norm_step,
    pixel_ratio,
    projective_divisor,
    radial,
    sub_position,
    tile_pixels,
)
from hardfast._triton._warp_sample import (
    load_outside,
    load_upstream,
    pixel_taps,
    position_slopes,
    sub_sample_share,
    zeros_tuple,
)


@triton.jit
def position_gradient(
    grad,
    image,
    maps,
    fill,
    color,
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
    COLOR: tl.constexpr,
    T: tl.constexpr,
):
    """The gradient to the input position (x, y) in pixels of one sub-sample; 0 for pixels that do not exist."""
    rows, columns = pixel_taps(
        maps, sample, y, x, sub_sample, exists, sizes, MAP, INTERPOLATION, TAPS, PADDING, ALIGN_CORNERS, T
    )
    offset = tl.cast(y, tl.int64) * grad[3] + tl.cast(x, tl.int64) * grad[4]
    grad_x = tl.zeros(y.shape, T)
    grad_y = tl.zeros(y.shape, T)
    for channel in range(0, sizes[0]):
        outside = load_outside(fill, sample, channel, PADDING, T)
        slope_x, slope_y = position_slopes(image, sample, channel, rows, columns, outside, TAPS, T)
        upstream = load_upstream(grad, color, sample, channel, offset, exists, COLOR, T)
        grad_x += upstream * slope_x
        grad_y += upstream * slope_y
    share = sub_sample_share(sizes, T)
    grad_x = tl.where(exists, grad_x * share, 0.0)
    grad_y = tl.where(exists, grad_y * share, 0.0)
    return grad_x.to(tl.float64), grad_y.to(tl.float64)


@triton.jit
def add_moments(sums, first: tl.constexpr, value, u, v):
    """Adds value * (u, v, 1) to three of the sums."""
    moments = (value * u, value * v, value)
    result = ()
    for k in tl.static_range(len(sums)):
        if k >= first and k < first + 3:
            result = result + (sums[k] + moments[k - first],)
        else:
            result = result + (sums[k],)
    return result


@triton.jit
def entry_unit(k: tl.constexpr, sizes, ALIGN_CORNERS: tl.constexpr):
    """What entry k of a matrix is multiplied by besides (u, v, 1): see ``affine_axis``."""
    if k == 8:
        unit = tl.full((), 1.0, tl.float64)
    elif k // 3 == 2:
        unit = norm_step(sizes[4 - k % 3], ALIGN_CORNERS)
    elif k % 3 == 2:
        unit = half_extent(sizes[2 - k // 3], ALIGN_CORNERS)
    else:
        unit = pixel_ratio(sizes[2 - k // 3], sizes[4 - k % 3], ALIGN_CORNERS)
    return unit


@triton.jit
def grad_matrix_kernel(
    partials,
    grad,
    image,
    maps,
    fill,
    color,
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
    """The six entries of theta or the nine of a homography, row by row."""
    COUNT: tl.constexpr = 9 if MAP == "projective" else 6
    height, width, out_height, out_width = sizes[1], sizes[2], sizes[3], sizes[4]
    tiles = tl.cdiv(out_height, TILE_H) * tl.cdiv(out_width, TILE_W)
    program = tl.program_id(0)
    sample = tl.cast(program // strips, tl.int64)
    sums = zeros_tuple(COUNT, TILE_H * TILE_W, tl.float64)
    for tile in range(program % strips, tiles, strips):
        y, x, exists = tile_pixels(tile, out_height, out_width, TILE_H, TILE_W)
        for s in range(0, sizes[5] * sizes[6]):
            grad_x, grad_y = position_gradient(
                grad,
                image,
                maps,
                fill,
                color,
                sample,
                y,
                x,
                s,
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
            u = from_centre(sub_position(x, s % sizes[6], sizes[6]), out_width)
            v = from_centre(sub_position(y, s // sizes[6], sizes[5]), out_height)
            if MAP == "projective":
                matrix = maps[0] + sample * maps[2]
                z = projective_divisor(matrix + 6, u, v, sizes, ALIGN_CORNERS)
                finite = tl.abs(z) > 1e-100  # a position at infinity has no gradient
                inverse = tl.where(finite, 1.0 / tl.where(finite, z, 1.0), 0.0)
                grad_x *= inverse
                grad_y *= inverse
                across = affine_axis(matrix, u, v, width, sizes, ALIGN_CORNERS) * inverse
                down = affine_axis(matrix + 3, u, v, height, sizes, ALIGN_CORNERS) * inverse
                sums = add_moments(sums, 6, -(grad_x * across + grad_y * down), u, v)
            sums = add_moments(sums, 0, grad_x, u, v)
            sums = add_moments(sums, 3, grad_y, u, v)
    row = partials + tl.cast(program, tl.int64) * COUNT
    for k in tl.static_range(COUNT):
        tl.store(row + k, tl.sum(sums[k], axis=0) * entry_unit(k, sizes, ALIGN_CORNERS))


@triton.jit
def grad_spline_kernel(
    partials,
    grad,
    image,
    maps,
    fill,
    color,
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
    POINTS: tl.constexpr,
):
    """Control points (K rows x, y) and then weights (K + 3 rows x, y) of thin plates.

    A program serves POINTS of the control points, so that any number of them fits the registers; the first of them
    also the affine part.
    """
    height, width, out_height, out_width = sizes[1], sizes[2], sizes[3], sizes[4]
    tiles = tl.cdiv(out_height, TILE_H) * tl.cdiv(out_width, TILE_W)
    count = maps[4]
    chunks = tl.cdiv(count, POINTS)
    program = tl.program_id(0)
    chunk = program % chunks
    strip = program // chunks % strips
    sample = tl.cast(program // chunks // strips, tl.int64)
    k = chunk * POINTS + tl.arange(0, POINTS)
    served = k < count
    points = maps[0] + sample * maps[2]
    weights = maps[1] + sample * maps[3]
    point_x = tl.load(points + 2 * k, mask=served, other=0.0).to(tl.float64)
    point_y = tl.load(points + 2 * k + 1, mask=served, other=0.0).to(tl.float64)
    weight_x = tl.load(weights + 2 * k, mask=served, other=0.0).to(tl.float64)
    weight_y = tl.load(weights + 2 * k + 1, mask=served, other=0.0).to(tl.float64)
    grad_point_x = tl.zeros([POINTS], tl.float64)
    grad_point_y = tl.zeros([POINTS], tl.float64)
    grad_weight_x = tl.zeros([POINTS], tl.float64)
    grad_weight_y = tl.zeros([POINTS], tl.float64)
    sums = zeros_tuple(6, TILE_H * TILE_W, tl.float64)
    for tile in range(strip, tiles, strips):
        y, x, exists = tile_pixels(tile, out_height, out_width, TILE_H, TILE_W)
        for s in range(0, sizes[5] * sizes[6]):
            grad_x, grad_y = position_gradient(
                grad,
                image,
                maps,
                fill,
                color,
                sample,
                y,
                x,
                s,
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
            grad_x = grad_x * half_extent(width, ALIGN_CORNERS)
            grad_y = grad_y * half_extent(height, ALIGN_CORNERS)
            out_x = from_centre(sub_position(x, s % sizes[6], sizes[6]), out_width)
            out_y = from_centre(sub_position(y, s // sizes[6], sizes[5]), out_height)
            x_norm = out_x * norm_step(out_width, ALIGN_CORNERS)
            y_norm = out_y * norm_step(out_height, ALIGN_CORNERS)
            sums = add_moments(sums, 0, grad_x, x_norm, y_norm)
            sums = add_moments(sums, 3, grad_y, x_norm, y_norm)
            dx = x_norm[:, None] - point_x[None, :]
            dy = y_norm[:, None] - point_y[None, :]
            phi, slope = radial(dx * dx + dy * dy)
            along_x, along_y = grad_x[:, None], grad_y[:, None]
            grad_weight_x += tl.sum(along_x * phi, axis=0)
            grad_weight_y += tl.sum(along_y * phi, axis=0)
            pull = -2.0 * (along_x * weight_x[None, :] + along_y * weight_y[None, :]) * slope
            grad_point_x += tl.sum(pull * dx, axis=0)
            grad_point_y += tl.sum(pull * dy, axis=0)
    row = partials + (sample * strips + strip) * (4 * count + 6)
    tl.store(row + 2 * k, grad_point_x, mask=served)
    tl.store(row + 2 * k + 1, grad_point_y, mask=served)
    tl.store(row + 2 * count + 2 * k, grad_weight_x, mask=served)
    tl.store(row + 2 * count + 2 * k + 1, grad_weight_y, mask=served)
    if chunk == 0:
        affine = row + 4 * count
        for i in tl.static_range(3):
            # The rows of the affine part are 1, x, y; the sums are by x, y, 1.
            tl.store(affine + 2 * i, tl.sum(sums[(i + 2) % 3], axis=0))
            tl.store(affine + 2 * i + 1, tl.sum(sums[3 + (i + 2) % 3], axis=0))
