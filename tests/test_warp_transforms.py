"""All warps under autograd of any order, the compiler, vmap, torch.func, autocast and unusual tensors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from warp_cases import (
    ALL,
    DTYPES,
    MODES,
    PADDINGS,
    WarpCase,
    assert_all_close,
    assert_all_equal,
    every_warp,
    gradients,
    random_image,
)

from hardfast.ops import flow_warp


def all_inputs(case: WarpCase, batch: int = 1, channels: int = 2, size: tuple[int, int] = (4, 5)) -> list[Tensor]:
    """Image, map parameters, fill and colour."""
    image = random_image((batch, channels, *size))
    fill, color = random_image((batch, channels), seed=1), random_image((batch, channels, channels + 1), seed=2)
    return [image, *case.parameters(batch, seed=3), fill, color]


def filled(case: WarpCase, *inputs: Tensor, size: tuple[int, int] | None = None, **options: Any) -> Tensor:
    *tensors, fill, color = inputs
    return case.op(*tensors, size, padding_mode="fill", fill=fill, color=color, **case.options, **options)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@every_warp
def test_gradcheck_of_each_input_alone_and_of_all(case: WarpCase, mode):
    inputs = all_inputs(case)
    for chosen in [*([i] for i in range(len(inputs))), range(len(inputs))]:
        leaves = [x.clone().requires_grad_(i in chosen) for i, x in enumerate(inputs)]

        def warp(*values: Tensor) -> Tensor:
            return filled(case, *values, size=(3, 4), mode=mode, antialias=(1, 2))

        assert gradcheck(warp, leaves, fast_mode=len(chosen) > 1)
        assert gradgradcheck(warp, leaves, fast_mode=True, gen_non_contig_grad_outputs=True)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@every_warp
def test_gradcheck_of_every_padding(case: WarpCase, padding_mode, align_corners):
    image, *maps = (x.requires_grad_() for x in all_inputs(case, batch=2)[:-2])
    options = {"padding_mode": padding_mode, "align_corners": align_corners, **case.options}
    for mode in MODES:

        def warp(image: Tensor, *maps: Tensor, mode: str = mode) -> Tensor:
            return case.op(image, *maps, (5, 3), mode=mode, **options)

        assert gradcheck(warp, (image, *maps), fast_mode=True)
        if mode != "nearest":
            assert gradgradcheck(warp, (image, *maps), fast_mode=True)


@every_warp
def test_gradient_of_each_input_alone_equals_that_of_all_together(case: WarpCase):
    inputs = all_inputs(case, batch=2, channels=3, size=(14, 9))
    grad = random_image((2, 3, 14, 9), seed=9)
    together = gradients(lambda *values: filled(case, *values), inputs, grad)
    for i in range(len(inputs)):

        def alone(value: Tensor, i: int = i) -> Tensor:
            return filled(case, *inputs[:i], value, *inputs[i + 1 :])

        assert torch.equal(gradients(alone, [inputs[i]], grad)[0], together[i])


@pytest.mark.parametrize("mode", MODES)
@every_warp
def test_the_forward_does_not_depend_on_what_requires_a_gradient(case: WarpCase, mode):
    inputs = [x.float() for x in all_inputs(case, batch=2, channels=3, size=(9, 9))]
    plain = filled(case, *inputs, mode=mode)
    assert torch.equal(filled(case, *(x.requires_grad_() for x in inputs), mode=mode), plain)


QUICK_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
COMPILED_CHECKS = ("test_aot_dispatch_dynamic",)  # seconds each


@pytest.mark.parametrize("dtype", DTYPES)
@every_warp
def test_opcheck(case: WarpCase, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    image = random_image((2, 3, 6, 7), dtype).requires_grad_()
    maps = [p.requires_grad_() for p in case.raw_parameters(2, dtype)]
    extras = [torch.rand(1, 3, dtype=wide).requires_grad_(), torch.rand(2, 3, 4, dtype=wide).requires_grad_()]
    forward, backward = case.raw
    # A width of its own, not C + 1 as color's: PyTorch 2.15 fails on a symbol that it derived from another.
    interpolation = [case.options.get("interpolation", "bilinear")] if case.name == "flow_warp" else []
    rules = ([1, 2], "bilinear", "fill", False, *interpolation)
    thorough = QUICK_CHECKS + (COMPILED_CHECKS if dtype == torch.float32 else ())
    torch.library.opcheck(forward, (image, *maps, *extras, [5, 8], *rules), test_utils=thorough)
    torch.library.opcheck(forward, (image, *maps, None, None, [5, 8], *rules), test_utils=QUICK_CHECKS)
    grad = torch.randn(2, 3, 5, 8).to(dtype)
    tensors = (grad, image, *maps, *extras)
    count = len(maps) + 3
    for wanted in ([True] * count, *([i == k for i in range(count)] for k in range(count))):
        checks = thorough if all(wanted) else QUICK_CHECKS
        torch.library.opcheck(backward, (*tensors, *rules, wanted), test_utils=checks)
    without = (grad, image, *maps, None, None, *rules, [True] * (count - 2) + [False, False])
    torch.library.opcheck(backward, without, test_utils=QUICK_CHECKS)


@every_warp
def test_compiles_to_one_graph_for_all_sizes(case: WarpCase):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(size: tuple[int, int], image: Tensor, *rest: Tensor) -> Tensor:
        return filled(case, image * 2, *rest, size=size, antialias=True).square().mean()

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=True)
    # The first lengths all differ: the compiler takes equal ones for one.
    for batch, height, width, size in ((6, 17, 19, (7, 12)), (9, 21, 23, (9, 11)), (11, 18, 29, (8, 13))):
        inputs = all_inputs(case, batch, 3, (height, width))
        expected = gradients(lambda *values: loss(size, *values), inputs, torch.tensor(1.0, dtype=torch.float64))  # noqa: B023
        actual = gradients(lambda *values: compiled(size, *values), inputs, torch.tensor(1.0, dtype=torch.float64))  # noqa: B023
        assert_all_close(actual, expected, 1e-10)
    assert counter.frame_count == 1


def test_exports_for_flows_below_and_above_the_number_that_is_inspected():
    class Warped(torch.nn.Module):
        def forward(self, image: Tensor, flow: Tensor) -> Tensor:
            return flow_warp(image, flow)

    def inputs(height: int, width: int) -> tuple[Tensor, Tensor]:
        return torch.rand(2, 3, height, width), 0.1 * torch.randn(2, 2, height, width)

    sides = {2: torch.export.Dim("height", min=2, max=400), 3: torch.export.Dim("width", min=2, max=400)}
    exported = torch.export.export(Warped(), inputs(20, 21), dynamic_shapes=(sides, sides)).module()
    for height, width in ((8, 9), (20, 21), (90, 91)):
        image, flow = inputs(height, width)
        torch.testing.assert_close(exported(image, flow), flow_warp(image, flow))


@pytest.mark.parametrize("channels", [3, 6])
@every_warp
def test_compiles_with_a_color_of_any_number_of_channels(case: WarpCase, channels):
    torch.compiler.reset()
    inputs = [x.float() for x in all_inputs(case, 2, channels, (8, 9))]
    compiled = torch.compile(lambda *values: filled(case, *values).sin(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), filled(case, *inputs).sin())


class Inputs(TorchDispatchMode):
    """Records the arguments of this library's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "hardfast":
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batches", [(1, 1), (1, 3), (3, 1), (3, 3)], ids=str)
@pytest.mark.parametrize("mapped", ["image", "map", "both", "fill"])
@every_warp
def test_vmap_and_gradients_for_each(case: WarpCase, mapped, batches):
    count, channels = 4, 2
    inputs = [random_image((count, batches[0], channels, 6, 5))]
    inputs += [torch.stack(p) for p in zip(*(case.parameters(batches[1], seed=k) for k in range(count)), strict=True)]
    inputs += [random_image((count, 1, channels), seed=4), random_image((count, 1, channels, channels + 1), seed=5)]
    last = len(inputs) - 1
    chosen = {"image": [0], "map": range(1, last - 1), "both": range(last + 1), "fill": [last - 1]}[mapped]
    in_dims = tuple(0 if i in chosen else None for i in range(last + 1))
    args = [x if i in chosen else x[0] for i, x in enumerate(inputs)]

    def warp(*values: Tensor) -> Tensor:
        return filled(case, *values)

    def loss(*values: Tensor) -> Tensor:
        return warp(*values).square().sum()

    each = [[x[k] if i in chosen else x for i, x in enumerate(args)] for k in range(count)]
    expected = torch.stack([warp(*values) for values in each])
    torch.testing.assert_close(torch.func.vmap(warp, in_dims)(*args), expected, rtol=0, atol=1e-12)
    every = tuple(range(last + 1))
    grads = torch.func.vmap(torch.func.grad(loss, argnums=every), in_dims)(*args)
    expected_grads = [torch.func.grad(loss, argnums=every)(*values) for values in each]
    assert_all_close(grads, [torch.stack(g) for g in zip(*expected_grads, strict=True)], 1e-11)


@pytest.mark.parametrize("batch", [1, 3])
@every_warp
def test_vmap_over_maps_never_copies_the_image(case: WarpCase, batch):
    image = random_image((batch, 3, 6, 7))
    maps = [torch.stack(p) for p in zip(*(case.parameters(1, seed=k) for k in range(4)), strict=True)]
    with Inputs() as seen:
        torch.func.vmap(lambda *m: case.op(image, *m, **case.options))(*maps)
    shapes = {tuple(args[0].shape) for args in seen.calls}
    assert shapes == {tuple(image.shape)}
    assert {args[0].untyped_storage().data_ptr() for args in seen.calls} == {image.untyped_storage().data_ptr()}
    assert len(seen.calls) == (1 if batch == 1 else 4)


def test_vmap_of_a_dimension_in_the_middle():
    case = ALL[0]
    image, theta = random_image((2, 3, 4, 6, 5)), torch.stack([case.parameters(2, seed=k)[0] for k in range(4)], 1)
    mapped = torch.func.vmap(case.op, in_dims=(2, 1), out_dims=1)(image, theta)
    for k in range(4):
        assert torch.equal(mapped[:, k], case.op(image[:, :, k], theta[:, k]))


@every_warp
def test_torch_func_vjp_and_hessian(case: WarpCase):
    inputs = all_inputs(case)
    output, vjp = torch.func.vjp(lambda *values: filled(case, *values), *inputs)
    grad = torch.randn_like(output)
    assert_all_close(vjp(grad), gradients(lambda *values: filled(case, *values), inputs, grad), 1e-12)
    parameters = inputs[1]

    def loss(parameters: Tensor) -> Tensor:
        return case.op(inputs[0], parameters, *inputs[2:-2], **case.options).square().sum()

    hessian = torch.autograd.functional.hessian(loss, parameters).reshape(parameters.numel(), -1)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_warp
def test_autocast_keeps_the_images_dtype_and_precise_positions(case: WarpCase, dtype):
    image, maps = random_image((2, 3, 64, 64), dtype), case.parameters(2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = case.op(image.float(), *maps, **case.options).to(dtype)
        assert torch.equal(case.op(image, *maps, **case.options), expected)
    narrow = [m.bfloat16() for m in maps]
    widened = case.op(image, *(m.float() for m in narrow), **case.options)
    assert torch.equal(case.op(image, *narrow, **case.options), widened)


@pytest.mark.parametrize("mode", MODES)
@every_warp
def test_any_strides_give_the_same_bits(case: WarpCase, mode):
    base = random_image((4, 6, 24, 40), torch.float32)
    maps = case.parameters(2, torch.float32)
    strided = [m.mT.contiguous().mT for m in maps]
    color = random_image((2, 3, 4), torch.float32)
    views = {
        "sliced": base[::2, 1:4, 3:20, 5:33],
        "stepped": base[:2, ::2, ::3, ::2],
        "transposed": base[:2, :3].transpose(2, 3),
        "channels_last": base[:2, :3].contiguous(memory_format=torch.channels_last),
        "channels_last slice": base.contiguous(memory_format=torch.channels_last)[:2, :3, 2:, 4:],
        "expanded": base[:1, :3].expand(2, 3, 24, 40),
        "broadcast channels": base[:2, :1].expand(2, 3, 24, 40),
    }
    for name, view in views.items():

        def warp(image: Tensor, *values: Tensor) -> Tensor:
            *maps, color = values
            return case.op(image, *maps, (17, 20), mode=mode, color=color, padding_mode="border", **case.options)

        output = warp(view, *strided, color.mT.contiguous().mT)
        assert torch.equal(output, warp(view.contiguous(), *maps, color)), name
        grad = torch.ones(()).expand(output.shape)  # as .sum().backward() makes it
        inputs = (*maps, color)
        actual = gradients(warp, (view, *inputs), grad)
        assert_all_equal(actual, gradients(warp, (view.contiguous(), *inputs), grad.contiguous()), name)
        last = view.contiguous(memory_format=torch.channels_last)
        assert warp(last, *inputs).is_contiguous(memory_format=torch.channels_last)
        grads = gradients(warp, (last, *inputs), grad)
        assert grads[0].is_contiguous(memory_format=torch.channels_last)
        assert_all_equal(actual, grads, name)


@pytest.mark.parametrize("mode", MODES)
@every_warp
def test_bitwise_equal_over_runs_and_threads(case: WarpCase, mode):
    shared, own = random_image((1, 3, 150, 130), torch.float32), random_image((4, 3, 150, 130), torch.float32)
    maps, one_map = case.parameters(4, torch.float32), case.parameters(1, torch.float32)
    color = random_image((1, 3, 4), torch.float32)
    grad = random_image((4, 3, 90, 110), torch.float32, seed=8)

    def run(image: Tensor, maps: tuple[Tensor, ...]) -> list[Tensor]:
        def warp(image: Tensor, *values: Tensor) -> Tensor:
            *maps, color = values
            return case.op(image, *maps, (90, 110), mode=mode, color=color, antialias=(1, 2), **case.options)

        return [warp(image, *maps, color), *gradients(warp, (image, *maps, color), grad)]

    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append([*run(shared, maps), *run(own, one_map)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert_all_equal(result, results[0])


@every_warp
def test_each_sample_is_what_it_is_alone(case: WarpCase):
    inputs = [x.float() for x in all_inputs(case, 4, 3, (60, 41))]
    grad = random_image((4, 3, 60, 41), torch.float32)
    together = gradients(lambda *values: filled(case, *values), inputs, grad)
    alone = gradients(lambda *values: filled(case, *values), [x[2:3] for x in inputs], grad[2:3])
    assert_all_equal([g[2:3] for g in together], alone)


@every_warp
def test_empty_batch_and_no_channels(case: WarpCase):
    for batch, channels, maps_batch in ((0, 3, 0), (0, 3, 1), (2, 0, 2)):
        image = torch.zeros(batch, channels, 4, 5, requires_grad=True)
        maps = [m[:maps_batch].requires_grad_() for m in case.parameters(2, torch.float32)]
        output = case.op(image, *maps, (6, 7), **case.options)
        assert output.shape == (batch, channels, 6, 7)
        output.sum().backward()
        for leaf in (image, *maps):
            assert leaf.grad is not None
            assert leaf.grad.shape == leaf.shape
            assert not leaf.grad.any()


@every_warp
def test_deterministic_algorithms_are_no_obstacle(case: WarpCase):
    inputs = all_inputs(case, 2)
    torch.use_deterministic_algorithms(True)
    try:
        grads = gradients(lambda *values: filled(case, *values), inputs, random_image((2, 2, 4, 5)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_all_equal(grads, gradients(lambda *values: filled(case, *values), inputs, random_image((2, 2, 4, 5))))


@pytest.mark.parametrize("padding_mode", PADDINGS)
@every_warp
def test_extreme_and_non_finite_maps_stay_in_bounds(case: WarpCase, padding_mode):
    # The public function refuses non-finite maps on the CPU; below it the kernel has to survive them, as on a GPU.
    image, forward, backward = torch.rand(2, 3, 9, 11), *case.raw
    interpolation = [case.options.get("interpolation", "bilinear")] if case.name == "flow_warp" else []
    fill, inf, nan = torch.full((1, 3), 0.5), float("inf"), float("nan")
    for value, mode in itertools.product((1e30, -1e30, 3e38, 1e-45, 0.0, inf, -inf, nan), MODES):
        maps = [torch.full_like(m, value) for m in case.raw_parameters(2, torch.float32)]
        for m in maps:
            m[0, 0, 0] = 1.0
        rules = ([1, 2], mode, padding_mode, False, *interpolation)
        output = forward(image, *maps, fill, None, [70, 8], *rules)
        low, high = (-0.6, 1.6) if mode == "bicubic" else (-1e-6, 1 + 1e-6)
        assert ((output >= low) & (output <= high)).all(), (value, mode)
        mask = [True] + [True] * len(maps) + [True, False]
        grads = backward(torch.ones_like(output), image, *maps, fill, None, *rules, mask)
        assert torch.isfinite(grads[0]).all(), (value, mode)
        assert torch.isfinite(grads[-2]).all(), (value, mode)
