"""``thin_plate_warp``: sample images under the smoothest map that takes some points to others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hardfast.ops import _checks
from hardfast.ops._warp import Warp, check_batches, check_image, check_parameter, warp_image
from hardfast.reference._sampling import Sampling, Values, compute_dtype
from hardfast.reference.thin_plate_warp import thin_plate_weights, warp_by_weights

_OP = Warp("thin_plate_warp", ["points", "weights"], warp_by_weights)


def thin_plate_warp(
    image: Tensor,
    source_points: Tensor,
    target_points: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Values | None = None,
    color: Values | None = None,
    antialias: bool | int | Sequence[int] = False,
    regularization: float = 0.0,
) -> Tensor:
    """Warps each image by the thin-plate spline through its control points.

    Equivalent to::

        # phi(r) = r**2 log(r**2); P = [1, x, y] of target_points; K = phi(distances between target_points)
        weights = solve([[K + regularization * I, P], [P.T, 0]], [source_points, 0])
        grid = [phi(distances of the output's positions to target_points), 1, x, y] @ weights
        F.grid_sample(image, grid, mode, padding_mode, align_corners)

    Args:
        image: ``[B or 1, C, H, W]``, as in :func:`affine_warp`.
        source_points: ``[B or 1, K, 2]``, ``(x, y)`` in the normalised positions of the input, K >= 3. Dtype as
            ``theta`` of :func:`affine_warp`. Finite.
        target_points: ``[B or 1, K, 2]``, the same in the output: at ``target_points[:, k]`` the output shows what the
            input has at ``source_points[:, k]``. Not all on one line, no two the same.
        size, mode, padding_mode, align_corners, fill, color, antialias: as in :func:`affine_warp`.
        regularization: 0 for a spline through all points; the larger, the nearer to an affine map in their midst.
            Non-negative, finite.

    Returns:
        ``[B, C, H_out, W_out]`` in the dtype and memory format of ``image``. Points that determine no spline give
        non-finite positions, which sample some pixel at or beyond an edge of the image.

    Gradients: to ``image``, ``source_points``, ``target_points``, ``fill`` and ``color``, as in :func:`affine_warp`;
    but LAPACK solves for the weights, and of more than a dozen points its last bits may depend on the number of
    threads.

    Memory: as in :func:`affine_warp`, and ``(K + 3)**2`` float64 a sample for the weights, which are solved for in
    float64.

    Errors: as in :func:`affine_warp`, with the points for ``theta``.

    Source: Bookstein, Principal Warps, 1989, equations 5 to 7; Wahba, Spline Models for Observational Data, 1990,
    section 2.4, for the regularisation.
    """
    check_image(image)
    for name, points in (("source_points", source_points), ("target_points", target_points)):
        check_parameter(name, points, image, ("K", 2))
        if points.shape[1] < 3:
            raise ValueError(f"{name} must have shape [1 or B, K, 2] with K >= 3, got {list(points.shape)}")
        _checks.finite(name, points)
    if source_points.shape[1] != target_points.shape[1]:
        raise ValueError(
            f"target_points must have as many points as source_points, {source_points.shape[1]}, "
            f"got {target_points.shape[1]}"
        )
    check_batches({"image": image, "source_points": source_points, "target_points": target_points})
    points = target_points.to(compute_dtype(image))
    weights = thin_plate_weights(source_points, points, _checks.not_negative("regularization", regularization))
    sampling = Sampling(mode, padding_mode, align_corners, fill, color, antialias)
    points = points.expand(weights.shape[0], -1, -1)
    parameters = {"target_points": points, "source_points": weights.to(points.dtype)}
    return warp_image(_OP.forward, image, parameters, size, sampling)
