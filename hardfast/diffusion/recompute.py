"""A function that keeps only its inputs, without the cost that hooks on every saved tensor would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from hardfast.out_of_memory import advice_when_out_of_memory


def recompute(
    function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor | None, advice: str = ""
) -> tuple[Tensor, ...]:
    """Calls a function now without a graph, and once more in the backward, with the same random numbers.

    ``torch.utils.checkpoint`` records the graph of the first call too, with a hook for every tensor in it.

    Args:
        function: of tensors; nothing else that it uses may need a gradient.
        inputs: its arguments.
        advice: added to the error if memory runs out in the backward.

    Gradients: to the inputs, to any order in reverse mode.
    """
    return _Recompute.apply(function, advice, *inputs)


def autocast_settings(tensor: Tensor) -> dict[str, Any]:
    """The arguments of ``torch.autocast`` that give what is set now for a tensor's device."""
    device = tensor.device.type
    return {
        "device_type": device,
        "dtype": torch.get_autocast_dtype(device),
        "enabled": torch.is_autocast_enabled(device),
    }


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., tuple[Tensor, ...]], advice: str, *inputs: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.function, ctx.advice = function, advice
        ctx.cpu_state, ctx.device_states = torch.get_rng_state(), get_device_states(*inputs)
        ctx.autocast = autocast_settings(next(tensor for tensor in inputs if tensor is not None))
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        with advice_when_out_of_memory(ctx.advice):
            return None, None, *_backward(ctx, grads)


def _backward(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[2:]
    create_graph = torch.is_grad_enabled()
    inputs = ctx.saved_tensors
    if not create_graph:
        inputs = [x if x is None else x.detach().requires_grad_(n) for x, n in zip(inputs, needed, strict=True)]
    devices, states = ctx.device_states
    with torch.random.fork_rng(devices), torch.enable_grad(), torch.autocast(**ctx.autocast):
        torch.set_rng_state(ctx.cpu_state)
        set_device_states(devices, states)
        outputs = ctx.function(*inputs)
    asked = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    if not asked:
        return (None,) * len(inputs)
    given = torch.autograd.grad(
        [output for output, _ in asked],
        [x for x, n in zip(inputs, needed, strict=True) if n],
        [grad for _, grad in asked],
        create_graph=create_graph,
        allow_unused=True,
    )
    remaining = iter(given)
    return tuple(next(remaining) if n else None for n in needed)
