"""Derivatives and batching rules of the ops, under autograd, ``torch.compile`` and the transforms of ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hardfast.ops._library import LIBRARY


def differentiable(
    name: str, *, setup_context: Callable[..., None], backward: Callable[..., Any], vmap: Callable[..., Any]
) -> Callable[..., Any]:
    """Registers the rules of ``hardfast::<name>`` and returns the function to call it by.

    What ``torch.library.register_autograd`` makes of a rule serves autograd and the compiler, but not
    ``torch.func.grad`` or ``vmap``: for those the same rules become an ``autograd.Function``.
    """
    op = getattr(torch.ops.hardfast, name).default
    torch.library.register_autograd(f"hardfast::{name}", backward, setup_context=setup_context, lib=LIBRARY)
    torch.library.register_vmap(f"hardfast::{name}", vmap, lib=LIBRARY)
    members: dict[str, Any] = {
        "forward": staticmethod(lambda *args: op(*args)),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
        "vmap": staticmethod(vmap),
    }
    function: Any = type(f"{name.strip('_')}_function", (torch.autograd.Function,), members)

    def call(*args: Any) -> Any:
        return function.apply(*args) if transforms_active() else op(*args)

    return call


def transforms_active() -> bool:
    """Whether a transform of ``torch.func`` is running; the compiler traces through those by itself."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
