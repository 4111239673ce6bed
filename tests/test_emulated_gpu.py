"""The CUDA kernels of the warps without a GPU: as plain C++ (tests/emulated_gpu), run by the warps' tests.

What it cannot see are races and whatever only nvcc or a GPU does; those are for ``make test-gpu``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EMULATION = ROOT / "tests" / "emulated_gpu"
FUZZ_CASES = 200
TESTS = (
    "test_warp_fuzz.py",
    "test_warp_plain_calls.py",
    "test_warp_options.py::test_all_options_together_equal_the_reference",
    "test_warp_options.py::test_shared_inputs_equal_repeated_ones_and_get_the_sum",
    "test_warp_options.py::test_bytes_are_rounded_to_even_and_saturate",
    "test_warp_transforms.py::test_gradient_of_each_input_alone_equals_that_of_all_together",
    "test_warp_transforms.py::test_any_strides_give_the_same_bits",
    "test_warp_transforms.py::test_each_sample_is_what_it_is_alone",
    "test_warp_transforms.py::test_empty_batch_and_no_channels",
    "test_affine_warp.py::test_strong_magnification_and_reduction",
    "test_warp_yardstick.py::test_at_most_twice_the_error_of_torch",
    "test_warp_yardstick.py::test_pixels_far_into_an_image_keep_their_digits",
    "emulated_gpu/large_warps.py",
)
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++").split()[0]) is None, reason="needs a C++ compiler"
)


def compile_library(folder: Path, *options: str) -> None:
    """Builds ``_ops_cpu.so``: the CUDA binding and kernels, serving CPU tensors."""
    torch = Path(importlib.util.find_spec("torch").submodule_search_locations[0])
    compiler = os.environ.get("CXX", "g++").split()
    command = [
        *compiler,
        *("-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", *options),
        # A misaligned access is an error to a GPU alone.
        *("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"),
        *("-DUSE_CUDA", "-DHARDFAST_ISA=emulated", '-DHARDFAST_CUDA_ARCHITECTURES="none"'),
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        *(f"-I{EMULATION}", "-isystem", f"{torch / 'include'}", "-x", "c++", f"{EMULATION / 'library.cpp'}"),
        *(f"-L{torch / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"),
        *("-o", f"{folder / '_ops_cpu.so'}"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-6000:]


@needs_compiler
def test_the_cuda_kernels_run_as_plain_cpp(tmp_path: Path) -> None:
    compile_library(tmp_path)
    environment = os.environ | {
        "HARDFAST_LIBRARY_DIR": str(tmp_path),
        "HARDFAST_REQUIRE": "cpu",  # a warp that falls back to plain PyTorch is an error
        "HARDFAST_FUZZ": str(FUZZ_CASES),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    tests = [str(ROOT / "tests" / test) for test in TESTS]
    result = subprocess.run([*command, *tests], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


class Scratch(ctypes.Structure):
    """What ``emulated_gpu/scratch.cpp`` returns."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("map_strips", "map_bytes", "constant_strips", "constant_bytes"),
            *("image_bytes", "thin_plate_blocks"),
        )
    )


@pytest.fixture(scope="module")
def scratch_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Scratch]:
    library = tmp_path_factory.mktemp("scratch") / "scratch.so"
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    compiler = os.environ.get("CXX", "g++").split()
    subprocess.run([*compiler, *options, str(EMULATION / "scratch.cpp"), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).scratch_of
    function.restype = Scratch

    def call(dtype: int, map_: int, sizes: tuple[int, ...], color: bool) -> Scratch:
        return function(dtype, map_, (ctypes.c_int64 * 8)(*sizes), ctypes.c_bool(color))

    return call


def random_sizes(choose: random.Random) -> tuple[int, ...]:
    batch = choose.choice([1, 2, 7, 16, 64, 256, 4096])
    sides = [round(2 ** choose.uniform(0, 11)) for _ in range(4)]
    return batch, choose.choice([1, batch]), choose.choice([1, 2, 3, 4, 64]), *sides, choose.choice([3, 16, 25, 200])


@needs_compiler
def test_scratch_is_a_hundredth_or_a_strip_for_each_sample(scratch_of: Callable[..., Scratch]) -> None:
    choose = random.Random(0)
    shapes = [(16, 16, 3, 224, 224, 224, 224, 200), (256, 256, 1, 28, 28, 28, 28, 16)]
    shapes += [random_sizes(choose) for _ in range(3000)]
    several = limited = shared = 0
    for sizes in shapes:
        batch, images, channels, height, width, out_height, out_width, _ = sizes
        dtype, map_ = choose.choice([0, 1, 2, 3]), choose.randrange(4)
        found = scratch_of(dtype, map_, sizes, channels <= 4 and choose.random() < 0.5)
        outputs = batch * out_height * out_width
        held = (4, 8, 2, 2)[dtype] * channels * (images * height * width + 2 * outputs)
        context = (sizes, dtype, map_)
        for strips, size in (
            (found.map_strips, found.map_bytes),
            (found.constant_strips, found.constant_bytes),
        ):
            assert strips % batch == 0, context
            assert size <= held // 100 or strips == batch, context
            several += strips > batch
            limited += strips == batch and out_height > 8 and batch < 2048
        rows = 32 if batch * -(-out_height // 32) * -(-out_width // 32) >= 1024 else 8
        tiling = -(-out_height // rows), -(-out_width // 32)
        tiles = tiling[0] * tiling[1] + -(-tiling[0] // 8) * -(-tiling[1] // 8)
        sums = found.image_bytes - 16 * batch * tiles - 8 * (images + images % 2)
        most = max(held // 100, 4 << 20) + 8 if images < batch else 0
        assert 0 <= sums <= most, context
        shared += sums > 0
    assert min(several, limited, shared) > 100  # cases of each kind


@needs_compiler
def test_few_strips_of_many_control_points_still_fill_a_gpu(scratch_of: Callable[..., Scratch]) -> None:
    found = scratch_of(0, 3, (16, 16, 3, 224, 224, 224, 224, 200), False)
    assert found.map_strips == 32
    assert found.thin_plate_blocks == 7 * 32
    assert scratch_of(0, 3, (16, 16, 3, 224, 224, 224, 224, 4), False).thin_plate_blocks > 500
