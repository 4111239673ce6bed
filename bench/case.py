"""One thing to measure, and the ways to do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .roofline import Work

Inputs = tuple[Any, ...]
Runner = Callable[[], object]
Implementation = Callable[[Any], Runner]  # from the inputs of a case to what is timed

OURS = "hardfast"
PASSES = {"forward": (False, False), "parameters": (False, True), "all": (True, True)}  # gradients to image, to map


@dataclass(frozen=True)
class Floors:
    """What the project promises of a case. A peer that is not measured promises nothing.

    Args:
        speed: of a peer, the least factor between its median and ours.
        memory: of a peer, the least factor between its peak memory and ours.
        roofline: the least fraction of the roofline.
    """

    speed: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    roofline: float | None = None


@dataclass(frozen=True)
class Case:
    """One op at one size, dtype, memory format and pass; nothing is allocated before :meth:`runners`.

    Args:
        op, size, pass_name: what is done; ``pass_name`` says which gradients are part of it.
        inputs: makes what every implementation is given.
        implementations: by name, ``"hardfast"`` first. The first word names the package that is needed.
        work: what must be moved and computed; None where nobody counted it.
        items: images or rows a call.
        quick: whether ``--quick`` measures it.
        needs: packages without which none of the implementations runs.
        slow_to_compile: whether ``torch.compile`` takes minutes, so that it has to be asked for.
    """

    op: str
    size: str
    pass_name: str
    inputs: Callable[[], Any]
    implementations: Mapping[str, Implementation]
    work: Work | None = None
    floors: Floors = field(default_factory=Floors)
    items: int = 1
    dtype: str = "float32"
    memory_format: str = "contiguous"
    device: str = "cpu"
    quick: bool = False
    needs: tuple[str, ...] = ()
    slow_to_compile: bool = False

    @property
    def name(self) -> str:
        """How it is printed and filtered."""
        return case_name(self.op, self.size, self.pass_name, self.dtype, self.memory_format)

    def runners(self, names: list[str]) -> dict[str, Runner]:
        """Callables of no arguments for these implementations, on the same inputs."""
        inputs = self.inputs()
        return {name: self.implementations[name](inputs) for name in names}


def case_name(op: str, size: str, pass_name: str, dtype: str, memory_format: str) -> str:
    """A case in words: what is not usual comes last."""
    unusual = [dtype] * (dtype != "float32") + [memory_format] * (memory_format != "contiguous")
    return " ".join([op, size, pass_name, *unusual])


def differentiated(
    function: Callable[..., Any],
    differentiable: tuple[bool, ...],
    convert: Callable[[Inputs], Inputs] = tuple,
    *,
    compiled: bool = False,
) -> Implementation:
    """A function of tensors, forward or forward and backward from a fixed gradient.

    Args:
        function: of the inputs, to a tensor or several.
        differentiable: which inputs get gradients; the last stands for all that follow it.
        convert: beforehand, from the inputs of the case to those of this function, such as its own kind of matrix.
        compiled: whether ``torch.compile`` gets the function.
    """

    def prepare(inputs: Inputs) -> Runner:
        run = torch.compile(function) if compiled else function
        arguments = convert(inputs)
        wanted = (*differentiable, *differentiable[-1:] * (len(arguments) - len(differentiable)))
        if not any(wanted):
            return lambda: run(*arguments)
        leaves = tuple(
            x.detach().clone(memory_format=torch.preserve_format).requires_grad_() if grad else x
            for x, grad in zip(arguments, wanted, strict=True)
        )
        outputs = run(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        grads = [_fixed_noise(x) if x.dim() > 0 else torch.ones_like(x) for x in outputs]  # as loss.backward() has it
        sources = [x for x, grad in zip(leaves, wanted, strict=True) if grad]
        return lambda: torch.autograd.grad(run(*leaves), sources, grads)

    return prepare


def _fixed_noise(like: Tensor) -> Tensor:
    """The same numbers for every implementation, in the strides of its own output."""
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
    return torch.empty_like(like).copy_(noise)


def eager_and_compiled(
    name: str,
    function: Callable[..., Any],
    differentiable: tuple[bool, ...],
    convert: Callable[[Inputs], Inputs] = tuple,
) -> dict[str, Implementation]:
    """A peer as it is, and compiled by ``torch.compile``; that of PyTorch itself is ``eager`` and ``compiled``."""
    compiled_name = "compiled" if name == "eager" else f"{name} compiled"
    return {
        name: differentiated(function, differentiable, convert),
        compiled_name: differentiated(function, differentiable, convert, compiled=True),
    }
