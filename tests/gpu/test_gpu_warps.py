"""The warps on a GPU: the tests of every device, and those that only a GPU can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import test_warp_fuzz
import torch
from conftest import need_gpu, to_gpu
from every_kernel import plain_warps, run, warps
from test_warp_options import (  # noqa: F401
    test_all_options_together_equal_the_reference,
    test_antialias_is_the_mean_of_a_larger_warp,
    test_bytes_are_rounded_to_even_and_saturate,
    test_shared_inputs_equal_repeated_ones_and_get_the_sum,
)
from test_warp_plain_calls import (  # noqa: F401
    test_a_displacement_of_nan_leaves_the_pixels_beside_alone,
    test_a_flow_of_the_outputs_size,
    test_a_gradient_of_equal_numbers_that_share_their_memory,
    test_a_homography_is_the_same_at_every_scale,
    test_an_outlier_leaves_the_other_gradients_their_digits,
    test_equals_the_reference,
    test_far_outside_is_the_fill_exactly,
    test_nan_positions_are_outside,
    test_positions_beyond_all_floats_lie_beyond_the_border,
    test_positions_that_are_pixels,
    test_so_many_tiles_that_each_is_tall,
)
from test_warp_transforms import (  # noqa: F401
    test_any_strides_give_the_same_bits,
    test_empty_batch_and_no_channels,
    test_gradient_of_each_input_alone_equals_that_of_all_together,
)
from test_warp_yardstick import (  # noqa: F401
    test_at_most_twice_the_error_of_torch,
    test_equals_torch_in_float64,
    test_pixels_far_into_an_image_keep_their_digits,
)
from warp_cases import WarpCase, every_warp

from hardfast import backends

need_gpu()
pytestmark = pytest.mark.usefixtures("warps_on_gpu")
GIBI = 2**30


def own_options(case: WarpCase) -> list[str]:
    return [case.options.get("interpolation", "bilinear")] if case.name == "flow_warp" else []


@every_warp
def test_the_compiled_kernels_serve(case: WarpCase) -> None:
    assert backends()[case.name]["cuda"] == "_ops_cuda"


@pytest.mark.parametrize("part", range(20))
def test_extreme_parameters(part: int) -> None:
    for seed in range(part, 2000, 20):
        case = test_warp_fuzz.random_case(seed)
        moved = replace(
            case,
            image=to_gpu(case.image),
            parameters=[to_gpu(p) for p in case.parameters],
            fill=None if case.fill is None else to_gpu(case.fill),
            color=None if case.color is None else to_gpu(case.color),
        )
        try:
            test_warp_fuzz.check(moved)
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"case {seed}: {case}") from error


@every_warp
def test_gradients_are_bitwise_equal_in_every_run(case: WarpCase) -> None:
    generator = torch.Generator("cuda").manual_seed(1)
    maps = tuple(m.cuda() for m in case.raw_parameters(1, torch.float32))
    for shape in ((4, 3, 301, 203), (1, 5, 64, 1025)):
        image = torch.randn(shape, device="cuda", generator=generator)
        forward, backward = case.raw
        rules = ([1, 1], "bilinear", "reflection", False, *own_options(case))
        output = forward(image, *maps, None, None, [257, 190], *rules)
        grad = torch.randn(output.shape, device="cuda", generator=generator)
        mask = [True] * (1 + len(maps)) + [False, False]
        first = backward(grad, image, *maps, None, None, *rules, mask)
        for _ in range(10):
            again = backward(grad, image, *maps, None, None, *rules, mask)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@every_warp
def test_memory_is_that_of_inputs_outputs_and_gradients(case: WarpCase) -> None:
    forward, backward = case.raw
    maps = tuple(m.cuda() for m in case.raw_parameters(8, torch.float32))
    image = torch.rand(8, 3, 1024, 1024, device="cuda")
    rules = ([1, 1], "bilinear", "zeros", False, *own_options(case))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    output = forward(image, *maps, None, None, [1024, 1024], *rules)
    grad = torch.ones_like(output)
    grads = backward(grad, image, *maps, None, None, *rules, [True] * (1 + len(maps)) + [False, False])
    torch.cuda.synchronize()
    made = sum(t.nbytes for t in (output, grad, *grads))
    held = made + sum(t.nbytes for t in (image, *maps))
    assert torch.cuda.max_memory_allocated() - before <= made + 0.01 * held


def test_no_kernel_waits_for_the_gpu() -> None:
    prepared = [*warps("cuda"), *plain_warps("cuda")]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for warp in prepared:
            run(*warp)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def needs_memory(gibibytes: int) -> None:
    free = torch.cuda.mem_get_info()[0] / GIBI
    if free < gibibytes:
        pytest.skip(f"needs {gibibytes} GiB of free GPU memory, there are {free:.0f}")


def test_images_beyond_two_billion_elements() -> None:
    needs_memory(12)
    side = 46400  # 46,400^2 > 2^31
    image = torch.randint(0, 256, (1, 1, side, side), dtype=torch.uint8, device="cuda")
    turned = torch.tensor([[[-1.0, 0, 0], [0, -1, 0]]], device="cuda")
    output = torch.ops.hardfast.affine_warp(image, turned, None, None, [side, side], [1, 1], "nearest", "zeros", False)
    assert torch.equal(output, image.flip(2, 3))


def test_gradients_beyond_two_billion_elements() -> None:
    needs_memory(24)
    side = 46400
    image = torch.ones(1, 1, side, side, dtype=torch.float16, device="cuda")
    grad = torch.randn_like(image)
    identity = torch.eye(2, 3, device="cuda")[None]
    rules = ([1, 1], "bilinear", "zeros", False)
    mask = [True, False, False, False]
    grad_image = torch.ops.hardfast._affine_warp_backward(grad, image, identity, None, None, *rules, mask)[0]
    assert torch.equal(grad_image, grad)
