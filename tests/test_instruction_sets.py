"""Every instruction set that the CPU kernels are compiled for and this processor has, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hardfast import _native

SETS = ["x86-64-v2", "x86-64-v3", "x86-64-v4"]
BEST = _native.cpu_isa()
AVAILABLE = SETS[: SETS.index(BEST) + 1] if BEST in SETS else [BEST]
TESTS = Path(__file__).parent


def run(isa: str, *arguments: str) -> str:
    """What Python prints."""
    command = [sys.executable, "-W", "error::RuntimeWarning", *arguments]
    environment = {**os.environ, "HARDFAST_ISA": isa, "HARDFAST_REQUIRE": "cpu"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize("isa", AVAILABLE)
def test_agrees_with_torch(isa):
    code = """
import torch, torch.nn.functional as F
from hardfast.ops import affine_warp, kl_disagreement
torch.manual_seed(0)
for channels in (1, 2, 3, 4, 6):
    for size in ((33, 29), (9, 16), (7, 17), (5, 7)):
        image = torch.randn(2, channels, *size, requires_grad=True)
        theta = (torch.eye(2, 3) + 0.2 * torch.randn(2, 2, 3)).requires_grad_()
        ours = affine_warp(image, theta)
        theirs = F.grid_sample(image, F.affine_grid(theta, image.shape, align_corners=False), align_corners=False)
        grad = torch.randn_like(ours)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        expected = torch.autograd.grad(theirs, (image, theta), grad)
        for a, b in zip(torch.autograd.grad(ours, (image, theta), grad), expected):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)
student, teacher = torch.randn(2, 9, 77)
loss = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")
torch.testing.assert_close(kl_disagreement(student, teacher), loss)
from hardfast import _native
print(_native.cpu_isa())
"""
    assert run(isa, "-c", code) == isa


@pytest.mark.parametrize("isa", AVAILABLE[:-1])
def test_dense_flows(isa):
    """Their cells are found, and their pixels sampled, in vectors whose width is the set's."""
    assert " passed" in run(isa, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "test_flow_warp.py"))
