"""Images of several tiles, far or folded positions, few outputs and many channels: all beside PyTorch's sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hardfast.ops import affine_warp, flow_warp, projective_warp, thin_plate_warp
from hardfast.testing import assert_as_exact

LARGE = (230, 540)
PADDINGS = ["zeros", "border", "reflection"]


def affine_grid_sample(image: Tensor, theta: Tensor, size: tuple[int, int], **options: Any) -> Tensor:
    shape = [len(theta), image.shape[1], *size]
    grid = F.affine_grid(theta, shape, align_corners=options["align_corners"])
    return F.grid_sample(image, grid, **options)


def compare(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Output and gradients, each no further from those in float64 than PyTorch's float32."""

    def results(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        output = function(*leaves)
        grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        return [output.detach(), *torch.autograd.grad(output, leaves, grad)]

    triples = zip(*(results(f, d) for f, d in ((ours, torch.float32), (theirs, torch.float32))), strict=True)
    for (mine, peer), exact in zip(triples, results(theirs, torch.float64), strict=True):
        assert_as_exact(mine, peer, exact)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "zoom"), [(LARGE, 1.0), (LARGE, 2.3), ((29, 41), 1.0), ((29, 41), 0.3)])
def test_every_tile_gets_what_falls_into_it(size, zoom, channels, mode, padding_mode, align_corners):
    torch.manual_seed(0)
    image = torch.randn(2, channels, *LARGE)
    theta = zoom * torch.tensor([[0.9, -0.3, 0.1], [0.25, 1.1, -0.2]]) + 0.05 * torch.randn(2, 2, 3)
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    compare(
        lambda image, theta: affine_warp(image, theta, size, **options),
        lambda image, theta: affine_grid_sample(image, theta, size, **options),
        image,
        theta,
    )


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    ("control", "turns"), [((5, 4), 0.3), ((5, 4), 0.9), (LARGE, 0.3), (LARGE, 0.9), (LARGE, 40.0)]
)
def test_flows_that_leave_the_image(control, channels, turns, padding_mode):
    torch.manual_seed(0)
    image = torch.randn(1, channels, *LARGE)
    flow = turns * (2 * torch.rand(1, 2, *control) - 1)

    def theirs(image: Tensor, flow: Tensor) -> Tensor:
        identity = F.affine_grid(torch.eye(2, 3, dtype=flow.dtype)[None], [1, 1, *LARGE], align_corners=False)
        fine = F.interpolate(flow, LARGE, mode="bilinear", align_corners=False)
        grid = identity + fine.permute(0, 2, 3, 1)
        return F.grid_sample(image, grid, padding_mode=padding_mode, align_corners=False)

    compare(lambda image, flow: flow_warp(image, flow, padding_mode=padding_mode), theirs, image, flow)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_nearest_pixels_of_folded_positions(padding_mode):
    torch.manual_seed(0)
    image, grad = torch.randn(2, 3, *LARGE), torch.randn(2, 3, *LARGE)
    theta = torch.tensor([[1.7, -0.4, 0.3], [0.2, 1.9, -0.6]]) + 0.05 * torch.randn(2, 2, 3)
    options = {"mode": "nearest", "padding_mode": padding_mode, "align_corners": False}
    leaves = [image.clone().requires_grad_() for _ in range(2)]
    ours = affine_warp(leaves[0], theta, **options)
    theirs = affine_grid_sample(leaves[1], theta, LARGE, **options)
    assert (ours != theirs).double().mean() < 1e-4  # positions between two pixels may round to either
    gradients = [
        torch.autograd.grad(output, leaf, grad)[0] for output, leaf in zip((ours, theirs), leaves, strict=True)
    ]
    assert ((gradients[0] - gradients[1]).abs() > 1e-4).double().mean() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("channels", [5, 8, 11])
@pytest.mark.parametrize("zoom", [1.0, 9.0])
def test_channels_last_changes_no_bit_of_feature_maps(zoom, channels, mode, dtype):
    """With a zoom of 9 pixels are read one by one, as those that lie far apart are."""
    torch.manual_seed(0)
    image = (100 * torch.rand(2, channels, 61, 90)).to(dtype)
    theta = zoom * torch.tensor(
        [[[0.9, -0.3, 0.1], [0.25, 1.1, -0.2]]], dtype=torch.promote_types(dtype, torch.float32)
    )
    usual = affine_warp(image, theta, (23, 31), mode=mode, padding_mode="border")
    result = affine_warp(
        image.contiguous(memory_format=torch.channels_last), theta, (23, 31), mode=mode, padding_mode="border"
    )
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, usual)


@pytest.mark.parametrize("size", [(14, 14), (40, 150)])
@pytest.mark.parametrize("op", ["affine", "projective", "flow", "thin_plate"])
def test_a_map_gets_the_gradients_of_all_channels(op, size):
    """That of eleven channels is the sum of those of four, four and three; those to the image stand side by side."""
    torch.manual_seed(0)
    image, grad = torch.randn(2, 11, *size), torch.randn(2, 11, *size)
    points = 1.6 * torch.rand(2, 7, 2) - 0.8
    warp, parameter = {
        "affine": (affine_warp, torch.eye(2, 3) + 0.1 * torch.randn(2, 2, 3)),
        "projective": (projective_warp, torch.eye(3) + 0.05 * torch.randn(2, 3, 3)),
        "flow": (flow_warp, 0.2 * torch.randn(2, 2, 5, 6)),
        "thin_plate": (lambda x, moved: thin_plate_warp(x, moved, points), points + 0.1 * torch.randn(2, 7, 2)),
    }[op]

    def gradients(image: Tensor, grad: Tensor) -> list[Tensor]:
        leaves = [image.clone().requires_grad_(), parameter.clone().requires_grad_()]
        return list(torch.autograd.grad(warp(*leaves), leaves, grad))

    to_image, to_map = gradients(image, grad)
    parts = [gradients(*pair) for pair in zip(image.split(4, 1), grad.split(4, 1), strict=True)]
    assert torch.equal(to_image, torch.cat([part[0] for part in parts], 1))
    torch.testing.assert_close(to_map, sum(part[1] for part in parts), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("place", [(0, 0), (0, 63), (69, 40)])
def test_nan_in_a_flow_harms_no_other_pixel(place, padding_mode, mode):
    torch.manual_seed(0)
    image, flow = torch.randn(1, 3, 70, 64), torch.full((1, 2, 70, 64), 0.13)
    expected = flow_warp(image, flow, mode=mode, padding_mode=padding_mode)
    flow[:, :, place[0], place[1]] = math.nan  # a flow of so many numbers is not inspected
    result = flow_warp(image, flow, mode=mode, padding_mode=padding_mode)
    expected[..., place[0], place[1]] = result[..., place[0], place[1]]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
