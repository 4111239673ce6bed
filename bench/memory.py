"""How much memory a call takes at its worst moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

from hardfast.ops import keep_memory

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler tells of every start and stop otherwise


@contextmanager
def profiled_memory() -> Iterator[profile]:
    """Has PyTorch count what its CPU allocator hands out, from which all results come meanwhile.

    It does not count the memory that the ops keep.
    """
    kept = keep_memory(0)
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            yield profiler
    finally:
        keep_memory(kept)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most that PyTorch's CPU allocator has handed out at a time during a call, inputs not counted."""
    with profiled_memory() as profiler:
        result = function()
    del result
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def peak_bytes_gpu(function: Callable[[], object]) -> int:
    """The same of PyTorch's CUDA allocator."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before
