"""Networks as constants: no gradient to parameters, no running statistics, no dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def held_constant(*modules: nn.Module) -> Iterator[None]:
    """Makes modules constants inside the block, while gradients still run through them to their inputs.

    Every submodule is in evaluation mode (batch norm reads its running statistics and does not update them,
    dropout is off) and no parameter requires a gradient. On the way out every submodule and every parameter
    gets back its own setting, whatever the mixture was, also after an exception.

    Args:
        modules: any modules; they may share parts.
    """
    # Keyed by identity: a part shared by two modules must be restored once, to what it was before the first.
    layers = {id(layer): (layer, layer.training) for module in modules for layer in module.modules()}
    parameters = {id(p): (p, p.requires_grad) for module in modules for p in module.parameters()}
    try:
        for layer, _ in layers.values():
            layer.training = False
        for parameter, _ in parameters.values():
            parameter.requires_grad_(False)
        yield
    finally:
        for layer, training in layers.values():
            layer.training = training
        for parameter, requires_grad in parameters.values():
            parameter.requires_grad_(requires_grad)
