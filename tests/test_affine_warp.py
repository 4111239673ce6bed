"""affine_warp against PyTorch's grid_sample, and the properties that a drop-in op must have."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from hardfast import reference
from hardfast.ops import affine_warp
from hardfast.testing import assert_as_exact

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TORCH_PADDINGS = ["zeros", "border", "reflection"]
# [B, C, H, W] and (H_out, W_out): odd, prime, single pixels, one row, several channel blocks, several tiles.
SHAPES = [
    ((3, 3, 17, 23), (17, 23)),
    ((2, 1, 28, 28), (28, 28)),
    ((2, 1, 13, 7), (5, 31)),
    ((2, 2, 1, 1), (3, 3)),
    ((1, 4, 1, 19), (2, 11)),
    ((2, 5, 31, 2), (31, 2)),
    ((1, 9, 12, 12), (7, 5)),
    ((1, 3, 150, 290), (140, 270)),
]


def random_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, spread: float = 0.4, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    theta = torch.eye(2, 3) + spread * torch.randn(shape[0], 2, 3, generator=generator)
    return image, theta.double() if dtype == torch.float64 else theta


def torch_warp(
    image: Tensor, theta: Tensor, size: tuple[int, int], mode: str, padding_mode: str, align: bool
) -> Tensor:
    with pytest.warns() if align and 1 in size else _nothing():  # PyTorch remarks on one-pixel outputs
        grid = F.affine_grid(theta.to(image.dtype), [*image.shape[:2], *size], align_corners=align)
    return F.grid_sample(image, grid, mode, padding_mode, align)


class _nothing:  # noqa: N801 - reads as a keyword
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def gradients(function, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    inputs = tuple(x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs)
    return torch.autograd.grad(function(*inputs), inputs, grad)


@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", TORCH_PADDINGS)
def test_bilinear_equals_grid_sample_in_float64(shape, size, padding_mode, align_corners):
    image, theta = random_inputs(shape, torch.float64)

    def ours(image: Tensor, theta: Tensor) -> Tensor:
        return affine_warp(image, theta, size, padding_mode=padding_mode, align_corners=align_corners)

    def theirs(image: Tensor, theta: Tensor) -> Tensor:
        return torch_warp(image, theta, size, "bilinear", padding_mode, align_corners)

    expected = theirs(image, theta)
    torch.testing.assert_close(ours(image, theta), expected, rtol=0, atol=1e-11)
    grad = torch.randn_like(expected)
    for mine, other in zip(gradients(ours, (image, theta), grad), gradients(theirs, (image, theta), grad), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", TORCH_PADDINGS)
def test_nearest_equals_grid_sample_in_float64(shape, size, padding_mode, align_corners):
    image, theta = random_inputs(shape, torch.float64)
    options = {"mode": "nearest", "padding_mode": padding_mode, "align_corners": align_corners}
    expected = torch_warp(image, theta, size, "nearest", padding_mode, align_corners)
    torch.testing.assert_close(affine_warp(image, theta, size, **options), expected, rtol=0, atol=0)
    grad = torch.randn_like(expected)
    grad_image, grad_theta = gradients(lambda i, t: affine_warp(i, t, size, **options), (image, theta), grad)
    (expected_grad,) = gradients(
        lambda i: torch_warp(i, theta, size, "nearest", padding_mode, align_corners), (image,), grad
    )
    torch.testing.assert_close(grad_image, expected_grad, rtol=0, atol=1e-12)
    assert not grad_theta.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("padding_mode", TORCH_PADDINGS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_at_most_twice_the_error_of_torch(dtype, channels_last, padding_mode, align_corners, channels):
    image, theta = random_inputs((4, channels, 37, 53), dtype, spread=0.2)
    theta = theta.to(dtype).float()  # so that PyTorch, which wants one dtype, sees the same map
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    size = (41, 47)

    def ours(image: Tensor, theta: Tensor) -> Tensor:
        return affine_warp(image, theta, size, padding_mode=padding_mode, align_corners=align_corners)

    def theirs(image: Tensor, theta: Tensor) -> Tensor:
        return torch_warp(image, theta, size, "bilinear", padding_mode, align_corners)

    def exact(image: Tensor, theta: Tensor) -> Tensor:
        return torch_warp(image.double(), theta.double(), size, "bilinear", padding_mode, align_corners)

    output = ours(image, theta)
    assert output.dtype == dtype
    assert output.is_contiguous(memory_format=torch.channels_last) == (channels_last or channels == 1)
    assert_as_exact(output, theirs(image, theta), exact(image, theta))

    grad = torch.randn(output.shape).to(dtype)
    results = gradients(ours, (image, theta), grad)
    peers = gradients(lambda i, t: theirs(i, t.to(dtype)), (image, theta), grad)
    references = gradients(lambda i, t: exact(i, t).to(torch.float64), (image, theta), grad.double())
    assert_as_exact(results[0], peers[0], references[0])
    # At the kinks of the padding rules a rounding of the position decides between two slopes, in either
    # implementation: the gradient to theta is compared where there are none.
    if padding_mode == "zeros":
        assert_as_exact(results[1], peers[1], references[1])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_identity_and_whole_shifts_copy_exactly(dtype, channels_last):
    image, _ = random_inputs((2, 3, 16, 32), dtype)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    theta_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    identity = torch.eye(2, 3, dtype=theta_dtype).repeat(2, 1, 1)
    assert torch.equal(affine_warp(image, identity), image)
    assert torch.equal(affine_warp(image, identity, align_corners=True), image)
    shift = identity.clone()
    shift[:, 0, 2] = 2 * 4 / 32  # four pixels: a power of two, so exact
    shift[:, 1, 2] = -2 * 2 / 16
    expected = torch.zeros_like(image)
    expected[:, :, 2:, :-4] = image[:, :, :-2, 4:]
    assert torch.equal(affine_warp(image, shift), expected)


def test_quarter_turns_compose_to_the_identity():
    image, _ = random_inputs((2, 3, 20, 20), torch.float64)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0]], dtype=torch.float64).repeat(2, 1, 1)
    assert torch.equal(affine_warp(image, turn), image.rot90(1, (2, 3)))
    turned = image
    for _ in range(4):
        turned = affine_warp(turned, turn)
    assert torch.equal(turned, image)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("channels", [1, 3])
def test_fill_is_what_an_infinite_frame_of_that_value_gives(mode, channels):
    image, theta = random_inputs((3, channels, 9, 12), torch.float64)
    fill = torch.linspace(-1, 2, channels, dtype=torch.float64)
    expected = affine_warp(image - fill[:, None, None], theta, mode=mode) + fill[:, None, None]
    for value in (fill, fill.tolist(), fill.expand(3, channels)):
        actual = affine_warp(image, theta, mode=mode, padding_mode="fill", fill=value)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    per_sample = torch.randn(3, channels, dtype=torch.float64)
    actual = affine_warp(image, theta, mode=mode, padding_mode="fill", fill=per_sample)
    one_by_one = [
        affine_warp(image[i : i + 1], theta[i : i + 1], mode=mode, padding_mode="fill", fill=per_sample[i])
        for i in range(3)
    ]
    assert torch.equal(actual, torch.cat(one_by_one))
    assert torch.equal(affine_warp(image, theta, padding_mode="fill"), affine_warp(image, theta, padding_mode="zeros"))


def test_far_outside_everything_is_padding():
    image, _ = random_inputs((1, 3, 8, 8), torch.float32)
    image[:] = torch.nan  # not even a zero times a pixel may reach the output
    far = torch.tensor([[[1.0, 0, 50], [0, 1, 0]]])
    assert torch.equal(affine_warp(image, far), torch.zeros_like(image))
    assert torch.equal(affine_warp(image, far, padding_mode="fill", fill=2.0), torch.full_like(image, 2.0))


QUICK_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
COMPILED_CHECKS = ("test_aot_dispatch_dynamic",)  # seconds each


@pytest.mark.parametrize("padding_mode", [*TORCH_PADDINGS, "fill"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, padding_mode):
    image, theta = random_inputs((2, 3, 6, 7), dtype)
    image.requires_grad_()
    theta.requires_grad_()
    fill = torch.rand(1, 3, dtype=theta.dtype) if padding_mode == "fill" else None
    thorough = QUICK_CHECKS + (COMPILED_CHECKS if (dtype, padding_mode) in [(torch.float32, "fill")] else ())
    args = (image, theta, fill, None, [5, 4], [1, 1], "bilinear", padding_mode, False)
    torch.library.opcheck(torch.ops.hardfast.affine_warp, args, test_utils=thorough)
    grad = torch.randn(2, 3, 5, 4).to(dtype)
    for mask in itertools.product([True, False], repeat=2):
        rules = ([1, 1], "bilinear", padding_mode, False, [*mask, False, False])
        backward_args = (grad, image, theta, fill, None, *rules)
        checks = thorough if all(mask) else QUICK_CHECKS
        torch.library.opcheck(torch.ops.hardfast._affine_warp_backward, backward_args, test_utils=checks)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_to_one_graph(dynamic):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(image: Tensor, theta: Tensor) -> Tensor:
        return affine_warp(image * 2, theta, (9, 11), padding_mode="border").square().mean()

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=dynamic)
    for batch in (4, 5, 7):  # not 2: the compiler takes it for the 2 of theta's shape
        image, theta = random_inputs((batch, 3, 8, 8), torch.float32)
        expected = gradients(loss, (image, theta), torch.tensor(1.0))
        actual = gradients(compiled, (image, theta), torch.tensor(1.0))
        for mine, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(mine, other)
    assert counter.frame_count <= (1 if dynamic else 2)  # one for the first batch size, one for all others


def test_compiles_with_inductor():
    torch.compiler.reset()
    image, theta = random_inputs((2, 3, 8, 8), torch.float32)
    compiled = torch.compile(lambda i, t: affine_warp(i.relu(), t).sin(), fullgraph=True)
    torch.testing.assert_close(compiled(image, theta), affine_warp(image.relu(), theta).sin())


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (2, 1)])
def test_vmap_and_per_sample_gradients(in_dims):
    images, thetas = torch.randn(4, 2, 3, 6, 5), torch.eye(2, 3) + 0.2 * torch.randn(4, 2, 2, 3)
    image_of = (lambda k: images[k]) if in_dims[0] is not None else (lambda k: images[0])
    theta_of = (lambda k: thetas[k]) if in_dims[1] is not None else (lambda k: thetas[0])
    args = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip((images, thetas), in_dims, strict=True)]

    def loss(image: Tensor, theta: Tensor) -> Tensor:
        return affine_warp(image, theta, padding_mode="reflection").square().sum()

    mapped = torch.func.vmap(affine_warp, in_dims)(*args)
    mapped_grads = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims)(*args)
    for k in range(4):
        assert torch.equal(mapped[k], affine_warp(image_of(k), theta_of(k)))
        expected = torch.func.grad(loss, argnums=(0, 1))(image_of(k), theta_of(k))
        torch.testing.assert_close(mapped_grads[0][k], expected[0])
        torch.testing.assert_close(mapped_grads[1][k], expected[1])


def test_vmap_over_fill():
    image, theta = random_inputs((2, 3, 4, 4), torch.float32, spread=1.0)
    fills = torch.randn(5, 3)
    mapped = torch.func.vmap(lambda f: affine_warp(image, theta, padding_mode="fill", fill=f))(fills)
    for k in range(5):
        torch.testing.assert_close(mapped[k], affine_warp(image, theta, padding_mode="fill", fill=fills[k]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_images_dtype_and_float32_coordinates(dtype):
    image, theta = random_inputs((2, 3, 64, 64), dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(affine_warp(image, theta), affine_warp(image.float(), theta).to(dtype))
        head = torch.nn.Linear(4, 6)(torch.ones(2, 4)).reshape(2, 2, 3)  # autocast yields bfloat16
        assert affine_warp(image.float(), head).dtype == torch.float32


@pytest.mark.parametrize("side", [106, 224, 300, 512])
def test_nearest_moves_each_gradient_to_the_pixel_it_came_from(side):
    # Halving puts every position on a tie: the gradient must break it as the forward does, in every tile.
    image = torch.arange(float(side * side)).reshape(1, 1, side, side).requires_grad_()
    output = affine_warp(image, torch.eye(2, 3)[None], (side // 2, side // 2), mode="nearest")
    (grad,) = torch.autograd.grad(output.sum(), image)
    expected = torch.zeros(side * side).index_fill_(0, output.detach().flatten().long(), 1.0)
    assert torch.equal(grad.flatten(), expected)


def test_forward_does_not_depend_on_the_fill_requiring_a_gradient():
    image, theta = random_inputs((1, 3, 16, 16), torch.float16, spread=1.0)
    fill = torch.tensor([1e4, 0.1, -3.0])
    plain = affine_warp(image, theta, padding_mode="fill", fill=fill)
    assert torch.equal(affine_warp(image, theta, padding_mode="fill", fill=fill.requires_grad_()), plain)


def test_strided_inputs_need_no_copy_to_be_right():
    base = torch.randn(4, 6, 24, 40)
    _, theta = random_inputs((2, 3, 1, 1), torch.float32)
    views = {
        "sliced": base[::2, 1:4, 3:20, 5:33],
        "stepped": base[:2, ::2, ::3, ::2],
        "transposed": base[:2, :3].transpose(2, 3),
        "channels_last slice": base.contiguous(memory_format=torch.channels_last)[:2, :3, 2:, 4:],
        "expanded": base[:1, :3].expand(2, 3, 24, 40),
        "broadcast channels": base[:2, :1].expand(2, 3, 24, 40),
    }
    for name, view in views.items():
        theta_view = theta.transpose(1, 2).contiguous().transpose(1, 2)  # strided too
        assert torch.equal(affine_warp(view, theta_view), affine_warp(view.contiguous(), theta)), name
        grad = torch.ones(()).expand(view.shape)  # as .sum().backward() makes it
        strided = gradients(affine_warp, (view, theta), grad)
        contiguous = gradients(affine_warp, (view.contiguous(), theta), grad.contiguous())
        for mine, other in zip(strided, contiguous, strict=True):
            torch.testing.assert_close(mine, other, msg=name)


@pytest.mark.parametrize("scale", [0.02, 0.3, 3.0, 40.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_strong_magnification_and_reduction(scale, channels):
    image, _ = random_inputs((2, channels, 257, 263), torch.float64)
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    theta = torch.cat([scale * turn, torch.tensor([[0.1], [-0.2]])], 1).repeat(2, 1, 1)
    grad = torch.randn(2, channels, 61, 67, dtype=torch.float64)
    for padding_mode in TORCH_PADDINGS:

        def ours(image: Tensor, theta: Tensor, padding_mode: str = padding_mode) -> Tensor:
            return affine_warp(image, theta, (61, 67), padding_mode=padding_mode)

        def theirs(image: Tensor, theta: Tensor, padding_mode: str = padding_mode) -> Tensor:
            return torch_warp(image, theta, (61, 67), "bilinear", padding_mode, False)

        torch.testing.assert_close(ours(image, theta), theirs(image, theta), rtol=0, atol=1e-10)
        pairs = zip(gradients(ours, (image, theta), grad), gradients(theirs, (image, theta), grad), strict=True)
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding_mode", [*TORCH_PADDINGS, "fill"])
@pytest.mark.parametrize("value", [1e30, -1e30, 1e38, 1e-45, 0.0])
def test_extreme_maps_stay_in_bounds(padding_mode, value):
    image = torch.rand(2, 3, 9, 11, requires_grad=True)
    theta = torch.full((2, 2, 3), value, requires_grad=True)
    output = affine_warp(image, theta, (7, 300), padding_mode=padding_mode)
    assert ((output >= 0) & (output <= 1)).all()
    output.sum().backward()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("padding_mode", [*TORCH_PADDINGS, "fill"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_maps_reach_no_pixel_beyond_the_image(padding_mode, value):
    # The public function refuses these on the CPU; below it the kernel has to survive them, as on a GPU.
    image = torch.rand(2, 3, 9, 11)
    theta = torch.full((2, 2, 3), value)
    theta[0, 0, 0] = 1.0
    op, backward = torch.ops.hardfast.affine_warp, torch.ops.hardfast._affine_warp_backward
    fill = torch.full((1, 3), 0.5)
    rules = ([1, 1], "bilinear", padding_mode, False)
    output = op(image, theta, fill, None, [300, 8], *rules)
    assert ((output >= 0) & (output <= 1)).all()
    mask = [True, True, False, False]
    grad_image = backward(torch.ones_like(output), image, theta, fill, None, *rules, mask)[0]
    assert torch.isfinite(grad_image).all()


def test_empty_batch_and_no_channels():
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5)):
        image = torch.zeros(shape, requires_grad=True)
        theta = torch.zeros(shape[0], 2, 3, requires_grad=True)
        output = affine_warp(image, theta, (6, 7))
        assert output.shape == (*shape[:2], 6, 7)
        output.sum().backward()
        assert image.grad.shape == image.shape
        assert theta.grad.shape == theta.shape
        assert not theta.grad.any()


def test_bitwise_equal_over_runs_threads_and_batches():
    image, theta = random_inputs((5, 3, 200, 180), torch.float32)
    grad = torch.randn(5, 3, 200, 180)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append((affine_warp(image, theta), *gradients(affine_warp, (image, theta), grad)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
    alone = gradients(affine_warp, (image[3:4], theta[3:4]), grad[3:4])
    assert torch.equal(alone[0], results[0][1][3:4])
    assert torch.equal(alone[1], results[0][2][3:4])


def test_reference_is_grid_sample():
    image, theta = random_inputs((2, 3, 8, 9), torch.float64)
    for mode, padding_mode, align in itertools.product(["bilinear", "nearest"], TORCH_PADDINGS, [False, True]):
        expected = torch_warp(image, theta, (5, 6), mode, padding_mode, align)
        actual = reference.affine_warp(image, theta, (5, 6), mode=mode, padding_mode=padding_mode, align_corners=align)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


IMAGE, THETA = torch.zeros(2, 3, 4, 4), torch.eye(2, 3).repeat(2, 1, 1)


@pytest.mark.parametrize(
    ("error", "match", "args", "kwargs"),
    [
        (TypeError, "image must be float32", (IMAGE.to(torch.int16), THETA), {}),
        (TypeError, "image must be a tensor, got list", ([1], THETA), {}),
        (TypeError, "image must be a dense tensor.*sparse", (IMAGE.to_sparse(), THETA), {}),
        (TypeError, "theta must be a dense tensor.*sparse", (IMAGE, THETA.to_sparse()), {}),
        (TypeError, "theta must be float32 or narrower", (IMAGE, THETA.double()), {}),
        (TypeError, "theta must be float32", (IMAGE, THETA.int()), {}),
        (ValueError, r"image must have shape \[B, C, H, W\], got \[3, 4, 4\]", (IMAGE[0], THETA), {}),
        (ValueError, "at least one pixel", (IMAGE[:, :, :0], THETA), {}),
        (
            ValueError,
            r"theta must have shape \[1 or B, 2, 3\], got \[2, 3, 3\]",
            (IMAGE, torch.eye(3).repeat(2, 1, 1)),
            {},
        ),
        (ValueError, "theta must have batch size 1 or 2", (IMAGE, THETA.repeat(2, 1, 1)), {}),
        (ValueError, "theta must be finite", (IMAGE, THETA * float("nan")), {}),
        (ValueError, "theta must be finite", (IMAGE, THETA + float("inf")), {}),
        (ValueError, "theta must be on the device of image", (IMAGE, THETA.to("meta")), {}),
        (ValueError, "mode must be one of", (IMAGE, THETA), {"mode": "bicubicle"}),
        (ValueError, "padding_mode must be one of", (IMAGE, THETA), {"padding_mode": "wrap"}),
        (ValueError, "size must be", (IMAGE, THETA), {"size": (0, 4)}),
        (ValueError, "size must be", (IMAGE, THETA), {"size": (4,)}),
        (ValueError, "size must be", (IMAGE, THETA), {"size": (4.5, 4)}),
        (ValueError, "fill is used only with", (IMAGE, THETA), {"fill": 1.0}),
        (
            ValueError,
            "fill must be a number or have shape",
            (IMAGE, THETA),
            {"padding_mode": "fill", "fill": [1.0, 2.0]},
        ),
    ],
)
def test_errors_name_the_argument(error, match, args, kwargs):
    with pytest.raises(error, match=match):
        affine_warp(*args, **kwargs)
