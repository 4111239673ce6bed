"""The Triton warps against the reference in plain PyTorch. Run by test_triton_warps.py, in Triton's interpreter."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hardfast import ops, reference
from hardfast.ops._library import backends
from hardfast.reference._sampling import sub_samples
from hardfast.reference.thin_plate_warp import thin_plate_weights, warp_by_weights
from hardfast.testing import assert_as_exact

WARPS = ("affine_warp", "projective_warp", "flow_warp", "thin_plate_warp")
MODES = ("nearest", "bilinear", "bicubic")
PADDINGS = ("zeros", "border", "reflection", "fill")
SIZE = (5, 11)


def test_the_kernels_serve_the_ops():
    assert all(backends()[name]["cpu"] == "triton" for name in WARPS)


def map_inputs(name: str, batch: int, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    if name == "affine_warp":
        maps = [torch.eye(2, 3) + 0.3 * noise(2, 3)]
    elif name == "projective_warp":
        maps = [torch.eye(3) + 0.15 * noise(3, 3)]
    elif name == "flow_warp":
        maps = [0.2 * noise(2, 3, 4)]
    else:
        target = torch.rand(batch, 5, 2, generator=generator, dtype=torch.float64) * 2 - 1
        maps = [target, thin_plate_weights(target + 0.1 * noise(5, 2), target, 0.0)]
    return [m.to(dtype) for m in maps]


NEUTRAL: dict[str, Any] = {
    "mode": "bilinear",
    "padding_mode": "zeros",
    "align_corners": False,
    "fill": None,
    "color": None,
    "antialias": False,
}


def spline_warp(
    module: Any, image: Tensor, points: Tensor, weights: Tensor, size: tuple[int, int], **rules: Any
) -> Tensor:
    """A thin plate from its weights: those that the op gets are rounded to the dtype of the arithmetic."""
    if module is reference:
        return warp_by_weights(image, points, weights, size, **rules)
    samples = sub_samples(rules["antialias"], image, size)
    options = (rules["mode"], rules["padding_mode"], rules["align_corners"])
    return torch.ops.hardfast.thin_plate_warp(
        image, points, weights, rules["fill"], rules["color"], size, samples, *options
    )


class Case:
    """A warp, its inputs and its options; ``run`` gives the output and the gradient to every input."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...] = (2, 1, 7, 9),
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        maps: int | None = None,
        fill: int | None = None,
        color: int | None = None,
        batch: int | None = None,
        size: tuple[int, int] = SIZE,
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        self.name, self.options, self.size = name, options, size
        image = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        self.inputs = [image, *map_inputs(name, shape[0] if maps is None else maps, compute, generator)]
        self.extra: dict[str, int] = {}
        if fill is None and options.get("padding_mode") == "fill":
            fill = shape[0]
        for key, entries, columns in (("fill", fill, ()), ("color", color, (shape[1] + 1,))):
            if entries is not None:
                self.extra[key] = len(self.inputs)
                values = torch.randn(entries, shape[1], *columns, generator=generator, dtype=torch.float64)
                self.inputs.append(values.to(compute))
        samples = batch or max(t.shape[0] for t in self.inputs)
        self.grad = torch.randn(samples, shape[1], *size, generator=generator, dtype=torch.float64).to(dtype)

    def apply(self, module: Any, *inputs: Tensor) -> Tensor:
        first_extra = min(self.extra.values(), default=len(inputs))
        extra = {key: inputs[at] for key, at in self.extra.items()}
        if self.name == "thin_plate_warp":
            return spline_warp(module, *inputs[:3], self.size, **{**NEUTRAL, **extra, **self.options})
        return getattr(module, self.name)(*inputs[:first_extra], self.size, **extra, **self.options)

    def run(self, module: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
        inputs = [t.detach() if dtype is None else t.detach().to(dtype) for t in self.inputs]
        inputs = [t.requires_grad_() for t in inputs]
        output = self.apply(module, *inputs)
        grads = torch.autograd.grad(output, inputs, self.grad.to(output.dtype), allow_unused=True)
        zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))
        return [output.detach(), *zeros]

    def check(self) -> list[Tensor]:
        results = self.run(ops)
        expected = self.run(reference)
        exact = self.run(reference, torch.float64)
        for k, (mine, peer, true) in enumerate(zip(results, expected, exact, strict=True)):
            assert mine.dtype == peer.dtype, k
            assert mine.stride() == peer.stride() or k != 0, k
            if mine.dtype == torch.float64:
                torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-10, msg=lambda m, k=k: f"input {k}: {m}")
            else:
                assert_as_exact(mine, peer, true)
        return results


SAMPLERS = list(itertools.product(MODES, PADDINGS, [False, True]))


# Every sampler with one map, and every map with every mode and both meanings of the corners: position and sampler
# meet nowhere but in two numbers.
@pytest.mark.parametrize(
    ("name", "mode", "padding_mode", "align_corners"),
    [(WARPS[(k + k // 4) % 4], *sampler) for k, sampler in enumerate(SAMPLERS)],
)
def test_output_and_every_gradient(name, mode, padding_mode, align_corners):
    Case(name, (1, 1, 7, 9), mode=mode, padding_mode=padding_mode, align_corners=align_corners).check()


@pytest.mark.parametrize(
    ("name", "mode", "padding_mode", "align_corners"),
    [
        ("affine_warp", "bilinear", "reflection", False),
        ("projective_warp", "bicubic", "fill", True),
        ("flow_warp", "bicubic", "fill", False),
        ("thin_plate_warp", "bilinear", "reflection", True),
    ],
)
def test_float64_with_colors_and_sub_samples(name, mode, padding_mode, align_corners):
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners, "antialias": (1, 3)}
    Case(name, (1, 2, 6, 5), torch.float64, seed=1, color=1, size=(3, 4), **options).check()


@pytest.mark.parametrize(("name", "dtype"), list(zip(WARPS, 2 * [torch.float16, torch.bfloat16], strict=True)))
def test_half_images(name, dtype):
    Case(name, (2, 1, 7, 9), dtype, seed=2, padding_mode="border").check()


@pytest.mark.parametrize("name", ["affine_warp", "flow_warp", "thin_plate_warp"])
def test_shared_images_maps_and_values(name):
    """Batches of 1 serve all samples, and get the sum of their gradients."""
    Case(name, (1, 2, 5, 4), maps=2, fill=2, color=1, padding_mode="fill", seed=3, dtype=torch.float64).check()
    Case(name, (2, 2, 5, 4), maps=1, fill=1, color=2, padding_mode="fill", seed=4, dtype=torch.float64).check()


def test_more_channels_than_one_group():
    Case("affine_warp", (1, 6, 5, 4), padding_mode="fill", fill=1, seed=5, antialias=(2, 1)).check()
    Case("flow_warp", (1, 4, 5, 4), color=1, seed=6, padding_mode="border").check()


@pytest.mark.parametrize(
    ("interpolation", "align_corners", "shape", "flows", "antialias"),
    [
        ("bilinear", False, (5, 11), 2, False),  # of the output's own size: nothing is interpolated
        ("bilinear", True, (5, 11), 1, False),
        ("bilinear", False, (5, 11), 1, (2, 1)),
        ("bilinear", True, (13, 2), 1, False),
        ("bilinear", False, (1, 1), 1, (2, 1)),
        ("cubic_bspline", False, (5, 11), 2, False),
        ("cubic_bspline", False, (2, 29), 1, (2, 1)),
        ("cubic_bspline", True, (13, 2), 2, False),
        ("cubic_bspline", True, (1, 1), 1, False),
    ],
)
def test_flows_of_any_size(interpolation, align_corners, shape, flows, antialias):
    case = Case("flow_warp", interpolation=interpolation, align_corners=align_corners, antialias=antialias)
    case.inputs[1] = 0.2 * torch.randn(flows, 2, *shape, generator=torch.Generator().manual_seed(shape[0]))
    case.check()


def test_small_scratch_changes_nothing(monkeypatch):
    """One image and a few rows of position gradients at a time."""
    case = Case("flow_warp", (2, 1, 5, 6), torch.float64, size=(3, 5), interpolation="cubic_bspline", antialias=(2, 1))
    whole = case.run(ops)
    backward = importlib.import_module("hardfast._triton._warp_backward")
    items = []
    count_items = backward._scratch_items
    monkeypatch.setattr(backward, "SCRATCH_BYTES", 470)
    monkeypatch.setattr(backward, "_scratch_items", lambda *args: items.append(count_items(*args)) or items[-1])
    pieces = case.run(ops)
    assert 5 <= items[0] < 10  # rows: of one image at a time
    assert items[1] < 6  # rows of position gradients, of six
    assert torch.equal(whole[1], pieces[1])
    torch.testing.assert_close(whole[2], pieces[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("images", "rows", "count"), [(2, 31, 1), (2, 29, 2), (2, 11, 4), (1, 14, 2), (1, 4, 6)])
def test_pieces_of_an_image_make_the_same_gradient(monkeypatch, images, rows, count):
    """Of three channels of five rows: whole images, two channels, four rows of a channel."""
    case = Case("affine_warp", (images, 3, 5, 6), torch.float64, maps=2, batch=2, color=1)
    whole = case.run(ops)
    backward = importlib.import_module("hardfast._triton._warp_backward")
    pieces = []

    class Recorder:
        def __getitem__(self, grid: tuple[int]) -> Any:
            launch = scatter_kernel[grid]
            return lambda *args, **constants: pieces.append(args[-2]) or launch(*args, **constants)

    scatter_kernel = backward.scatter_kernel
    monkeypatch.setattr(backward, "scatter_kernel", Recorder())
    monkeypatch.setattr(backward, "_scratch_items", lambda *_: rows)
    for mine, other in zip(case.run(ops), whole, strict=True):
        assert torch.equal(mine, other)
    assert len(pieces) == len(set(pieces)) == count


def test_scratch_of_one_large_image_is_a_hundredth():
    backward = importlib.import_module("hardfast._triton._warp_backward")
    launch = importlib.import_module("hardfast._triton._warp_launch")
    image, theta = torch.empty(1, 3, 4096, 4096, device="meta"), torch.empty(1, 2, 3, device="meta")
    options = ((4096, 4096), (1, 1), "bilinear", "zeros", False)
    warp = launch.Warp("affine", image, (theta,), None, None, *options)
    rows = backward._scratch_items(warp, 8 * 4096)
    assert 0.009 < rows * 8 * 4096 / (3 * image.nbytes) <= 0.01
    small = launch.Warp("affine", image[:, :, :9, :9], (theta,), None, None, (9, 9), *options[1:])
    assert backward._scratch_items(small, 1) == backward.SCRATCH_BYTES


def test_many_control_points():
    generator = torch.Generator().manual_seed(7)
    case = Case("thin_plate_warp", (1, 1, 7, 9), torch.float64)
    target = torch.rand(1, 19, 2, generator=generator, dtype=torch.float64) * 2 - 1
    source = target + 0.05 * torch.randn(1, 19, 2, generator=generator, dtype=torch.float64)
    case.inputs[1:3] = [target, thin_plate_weights(source, target, 0.0)]
    case.check()


def strided_views() -> dict[str, Tensor]:
    base = torch.randn(4, 4, 24, 20, generator=torch.Generator().manual_seed(8))
    return {
        "channels last": base[:2, :3, :6, :8].contiguous(memory_format=torch.channels_last),
        "sliced": base[1:3, 1:4, 2:20:3, 3:19:2],
        "transposed and expanded": base[:1, :1, :8, :6].transpose(2, 3).expand(2, 3, 6, 8),
    }


@pytest.mark.parametrize(
    ("name", "label"), [*(("affine_warp", view) for view in strided_views()), ("flow_warp", "channels last")]
)
def test_strides(name, label):
    """Inputs of any strides as they are, outputs in the memory format of the image."""
    view = strided_views()[label]
    case = Case(name, (2, 3, 6, 8), size=(6, 8))
    case.inputs[0] = view
    case.grad = torch.ones(()).expand(case.grad.shape)
    case.inputs[1] = case.inputs[1].mT.contiguous().mT
    strided = case.run(ops)
    is_last = label == "channels last"
    assert strided[0].is_contiguous(memory_format=torch.channels_last) == is_last, label
    case.inputs = [t.contiguous() for t in case.inputs]
    case.grad = case.grad.contiguous()
    for mine, other in zip(strided, case.run(ops), strict=True):
        assert torch.equal(mine, other), label


@pytest.mark.parametrize("name", ["flow_warp", "thin_plate_warp"])
def test_a_gradient_alone_is_bitwise_that_of_all(name):
    case = Case(name, (1, 2, 5, 4), padding_mode="fill", color=1)
    everything = case.run(ops)
    assert all(torch.equal(a, b) for a, b in zip(everything, case.run(ops), strict=True))  # and of a second run
    for k in range(len(case.inputs)):
        inputs = [t.detach().clone().requires_grad_(i == k) for i, t in enumerate(case.inputs)]
        (grad,) = torch.autograd.grad(case.apply(ops, *inputs), inputs[k], case.grad)
        assert torch.equal(grad, everything[1 + k]), k


@pytest.mark.parametrize("name", ["affine_warp", "thin_plate_warp"])
def test_programs_that_share_a_sample(monkeypatch, name):
    """Four tiles (six of the thin plate) for three programs, and the sums of what they leave."""
    backward = importlib.import_module("hardfast._triton._warp_backward")
    monkeypatch.setattr(backward, "strips_per_sample", lambda *_: 3)
    Case(name, (1, 1, 9, 33), torch.float64, padding_mode="fill", color=1, size=(9, 33)).check()


def test_sums_of_many_rows():
    reduce = importlib.import_module("hardfast._triton._warp_reduce")
    rows = torch.randn(2, 70, 37, generator=torch.Generator().manual_seed(13), dtype=torch.float64)
    with torch.cuda.device_of(rows):
        torch.testing.assert_close(reduce.sum_partials(rows, shared=False), rows.sum(1))
        torch.testing.assert_close(reduce.sum_partials(rows, shared=True), rows.sum((0, 1))[None])
    output_bytes = 4 * 3 * 224 * 224
    strips = reduce.strips_per_sample(196, 6, output_bytes)
    assert strips > 100
    assert 8 * 6 * strips <= 2 * output_bytes // 100
    assert reduce.strips_per_sample(1, 6, 4) == 1


@pytest.mark.parametrize("name", ["affine_warp", "flow_warp", "thin_plate_warp"])
def test_a_sample_alone_is_bitwise_that_of_the_batch(name):
    case = Case(name, (2, 1, 9, 40), size=(7, 35), padding_mode="reflection")
    together = case.run(ops)
    case.inputs, case.grad = [t[1:2] for t in case.inputs], case.grad[1:2]
    for mine, other in zip(case.run(ops), together, strict=True):
        assert torch.equal(mine, other[1:2])


@pytest.mark.parametrize("name", ["affine_warp", "flow_warp"])
def test_uint8_rounds_half_to_even_and_saturates(name):
    generator = torch.Generator().manual_seed(9)
    image = torch.randint(0, 256, (2, 3, 7, 9), generator=generator, dtype=torch.uint8)
    case = Case(name, (2, 3, 7, 9))
    case.inputs[0] = image
    for options in ({"mode": "bicubic", "padding_mode": "border"}, {"antialias": 2}):
        case.options = options
        mine, other = case.apply(ops, *case.inputs), case.apply(reference, *case.inputs)
        assert mine.dtype == torch.uint8
        assert (mine.int() - other.int()).abs().max() <= 1  # where the rounding of float32 decides
        assert (mine != other).float().mean() < 0.02
    halves = torch.tensor([[[[0, 1, 2, 3, 254, 255]]]], dtype=torch.uint8)
    shift = torch.tensor([[[1.0, 0, 1 / 6], [0, 1, 0]]])  # half a pixel
    shifted = ops.affine_warp(halves, shift, padding_mode="border")
    assert shifted.flatten().tolist() == [0, 2, 2, 128, 254, 255]


VALUES = (float("nan"), float("inf"), -float("inf"), 1e30, -1e38, 1e-45, 0.0)


EXTREMES = [*(("bilinear", value) for value in VALUES), ("bicubic", VALUES[0]), ("bicubic", VALUES[3])]


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("name", WARPS)
def test_extreme_maps_reach_no_pixel_beyond_the_image(name, padding_mode):
    op = getattr(torch.ops.hardfast, name)
    backward = getattr(torch.ops.hardfast, f"_{name}_backward")
    tail = ["bilinear"] if name == "flow_warp" else []
    for mode, value in EXTREMES[(WARPS.index(name) + PADDINGS.index(padding_mode)) % 4 :: 4]:
        # Pixels beside the image are NaN: whatever is read out of bounds shows.
        frame = torch.full((1, 1, 9, 11), torch.nan)
        image = frame[:, :, 3:6, 4:8].fill_(0.5)
        maps = map_inputs(name, 1, torch.float32, torch.Generator().manual_seed(10))
        if name == "thin_plate_warp":
            maps[1] = torch.full_like(maps[1], value)
        else:
            maps = [torch.full_like(maps[0], value)]
        fill = torch.full((1, 1), 0.5)
        rules = [mode, padding_mode, False, *tail]
        output = op(image, *maps, fill, None, [3, 4], [1, 1], *rules)
        if padding_mode == "zeros":  # the edges mix with zeros
            assert ((output > -0.1) & (output < 0.6)).all()
        else:
            assert ((output - 0.5).abs() < 1e-5).all()
        mask = [True, *(True for _ in maps), True, False]
        grads = backward(torch.ones_like(output), image, *maps, fill, None, [1, 1], *rules, mask)
        assert torch.isfinite(grads[0]).all()


def test_nothing_finite_comes_of_an_infinite_gradient():
    case = Case("affine_warp", (2, 1, 4, 5))
    case.grad[1, 0, 2, 3] = torch.inf
    grad_image = case.run(ops)[1]
    assert torch.isfinite(grad_image[0]).all()
    assert grad_image[1].isnan().all()


def test_the_identity_copies_and_large_images_stay_precise():
    image = torch.randn(1, 1, 19, 35, generator=torch.Generator().manual_seed(11))
    for align_corners in (False, True):
        options = {"align_corners": align_corners}
        assert torch.equal(ops.affine_warp(image, torch.eye(2, 3)[None], **options), image)
        assert torch.equal(ops.projective_warp(image, torch.eye(3)[None], **options), image)
        assert torch.equal(ops.flow_warp(image, torch.zeros(1, 2, 3, 4), **options), image)
    row = torch.randn(1, 1, 1, 1_000_001, generator=torch.Generator().manual_seed(12))
    theta = torch.tensor([[[1e-5, 0, 0.9], [0, 1, 0]]])
    expected = reference.affine_warp(row.double(), theta.double(), (1, 64))
    assert (ops.affine_warp(row, theta, (1, 64)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", WARPS)
def test_nothing_to_do(name):
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5)):
        case = Case(name, shape)
        results = case.run(ops)
        assert results[0].shape == (*shape[:2], *SIZE)
        assert all(r.shape == t.shape and not r.any() for r, t in zip(results[1:], case.inputs, strict=True))
    # An image that no sample uses has no gradient.
    case = Case(name, (1, 3, 4, 5), maps=0)
    case.grad = case.grad[:0]
    results = case.run(ops)
    assert results[0].shape == (0, 3, *SIZE)
    assert not results[1].any()
