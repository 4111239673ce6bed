"""How much memory the ops keep for their next results, on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from hardfast.ops import _checks
from hardfast.ops._library import LIBRARY, load_errors

LIBRARY.define("_keep_memory(int max_bytes) -> int")
LIBRARY.define("_empty_result(Tensor like) -> Tensor")


def _empty_like(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


LIBRARY.impl("_empty_result", _empty_like, "CompositeExplicitAutograd")
torch.library.register_fake("hardfast::_empty_result", _empty_like, lib=LIBRARY)
_LEAST = 1 << 20  # bytes of a result that is kept
_empty_result = torch.ops.hardfast._empty_result.default


def empty_result(like: Tensor) -> Tensor:
    """``torch.empty_like``, contiguous, in the memory that is kept: for what an op written in Python returns."""
    return _empty_like(like) if like.nbytes < _LEAST else _empty_result(like)


def keep_memory(max_bytes: int) -> int:
    """Sets how much memory of results that are no longer used the ops keep for their next ones, on the CPU.

    Results of a megabyte and more lie in memory of the library's own, in large pages where the system has them: to
    write to fresh memory takes longer than most ops. Such tensors differ from others in two ways: their storage
    cannot be resized (by ``resize_``, an ``out=`` of another size, or to nothing), like that of ``torch.from_numpy``,
    and PyTorch's profiler does not count their bytes.

    Args:
        max_bytes: for this process, >= 0; 128 MiB at first. A result that is larger comes from PyTorch's allocator,
            and with 0 all do, as always on other systems than Linux and before PyTorch 2.11.

    Returns:
        How much it was before; 0 where the compiled ops or this memory are not available.

    Raises:
        ValueError: ``max_bytes`` is no whole number, or negative.
    """
    _checks.integer("max_bytes", max_bytes, 0)
    if load_errors["_ops_cpu"] is not None:
        return 0
    previous: int = torch.ops.hardfast._keep_memory(min(max_bytes, 2**63 - 1))
    return previous
