"""A function that keeps only its inputs, without the cost that hooks on every saved tensor would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states


def recompute(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor | None) -> tuple[Tensor, ...]:
    """Calls a function now without a graph, and once more in the backward, with the same random numbers.

    ``torch.utils.checkpoint`` records the graph of the first call too, with a hook for every tensor in it.

    Args:
        function: of tensors; nothing else that it uses may need a gradient.
        inputs: its arguments.

    Gradients: to the inputs, to any order in reverse mode.
    """
    return _Recompute.apply(function, *inputs)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.function = function
        ctx.cpu_state, ctx.device_states = torch.get_rng_state(), get_device_states(*inputs)
        device = next(tensor.device.type for tensor in inputs if tensor is not None)
        ctx.autocast = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
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
            return (None,) * (len(inputs) + 1)
        given = torch.autograd.grad(
            [output for output, _ in asked],
            [x for x, n in zip(inputs, needed, strict=True) if n],
            [grad for _, grad in asked],
            create_graph=create_graph,
            allow_unused=True,
        )
        remaining = iter(given)
        return None, *(next(remaining) if n else None for n in needed)
