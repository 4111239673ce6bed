"""The CUDA kernels of the warps without a GPU: as plain C++ (tests/emulated_gpu), run by the warps' tests.

What it cannot see are races and whatever only nvcc or a GPU does; those are for ``make test-gpu``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EMULATION = ROOT / "tests" / "emulated_gpu"
FUZZ_CASES = 200
TESTS = (
    "test_warp_fuzz.py",
    "test_warp_options.py::test_all_options_together_equal_the_reference",
    "test_warp_options.py::test_shared_inputs_equal_repeated_ones_and_get_the_sum",
    "test_warp_options.py::test_bytes_are_rounded_to_even_and_saturate",
    "test_warp_transforms.py::test_gradient_of_each_input_alone_equals_that_of_all_together",
    "test_warp_transforms.py::test_any_strides_give_the_same_bits",
    "test_warp_transforms.py::test_each_sample_is_what_it_is_alone",
    "test_warp_transforms.py::test_empty_batch_and_no_channels",
    "test_affine_warp.py::test_strong_magnification_and_reduction",
)


def compile_library(folder: Path, *options: str) -> None:
    """Builds ``_ops_cpu.so``: the CUDA binding and kernels, serving CPU tensors."""
    torch = Path(importlib.util.find_spec("torch").submodule_search_locations[0])
    compiler = os.environ.get("CXX", "g++").split()
    command = [
        *compiler,
        *("-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", *options),
        *("-DUSE_CUDA", "-DHARDFAST_ISA=emulated", '-DHARDFAST_CUDA_ARCHITECTURES="none"'),
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        *(f"-I{EMULATION}", "-isystem", f"{torch / 'include'}", "-x", "c++", f"{EMULATION / 'library.cpp'}"),
        *(f"-L{torch / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"),
        *("-o", f"{folder / '_ops_cpu.so'}"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-6000:]


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++").split()[0]) is None, reason="needs a C++ compiler")
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
