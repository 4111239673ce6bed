"""The functions of kernels/math, compiled for the host, against double precision and PyTorch."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from warp_cases import bspline

SOURCE = Path(__file__).resolve().parent / "math_headers.cpp"
COMPILER = os.environ.get("CXX", "c++").split()
PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}

pytestmark = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def math_headers(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("math") / "math_headers.so"
    # No sum of a product may be fused where the source does not say so.
    options = [
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fPIC",
        "-shared",
    ]
    subprocess.run([*COMPILER, *options, str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def call(function: Any, *args: Tensor | bool | int) -> None:
    """Tensors go as pointers; numbers as 64-bit integers or bool."""
    converted = []
    for arg in args:
        if isinstance(arg, Tensor):
            assert arg.is_contiguous()
            converted.append(ctypes.c_void_p(arg.data_ptr()))
        else:
            converted.append(ctypes.c_bool(arg) if isinstance(arg, bool) else ctypes.c_int64(arg))
    function(*converted)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 2**31 - 9])
def test_padded_indices(math_headers, length, padding, align_corners):
    near = torch.arange(-40, 41)
    index = torch.cat([near, near + min(length, 2**31 - 60), torch.tensor([-(2**30), 2**30, 2**31 - 16])])
    wide, narrow = torch.empty_like(index), torch.empty(len(index), dtype=torch.int32)
    call(math_headers.padded_indices, index, len(index), length, PADDINGS[padding], align_corners, wide, narrow)
    assert torch.equal(wide, narrow.long())
    expected = []
    for i in index.tolist():
        if padding == "reflection" and length > 1:
            period = 2 * (length - 1) if align_corners else 2 * length
            turn = i % period
            expected.append(turn if turn < length else period - turn - (not align_corners))
        elif 0 <= i < length:
            expected.append(i)
        else:
            expected.append(-1 if padding == "zeros" else min(max(i, 0), length - 1))
    assert wide.tolist() == expected


def test_keys_weights_are_those_of_grid_sample_and_slopes_their_derivative(math_headers):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)[:-1].contiguous()
    weights, slopes, tap_weights, tap_slopes = (torch.empty(100, 4, dtype=torch.float64) for _ in range(4))
    call(math_headers.keys, t, 100, weights, slopes, tap_weights, tap_slopes)
    position = t.clone().requires_grad_()
    impulses = torch.eye(4, dtype=torch.float64).view(1, 4, 1, 4)
    x = (position + 1) / 1.5 - 1
    grid = torch.stack([x, torch.zeros_like(x)], -1)[None, None]
    sampled = F.grid_sample(impulses, grid, "bicubic", "border", align_corners=True)[0, :, 0].T
    torch.testing.assert_close(weights, sampled.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(tap_weights, weights, rtol=0, atol=1e-14)
    expected = torch.stack([torch.autograd.grad(w.sum(), position, retain_graph=True)[0] for w in sampled.T], 1)
    torch.testing.assert_close(slopes, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(tap_slopes, slopes, rtol=0, atol=1e-13)


def test_bspline_weights(math_headers):
    t = torch.linspace(0, 1, 65)
    weights = torch.empty(65, 4)
    call(math_headers.bspline, t, 65, weights)
    distance = (t.double()[:, None] - torch.arange(-1, 3)).abs()
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    torch.testing.assert_close(weights.double(), torch.where(distance < 1, near, far), rtol=0, atol=2e-7)


@pytest.mark.parametrize("of_tile", [False, True])
@pytest.mark.parametrize("first", [(0, 0), (4064, 2048), (1000, 4088)], ids=str)
def test_projective_positions_keep_their_digits(math_headers, first, of_tile):
    side = 4096
    generator = torch.Generator().manual_seed(3)
    homography = torch.eye(3) + 0.15 * torch.randn(3, 3, generator=generator)
    positions = torch.empty(256, 2, dtype=torch.float64)
    call(math_headers.projective_positions, homography, side, *first, of_tile, positions)
    k = torch.arange(256, dtype=torch.float64)
    pixels = torch.stack([first[0] + k % 32, first[1] + k.div(32, rounding_mode="floor")], 1)
    homogeneous = F.pad((2 * pixels + 1) / side - 1, (0, 1), value=1.0) @ homography.double().T
    expected = ((homogeneous[:, :2] / homogeneous[:, 2:] + 1) * side - 1) / 2
    # Counted from the first pixel's place, which a map of this strength leaves by less than 100 pixels.
    allowed = 4 * torch.finfo(torch.float32).eps * (100 + (expected - expected.clamp(0, side)).abs())
    assert ((positions - expected).abs() <= allowed).all()


@pytest.mark.parametrize("spline", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("length", "out_length"), [(1, 5), (4, 4), (5, 33), (9, 4), (3, 1), (2, 7)])
def test_flow_between_control_points(math_headers, length, out_length, align_corners, spline):
    controls = torch.randn(length, dtype=torch.float64)
    by_taps, by_cells = torch.empty(2, out_length, dtype=torch.float64)
    call(math_headers.upsampled, controls, length, out_length, align_corners, spline, by_taps, by_cells)
    grid = controls.view(1, 1, 1, -1)
    if spline:
        expected = bspline(grid, (1, out_length), align_corners).flatten()
    else:
        expected = F.interpolate(grid, (1, out_length), mode="bilinear", align_corners=align_corners).flatten()
    torch.testing.assert_close(by_taps, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(by_cells, expected, rtol=0, atol=1e-13)


def test_the_radial_function_and_its_derivative(math_headers):
    squared = torch.cat([torch.tensor([0.0, 1e-30, 1e-12]), torch.linspace(1e-3, 9, 4001)])
    value, slope = torch.empty_like(squared), torch.empty_like(squared)
    call(math_headers.radial, squared, len(squared), value, slope)
    exact = squared.double()
    logarithm = torch.where(exact > 0, exact.clamp_min(1e-300).log(), -1)
    torch.testing.assert_close(value.double(), torch.where(exact > 0, exact * logarithm, 0), rtol=3e-7, atol=3e-7)
    torch.testing.assert_close(slope.double(), logarithm + 1, rtol=3e-7, atol=3e-7)


def test_narrow_types_convert_as_pytorch_does(math_headers):
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    half, bfloat = torch.empty(2**16), torch.empty(2**16)
    call(math_headers.widened, bits, 2**16, half, bfloat)
    torch.testing.assert_close(half, bits.view(torch.float16).float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(bfloat, bits.view(torch.bfloat16).float(), rtol=0, atol=0, equal_nan=True)
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-(2**31), 2**31, (200_000,), generator=generator).to(torch.int32).view(torch.float32)
    ties = (half[half.isfinite()].double() * (1 + 2.0**-11)).float()  # halfway between two halves
    counts = torch.arange(-8, 520).float() / 2
    values = torch.cat([values, ties, counts, torch.tensor([math.inf, -math.inf, math.nan, 65519.9, 65520.0])])
    halves, bfloats = torch.empty(2, len(values), dtype=torch.int16)
    octets = torch.empty(len(values), dtype=torch.uint8)
    call(math_headers.narrowed, values, len(values), halves, bfloats, octets)
    for mine, dtype in ((halves, torch.float16), (bfloats, torch.bfloat16)):
        torch.testing.assert_close(mine.view(dtype), values.to(dtype), rtol=0, atol=0, equal_nan=True)
    expected = values.nan_to_num(nan=0.0, posinf=255.0, neginf=0.0).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(octets, expected)


def test_rounding(math_headers):
    values = torch.cat([torch.arange(-20, 21) / 4, torch.tensor([2.0**23 + 1, -(2.0**30), 1e-30, -1e-30])])
    down, nearest = torch.empty_like(values), torch.empty_like(values)
    call(math_headers.rounded, values, len(values), down, nearest)
    assert torch.equal(down, values.floor())
    assert torch.equal(nearest, values.round())


def test_floats_as_halves_of_whole_numbers(math_headers):
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(-60, 22, 8000, base=2.0)
    edges = torch.tensor(
        [0.0, -0.0, 0.5, 1.5, 2.5, 2**22, 2**22 - 0.5, 2**-32, 2**-33, 3 * 2**-33, 1 - 2**-24, 2**-149]
    )
    values = torch.cat([(2 * torch.rand(8000, generator=generator) - 1) * scales, edges, -edges])
    whole = torch.empty(len(values), dtype=torch.int64)
    call(math_headers.fixed_halves, values, len(values), whole)
    assert torch.equal(whole, (values.double() * 2**32).round().long())


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-42, 3e30])
def test_sums_in_fixed_point(math_headers, scale):
    math_headers.fixed_sum.restype = ctypes.c_float
    math_headers.fixed_pair_sum.restype = ctypes.c_double
    values = (torch.randn(10_001, dtype=torch.float64) * scale).float()
    largest = ctypes.c_double(values.abs().max().item())
    orders = [values, values.flip(0).contiguous()]
    sums = {math_headers.fixed_sum(ctypes.c_void_p(v.data_ptr()), ctypes.c_int64(len(v)), largest) for v in orders}
    assert len(sums) == 1
    exact = math.fsum(values.tolist())
    assert abs(sums.pop() - exact) <= abs(exact) * 2**-23 + 2**-149
    wide = values.double() * (1 + 2**-40)
    largest = ctypes.c_double(wide.abs().max().item())
    total = math_headers.fixed_pair_sum(ctypes.c_void_p(wide.data_ptr()), ctypes.c_int64(len(wide)), largest)
    assert abs(total - math.fsum(wide.tolist())) <= abs(total) * 2**-52
