"""One thing to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[..., "Tensor | tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Case:
    """One op at one size; ``floors`` is the least speed-up over each peer that the project promises."""

    op: str
    size: str
    pass_name: str  # forward | parameters | all
    inputs: tuple[Tensor, ...]
    differentiable: tuple[bool, ...]
    ours: Function
    eager: Function
    floors: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.op} {self.size} {self.pass_name}"

    def runner(self, function: Function) -> Callable[[], object]:
        """The case as a callable of no arguments: the forward, or forward and backward from a fixed gradient."""
        inputs = tuple(
            x.detach().clone(memory_format=torch.preserve_format).requires_grad_(grad)
            for x, grad in zip(self.inputs, self.differentiable, strict=True)
        )
        wanted = [x for x in inputs if x.requires_grad]
        if not wanted:
            return lambda: function(*inputs)
        outputs = function(*inputs)
        grads = [torch.randn_like(x) for x in (outputs if isinstance(outputs, tuple) else (outputs,))]
        return lambda: torch.autograd.grad(function(*inputs), wanted, grads)
