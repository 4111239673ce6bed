"""The warps under the conventions of kornia and OpenCV, and the conversions between those and hardfast's own.

This page is the one place where the conventions of hardfast's spatial ops are written down; tests pin them to
kornia, OpenCV and torchvision.

Positions
    A point is ``(x, y)``, x to the right and y down; a size is ``(height, width)``. There are three systems:

    - *Pixels*: the centre of the top left pixel is ``(0, 0)``, that of the bottom right one ``(W - 1, H - 1)``.
      kornia, OpenCV, and everything called ``_px`` or ``pixels`` here.
    - *Normalised*: the image covers ``[-1, 1]`` along both axes. With ``align_corners=False`` these are its outer
      edges, so that pixel x lies at ``(2 x + 1) / W - 1``; with ``align_corners=True`` they are the centres of its
      outermost pixels, ``2 x / (W - 1) - 1``. Along an axis of one pixel, ``align_corners=True`` puts that pixel
      at 0. hardfast's warps and ``F.grid_sample``.
    - *Corner pixels*: the outer corner of the top left pixel is ``(0, 0)``, so that its centre is
      ``(0.5, 0.5)``: pixels plus one half. torchvision's ``center`` of an affine map and its points of a
      perspective map, hence also those of :mod:`hardfast.transforms`.

Direction
    - ``theta [., 2, 3]`` and ``homography [., 3, 3]`` map *output to input*, both normalised, like
      ``F.affine_grid``: what is read where. ``flow [., 2, h, w]`` is added to the output's own position, channel 0
      along x, and gives the input position, normalised: positive x reads further right, so content moves left.
    - ``M [., 2, 3]`` or ``[., 3, 3]`` maps *source (input) to destination (output)*, both in pixels, like
      ``kornia.geometry.warp_affine`` and ``cv2.warpAffine`` (without ``WARP_INVERSE_MAP``): what goes where.
    - Translations, scales, angles and shears in the functions that build ``M``, and in :mod:`hardfast.transforms`,
      say what happens to the content: a translation of ``(3, 1)`` moves it 3 pixels right and 1 down, a scale of 2
      enlarges it.

Angles
    In degrees. Positive is counter-clockwise as seen in :func:`get_rotation_matrix2d` (as in kornia and OpenCV), and
    clockwise as seen in :func:`get_affine_matrix2d` (as in kornia) and in :class:`hardfast.transforms.RandomAffine`
    (as in torchvision). A shear is an angle too: by ``sx``, x loses ``tan(sx)`` times the distance below the
    centre, then by ``sy``, y loses ``tan(sy)`` times the distance right of it. kornia has shears in radians,
    torchvision in degrees. Shear comes first, then scale, rotation about ``center``, and translation.

The conversions compute in float64, so they need a device that has it, and return the dtype of their argument; they
are differentiable in both directions and never wait for the device. A matrix without an inverse gives values that are
not finite, or an error from the warp where it inspects them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardfast.ops import _checks, affine_warp, flow_warp, projective_warp
from hardfast.ops._warp import height_width
from hardfast.reference._sampling import compute_dtype

Size = Sequence[int]


def warp_affine(
    src: Tensor,
    M: Tensor,  # noqa: N803 (kornia's name)
    dsize: Size,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    fill_value: float | Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Moves images by affine maps between pixels, as ``kornia.geometry.warp_affine`` does.

    Equivalent to ``affine_warp(src, theta_from_matrix(M, src.shape[-2:], dsize), dsize, ...)``.

    Args:
        src: ``[B or 1, C, H, W]``, any dtype that :func:`hardfast.affine_warp` takes.
        M: ``[B or 1, 2, 3]``, floating point, source pixels to destination pixels; invertible.
        dsize: ``(height, width)`` of the output in pixels.
        mode: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
        padding_mode: ``"zeros"``, ``"border"``, ``"reflection"`` or ``"fill"``.
        align_corners: matters for ``"reflection"`` alone, which mirrors at the centres of the outermost pixels if
            true and at the edges of the image otherwise; ``M`` is in pixels in either case.
        fill_value: the value outside for ``"fill"`` (0 if None), else unused: a number, ``[1]``, ``[C]``, ``[B, C]``
            or ``[B, C, 1, 1]``.

    Returns:
        ``[B, C, *dsize]`` in the dtype of ``src``.

    Gradients, memory and errors: as :func:`hardfast.affine_warp`; gradients also reach ``M``.
    """
    _check_matrix("M", M, 2)
    dsize = height_width("dsize", dsize)
    theta = theta_from_matrix(M.double(), src.shape[-2:], dsize, align_corners=align_corners)
    _checks.finite("the inverse of M", theta)
    fill = _fill(fill_value) if padding_mode == "fill" else None
    return affine_warp(
        src,
        theta.to(compute_dtype(src)),
        dsize,
        mode=mode,
        padding_mode=padding_mode,
        align_corners=align_corners,
        fill=fill,
    )


def warp_perspective(
    src: Tensor,
    M: Tensor,  # noqa: N803 (kornia's name)
    dsize: Size,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    fill_value: float | Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Moves images by projective maps between pixels, as ``kornia.geometry.warp_perspective`` does.

    Equivalent to ``projective_warp(src, homography_from_matrix(M, src.shape[-2:], dsize), dsize, ...)``.

    Args:
        src: as in :func:`warp_affine`, like all other arguments but this:
        M: ``[B or 1, 3, 3]``, floating point, source pixels to destination pixels; invertible. A multiple of it
            is the same map.

    Returns:
        ``[B, C, *dsize]`` in the dtype of ``src``.

    Gradients, memory and errors: as :func:`hardfast.projective_warp`; gradients also reach ``M``.
    """
    _check_matrix("M", M, 3)
    dsize = height_width("dsize", dsize)
    homography = homography_from_matrix(M.double(), src.shape[-2:], dsize, align_corners=align_corners)
    _checks.finite("the inverse of M", homography)
    fill = _fill(fill_value) if padding_mode == "fill" else None
    return projective_warp(
        src,
        homography.to(compute_dtype(src)),
        dsize,
        mode=mode,
        padding_mode=padding_mode,
        align_corners=align_corners,
        fill=fill,
    )


def remap(
    image: Tensor,
    map_x: Tensor,
    map_y: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    normalized_coordinates: bool = False,
) -> Tensor:
    """Reads images at given positions, as ``cv2.remap`` and ``kornia.geometry.remap`` do.

    Equivalent to ``F.grid_sample(image, grid, mode, padding_mode, align_corners)`` with the grid at
    ``(map_x, map_y)``. Pixels are pixels under either ``align_corners`` (kornia's are only under ``True``, which is
    not its default).

    Args:
        image: ``[B or 1, C, H, W]``, any dtype that :func:`hardfast.flow_warp` takes.
        map_x, map_y: ``[B or 1, h, w]``, floating point, input position of each output pixel, in pixels.
        mode, padding_mode, align_corners: as in :func:`warp_affine`, without ``"fill"``.
        normalized_coordinates: whether the maps are normalised instead.

    Returns:
        ``[B, C, h, w]`` in the dtype of ``image``.

    Gradients: as :func:`hardfast.flow_warp`; they also reach the maps. Memory: one copy of the maps.
    """
    _checks.floating_tensor("map_x", map_x)
    _checks.floating_tensor("map_y", map_y)
    if map_x.dim() != 3 or map_x.shape != map_y.shape:
        raise ValueError(
            f"map_x and map_y must have one shape [B, h, w], got {list(map_x.shape)} and {list(map_y.shape)}"
        )
    dtype = compute_dtype(image)
    in_size, out_size = image.shape[-2:], map_x.shape[-2:]
    flow = []
    for axis, positions in ((1, map_x), (0, map_y)):
        centre_in, half_in = _axis(in_size[axis], align_corners)
        centre_out, half_out = _axis(out_size[axis], align_corners)
        steps = torch.arange(out_size[axis], dtype=dtype, device=image.device)
        own_norm = (steps - centre_out) / half_out
        own_norm = own_norm[:, None] if axis == 0 else own_norm
        if normalized_coordinates:
            flow.append(positions.to(dtype) - own_norm)
        else:
            # The identity is subtracted in pixels, where it is exact for equal sizes.
            flow.append((positions.to(dtype) - (own_norm * half_in + centre_in)) / half_in)
    return flow_warp(
        image,
        torch.stack(flow, 1),
        out_size,
        mode=mode,
        padding_mode=padding_mode,
        align_corners=align_corners,
    )


def get_rotation_matrix2d(center: Tensor, angle: Tensor, scale: Tensor) -> Tensor:
    """Gives the matrices that scale, then rotate, about a centre, as kornia and OpenCV do.

    Equivalent to ``kornia.geometry.get_rotation_matrix2d(center, angle, scale)``.

    Args:
        center: ``[B, 2]``, (x, y) in pixels.
        angle: ``[B]``, degrees, positive counter-clockwise as seen.
        scale: ``[B, 2]``, along x and y, positive enlarges.

    Returns:
        ``[B, 2, 3]``, source to destination, in pixels. Batches of 1 are shared. Gradients reach all arguments.
    """
    for name, value in (("center", center), ("angle", angle), ("scale", scale)):
        _checks.floating_tensor(name, value)
    return _about(_rotation(-angle.double()) * scale.double()[..., None, :], center.double()).to(center.dtype)


def get_affine_matrix2d(
    translations: Tensor,
    center: Tensor,
    scale: Tensor,
    angle: Tensor,
    sx: Tensor | None = None,
    sy: Tensor | None = None,
) -> Tensor:
    """Gives the matrices that shear, scale and rotate about a centre, then translate, as kornia and torchvision do.

    Equivalent to ``kornia.geometry.get_affine_matrix2d(translations, center, scale, angle, sx, sy)``.

    Args:
        translations: ``[B, 2]``, (x, y) in pixels.
        center: ``[B, 2]``, (x, y) in pixels.
        scale: ``[B, 2]``, along x and y, positive enlarges.
        angle: ``[B]``, degrees, positive clockwise as seen.
        sx, sy: ``[B]``, angles of shear in radians; 0 if None.

    Returns:
        ``[B, 3, 3]``, source to destination, in pixels, with the last row (0, 0, 1). Batches of 1 are shared. Gradients
        reach all arguments.
    """
    arguments = {"translations": translations, "center": center, "scale": scale, "angle": angle, "sx": sx, "sy": sy}
    for name, value in arguments.items():
        if value is not None:
            _checks.floating_tensor(name, value)
    linear = _rotation(angle.double()) * scale.double()[..., None, :]
    if sx is not None or sy is not None:
        tan_x = torch.zeros_like(angle, dtype=torch.float64) if sx is None else sx.double().tan()
        tan_y = torch.zeros_like(tan_x) if sy is None else sy.double().tan()
        one = torch.ones_like(tan_x * tan_y)
        linear = linear @ _matrix([[one, -tan_x * one], [-tan_y * one, 1 + tan_x * tan_y]])
    return _square(_about(linear, center.double(), translations.double())).to(center.dtype)


def get_perspective_transform(points_src: Tensor, points_dst: Tensor) -> Tensor:
    """Gives the projective maps that take four points to four others, as kornia and OpenCV do.

    Equivalent to ``kornia.geometry.get_perspective_transform(points_src, points_dst)``.

    Args:
        points_src: ``[B, 4, 2]``, (x, y), no three on a line.
        points_dst: ``[B, 4, 2]``, where they go.

    Returns:
        ``[B, 3, 3]``, source to destination, scaled so that the last entry is 1. Batches of 1 are shared. Gradients
        reach both arguments.

    Source: Heckbert, Fundamentals of Texture Mapping and Image Warping, 1989, section 2.2.3, with four points in
    general position as the projective basis in place of the unit square.
    """
    bases = []
    for name, points in (("points_src", points_src), ("points_dst", points_dst)):
        _checks.floating_tensor(name, points)
        if points.dim() != 3 or points.shape[1:] != (4, 2):
            raise ValueError(f"{name} must have shape [B, 4, 2], got {list(points.shape)}")
        wide = points.double()
        homogeneous = torch.cat([wide, torch.ones_like(wide[..., :1])], -1).mT  # [B, 3, 4], a point a column
        basis, fourth = homogeneous[..., :3], homogeneous[..., 3:]
        adjugate = _adjugate(basis)
        bases.append((basis, adjugate, (adjugate @ fourth)[..., 0]))
    (_, adjugate_src, weights_src), (basis_dst, _, weights_dst) = bases
    transform = (basis_dst * (weights_dst / weights_src)[..., None, :]) @ adjugate_src
    return (transform / transform[..., 2:, 2:]).to(points_src.dtype)


def theta_from_matrix(matrix: Tensor, in_size: Size, out_size: Size, *, align_corners: bool = False) -> Tensor:
    """Turns affine maps between pixels into those that :func:`hardfast.affine_warp` takes.

    Args:
        matrix: ``[., 2, 3]``, source to destination, pixels.
        in_size, out_size: (height, width) of source and destination.
        align_corners: which normalised positions the result is for.

    Returns:
        ``[., 2, 3]``, destination to source, normalised, in the dtype of ``matrix``. Gradients reach ``matrix``.
    """
    _check_matrix("matrix", matrix, 2)
    return _to_normalised(_inverse(_square(matrix.double())), in_size, out_size, align_corners)[..., :2, :].to(matrix)


def matrix_from_theta(theta: Tensor, in_size: Size, out_size: Size, *, align_corners: bool = False) -> Tensor:
    """Turns the maps of :func:`hardfast.affine_warp` into source-to-destination ones: undoes theta_from_matrix.

    Args:
        theta: ``[., 2, 3]``, output to input, normalised.
        in_size, out_size, align_corners: as in :func:`theta_from_matrix`.

    Returns:
        ``[., 2, 3]``, input to output, pixels, in the dtype of ``theta``. Gradients reach ``theta``.
    """
    _check_matrix("theta", theta, 2)
    return _inverse(_to_pixels(_square(theta.double()), in_size, out_size, align_corners))[..., :2, :].to(theta)


def homography_from_matrix(matrix: Tensor, in_size: Size, out_size: Size, *, align_corners: bool = False) -> Tensor:
    """Turns projective maps between pixels into those that :func:`hardfast.projective_warp` takes.

    Args:
        matrix: ``[., 3, 3]``, source to destination, pixels, of any scale.
        in_size, out_size, align_corners: as in :func:`theta_from_matrix`.

    Returns:
        ``[., 3, 3]``, destination to source, normalised, in the dtype of ``matrix``; affine maps keep the last row
        (0, 0, 1). Gradients reach ``matrix``.
    """
    _check_matrix("matrix", matrix, 3)
    return _to_normalised(_inverse(matrix.double()), in_size, out_size, align_corners).to(matrix)


def matrix_from_homography(homography: Tensor, in_size: Size, out_size: Size, *, align_corners: bool = False) -> Tensor:
    """Turns the maps of :func:`hardfast.projective_warp` into source-to-destination ones: undoes the above.

    Args:
        homography: ``[., 3, 3]``, output to input, normalised, of any scale.
        in_size, out_size, align_corners: as in :func:`theta_from_matrix`.

    Returns:
        ``[., 3, 3]``, input to output, pixels, in the dtype of ``homography``. Gradients reach ``homography``.
    """
    _check_matrix("homography", homography, 3)
    return _inverse(_to_pixels(homography.double(), in_size, out_size, align_corners)).to(homography)


def flow_from_pixels(flow: Tensor, in_size: Size, *, align_corners: bool = False) -> Tensor:
    """Turns a displacement in input pixels ``[., 2, h, w]`` into the normalised one of :func:`hardfast.flow_warp`."""
    _check_vectors("flow", flow, 1, 4)
    return torch.stack([flow[:, i] / _axis(in_size[1 - i], align_corners)[1] for i in (0, 1)], 1)


def pixels_from_flow(flow: Tensor, in_size: Size, *, align_corners: bool = False) -> Tensor:
    """Turns the displacement of :func:`hardfast.flow_warp` into input pixels: undoes :func:`flow_from_pixels`."""
    _check_vectors("flow", flow, 1, 4)
    return torch.stack([flow[:, i] * _axis(in_size[1 - i], align_corners)[1] for i in (0, 1)], 1)


def points_from_pixels(points: Tensor, size: Size, *, align_corners: bool = False) -> Tensor:
    """Turns points ``[., K, 2]``, (x, y) in pixels, into normalised ones, as :func:`hardfast.thin_plate_warp` takes."""
    _check_vectors("points", points, 2, 3)
    axes = [_axis(size[1 - i], align_corners) for i in (0, 1)]
    return torch.stack([(points[..., i] - centre) / half for i, (centre, half) in enumerate(axes)], -1)


def pixels_from_points(points: Tensor, size: Size, *, align_corners: bool = False) -> Tensor:
    """Turns normalised points ``[., K, 2]``, (x, y), into pixels: undoes :func:`points_from_pixels`."""
    _check_vectors("points", points, 2, 3)
    axes = [_axis(size[1 - i], align_corners) for i in (0, 1)]
    return torch.stack([points[..., i] * half + centre for i, (centre, half) in enumerate(axes)], -1)


def _check_matrix(name: str, value: Tensor, rows: int) -> None:
    _checks.floating_tensor(name, value)
    if value.dim() != 3 or value.shape[1:] != (rows, 3):
        raise ValueError(f"{name} must have shape [B or 1, {rows}, 3], got {list(value.shape)}")


def _check_vectors(name: str, value: Tensor, channel: int, dims: int) -> None:
    _checks.floating_tensor(name, value)
    if value.dim() != dims or value.shape[channel] != 2:
        expected = "[B or 1, 2, h, w]" if dims == 4 else "[B or 1, K, 2]"
        raise ValueError(f"{name} must have shape {expected}, got {list(value.shape)}")


def _fill(value: float | Sequence[float] | Tensor | None) -> float | Sequence[float] | Tensor | None:
    """kornia's shapes of a fill as those of the warps."""
    if not isinstance(value, Tensor):
        return value[0] if isinstance(value, Sequence) and len(value) == 1 else value
    if value.dim() == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    return value[0] if value.shape == (1,) else value


def _axis(length: int, align_corners: bool) -> tuple[float, float]:
    """Centre and half extent of an axis in pixels: a normalised position is ``(pixel - centre) / half``."""
    if not _checks.flag("align_corners", align_corners):
        return (length - 1) / 2, length / 2
    return (length - 1) / 2, (length - 1) / 2 if length > 1 else 1.0


def _to_normalised(matrix: Tensor, in_size: Size, out_size: Size, align_corners: bool) -> Tensor:
    """``N_in @ matrix @ N_out^-1`` where N normalises pixels, without forming them; the identity stays exact."""
    (in_y, in_x), (out_y, out_x) = [[_axis(n, align_corners) for n in size] for size in (in_size, out_size)]
    first, second, third = matrix.unbind(-1)
    third = third + out_x[0] * first + out_y[0] * second
    rows = torch.stack([out_x[1] * first, out_y[1] * second, third], -1).unbind(-2)
    x = (rows[0] - in_x[0] * rows[2]) / in_x[1]
    y = (rows[1] - in_y[0] * rows[2]) / in_y[1]
    return torch.stack([x, y, rows[2]], -2)


def _to_pixels(matrix: Tensor, in_size: Size, out_size: Size, align_corners: bool) -> Tensor:
    """``N_in^-1 @ matrix @ N_out``, the inverse of :func:`_to_normalised`."""
    (in_y, in_x), (out_y, out_x) = [[_axis(n, align_corners) for n in size] for size in (in_size, out_size)]
    rows = matrix.unbind(-2)
    x = in_x[1] * rows[0] + in_x[0] * rows[2]
    y = in_y[1] * rows[1] + in_y[0] * rows[2]
    first, second, third = torch.stack([x, y, rows[2]], -2).unbind(-1)
    first, second = first / out_x[1], second / out_y[1]
    return torch.stack([first, second, third - out_x[0] * first - out_y[0] * second], -1)


def _rotation(degrees: Tensor) -> Tensor:
    """``[., 2, 2]``, clockwise as seen."""
    radians = degrees.deg2rad()
    cos, sin = radians.cos(), radians.sin()
    return _matrix([[cos, -sin], [sin, cos]])


def _about(linear: Tensor, center: Tensor, translations: Tensor | None = None) -> Tensor:
    """``[., 2, 3]``: the linear map with ``center`` as its fixed point, then a translation."""
    offset = center - (linear @ center[..., None])[..., 0]
    offset = offset if translations is None else offset + translations
    return torch.cat([linear.expand(*offset.shape[:-1], 2, 2), offset[..., None]], -1)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _square(affine: Tensor) -> Tensor:
    zero = torch.zeros_like(affine[..., :1, :1])
    return torch.cat([affine, torch.cat([zero, zero, zero + 1], -1)], -2)


def _adjugate(matrix: Tensor) -> Tensor:
    """Determinant times inverse of ``[., 3, 3]``: its rows are the cross products of the columns."""
    a, b, c = matrix.unbind(-1)
    return torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)


def _inverse(matrix: Tensor) -> Tensor:
    adjugate = _adjugate(matrix)
    determinant = (adjugate[..., 0, :] * matrix[..., :, 0]).sum(-1)
    return adjugate / determinant[..., None, None]
