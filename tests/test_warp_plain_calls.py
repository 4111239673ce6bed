"""The calls that fast paths are for: bilinear, one sample a pixel, no colour, in every layout of channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from warp_cases import (
    AFFINE,
    FLOW,
    PADDINGS,
    PROJECTIVE,
    WarpCase,
    assert_all_close,
    every_warp,
    gradients,
    random_image,
)

CHANNELS = (1, 2, 3, 4, 5, 8)
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
every_dtype = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=["float32", "float16", "bfloat16"])
every_layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])


def check(
    case: WarpCase,
    image: Tensor,
    maps: tuple[Tensor, ...],
    size: tuple[int, int],
    grad: Tensor | None = None,
    **options,
) -> None:
    """Output and gradients, in the image's dtype, against the reference in float64."""
    options = case.options | options

    def ours(*values: Tensor) -> Tensor:
        return case.op(*values, size, **options)

    def exact(*values: Tensor) -> Tensor:
        return case.reference(*values, size, **options)

    inputs = (image, *maps)
    output, tolerance = ours(*inputs), TOLERANCES[image.dtype]
    wide = tuple(value.double() for value in inputs)
    assert_all_close([output.double()], [exact(*wide)], tolerance, f"output {options}")
    if grad is None:
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
        grad = torch.empty_like(output).copy_(noise)
    actual, expected = gradients(ours, inputs, grad), gradients(exact, wide, grad.double())
    assert_all_close([actual[0].double()], expected[:1], tolerance, f"gradient to the image {options}")
    # Those to the map are as exact from 16 bits as from 32: nothing is rounded to them on the way.
    assert_all_close([g.double() for g in actual[1:]], expected[1:], 2e-4, f"gradient to the map {options}")


@every_layout
@every_dtype
@every_warp
def test_equals_the_reference(case: WarpCase, dtype: torch.dtype, layout: torch.memory_format) -> None:
    for number, channels in enumerate(CHANNELS):
        image = random_image((2, channels, 19, 37), dtype).contiguous(memory_format=layout)
        for padding_mode in (PADDINGS[number % 4], PADDINGS[(number + 1) % 4]):
            extra = {"fill": random_image((2, channels), torch.float32)} if padding_mode == "fill" else {}
            check(case, image, case.parameters(2, torch.float32), (21, 40), padding_mode=padding_mode, **extra)


@every_layout
@every_dtype
def test_a_flow_of_the_outputs_size(dtype: torch.dtype, layout: torch.memory_format) -> None:
    for channels in CHANNELS:
        image = random_image((2, channels, 19, 37), dtype).contiguous(memory_format=layout)
        for batch, padding_mode in ((2, "zeros"), (1, "border")):  # one for each image, and one for both
            flow = random_image((batch, 2, 21, 40), torch.float32) * 0.2
            check(FLOW, image, (flow,), (21, 40), padding_mode=padding_mode)
            check(FLOW, image, (flow.mT.contiguous().mT,), (21, 40), padding_mode=padding_mode)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_positions_that_are_pixels(padding_mode: str) -> None:
    """Where taps have no weight, but a slope: at the edges, and a pixel beyond each."""
    maps = [[[1.0, 0.0, 0.25 * x], [0.0, 1.0, 0.25 * y]] for x in (-2, -1, 0, 1, 2) for y in (-1, 0, 1)]
    maps += [[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]]  # a flip, a quarter turn
    theta = torch.tensor(maps)
    extra = {"fill": random_image((len(maps), 3), torch.float32)} if padding_mode == "fill" else {}
    for side, align_corners in ((8, False), (9, True)):  # a quarter is one pixel
        image = random_image((len(maps), 3, side, side), torch.float32)
        options = {"padding_mode": padding_mode, "align_corners": align_corners, **extra}
        check(AFFINE, image, (theta,), (side, side), **options)
        shifts = theta[:, :, 2, None, None].expand(-1, -1, side, side)
        check(FLOW, image, (shifts.contiguous(),), (side, side), **options)


@pytest.mark.parametrize("factor", [-1.0, 2.0**-100, 2.0**120])
def test_a_homography_is_the_same_at_every_scale(factor: float) -> None:
    image = random_image((2, 3, 19, 37), torch.float32)
    (homography,) = PROJECTIVE.parameters(2, torch.float32)
    for color in (None, torch.eye(3, 4)[None]):  # with one, general kernels serve
        expected = PROJECTIVE.op(image, homography, color=color)
        output = PROJECTIVE.op(image, homography * factor, color=color)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)

        def warp(homography: Tensor, color: Tensor | None = color) -> Tensor:
            return PROJECTIVE.op(image, homography, color=color)

        (unscaled,) = gradients(warp, (homography,), torch.ones_like(expected))
        (scaled,) = gradients(warp, (homography * factor,), torch.ones_like(expected))
        torch.testing.assert_close(scaled * factor, unscaled, rtol=1e-4, atol=1e-4 * unscaled.abs().max().item())


def test_positions_beyond_all_floats_lie_beyond_the_border() -> None:
    image = random_image((1, 3, 8, 8), torch.float32)
    homography = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 1.0, 3.0], [0.0, 0.0, 1e-38]]])

    def warp(homography: Tensor) -> Tensor:
        return PROJECTIVE.op(image, homography, padding_mode="border")

    assert torch.equal(warp(homography), image[:, :, -1:, -1:].expand(1, 3, 8, 8))
    (grad,) = gradients(warp, (homography,), torch.ones(1, 3, 8, 8))
    assert torch.equal(grad, torch.zeros(1, 3, 3))


def test_an_outlier_leaves_the_other_gradients_their_digits() -> None:
    """The gradient to the image is summed in units that suit the largest."""
    image = random_image((1, 1, 64, 64), torch.float32)
    grad = 1e-7 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(3))
    grad[0, 0, 20, 30] = 1.0
    theta = torch.tensor([[[1.0, 0.0, 0.6 / 64], [0.0, 1.0, -0.6 / 64]]])
    (actual,) = gradients(lambda x: AFFINE.op(x, theta), (image,), grad)
    (expected,) = gradients(lambda x: AFFINE.reference(x, theta.double()), (image.double(),), grad.double())
    error = (actual.double() - expected).flatten()[expected.flatten().abs() < 1e-5]
    assert error.abs().mean() < 2e-5 * 1e-7
    assert error.mean().abs() < 1e-6 * 1e-7  # rounded neither up nor down


def test_so_many_tiles_that_each_is_tall() -> None:
    image = random_image((270, 3, 9, 11), torch.float32)
    check(AFFINE, image, AFFINE.parameters(270, torch.float32), (40, 35))


@every_layout
def test_a_gradient_of_equal_numbers_that_share_their_memory(layout: torch.memory_format) -> None:
    for channels in (1, 3, 4):
        image = random_image((2, channels, 19, 37), torch.float32).contiguous(memory_format=layout)
        grad = torch.ones(()).expand(2, channels, 21, 40)
        check(AFFINE, image, AFFINE.parameters(2, torch.float32), (21, 40), grad)


@pytest.mark.parametrize("channels", CHANNELS)
def test_far_outside_is_the_fill_exactly(channels: int) -> None:
    image, fill = random_image((1, channels, 8, 8), torch.float32), random_image((1, channels), torch.float32)
    theta = torch.tensor([[[1.0, 0.0, 30.0], [0.0, 1.0, -40.0]]], requires_grad=True)
    output = AFFINE.op(image, theta, padding_mode="fill", fill=fill)
    torch.testing.assert_close(output, fill[:, :, None, None].expand_as(output), rtol=0, atol=1e-6)
    (grad,) = torch.autograd.grad(output.sum(), theta)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_a_displacement_of_nan_leaves_the_pixels_beside_alone(count: int) -> None:
    """Of a dense flow, for each image or for both, that has more numbers than are looked into for NaN."""
    image = random_image((2, 3, 48, 50), torch.float32)
    flow = 0.05 * random_image((count, 2, 48, 50), torch.float32)
    lost = torch.zeros(count, 2, 48, 50, dtype=torch.bool)
    lost[0, :, 7, 9] = lost[0, :, 0, 49] = True
    results = []
    for value in (float("nan"), 50.0):
        inputs = (image, flow.masked_fill(lost, value))
        results.append(gradients(FLOW.op, inputs, torch.ones_like(image)))
    assert all(torch.equal(mine, other) for mine, other in zip(*results, strict=True))


def test_nan_positions_are_outside() -> None:
    image = random_image((1, 3, 48, 50), torch.float32)
    flow = torch.zeros(1, 2, 48, 50)  # more than is looked into for NaN
    flow[0, 0, 2, 3] = flow[0, 1, 5, 6] = float("nan")
    expected = image.clone()
    expected[:, :, 2, 3] = expected[:, :, 5, 6] = 0
    torch.testing.assert_close(FLOW.op(image, flow), expected)
