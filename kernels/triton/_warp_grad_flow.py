"""Gradient to the flow: first of every sub-sample's position, then gathered by the control points that shaped it.

The position gradients lie in scratch that holds some samples, or a band of rows of one, at a time. For a flow of the
output's own size they are the gradient, and are written there at once.
"""

import triton
import triton.language as tl

from hardfast._triton._warp_grad_map import position_gradient
from hardfast._triton._warp_map import control_taps, half_extent, pixel_ratio, sub_position, tile_pixels


@triton.jit
def grad_position_kernel(
    grad_positions,
    grad,
    image,
    maps,
    fill,
    color,
    sizes,
    first_sample,
    sharing,
    first_row,
    band_rows,
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
    """Gradients to the displacement, in normalised units, of a band of rows of sub-samples.

    ``sharing`` is how many samples are summed because they share the flow.
    """
    samples_y, samples_x = sizes[5], sizes[6]
    row_length = sizes[4] * samples_x
    tiles = tl.cdiv(band_rows, TILE_H) * tl.cdiv(row_length, TILE_W)
    program = tl.program_id(0)
    target = tl.cast(program // tiles, tl.int64)
    row, column, exists = tile_pixels(program % tiles, band_rows, row_length, TILE_H, TILE_W)
    fine_row = row + first_row
    sub_sample = fine_row % samples_y * samples_x + column % samples_x
    total_x = tl.zeros([TILE_H * TILE_W], tl.float64)
    total_y = tl.zeros([TILE_H * TILE_W], tl.float64)
    for k in range(0, sharing):
        grad_x, grad_y = position_gradient(
            grad,
            image,
            maps,
            fill,
            color,
            target + first_sample + k,
            fine_row // samples_y,
            column // samples_x,
            sub_sample,
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
        total_x += grad_x
        total_y += grad_y
    place = grad_positions + (target * 2 * band_rows + row) * row_length + column
    plane = tl.cast(band_rows, tl.int64) * row_length
    tl.store(place, (total_x * half_extent(sizes[2], ALIGN_CORNERS)).to(T), mask=exists)
    tl.store(place + plane, (total_y * half_extent(sizes[1], ALIGN_CORNERS)).to(T), mask=exists)


@triton.jit
def reached(control, count, out_length, samples, ALIGN_CORNERS: tl.constexpr, CUBIC: tl.constexpr):
    """The sub-samples (first, end) that a control value can reach; some more does not matter."""
    ratio = tl.maximum(pixel_ratio(count, out_length, ALIGN_CORNERS), 1e-30)
    place = tl.cast(control, tl.float64)
    if CUBIC:
        low, high = place - 2.0, place + 2.0
    else:
        low, high = place - 1.0, place + 1.0
    if ALIGN_CORNERS:
        low, high = low / ratio, high / ratio
    else:
        low, high = (low + 0.5) / ratio - 0.5, (high + 0.5) / ratio - 0.5
    per_pixel = tl.cast(samples, tl.float64)
    length = tl.cast(out_length, tl.float64) * per_pixel
    first = tl.floor((low + 0.5) * per_pixel - 0.5)
    end = tl.floor((high + 0.5) * per_pixel - 0.5) + 2.0
    first = tl.where(control == 0, 0.0, tl.minimum(tl.maximum(first, 0.0), length))
    end = tl.where(control == count - 1, length, tl.minimum(tl.maximum(end, 0.0), length))
    return first.to(tl.int32), end.to(tl.int32)


@triton.jit
def control_weight(
    control, fine, samples, count, out_length, ALIGN_CORNERS: tl.constexpr, CUBIC: tl.constexpr, TAPS: tl.constexpr
):
    """The weight of a control value in a sub-sample."""
    position = sub_position(fine // samples, fine % samples, samples)
    indices, weights = control_taps(position, count, out_length, ALIGN_CORNERS, CUBIC)
    weight = tl.where(indices[0] == control, weights[0], 0.0)
    for k in tl.static_range(1, TAPS):
        weight += tl.where(indices[k] == control, weights[k], 0.0)
    return weight


@triton.jit
def gather_kernel(
    grad_flow,
    grad_positions,
    sizes,
    rows,
    columns,
    first_row,
    band_rows,
    accumulate,
    INTERPOLATION: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    T: tl.constexpr,
    CONTROLS: tl.constexpr,
    LANES: tl.constexpr,
):
    """A program serves CONTROLS neighbours in a row of the control grid, each with LANES sub-samples at a time."""
    CUBIC: tl.constexpr = INTERPOLATION == "cubic_bspline"
    REACH: tl.constexpr = 4 if INTERPOLATION == "cubic_bspline" else 2
    samples_y, samples_x = sizes[5], sizes[6]
    row_length = sizes[4] * samples_x
    plane = tl.cast(band_rows, tl.int64) * row_length
    blocks = tl.cdiv(columns, CONTROLS)
    program = tl.program_id(0)
    control_row = program // blocks % rows
    target = tl.cast(program // blocks // rows, tl.int64)
    control = program % blocks * CONTROLS + tl.arange(0, CONTROLS)
    first, end = reached(control_row, rows, sizes[3], samples_y, ALIGN_CORNERS, CUBIC)
    first_x, end_x = reached(control, columns, sizes[4], samples_x, ALIGN_CORNERS, CUBIC)
    span = tl.max(tl.where(control < columns, end_x - first_x, 0), axis=0)
    total_x = tl.zeros([CONTROLS, LANES], tl.float64)
    total_y = tl.zeros([CONTROLS, LANES], tl.float64)
    for start in range(0, span, LANES):
        fine_x = first_x[:, None] + (start + tl.arange(0, LANES))[None, :]
        exists = (fine_x < end_x[:, None]) & (control < columns)[:, None]
        along_x = control_weight(control[:, None], fine_x, samples_x, columns, sizes[4], ALIGN_CORNERS, CUBIC, REACH)
        for fine_y in range(tl.maximum(first, first_row), tl.minimum(end, first_row + band_rows)):
            along_y = control_weight(control_row, fine_y, samples_y, rows, sizes[3], ALIGN_CORNERS, CUBIC, REACH)
            place = grad_positions + 2 * target * plane + tl.cast(fine_y - first_row, tl.int64) * row_length + fine_x
            weight = along_x * along_y
            total_x += weight * tl.load(place, mask=exists, other=0.0).to(tl.float64)
            total_y += weight * tl.load(place + plane, mask=exists, other=0.0).to(tl.float64)
    place = grad_flow + (target * 2 * rows + control_row) * columns + control
    plane_of_controls = tl.cast(rows, tl.int64) * columns
    before = control < tl.where(accumulate != 0, columns, 0)
    sum_x = tl.sum(total_x, axis=1) + tl.load(place, mask=before, other=0.0).to(tl.float64)
    sum_y = tl.sum(total_y, axis=1) + tl.load(place + plane_of_controls, mask=before, other=0.0).to(tl.float64)
    tl.store(place, sum_x.to(T), mask=control < columns)
    tl.store(place + plane_of_controls, sum_y.to(T), mask=control < columns)
