"""The warps as others have them: the same pixels, each in the form in which its users hand it the maps.

PyTorch, kornia, torchvision and triton-augment take batches ``[B, C, H, W]``; OpenCV takes images ``[H, W, C]``, one a
call, and is given them so beforehand. torchvision has one map a call, so it is called for every image. What
belongs to a map rather than to its use (a matrix in pixels, numbers out of a tensor) is made before the time is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hardfast.geometry import get_affine_matrix2d, matrix_from_homography, matrix_from_theta, theta_from_matrix

from .case import Inputs


class AffineParameters(NamedTuple):
    """Random affine maps in torchvision's terms, one a sample."""

    angle: Tensor  # [B], degrees
    translate: Tensor  # [B, 2], pixels
    scale: Tensor  # [B]
    shear: Tensor  # [B], degrees, along x

    def theta(self, size: tuple[int, int]) -> Tensor:
        """``[B, 2, 3]`` for :func:`hardfast.affine_warp` and ``F.affine_grid``."""
        center = torch.tensor([[size[1] - 1, size[0] - 1]]).double() / 2
        matrix = get_affine_matrix2d(
            self.translate, center, self.scale[:, None].expand(-1, 2), self.angle, self.shear.deg2rad()
        )
        return theta_from_matrix(matrix[:, :2], size, size).float()


def affine_parameters(batch: int, size: tuple[int, int]) -> AffineParameters:
    """The same at every call: up to 10 degrees, 10 % of the image, a factor of 0.9 to 1.1, and 6 degrees of shear."""
    generator = torch.Generator().manual_seed(0)
    draws = 2 * torch.rand(batch, 5, generator=generator, dtype=torch.float64) - 1
    extent = torch.tensor([size[1], size[0]])
    return AffineParameters(10 * draws[:, 0], 0.1 * draws[:, 1:3] * extent, 1 + 0.1 * draws[:, 3], 6 * draws[:, 4])


def _sampled(image: Tensor, grid: Tensor, **rules: str) -> Tensor:
    return F.grid_sample(image, grid, align_corners=False, **rules)


@cache
def identity_grid(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[1, H, W, 2]``, made once: a user who cares keeps it."""
    identity = torch.eye(2, 3, dtype=dtype, device=device)[None]
    return F.affine_grid(identity, [1, 1, height, width], align_corners=False)


def _identity_of(image: Tensor) -> Tensor:
    return identity_grid(image.shape[2], image.shape[3], image.dtype, image.device)


def through_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function in float32, on tensors of another dtype."""

    def widened(image: Tensor, *rest: Tensor) -> Tensor:
        return function(image.float(), *(x.float() for x in rest)).to(image.dtype)

    return widened


def eager_affine(image: Tensor, theta: Tensor, **rules: str) -> Tensor:
    return _sampled(image, F.affine_grid(theta, list(image.shape), align_corners=False), **rules)


def eager_projective(image: Tensor, homography: Tensor) -> Tensor:
    identity = _identity_of(image)
    homogeneous = torch.cat([identity, torch.ones_like(identity[..., :1])], -1).flatten(1, 2)
    mapped = (homogeneous @ homography.mT).unflatten(1, image.shape[2:])
    return _sampled(image, mapped[..., :2] / mapped[..., 2:])


def eager_flow(image: Tensor, flow: Tensor, **rules: str) -> Tensor:
    return _sampled(image, _identity_of(image) + _upsampled(flow, image).permute(0, 2, 3, 1), **rules)


def _upsampled(flow: Tensor, image: Tensor) -> Tensor:
    if flow.shape[2:] == image.shape[2:]:
        return flow
    return F.interpolate(flow, list(image.shape[2:]), mode="bilinear", align_corners=False)


def eager_thin_plate(image: Tensor, source_points: Tensor, target_points: Tensor) -> Tensor:
    points = torch.cat([torch.ones_like(target_points[..., :1]), target_points], -1)
    kernel = _radial((target_points[:, :, None] - target_points[:, None]).square().sum(-1))
    lower = torch.cat([points.mT, points.new_zeros(len(points), 3, 3)], 2)
    system = torch.cat([torch.cat([kernel, points], 2), lower], 1)
    values = F.pad(source_points, (0, 0, 0, 3))
    weights = torch.linalg.solve(system.float(), values.float()).to(values.dtype)  # it takes no half dtype
    identity = _identity_of(image).flatten(1, 2)
    basis = _radial((identity[:, :, None] - target_points[:, None]).square().sum(-1))
    linear = torch.cat([torch.ones_like(identity[..., :1]), identity], -1).expand(len(points), -1, -1)
    grid = torch.cat([basis, linear], -1) @ weights
    return _sampled(image, grid.unflatten(1, image.shape[2:]))


def _radial(squared: Tensor) -> Tensor:
    return squared * squared.clamp_min(1e-30).log()


def kornia_affine(image: Tensor, matrix: Tensor) -> Tensor:
    from kornia.geometry.transform import warp_affine

    return warp_affine(image, matrix, (image.shape[2], image.shape[3]))


def kornia_projective(image: Tensor, matrix: Tensor) -> Tensor:
    from kornia.geometry.transform import warp_perspective

    return warp_perspective(image, matrix, (image.shape[2], image.shape[3]))


def kornia_flow(image: Tensor, flow: Tensor) -> Tensor:
    """kornia has no flow: its ``remap`` takes normalised positions, which are the identity plus the flow."""
    from kornia.geometry.transform import remap

    identity, flow = _identity_of(image), _upsampled(flow, image)
    x, y = (identity[..., i] + flow[:, i] for i in (0, 1))
    return remap(image, x, y, align_corners=False, normalized_coordinates=True)


def kornia_thin_plate(image: Tensor, source_points: Tensor, target_points: Tensor) -> Tensor:
    """Through the same points, but with the spline's centres at the points of the source: near, not the same."""
    from kornia.geometry.transform import get_tps_transform, warp_image_tps

    kernel_weights, affine_weights = get_tps_transform(target_points, source_points)
    return warp_image_tps(image, source_points, kernel_weights, affine_weights)


def pixel_matrices(inputs: Inputs) -> Inputs:
    """The maps from source to destination in pixels, as kornia and OpenCV take them; kornia's dtype is the image's."""
    image, theta = inputs
    size = tuple(image.shape[2:])
    convert = matrix_from_theta if theta.shape[-2] == 2 else matrix_from_homography
    return image, convert(theta.double(), size, size).to(theta.dtype)


def torchvision_affine(
    images: Tensor, angles: list[float], translates: list[list[float]], scales: list[float], shears: list[list[float]]
) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    each = zip(images, angles, translates, scales, shears, strict=True)
    return torch.stack([tv.affine(*one, interpolation=tv.InterpolationMode.BILINEAR, fill=None) for one in each])


def torchvision_affine_inputs(inputs: Inputs) -> Inputs:
    image = inputs[0]
    parameters = affine_parameters(len(image), tuple(image.shape[2:]))
    shears = [[x, 0.0] for x in parameters.shear.tolist()]
    return image, parameters.angle.tolist(), parameters.translate.tolist(), parameters.scale.tolist(), shears


def torchvision_projective(images: Tensor, coefficients: list[list[float]]) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    each = zip(images, coefficients, strict=True)
    return torch.stack([tv.perspective(image, None, None, fill=None, coefficients=eight) for image, eight in each])


def torchvision_projective_inputs(inputs: Inputs) -> Inputs:
    """Destination to source with the outer corner of the first pixel at the origin, divided by the last entry."""
    image, matrix = pixel_matrices(inputs)
    to_centres = torch.tensor([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]], dtype=torch.float64)
    backwards = to_centres.inverse() @ matrix.double().cpu().inverse() @ to_centres
    return image, (backwards / backwards[:, 2:, 2:]).flatten(1)[:, :8].tolist()


def torchvision_flow(images: Tensor, flow: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    each = zip(images, flow.permute(0, 2, 3, 1), strict=True)
    return torch.stack([tv.elastic(image, displacement[None], fill=None) for image, displacement in each])


def triton_augment_affine(image: Tensor, angle: Tensor, translate: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    from triton_augment.functional import affine

    return affine(image, angle, translate, scale, shear, interpolation="bilinear")


def triton_augment_inputs(inputs: Inputs) -> Inputs:
    image = inputs[0]
    parameters = affine_parameters(len(image), tuple(image.shape[2:]))
    both_shears = torch.stack([parameters.shear, torch.zeros_like(parameters.shear)], 1)
    values = (parameters.angle, parameters.translate, parameters.scale, both_shears)
    return image, *(value.to(image.device, torch.float32) for value in values)


def opencv_warp(name: str) -> Callable[..., list[np.ndarray]]:
    """``warpAffine`` or ``warpPerspective``, a call an image, whose output it allocates, as users write it."""

    def run(images: np.ndarray, matrices: np.ndarray) -> list[np.ndarray]:
        import cv2

        warp, size = getattr(cv2, name), (images.shape[2], images.shape[1])
        return [warp(image, matrix, size) for image, matrix in zip(images, matrices, strict=True)]

    return run


def opencv_matrix_inputs(inputs: Inputs) -> Inputs:
    image, matrix = pixel_matrices(inputs)
    return _opencv_images(image), matrix.double().numpy()


def opencv_flow(images: np.ndarray, flows: np.ndarray, identity: np.ndarray) -> list[np.ndarray]:
    """``remap`` at the identity plus the flow in pixels; a coarse one is upsampled by ``resize``."""
    import cv2

    size = (images.shape[2], images.shape[1])
    outputs = []
    for image, flow in zip(images, flows, strict=True):
        dense = flow if flow.shape == identity.shape else cv2.resize(flow, size, interpolation=cv2.INTER_LINEAR)
        outputs.append(cv2.remap(image, identity + dense, None, cv2.INTER_LINEAR))
    return outputs


def opencv_flow_inputs(inputs: Inputs) -> Inputs:
    image, flow = inputs
    height, width = image.shape[2:]
    in_pixels = flow * torch.tensor([width, height])[:, None, None] / 2
    identity = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    return _opencv_images(image), np.ascontiguousarray(in_pixels.permute(0, 2, 3, 1).numpy()), identity


def _opencv_images(image: Tensor) -> Any:
    """``[B, H, W, C]``, or ``[B, H, W]`` for one channel."""
    arrays = image.permute(0, 2, 3, 1).contiguous().numpy()
    return arrays[..., 0] if arrays.shape[-1] == 1 else arrays
