"""What all warps take besides their map: fill, colour, anti-aliasing, bytes, shared images and shared maps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from warp_cases import AFFINE, MODES, PADDINGS, WarpCase, assert_all_close, every_warp, gradients, random_image

from hardfast import ops, reference
from hardfast.ops import affine_warp
from hardfast.testing import assert_as_exact


def random_color(batch: int, channels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, channels, channels + 1, generator=generator, dtype=dtype)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@every_warp
def test_all_options_together_equal_the_reference(case: WarpCase, mode, padding_mode, align_corners):
    channels = {"bilinear": 3, "nearest": 1, "bicubic": 4}[mode]
    image, maps = random_image((2, channels, 9, 11)), case.parameters(2)
    names = ["fill", "color"] if padding_mode == "fill" else ["color"]
    extras = [random_image((2, channels), seed=3), random_color(2, channels)][-len(names) :]
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners, **case.options}

    def warp(function, image: Tensor, *values: Tensor) -> Tensor:
        keywords = dict(zip(names, values[len(maps) :], strict=True))
        return function(image, *values[: len(maps)], (7, 8), antialias=(2, 3), **keywords, **options)

    expected = warp(case.reference, image, *maps, *extras)
    torch.testing.assert_close(warp(case.op, image, *maps, *extras), expected, rtol=0, atol=1e-10)
    grad = torch.randn_like(expected)
    inputs = (image, *maps, *extras)
    actual = gradients(lambda *values: warp(case.op, *values), inputs, grad)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected_grads = torch.autograd.grad(warp(case.reference, *leaves), leaves, grad, materialize_grads=True)
    assert_all_close(actual, expected_grads, 1e-9)


@pytest.mark.parametrize("shared", ["image", "map", "fill and color", "image and map", "all but fill"])
@pytest.mark.parametrize("mode", MODES)
@every_warp
def test_shared_inputs_equal_repeated_ones_and_get_the_sum(case: WarpCase, mode, shared):
    inputs = [random_image((3, 3, 8, 9)), *case.parameters(3), random_image((3, 3), seed=1), random_color(3, 3)]
    few = {
        "image": [0],
        "map": range(1, len(inputs) - 2),
        "fill and color": [len(inputs) - 2, len(inputs) - 1],
        "image and map": range(len(inputs) - 2),
        "all but fill": [*range(len(inputs) - 2), len(inputs) - 1],
    }[shared]
    for i in few:
        inputs[i] = inputs[i][:1]

    def warp(*values: Tensor) -> Tensor:
        *rest, fill, color = values
        return case.op(*rest, (7, 10), mode=mode, padding_mode="fill", fill=fill, color=color, **case.options)

    def repeated(*values: Tensor) -> Tensor:
        return warp(*(value.expand(3, *value.shape[1:]).contiguous() for value in values))

    output = warp(*inputs)
    assert torch.equal(output, repeated(*inputs))
    grad = torch.randn_like(output)
    assert_all_close(gradients(warp, inputs, grad), gradients(repeated, inputs, grad), 1e-11)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@every_warp
def test_color_is_an_affine_map_of_the_channels(case: WarpCase, channels, channels_last):
    image, maps, color = random_image((2, channels, 9, 7)), case.parameters(2), random_color(2, channels)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    options = {"mode": "bicubic", "padding_mode": "border", **case.options}

    def fused(image: Tensor, color: Tensor) -> Tensor:
        return case.op(image, *maps, color=color, **options)

    def apart(image: Tensor, color: Tensor) -> Tensor:
        return torch.einsum("bij,bjhw->bihw", color[..., :-1], case.op(image, *maps, **options)) + color[..., -1:, None]

    output = fused(image, color)
    torch.testing.assert_close(output, apart(image, color), rtol=0, atol=1e-12)
    if channels > 1:
        assert output.is_contiguous(memory_format=torch.channels_last) == channels_last
    grad = torch.randn_like(output)
    assert_all_close(gradients(fused, (image, color), grad), gradients(apart, (image, color), grad), 1e-11)
    assert torch.equal(fused(image, color[0]), fused(image, color[:1]))
    assert torch.equal(fused(image, color[0].tolist()), fused(image, color[:1]))


@pytest.mark.parametrize("channels", [2, 6])
def test_one_image_in_many_colors(channels):
    image, maps, color = random_image((1, channels, 6, 7)), AFFINE.parameters(1), random_color(4, channels)
    output = affine_warp(image, *maps, color=color)
    assert output.shape == (4, channels, 6, 7)
    torch.testing.assert_close(output[2:3], affine_warp(image, *maps, color=color[2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_many_channels_are_rounded_once_after_the_color(dtype):
    image = torch.randint(0, 256, (2, 6, 8, 9)).to(dtype)
    maps, color = AFFINE.parameters(2, torch.float32), 0.2 * random_color(2, 6, torch.float32)
    expected = affine_warp(image.float(), *maps, mode="bicubic", color=color)
    expected = expected.round().clamp(0, 255).to(dtype) if dtype == torch.uint8 else expected.to(dtype)
    assert torch.equal(affine_warp(image, *maps, mode="bicubic", color=color), expected)


@pytest.mark.parametrize("samples", [(2, 3), (1, 4), (5, 1)], ids=str)
@pytest.mark.parametrize("mode", MODES)
@every_warp
def test_antialias_is_the_mean_of_a_larger_warp(case: WarpCase, mode, samples):
    image, maps = random_image((2, 3, 23, 19)), case.parameters(2)
    options = {"mode": mode, "padding_mode": "reflection", **case.options}

    def ours(image: Tensor, *maps: Tensor) -> Tensor:
        return case.op(image, *maps, (5, 6), antialias=samples, **options)

    def pooled(image: Tensor, *maps: Tensor) -> Tensor:
        return F.avg_pool2d(case.op(image, *maps, (5 * samples[0], 6 * samples[1]), **options), samples)

    output = ours(image, *maps)
    torch.testing.assert_close(output, pooled(image, *maps), rtol=0, atol=1e-11)
    grad = torch.randn_like(output)
    assert_all_close(gradients(ours, (image, *maps), grad), gradients(pooled, (image, *maps), grad), 1e-9)


def test_antialias_true_reads_every_pixel_of_a_reduction():
    image = random_image((1, 2, 37, 50))
    eye = torch.eye(2, 3, dtype=torch.float64)[None]
    for size, samples in (((10, 10), (4, 5)), ((37, 60), (1, 1)), ((36, 7), (2, 8))):
        assert torch.equal(
            affine_warp(image, eye, size, antialias=True), affine_warp(image, eye, size, antialias=samples)
        )
    assert torch.equal(affine_warp(image, eye, (9, 9), antialias=2), affine_warp(image, eye, (9, 9), antialias=(2, 2)))
    whole = affine_warp(image[:, :, :36, :48], eye, (9, 12), antialias=True)
    torch.testing.assert_close(whole, F.avg_pool2d(image[:, :, :36, :48], 4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("mode", MODES)
@every_warp
def test_bytes_are_rounded_to_even_and_saturate(case: WarpCase, mode, channels):
    image = torch.randint(0, 256, (2, channels, 13, 11), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    image[:, :, 4:8, 3:9] = 255
    maps = case.parameters(2, torch.float32)
    for antialias, channels_last in itertools.product((False, (1, 2)), (False, True)):
        view = image.contiguous(memory_format=torch.channels_last) if channels_last else image
        options = {"mode": mode, "antialias": antialias, "padding_mode": "fill", "fill": 31.5, **case.options}
        exact = case.op(image.double(), *(m.double() for m in maps), (12, 17), **options)
        actual = case.op(view, *maps, (12, 17), **options)
        assert actual.dtype == torch.uint8
        clamped = exact.clamp(0, 255)
        assert ((actual.double() - clamped).abs() <= 0.5 + 1e-3).all()
    halves = torch.tensor([[[[1, 2, 3, 4]]]], dtype=torch.uint8)  # means 1.5, 3.5: to 2 and 4
    assert affine_warp(halves, torch.eye(2, 3)[None], (1, 2), antialias=True).flatten().tolist() == [2, 4]
    brighter = [[2.0 if i == j else 0.0 for j in range(channels)] + [-3.0] for i in range(channels)]
    colored = case.op(image, *maps, mode=mode, color=brighter, **case.options)
    exact = 2 * case.op(image.double(), *(m.double() for m in maps), mode=mode, **case.options) - 3
    assert ((colored.double() - exact.clamp(0, 255)).abs() <= 0.5 + 1e-3).all()


def test_bytes_have_no_gradient_and_say_so():
    image, theta = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.eye(2, 3)[None].requires_grad_()
    with pytest.raises(TypeError, match="image must have a floating dtype where gradients are asked for, got uint8"):
        affine_warp(image, theta)
    with pytest.raises(TypeError, match="got uint8"):
        affine_warp(image, theta.detach(), color=torch.ones(1, 2, requires_grad=True))
    with torch.no_grad():
        assert affine_warp(image, theta).dtype == torch.uint8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3, 7])
@every_warp
def test_fill_is_what_an_infinite_frame_of_that_value_gives(case: WarpCase, mode, channels):
    image, maps = random_image((3, channels, 9, 12)), case.parameters(3)
    options = {"mode": mode, **case.options}
    fill = torch.linspace(-1, 2, channels, dtype=torch.float64)
    expected = case.op(image - fill[:, None, None], *maps, **options) + fill[:, None, None]
    for value in (fill, fill.tolist(), fill.expand(3, channels), fill.numpy()):
        actual = case.op(image, *maps, padding_mode="fill", fill=value, **options)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    per_sample = random_image((3, channels), seed=5)
    actual = case.op(image, *maps, padding_mode="fill", fill=per_sample, **options)
    for i in range(3):
        one = case.op(
            image[i : i + 1], *(m[i : i + 1] for m in maps), padding_mode="fill", fill=per_sample[i], **options
        )
        assert torch.equal(actual[i : i + 1], one)
    zeros = case.op(image, *maps, padding_mode="zeros", **options)
    assert torch.equal(case.op(image, *maps, padding_mode="fill", **options), zeros)


def test_a_fill_of_one_number_gets_the_sum_of_its_gradient():
    image, maps = random_image((2, 3, 6, 6)), AFFINE.parameters(2)
    fill = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(affine_warp(image, *maps, padding_mode="fill", fill=fill).sum(), fill)
    uncovered = (1 - affine_warp(torch.ones_like(image), *maps)).sum()
    torch.testing.assert_close(grad, uncovered)


def test_numpy_counts_are_sizes():
    image, (theta,) = random_image((1, 2, 8, 8)), AFFINE.parameters(1)
    expected = affine_warp(image, theta, (4, 5), antialias=(2, 1))
    size, samples = (np.int64(4), np.int32(5)), np.array([2, 1])
    assert torch.equal(affine_warp(image, theta, size, antialias=samples), expected)
    assert torch.equal(affine_warp(image, theta, torch.Size([4, 5]), antialias=[2, 1]), expected)


IMAGE, THETA = torch.zeros(2, 3, 4, 4), torch.eye(2, 3).repeat(2, 1, 1)


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("fill is used only with padding_mode='fill'", {"fill": 1.0}),
        (r"fill must be a number or have shape \[C\] = \[3\]", {"padding_mode": "fill", "fill": [1.0, 2.0]}),
        ("fill must be a number or have shape", {"padding_mode": "fill", "fill": torch.zeros(1, 1, 3)}),
        ("fill must have batch size 1 or 2", {"padding_mode": "fill", "fill": torch.zeros(3, 3)}),
        (r"color must have shape \[C, C \+ 1\] = \[3, 4\]", {"color": torch.zeros(3, 3)}),
        ("color must have shape", {"color": 1.0}),
        ("color must have batch size 1 or 2", {"color": torch.zeros(3, 3, 4)}),
        ("antialias must be True, False", {"antialias": 0}),
        ("antialias must be True, False", {"antialias": 1.5}),
        ("antialias must be True, False", {"antialias": (2, 0)}),
        ("antialias must be True, False", {"antialias": (2, 2, 2)}),
        ("antialias must be True, False", {"antialias": "yes"}),
        ("antialias must be True, False", {"antialias": None}),
        ("size must be", {"size": (0, 4)}),
        ("size must be", {"size": (4,)}),
        ("size must be", {"size": 4}),
        ("size must be", {"size": (4.5, 4)}),
        ("size must be", {"size": (4.0, 4)}),
        ("mode must be one of", {"mode": "bicubicle"}),
        ("padding_mode must be one of", {"padding_mode": "wrap"}),
    ],
)
def test_errors_name_the_option(match, options):
    with pytest.raises(ValueError, match=match):
        affine_warp(IMAGE, THETA, **options)


@pytest.mark.parametrize("align_corners", ["bilinear", 1, None], ids=str)
def test_align_corners_is_true_or_false(align_corners):
    with pytest.raises(TypeError, match="align_corners must be True or False"):
        affine_warp(IMAGE, THETA, align_corners=align_corners)
    torch.testing.assert_close(affine_warp(IMAGE, THETA, align_corners=np.True_), IMAGE)


@pytest.mark.parametrize("fill", ["red", [0.5, "red", 1], {"red": 1}, torch.zeros(3, dtype=torch.complex64)], ids=str)
def test_a_fill_that_is_no_number_is_named(fill):
    with pytest.raises(TypeError, match="fill must be"):
        affine_warp(IMAGE, THETA, padding_mode="fill", fill=fill)


@pytest.mark.parametrize("interpolation", ["bilinear", "cubic_bspline"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("controls", "size", "factor"), [(40, 8, 1), (63, 9, 1), (100, 300, 1), (26, 546, 1), (40, 8, 5), (63, 9, 7)]
)
def test_output_pixels_on_control_points(interpolation, align_corners, controls, size, factor):
    # At the ends of a run, where a rounding error decides between two cells.
    image, flow = random_image((1, 1, controls, controls)), 0.1 * random_image((1, 2, controls, controls), seed=1)
    options = {"align_corners": align_corners, "interpolation": interpolation, "antialias": factor}
    inputs, grad = (image, flow), random_image((1, 1, size, size), seed=2)

    def ours(image, flow):
        return ops.flow_warp(image, flow, (size, size), padding_mode="border", **options)

    def theirs(image, flow):
        return reference.flow_warp(image, flow, (size, size), padding_mode="border", **options)

    torch.testing.assert_close(ours(*inputs), theirs(*inputs), rtol=0, atol=1e-10)
    assert_all_close(gradients(ours, inputs, grad), gradients(theirs, inputs, grad), 1e-10)


@pytest.mark.parametrize(("side", "batch", "out"), [(4, 256, 128), (28, 64, 28), (150, 40, 7)])
def test_the_gradient_of_a_shared_image_is_as_exact_as_torchs(side, batch, out):
    image = random_image((1, 2, side, side), torch.float32)
    theta = 0.5 * torch.eye(2, 3).expand(batch, -1, -1) + 0.05 * random_image((batch, 2, 3), torch.float32)
    grad = random_image((batch, 2, out, out), torch.float32, seed=3).abs()

    def theirs(image, theta):
        grid = F.affine_grid(theta, [batch, 2, out, out], align_corners=False)
        return F.grid_sample(image.expand(batch, -1, -1, -1), grid, align_corners=False)

    result = gradients(lambda i: ops.affine_warp(i, theta, (out, out)), [image], grad)[0]
    peer = gradients(lambda i: theirs(i, theta), [image], grad)[0]
    exact = gradients(lambda i: theirs(i, theta.double()), [image.double()], grad.double())[0]
    assert_as_exact(result, peer, exact)


def test_numbers_become_tensors_that_keep_gradients():
    image, eye = random_image((1, 3, 4, 4)), torch.eye(2, 3, dtype=torch.float64)[None] * 3
    expected = ops.affine_warp(image, eye, padding_mode="fill", fill=torch.tensor([0.5, 1.0, 2.0]))
    value = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for fill in ([0.5, 1, value], np.array([0.5, 1.0, 2.0]), (np.float32(0.5), 1, 2.0)):
        assert torch.equal(ops.affine_warp(image, eye, padding_mode="fill", fill=fill), expected)
    ops.affine_warp(image, eye, padding_mode="fill", fill=[0.5, 1, value]).sum().backward()
    assert value.grad > 0


def test_numbers_do_not_compile_anew():
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    image, eye = random_image((1, 1, 4, 4)), torch.eye(2, 3, dtype=torch.float64)[None] * 3
    compiled = torch.compile(
        lambda fill: ops.affine_warp(image, eye, padding_mode="fill", fill=fill), backend=counter, fullgraph=True
    )
    for k in range(6):
        expected = ops.affine_warp(image, eye, padding_mode="fill", fill=1.5 + k)
        torch.testing.assert_close(compiled(1.5 + k), expected)
    assert counter.frame_count <= 2
