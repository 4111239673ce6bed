"""Errors for want of memory that say what to try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["advice_when_out_of_memory", "ran_out_of_memory"]


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error is an allocator's. That of the CPU raises no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


@contextmanager
def advice_when_out_of_memory(advice: str) -> Iterator[None]:
    """Adds a line of advice to an allocator's error that leaves the block; its class stays, and advice is given once.

    Args:
        advice: a sentence; empty for none.
    """
    try:
        yield
    except RuntimeError as error:
        if not advice or not ran_out_of_memory(error) or getattr(error, "advised", False):
            raise
        advised = type(error)(f"{error}\n{advice}")
        advised.advised = True  # type: ignore[attr-defined]
        raise advised from error
