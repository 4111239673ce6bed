"""Tests that need a GPU: skipped without one, and failed where HARDFAST_REQUIRE names cuda or triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hardfast import ops
from hardfast.ops._library import required_backends

WARPS = ("affine_warp", "projective_warp", "flow_warp", "thin_plate_warp")


def need_gpu() -> None:
    """For the head of a module: without a GPU it is skipped, or nothing is run at all where one is required."""
    if torch.cuda.is_available():
        return
    if required_backends() & {"cuda", "triton"}:
        pytest.exit("HARDFAST_REQUIRE asks for a GPU, and torch.cuda.is_available() is false", returncode=1)
    pytest.skip("needs a GPU", allow_module_level=True)


def to_gpu(tensor: Tensor) -> Tensor:
    """On the GPU with the same strides, which ``cuda()`` keeps only for dense tensors."""
    if tensor.requires_grad:
        return tensor.cuda()
    storage = tensor.untyped_storage().cuda()
    return torch.empty(0, dtype=tensor.dtype, device="cuda").set_(
        storage, tensor.storage_offset(), tensor.shape, tensor.stride()
    )


def through_gpu(op: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        args, options = tree_map_only(Tensor, to_gpu, (args, options))
        return tree_map_only(Tensor, Tensor.cpu, op(*args, **options))

    return call


@pytest.fixture
def warps_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the tests of the warps, whose tensors are on the CPU, judge the GPU's kernels."""
    for name in WARPS:
        monkeypatch.setattr(ops, name, through_gpu(getattr(ops, name)))
