"""The four warps as cases for tests that hold for each: random maps, and the same warp by PyTorch's own ops."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hardfast import ops, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
MODES = ["bilinear", "nearest", "bicubic"]
TORCH_PADDINGS = ["zeros", "border", "reflection"]
PADDINGS = [*TORCH_PADDINGS, "fill"]


class WarpCase(NamedTuple):
    name: str
    draw: Callable[[int, torch.Generator], tuple[Tensor, ...]]  # the map parameters of a batch, float64
    grid: Callable[..., Tensor]  # (*parameters, identity [1, H, W, 2], align_corners) -> [B, H, W, 2]
    options: dict[str, Any]

    @property
    def op(self) -> Callable[..., Tensor]:
        return getattr(ops, self.name)

    @property
    def reference(self) -> Callable[..., Tensor]:
        return getattr(reference, self.name)

    @property
    def raw(self) -> tuple[Any, Any]:
        """The ops below the public function: forward and backward."""
        return getattr(torch.ops.hardfast, self.name), getattr(torch.ops.hardfast, f"_{self.name}_backward")

    def parameters(self, batch: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
        """Random map parameters in the dtype that the op takes, of values that ``dtype`` holds too."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return tuple(p.to(dtype).to(wide) for p in self.draw(batch, torch.Generator().manual_seed(seed)))

    def raw_parameters(self, batch: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
        """The same as the op below the public function takes them."""
        values = self.parameters(batch, dtype, seed)
        if self.name != "thin_plate_warp":
            return values
        from hardfast.reference.thin_plate_warp import thin_plate_weights

        return values[1], thin_plate_weights(*values, 0.0).to(values[1].dtype)

    def torch_warp(
        self,
        image: Tensor,
        parameters: Sequence[Tensor],
        size: tuple[int, int],
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
    ) -> Tensor:
        """The warp by F.grid_sample, everything in the dtype of ``image``."""
        parameters = [p.to(image.dtype) for p in parameters]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch remarks on one-pixel outputs
            eye = torch.eye(2, 3, dtype=image.dtype)[None]
            identity = F.affine_grid(eye, [1, 1, *size], align_corners=align_corners)
            grid = self.grid(*parameters, identity, align_corners)
        return F.grid_sample(image, grid.expand(image.shape[0], -1, -1, -1), mode, padding_mode, align_corners)


def _affine(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    noise = torch.randn(batch, 2, 3, generator=generator, dtype=torch.float64)
    return (torch.eye(2, 3, dtype=torch.float64) + 0.25 * noise,)


def _affine_grid(theta: Tensor, identity: Tensor, align_corners: bool) -> Tensor:
    size = [theta.shape[0], 1, *identity.shape[1:3]]
    return F.affine_grid(theta, size, align_corners=align_corners)


def _projective(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    noise = torch.randn(batch, 3, 3, generator=generator, dtype=torch.float64)
    strength = torch.tensor([[0.2], [0.2], [0.08]], dtype=torch.float64)
    return (torch.eye(3, dtype=torch.float64) + strength * noise,)


def _projective_grid(homography: Tensor, identity: Tensor, align_corners: bool) -> Tensor:
    homogeneous = torch.cat([identity, torch.ones_like(identity[..., :1])], -1)
    mapped = torch.einsum("bij,bhwj->bhwi", homography, homogeneous.expand(homography.shape[0], -1, -1, -1))
    return mapped[..., :2] / mapped[..., 2:]


def _flow(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (0.2 * torch.randn(batch, 2, 5, 3, generator=generator, dtype=torch.float64),)


def _flow_grid(flow: Tensor, identity: Tensor, align_corners: bool) -> Tensor:
    fine = F.interpolate(flow, identity.shape[1:3], mode="bilinear", align_corners=align_corners)
    return identity + fine.permute(0, 2, 3, 1)


def bspline(flow: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Uniform cubic B-spline over control values, one output position at a time, from its definition."""
    matrices = []
    for controls, length in zip(flow.shape[2:], size, strict=True):
        matrix = flow.new_zeros(length, controls)
        for i in range(length):
            if align_corners:
                position = i * (controls - 1) / (length - 1) if length > 1 else 0.0
            else:
                position = (i + 0.5) * controls / length - 0.5
            for k in range(int(position) - 4, int(position) + 6):
                distance = abs(position - k)
                near = 2 / 3 - distance**2 + distance**3 / 2
                weight = near if distance < 1 else (2 - distance) ** 3 / 6 if distance < 2 else 0.0
                matrix[i, min(max(k, 0), controls - 1)] += weight
        matrices.append(matrix)
    return torch.einsum("yh,bchw,xw->bcyx", matrices[0], flow, matrices[1])


def _bspline_grid(flow: Tensor, identity: Tensor, align_corners: bool) -> Tensor:
    return identity + bspline(flow, identity.shape[1:3], align_corners).permute(0, 2, 3, 1)


def _thin_plate(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    corners = torch.tensor([[-0.8, -0.8], [0.8, -0.7], [-0.7, 0.8], [0.8, 0.8], [0.1, -0.05]], dtype=torch.float64)
    noise = torch.randn(2, batch, 5, 2, generator=generator, dtype=torch.float64)
    return corners + 0.12 * noise[0], corners + 0.06 * noise[1]


def _thin_plate_grid(source: Tensor, target: Tensor, identity: Tensor, align_corners: bool) -> Tensor:
    solved = torch.float64 if source.dtype == torch.float64 else torch.float32  # PyTorch solves in no other
    weights = torch.linalg.solve(thin_plate_system(target.to(solved)), F.pad(source.to(solved), (0, 0, 0, 3)))
    points = identity.flatten(1, 2).expand(target.shape[0], -1, -1)
    distances = (points[:, :, None] - target[:, None]).square().sum(-1)
    basis = torch.cat([radial(distances), torch.ones_like(points[..., :1]), points], -1)
    return (basis @ weights.to(source.dtype)).unflatten(1, identity.shape[1:3])


def radial(squared: Tensor) -> Tensor:
    return torch.where(squared > 0, squared * squared.clamp_min(1e-30).log(), 0)


def thin_plate_system(target: Tensor) -> Tensor:
    kernel = radial((target[:, :, None] - target[:, None]).square().sum(-1))
    affine = torch.cat([torch.ones_like(target[..., :1]), target], -1)
    lower = torch.cat([affine.mT, affine.new_zeros(affine.shape[0], 3, 3)], 2)
    return torch.cat([torch.cat([kernel, affine], 2), lower], 1)


AFFINE = WarpCase("affine_warp", _affine, _affine_grid, {})
PROJECTIVE = WarpCase("projective_warp", _projective, _projective_grid, {})
FLOW = WarpCase("flow_warp", _flow, _flow_grid, {})
BSPLINE = WarpCase("flow_warp", _flow, _bspline_grid, {"interpolation": "cubic_bspline"})
THIN_PLATE = WarpCase("thin_plate_warp", _thin_plate, _thin_plate_grid, {})

ALL = [AFFINE, PROJECTIVE, FLOW, BSPLINE, THIN_PLATE]
every_warp = pytest.mark.parametrize("case", ALL, ids=["affine", "projective", "flow", "bspline", "thin_plate"])


def random_image(shape: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = tuple(x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs)
    return torch.autograd.grad(function(*leaves), leaves, grad)


def assert_all_close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float, message: str = "") -> None:
    for k, (mine, other) in enumerate(zip(actual, expected, strict=True)):
        scale = max(1.0, other.abs().max().item()) if other.numel() else 1.0
        torch.testing.assert_close(
            mine, other, rtol=0, atol=tolerance * scale, msg=lambda text, k=k: f"{message} [{k}]: {text}"
        )


def assert_all_equal(actual: Sequence[Tensor], expected: Sequence[Tensor], message: str = "") -> None:
    for k, (mine, other) in enumerate(zip(actual, expected, strict=True)):
        assert torch.equal(mine, other), f"{message} [{k}] differs by {(mine.double() - other.double()).abs().max()}"
