"""``projective_warp``: sample images under one homography a sample, without ever storing the grid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hardfast import reference
from hardfast.ops import _checks
from hardfast.ops._warp import Warp, check_image, check_parameter, warp_image
from hardfast.reference._sampling import Sampling, Values

_OP = Warp("projective_warp", ["homography"], reference.projective_warp)


def projective_warp(
    image: Tensor,
    homography: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Values | None = None,
    color: Values | None = None,
    antialias: bool | int | Sequence[int] = False,
) -> Tensor:
    """Warps each image of a batch by its own homography.

    Equivalent to::

        identity = F.affine_grid(eye(2, 3)[None], [1, C, *size], align_corners)
        x, y, w = (homography @ [identity, 1]).unbind(-1)
        F.grid_sample(image, stack([x / w, y / w], -1), mode, padding_mode, align_corners)

    Args:
        image: ``[B or 1, C, H, W]``, as in :func:`affine_warp`.
        homography: ``[B or 1, 3, 3]``, maps normalised output positions ``(x, y, 1)`` to homogeneous normalised input
            positions; a multiple of it is the same map. Dtype as ``theta`` of :func:`affine_warp`. Finite.
        size, mode, padding_mode, align_corners, fill, color, antialias: as in :func:`affine_warp`.

    Returns:
        ``[B, C, H_out, W_out]`` in the dtype and memory format of ``image``. Where ``w`` is zero the position is at
        infinity: outside the image. Positions behind the horizon (``w`` of the other sign) are sampled like all
        others.

    Gradients: to ``image``, ``homography``, ``fill`` and ``color``, as in :func:`affine_warp`. That of a position at
    infinity is zero.

    Memory, errors: as in :func:`affine_warp`, with ``homography`` for ``theta``.

    Source: Hartley and Zisserman, Multiple View Geometry, 2004, section 2.3.
    """
    check_image(image)
    check_parameter("homography", homography, image, (3, 3))
    _checks.finite("homography", homography)
    sampling = Sampling(mode, padding_mode, align_corners, fill, color, antialias)
    return warp_image(_OP.forward, image, {"homography": homography}, size, sampling)
