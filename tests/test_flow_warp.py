"""Dense flows, whose cells the CPU finds in a way of their own, beside PyTorch's sampling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hardfast.ops import flow_warp
from hardfast.testing import assert_as_exact

SIZES = [(40, 48), (37, 53), (9, 300), (3, 5), (136, 144), (6, 17), (5, 24), (12, 31)]


def pixels_to_units(size: tuple[int, int], align_corners: bool) -> Tensor:
    height, width = (max(side - 1, 1) if align_corners else side for side in size)
    return torch.tensor([2 / width, 2 / height], dtype=torch.float64).view(1, 2, 1, 1)


def random_flow(size: tuple[int, int], spread: float, align_corners: bool, batch: int = 2) -> Tensor:
    """Of so many pixels, and none whose cell rounding could decide."""
    generator = torch.Generator().manual_seed(len(str(size)))
    steps = torch.randn(batch, 2, *size, generator=generator, dtype=torch.float64).mul(8 * spread).round()
    return (steps + 0.5) / 8 * pixels_to_units(size, align_corners)


def sampled(image: Tensor, flow: Tensor, padding_mode: str, align_corners: bool) -> Tensor:
    identity = F.affine_grid(
        torch.eye(2, 3, dtype=flow.dtype)[None], [1, 1, *flow.shape[2:]], align_corners=align_corners
    )
    grid = identity + flow.permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, padding_mode=padding_mode, align_corners=align_corners)


def with_gradients(function: Any, image: Tensor, flow: Tensor, grad: Tensor, **options: Any) -> list[Tensor]:
    image, flow = image.detach().requires_grad_(), flow.detach().requires_grad_()
    output = function(image, flow, **options)
    return [output.detach(), *torch.autograd.grad(output, [image, flow], grad)]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("spread", [0.02, 2.0, 100.0])
@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("size", SIZES)
def test_as_exact_as_pytorch(size, channels, spread, padding_mode, align_corners):
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    image, grad = torch.randn(2, channels, *size), torch.randn(2, channels, *size)
    flow = random_flow(size, spread, align_corners)
    inputs = image, flow.float(), grad
    exact = with_gradients(sampled, *(x.double() for x in inputs), **options)
    peers = with_gradients(sampled, *inputs, **options)
    for result, peer, true in zip(with_gradients(flow_warp, *inputs, **options), peers, exact, strict=True):
        assert_as_exact(result, peer, true)


@pytest.mark.parametrize("size", [(64, 32), (256, 128)])
@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, -2), (-5, 1)])
def test_whole_pixels_take_the_slope_to_the_right_and_down(size, right, down):
    height, width = size
    image, grad = torch.randn(1, 3, *size), torch.randn(1, 3, *size)
    flow = torch.tensor([2.0 * right / width, 2.0 * down / height]).view(1, 2, 1, 1).expand(1, 2, *size)
    output, _, grad_flow = with_gradients(flow_warp, image, flow, grad)
    padded = F.pad(image, (8, 8, 8, 8))

    def moved(x: int, y: int) -> Tensor:
        return padded[..., 8 + y : 8 + y + height, 8 + x : 8 + x + width]

    here = moved(right, down)
    assert torch.equal(output, here)
    slopes = (moved(right + 1, down) - here) * width / 2, (moved(right, down + 1) - here) * height / 2
    expected = torch.stack([(grad * slope).sum(1) for slope in slopes], 1)
    torch.testing.assert_close(grad_flow, expected, rtol=1e-5, atol=1e-6 * width * height)


def test_an_image_of_another_size_than_the_flow():
    flow = random_flow((40, 56), 3.0, False)
    image, grad = torch.randn(2, 3, 60, 70), torch.randn(2, 3, 40, 56)
    inputs = image, flow.float(), grad
    exact = with_gradients(sampled, *(x.double() for x in inputs), padding_mode="zeros", align_corners=False)
    peers = with_gradients(sampled, *inputs, padding_mode="zeros", align_corners=False)
    results = with_gradients(lambda image, flow: flow_warp(image, flow, (40, 56)), *inputs)
    for result, peer, true in zip(results, peers, exact, strict=True):
        assert_as_exact(result, peer, true)


@pytest.mark.parametrize("columns", [48, 45])
def test_flows_that_lie_in_memory_otherwise(columns):
    flow = random_flow((24, columns), 2.0, False).float()
    image, grad = torch.randn(2, 3, 24, columns), torch.randn(2, 3, 24, columns)
    expected = with_gradients(flow_warp, image, flow, grad)
    wide = torch.randn(2, 2, 24, 2 * columns)
    wide[..., ::2] = flow
    views = [flow.to(memory_format=torch.channels_last), wide[..., ::2], flow.mT.contiguous().mT]
    for view in views:
        for result, same in zip(with_gradients(flow_warp, image, view, grad), expected, strict=True):
            assert torch.equal(result, same)


def test_displacements_that_lead_nowhere():
    image = torch.rand(1, 3, 16, 32) + 1
    flow = torch.zeros(1, 2, 16, 32)
    flow[0, 0, 3, 5], flow[0, 1, 4, 6], flow[0, 0, 5, 7], flow[0, 1, 6, 8] = torch.tensor([1e30, -1e30, -2e5, 2e5])
    output, _, grad_flow = with_gradients(flow_warp, image, flow, torch.ones_like(image))
    nowhere = torch.zeros(16, 32, dtype=torch.bool)
    nowhere[3, 5] = nowhere[4, 6] = nowhere[5, 7] = nowhere[6, 8] = True
    assert (output[0, :, nowhere] == 0).all()
    assert (grad_flow[0, :, nowhere] == 0).all()
    assert torch.equal(output[0, :, ~nowhere], image[0, :, ~nowhere])
