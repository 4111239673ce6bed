"""``flow_warp``: sample images under a displacement field, upsampled on the way from a coarse one if it is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hardfast import reference
from hardfast.ops import _checks
from hardfast.ops._warp import CHECKED_FLOW, Warp, check_image, check_parameter, warp_image
from hardfast.reference._sampling import Sampling, Values

INTERPOLATIONS = ("bilinear", "cubic_bspline")

_OP = Warp("flow_warp", ["flow"], reference.flow_warp, ["interpolation"])


def flow_warp(
    image: Tensor,
    flow: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Values | None = None,
    color: Values | None = None,
    antialias: bool | int | Sequence[int] = False,
    interpolation: str = "bilinear",
) -> Tensor:
    """Moves the sampling position of each output pixel by a displacement.

    Equivalent to::

        identity = F.affine_grid(eye(2, 3)[None], [1, C, *size], align_corners)
        fine = F.interpolate(flow, size, mode="bilinear", align_corners=align_corners)
        F.grid_sample(image, identity + fine.permute(0, 2, 3, 1), mode, padding_mode, align_corners)

    except that the fine flow is never in memory.

    Args:
        image: ``[B or 1, C, H, W]``, as in :func:`affine_warp`.
        flow: ``[B or 1, 2, h, w]``, displacements of the input position in normalised units (the image is 2 wide and
            2 high), channel 0 along x. Its size may differ from that of the output: then it is a grid of control
            values. Dtype as ``theta`` of :func:`affine_warp`. Finite.
        size, mode, padding_mode, align_corners, fill, color, antialias: as in :func:`affine_warp`. Anti-aliasing
            interpolates the flow at each sub-sample.
        interpolation: between control values: ``"bilinear"`` as above, or ``"cubic_bspline"``, the uniform cubic
            B-spline, which is twice continuously differentiable and smooths: it does not pass through the control
            values, also where ``flow`` has the size of the output. Beyond the border the last value repeats.

    Returns:
        ``[B, C, H_out, W_out]`` in the dtype and memory format of ``image``.

    Gradients: to ``image``, ``flow``, ``fill`` and ``color``, as in :func:`affine_warp`.

    Memory: as in :func:`affine_warp`.

    Errors: as in :func:`affine_warp`, with ``flow`` for ``theta``; a flow of more than 4096 numbers is not inspected.

    Source: Rueckert et al., Nonrigid Registration Using Free-Form Deformations, 1999, equation 1, for the B-spline.
    """
    check_image(image)
    check_parameter("flow", flow, image, (2, "h", "w"))
    _checks.one_of("interpolation", interpolation, INTERPOLATIONS)
    _checks.finite("flow", flow, at_most=CHECKED_FLOW)
    sampling = Sampling(mode, padding_mode, align_corners, fill, color, antialias)
    return warp_image(_OP.forward, image, {"flow": flow}, size, sampling, interpolation)
