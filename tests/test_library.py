"""Loading of the compiled libraries, what happens without them, and the build information."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hardfast import _native, backends

# Pretends, in a process of its own, that the CPU library was never built.
WITHOUT_CPU_LIBRARY = """
import pathlib, warnings
exists = pathlib.Path.exists
pathlib.Path.exists = lambda self, **options: self.name != "_ops_cpu.so" and exists(self, **options)
import torch
from hardfast.ops import affine_warp, backends, kl_disagreement
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "HARDFAST_REQUIRE"} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_the_ops_run_compiled_here():
    table = backends()
    assert table["affine_warp"]["cpu"] == "_ops_cpu"
    assert table["kl_disagreement"]["cpu"] == "_ops_cpu"
    assert table["kl_disagreement"]["cuda"] == "triton"
    assert table["guided_step"]["cpu"] == "_ops_cpu"
    assert table["linear_kl_disagreement"] == {
        "cpu": "kl_disagreement on _ops_cpu",
        "cuda": "kl_disagreement on triton",
    }


def test_without_the_library_plain_pytorch_serves_with_one_warning():
    code = """
image, theta = torch.rand(2, 3, 8, 8, requires_grad=True), torch.eye(2, 3).repeat(2, 1, 1).requires_grad_()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        affine_warp(image, theta, padding_mode="fill", fill=[0.1, 0.2, 0.3]).sum().backward()
        kl_disagreement(torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)).backward()
texts = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
assert len(texts) == 2, texts
assert all("plain PyTorch" in text and "_ops_cpu.so was not built" in text for text in texts), texts
torch.testing.assert_close(affine_warp(image, theta), image)
last = image.detach().contiguous(memory_format=torch.channels_last)
compiled = torch.compile(affine_warp, backend="aot_eager")(last, theta.detach())
assert compiled.stride() == affine_warp(last, theta.detach()).stride() == last.stride()
assert "plain PyTorch" in backends()["affine_warp"]["cpu"]
"""
    result = run(WITHOUT_CPU_LIBRARY + code)
    assert result.returncode == 0, result.stderr


def test_a_required_back_end_that_is_missing_is_an_error():
    result = run(WITHOUT_CPU_LIBRARY, HARDFAST_REQUIRE="cpu")
    assert result.returncode != 0
    assert "HARDFAST_REQUIRE=cpu, but hardfast._ops_cpu is not usable: _ops_cpu.so was not built" in result.stderr


def test_an_unknown_requirement_names_the_known_ones():
    result = run("import hardfast.ops", HARDFAST_REQUIRE="cpu,gpu")
    assert result.returncode != 0
    assert "HARDFAST_REQUIRE names ['gpu'], expected any of ['cpu', 'cuda', 'triton']" in result.stderr


def test_help_needs_no_torch():
    code = "import sys, hardfast; hardfast.__version__; sys.exit('torch' in sys.modules)"
    assert run(code).returncode == 0


def test_unknown_attributes_are_errors():
    import hardfast

    with pytest.raises(AttributeError, match="no attribute 'affine_wrap'"):
        _ = hardfast.affine_wrap


def test_native_tells_how_it_was_built():
    info = _native.build_info()
    assert info["torch_target"] == "2.10"
    assert info["compiler"].split()[0] in ("GNU", "Clang", "AppleClang")
    assert _native.cpu_isa() in ("x86-64-v2", "x86-64-v3", "x86-64-v4", "baseline")


def test_copy_bandwidth_is_that_of_a_memory():
    assert 1e8 < _native.copy_bandwidth(megabytes=8, threads=2, repeats=2) < 1e13
    with pytest.raises(ValueError, match="must be positive"):
        _native.copy_bandwidth(megabytes=0)
