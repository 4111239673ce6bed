"""Derivatives and batching rules of the ops, under autograd, ``torch.compile`` and the transforms of ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hardfast.ops._library import LIBRARY


def differentiable(
    name: str, *, setup_context: Callable[..., None], backward: Callable[..., Any], vmap: Callable[..., Any]
) -> Callable[..., Any]:
    """Registers the rules of ``hardfast::<name>`` and returns the function to call it by.

    What ``torch.library.register_autograd`` makes of a rule serves the compiler. It does not serve ``torch.func.grad``
    or ``vmap``: for those the same rules become an ``autograd.Function``. And it costs about twice as much a call as a
    plain one, which small batches feel: eager calls take that.
    """
    op = getattr(torch.ops.hardfast, name).default
    torch.library.register_autograd(f"hardfast::{name}", backward, setup_context=setup_context, lib=LIBRARY)
    torch.library.register_vmap(f"hardfast::{name}", vmap, lib=LIBRARY)

    def undifferentiated(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    def forward(ctx: Any, *args: Any) -> Any:
        output = undifferentiated(*args)
        setup_context(ctx, args, output)
        return output

    def function(**members: Callable[..., Any]) -> Any:
        methods = {key: staticmethod(member) for key, member in members.items()}
        return type(f"{name.strip('_')}_function", (torch.autograd.Function,), methods)

    eager = function(forward=forward, backward=backward)
    transformed = function(forward=lambda *args: op(*args), setup_context=setup_context, backward=backward, vmap=vmap)

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*args)
        if transforms_active():
            return transformed.apply(*args)
        if torch.is_grad_enabled():
            for x in args:
                if isinstance(x, torch.Tensor) and x.requires_grad:
                    return eager.apply(*args)
        return undifferentiated(*args)

    return call


def transforms_active() -> bool:
    """Whether a transform of ``torch.func`` is running; the compiler traces through those by itself."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def is_mapped(value: Tensor) -> bool:
    """Whether a tensor stands for a batch of them: under functorch, or a gradient with ``is_grads_batched=True``."""
    return transforms_active() or torch._C._functorch.is_legacy_batchedtensor(value)
