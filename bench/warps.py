"""The warps at the sizes of a training batch, beside grid_sample on a grid made by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.case import Case
from hardfast.ops import affine_warp, flow_warp, projective_warp, thin_plate_warp

POINTS = 16


def eager_affine(image: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


@cache
def identity_grid(height: int, width: int) -> Tensor:
    return F.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False)


def eager_projective(image: Tensor, homography: Tensor) -> Tensor:
    identity = identity_grid(*image.shape[2:])
    homogeneous = torch.cat([identity, torch.ones_like(identity[..., :1])], -1).flatten(1, 2)
    mapped = (homogeneous @ homography.mT).unflatten(1, image.shape[2:])
    return F.grid_sample(image, mapped[..., :2] / mapped[..., 2:], align_corners=False)


def eager_flow(image: Tensor, flow: Tensor) -> Tensor:
    if flow.shape[2:] != image.shape[2:]:
        flow = F.interpolate(flow, list(image.shape[2:]), mode="bilinear", align_corners=False)
    return F.grid_sample(image, identity_grid(*image.shape[2:]) + flow.permute(0, 2, 3, 1), align_corners=False)


def radial(squared: Tensor) -> Tensor:
    return squared * squared.clamp_min(1e-30).log()


def eager_thin_plate(image: Tensor, source_points: Tensor, target_points: Tensor) -> Tensor:
    points = torch.cat([torch.ones_like(target_points[..., :1]), target_points], -1)
    kernel = radial((target_points[:, :, None] - target_points[:, None]).square().sum(-1))
    lower = torch.cat([points.mT, points.new_zeros(len(points), 3, 3)], 2)
    system = torch.cat([torch.cat([kernel, points], 2), lower], 1)
    weights = torch.linalg.solve(system, F.pad(source_points, (0, 0, 0, 3)))
    identity = identity_grid(*image.shape[2:]).flatten(1, 2)
    basis = radial((identity[:, :, None] - target_points[:, None]).square().sum(-1))
    linear = torch.cat([torch.ones_like(identity[..., :1]), identity], -1).expand(len(points), -1, -1)
    grid = torch.cat([basis, linear], -1) @ weights
    return F.grid_sample(image, grid.unflatten(1, image.shape[2:]), align_corners=False)


def affine_cases() -> list[Case]:
    floors = {
        (16, 3, 224, 224): {"forward": 2.5, "parameters": 3.0, "all": 2.5},
        (1024, 1, 28, 28): {"forward": 2.0, "parameters": 3.0, "all": 2.5},
    }
    passes = {"forward": (False, False), "parameters": (False, True), "all": (True, True)}
    cases = []
    for shape in [(16, 3, 224, 224), (64, 3, 224, 224), (256, 3, 32, 32), (1024, 1, 28, 28)]:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(shape, generator=generator)
        theta = torch.eye(2, 3) + 0.1 * torch.randn(shape[0], 2, 3, generator=generator)
        for name, differentiable in passes.items():
            least = floors.get(shape, {}).get(name)
            cases.append(
                Case(
                    "affine_warp",
                    "x".join(map(str, shape)),
                    name,
                    (image, theta),
                    differentiable,
                    affine_warp,
                    eager_affine,
                    {} if least is None else {"eager": least},
                )
            )
    return cases


def map_cases() -> list[Case]:
    """The other maps at one size: a homography, a coarse and a dense flow, a spline."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(16, *shape, generator=generator)

    image = torch.rand(16, 3, 128, 128, generator=generator)
    spread = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.03, 0.03, 0.03]])
    side = torch.linspace(-0.8, 0.8, int(POINTS**0.5))
    points = torch.cartesian_prod(side, side).expand(16, -1, -1)
    maps: list[tuple[str, str, Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = [
        ("projective_warp", "", projective_warp, eager_projective, (torch.eye(3) + spread * noise(3, 3),)),
        ("flow_warp", ", flow 8x8", flow_warp, eager_flow, (0.05 * noise(2, 8, 8),)),
        ("flow_warp", ", dense", flow_warp, eager_flow, (0.02 * noise(2, 128, 128),)),
        (
            "thin_plate_warp",
            f", {POINTS} points",
            thin_plate_warp,
            eager_thin_plate,
            (points + 0.05 * noise(POINTS, 2), points.contiguous()),
        ),
    ]
    passes = {"forward": (False, False), "parameters": (False, True), "all": (True, True)}
    return [
        Case(
            op,
            f"16x3x128x128{label}",
            name,
            (image, *parameters),
            (of_image, *(of_map for _ in parameters)),
            ours,
            eager,
            {},
        )
        for op, label, ours, eager, parameters in maps
        for name, (of_image, of_map) in passes.items()
    ]


def warp_cases() -> list[Case]:
    return affine_cases() + map_cases()
