"""``affine_warp``: sample images under one affine map a sample, without ever storing the grid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hardfast import reference
from hardfast.ops import _checks
from hardfast.ops._warp import Warp, check_image, check_parameter, warp_image
from hardfast.reference._sampling import Sampling, Values

_OP = Warp("affine_warp", ["theta"], reference.affine_warp)


def affine_warp(
    image: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Values | None = None,
    color: Values | None = None,
    antialias: bool | int | Sequence[int] = False,
) -> Tensor:
    """Warps each image of a batch by its own affine map.

    Equivalent to::

        grid = F.affine_grid(theta, [B, C, *size], align_corners)
        F.grid_sample(image, grid, mode, padding_mode, align_corners)

    except that positions never take the dtype of a half precision image, that one image or one map serves a whole
    batch without being copied, and that ``padding_mode="fill"``, ``color`` and ``antialias`` exist.

    Args:
        image: ``[B, C, H, W]``, or ``[1, C, H, W]`` for one image under many maps; float32, float64, float16 or
            bfloat16, any strides. uint8 too, without gradients: the result is rounded (halves to even) and saturates.
        theta: ``[B, 2, 3]``, or ``[1, 2, 3]`` for one map of many images. Maps normalised output positions
            ``(x, y, 1)`` to normalised input positions, where -1 and 1 are the edges of the image (with
            ``align_corners``, the centres of its corner pixels). Any floating dtype up to float32, and float64 for a
            float64 image. Finite.
        size: ``(H_out, W_out)`` in pixels; that of ``image`` if None.
        mode: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``, as in ``F.grid_sample``.
        padding_mode: what lies outside the image: ``"zeros"``, ``"border"``, ``"reflection"`` or ``"fill"``.
        align_corners: as in ``F.grid_sample``.
        fill: the value outside the image for ``padding_mode="fill"``: a number, or one a channel ``[C]``, or one a
            sample and channel ``[B, C]``. 0 if None.
        color: an affine map of the channels, ``[C, C + 1]`` or ``[B, C, C + 1]``: each output pixel becomes
            ``color[:, :C] @ pixel + color[:, C]``. Up to four channels it costs no pass of its own.
        antialias: sub-samples of each output pixel along ``(y, x)``, whose mean it is; one number for both axes; True
            for ``(ceil(H / H_out), ceil(W / W_out))``. ``F.avg_pool2d`` of a warp that many times as large is
            the same for ``align_corners=False``.

    Returns:
        ``[B, C, H_out, W_out]`` in the dtype and memory format of ``image``.

    Gradients: to ``image``, ``theta``, ``fill`` and ``color``, each alone or together, to any order in reverse mode.
    What is shared by the batch gets the sum over it. Bitwise reproducible: on the CPU for any number of threads, and
    on GPUs, where one gradient that is not finite makes all of its image's NaN. With ``mode="nearest"`` the gradient to
    ``theta`` is zero, as in PyTorch.

    Memory: the output, or the gradients that are asked for, and at most 1 % of them in scratch; on GPUs 1 % or 4 MiB,
    whichever is larger, or one partial sum a sample. A ``color`` of more than four channels takes one more output, and
    for half precision and uint8 a float32 copy of image and output.

    Errors: ``TypeError`` and ``ValueError`` name the argument. On a GPU and in compiled graphs the values of ``theta``
    are not inspected: there a non-finite position samples some pixel at or beyond an edge of the image.

    Source: Jaderberg et al., Spatial Transformer Networks, 2015, equations 1 and 3 to 7; Keys, Cubic Convolution
    Interpolation for Digital Image Processing, 1981, for ``mode="bicubic"`` with a = -0.75.
    """
    check_image(image)
    check_parameter("theta", theta, image, (2, 3))
    _checks.finite("theta", theta)
    sampling = Sampling(mode, padding_mode, align_corners, fill, color, antialias)
    return warp_image(_OP.forward, image, {"theta": theta}, size, sampling)
