"""Where each output pixel of a warp reads its image: positions in input pixels, always in float64.

A position in float32 would lose a tenth of a pixel at a million of them. The price is a few dozen float64 operations
per output pixel (and a logarithm per control point of a thin plate), which GPUs with slow float64 units notice; what
follows the position is in the compute dtype.

Tuples that every kernel takes:
  sizes   (channels, height, width, out_height, out_width, samples_y, samples_x)
  maps    (first, second, first_batch, second_batch, count, width, channel, row, column): two pointers, their batch
          strides (0: shared by all samples), and K of a thin plate, or the height, width and strides of a flow
"""

import triton
import triton.language as tl


@triton.jit
def tile_pixels(tile, height, width, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Row, column and whether they exist, of the pixels of a tile."""
    tile_columns = (width + TILE_W - 1) // TILE_W
    lane = tl.arange(0, TILE_H * TILE_W)
    y = tile // tile_columns * TILE_H + lane // TILE_W
    x = tile % tile_columns * TILE_W + lane % TILE_W
    return y, x, (y < height) & (x < width)


@triton.jit
def sub_position(pixel, sub_sample, samples):
    """The fractional output position of a sub-sample: the pixel itself where there is one alone."""
    return tl.cast(pixel, tl.float64) + ((tl.cast(sub_sample, tl.float64) + 0.5) / tl.cast(samples, tl.float64) - 0.5)


@triton.jit
def from_centre(position, length):
    return position - 0.5 * (tl.cast(length, tl.float64) - 1.0)


@triton.jit
def half_extent(length, ALIGN_CORNERS: tl.constexpr):
    """Input pixels per unit of normalised position."""
    if ALIGN_CORNERS:
        return 0.5 * (tl.cast(length, tl.float64) - 1.0)
    else:
        return 0.5 * tl.cast(length, tl.float64)


@triton.jit
def pixel_ratio(length, out_length, ALIGN_CORNERS: tl.constexpr):
    """Pixels of an axis of ``length`` per pixel of one of ``out_length``: exactly 1 for equal lengths."""
    n = tl.cast(length, tl.float64)
    m = tl.cast(out_length, tl.float64)
    if ALIGN_CORNERS:
        return tl.where(m > 1.0, (n - 1.0) / tl.maximum(m - 1.0, 1.0), 0.0)
    else:
        return n / m


@triton.jit
def norm_step(out_length, ALIGN_CORNERS: tl.constexpr):
    """Normalised units per output pixel."""
    m = tl.cast(out_length, tl.float64)
    if ALIGN_CORNERS:
        return tl.where(m > 1.0, 2.0 / tl.maximum(m - 1.0, 1.0), 0.0)
    else:
        return 2.0 / m


@triton.jit
def load_double(pointer):
    return tl.load(pointer).to(tl.float64)


@triton.jit
def affine_axis(row, u, v, length, sizes, ALIGN_CORNERS: tl.constexpr):
    """One row of theta, in pixels from the centre of the image. From the centre, the identity is exact."""
    along_x = load_double(row) * pixel_ratio(length, sizes[4], ALIGN_CORNERS)
    along_y = load_double(row + 1) * pixel_ratio(length, sizes[3], ALIGN_CORNERS)
    return along_x * u + along_y * v + load_double(row + 2) * half_extent(length, ALIGN_CORNERS)


@triton.jit
def projective_divisor(row, u, v, sizes, ALIGN_CORNERS: tl.constexpr):
    along_x = load_double(row) * norm_step(sizes[4], ALIGN_CORNERS)
    along_y = load_double(row + 1) * norm_step(sizes[3], ALIGN_CORNERS)
    return along_x * u + along_y * v + load_double(row + 2)


@triton.jit
def control_taps(position, count, out_length, ALIGN_CORNERS: tl.constexpr, CUBIC: tl.constexpr):
    """Indices (clamped to the border) and weights of the control values around an output position."""
    ratio = pixel_ratio(count, out_length, ALIGN_CORNERS)
    if ALIGN_CORNERS:
        place = position * ratio
    else:
        place = (position + 0.5) * ratio - 0.5
    floor = tl.floor(place)
    t = place - floor
    base = floor.to(tl.int32)
    indices = ()
    if CUBIC:
        weights = (
            (1.0 - t) * (1.0 - t) * (1.0 - t) / 6.0,
            (t * t * (3.0 * t - 6.0) + 4.0) / 6.0,
            (((3.0 - 3.0 * t) * t + 3.0) * t + 1.0) / 6.0,
            t * t * t / 6.0,
        )
        for k in tl.static_range(4):
            indices = indices + (tl.minimum(tl.maximum(base + (k - 1), 0), count - 1),)
    else:
        weights = (1.0 - t, t)
        for k in tl.static_range(2):
            indices = indices + (tl.minimum(tl.maximum(base + k, 0), count - 1),)
    return indices, weights


@triton.jit
def flow_displacement(maps, sample, out_y, out_x, sizes, INTERPOLATION: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """The flow at an output position, in normalised units. "none" is a flow of the output's own size."""
    flow = maps[0] + sample * maps[2]
    if INTERPOLATION == "none":
        offset = tl.cast(out_y, tl.int64) * maps[7] + tl.cast(out_x, tl.int64) * maps[8]
        exists = (out_y < sizes[3]) & (out_x < sizes[4])
        dx = tl.load(flow + offset, mask=exists, other=0.0).to(tl.float64)
        dy = tl.load(flow + maps[6] + offset, mask=exists, other=0.0).to(tl.float64)
    else:
        CUBIC: tl.constexpr = INTERPOLATION == "cubic_bspline"
        TAPS: tl.constexpr = 4 if INTERPOLATION == "cubic_bspline" else 2
        rows, weights_y = control_taps(out_y, maps[4], sizes[3], ALIGN_CORNERS, CUBIC)
        columns, weights_x = control_taps(out_x, maps[5], sizes[4], ALIGN_CORNERS, CUBIC)
        dx = tl.zeros_like(out_y)
        dy = tl.zeros_like(out_y)
        for j in tl.static_range(TAPS):
            for i in tl.static_range(TAPS):
                offset = tl.cast(rows[j], tl.int64) * maps[7] + tl.cast(columns[i], tl.int64) * maps[8]
                weight = weights_y[j] * weights_x[i]
                dx += weight * load_double(flow + offset)
                dy += weight * load_double(flow + maps[6] + offset)
    return dx, dy


@triton.jit
def radial(r2):
    """phi(r^2) = r^2 log r^2 and its derivative by r^2, both 0 at 0."""
    logarithm = tl.where(r2 > 0.0, tl.log(tl.where(r2 > 0.0, r2, 1.0)), 0.0)
    return r2 * logarithm, tl.where(r2 > 0.0, logarithm + 1.0, 0.0)


@triton.jit
def thin_plate_position(maps, sample, x_norm, y_norm):
    """The spline at a normalised output position, in normalised input units."""
    points = maps[0] + sample * maps[2]
    weights = maps[1] + sample * maps[3]
    count = maps[4]
    affine = weights + 2 * count
    fx = load_double(affine) + load_double(affine + 2) * x_norm + load_double(affine + 4) * y_norm
    fy = load_double(affine + 1) + load_double(affine + 3) * x_norm + load_double(affine + 5) * y_norm
    for k in range(0, count):
        dx = x_norm - load_double(points + 2 * k)
        dy = y_norm - load_double(points + 2 * k + 1)
        phi, _ = radial(dx * dx + dy * dy)
        fx += load_double(weights + 2 * k) * phi
        fy += load_double(weights + 2 * k + 1) * phi
    return fx, fy


@triton.jit
def input_position(
    maps,
    sample,
    out_y,
    out_x,
    sizes,
    MAP: tl.constexpr,
    INTERPOLATION: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
):
    """The position (x, y) in input pixels of each output position, before padding; float64."""
    height, width = sizes[1], sizes[2]
    u = from_centre(out_x, sizes[4])
    v = from_centre(out_y, sizes[3])
    if MAP == "affine":
        row = maps[0] + sample * maps[2]
        x = affine_axis(row, u, v, width, sizes, ALIGN_CORNERS)
        y = affine_axis(row + 3, u, v, height, sizes, ALIGN_CORNERS)
    elif MAP == "projective":
        row = maps[0] + sample * maps[2]
        inverse = 1.0 / projective_divisor(row + 6, u, v, sizes, ALIGN_CORNERS)
        x = affine_axis(row, u, v, width, sizes, ALIGN_CORNERS) * inverse
        y = affine_axis(row + 3, u, v, height, sizes, ALIGN_CORNERS) * inverse
    elif MAP == "flow":
        dx, dy = flow_displacement(maps, sample, out_y, out_x, sizes, INTERPOLATION, ALIGN_CORNERS)
        x = u * pixel_ratio(width, sizes[4], ALIGN_CORNERS) + dx * half_extent(width, ALIGN_CORNERS)
        y = v * pixel_ratio(height, sizes[3], ALIGN_CORNERS) + dy * half_extent(height, ALIGN_CORNERS)
    else:
        x_norm = u * norm_step(sizes[4], ALIGN_CORNERS)
        y_norm = v * norm_step(sizes[3], ALIGN_CORNERS)
        fx, fy = thin_plate_position(maps, sample, x_norm, y_norm)
        x = fx * half_extent(width, ALIGN_CORNERS)
        y = fy * half_extent(height, ALIGN_CORNERS)
    return x + 0.5 * (tl.cast(width, tl.float64) - 1.0), y + 0.5 * (tl.cast(height, tl.float64) - 1.0)
