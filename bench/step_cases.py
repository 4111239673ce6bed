"""End to end: the step of HARD and of plain distillation, the search of ConfiG, the gradient of a sampling chain.

What is called eager is the same mathematics in plain PyTorch and diffusers, as people write it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from hardfast.distill import Execution

from .case import OURS, Case, Implementation, Runner
from .distillation_step import distillation_step
from .hard_step import COMPILED, FULL, PLAIN, PLAIN_COMPILED, SIZES, STUDENT_STEPS, Size, Training, images_of

_NEEDS = ("diffusers",)
OURS_COMPILED = f"{OURS} compiled"


def hard_step_case(size: Size) -> Case:
    """Five student steps and one of the augmentor; ours with all that :mod:`bench.hard_step` takes one by one."""
    ways = {OURS: FULL, OURS_COMPILED: COMPILED, "eager": PLAIN, "compiled": PLAIN_COMPILED}

    def prepare(way: Any, images: Any) -> Runner:
        training = Training(size, way, images)
        training()  # the second also sees what an augmentor step leaves
        return training

    implementations = {name: partial(prepare, way) for name, way in ways.items()}
    return _step("hard_step", size, partial(images_of, size), implementations, (STUDENT_STEPS + 1) * size.batch)


def distillation_case(size: Size) -> Case:
    folded = Execution(channels_last=True, fold_teacher=True)
    ways: dict[str, Callable[[], Runner]] = {
        OURS: lambda: distillation_step(size, folded),
        OURS_COMPILED: lambda: distillation_step(size, replace(folded, compile=True)),
        "eager": lambda: distillation_step(size, None),
        "compiled": lambda: distillation_step(size, None, compiled=True),
    }
    return _step("distillation_step", size, tuple, {n: partial(_ignoring, way) for n, way in ways.items()}, size.batch)


def _ignoring(way: Callable[[], Runner], _: object) -> Runner:
    return way()


def _step(op: str, size: Size, inputs: Callable[[], Any], ways: dict[str, Implementation], items: int) -> Case:
    """The smallest size is not compiled: its compilation takes a minute, and it is there for ``--quick``."""
    smallest = size.name == SIZES[0].name
    return Case(
        op,
        size.name,
        "step",
        inputs,
        {name: way for name, way in ways.items() if not (smallest and "compiled" in name)},
        items=items,
        dtype=size.precision,
        device=size.device,
        quick=smallest,
    )


def config_case(images: int, size: int, steps: int, *, cutouts: int = 16) -> Case:
    """One iteration of the search, and the sampling of what it found. On the CPU: the images are small."""

    def inputs() -> Any:
        from .guidance import search_of

        return search_of(images, size=size, steps=steps, iterations=1, cutouts=cutouts)

    def ours(search: Any, memory: str = "per_step") -> Runner:
        from .guidance import batched_way

        return lambda: batched_way(search, memory)

    def published(search: Any, *, compiled: bool = False, recompute: bool = False) -> Runner:
        from .guidance import published_way

        model = torch.compile(search.denoiser.model) if compiled else None
        return lambda: published_way(search, model=model, recompute=recompute)

    ways = {
        OURS: ours,
        "eager": published,
        "compiled": partial(published, compiled=True),
        "diffusers checkpointing": partial(published, recompute=True),
    }
    return Case(
        "config_iteration",
        f"{images}x3x{size}x{size} {steps} steps",
        "search",
        inputs,
        ways,
        items=images,
        needs=_NEEDS,
        slow_to_compile=True,
    )


def chain_case(batch: int, size: int, steps: int, *, device: str = "cpu", quick: bool = False) -> Case:
    """The gradient of a sampling chain to its noise; ours keeps the latents alone, and calls are computed again."""

    def inputs() -> Any:
        from .diffusion import class_denoiser

        noise = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        return class_denoiser().to(device), noise.to(device)

    def ours(given: Any, memory: str = "per_step") -> Runner:
        from .diffusion import gradient_of_chain

        return gradient_of_chain(*given, steps, memory, guided=False)

    def plain(given: Any, *, compiled: bool = False, recompute: bool = False) -> Runner:
        from .diffusion import plain_gradient_of_chain

        model: nn.Module | None = torch.compile(given[0].model) if compiled else None
        return plain_gradient_of_chain(*given, steps, model=model, recompute=recompute)

    ways = {
        OURS: ours,
        f"{OURS} nested": partial(ours, memory="nested"),
        "eager": plain,
        "compiled": partial(plain, compiled=True),
        "diffusers checkpointing": partial(plain, recompute=True),
    }
    label = f"{batch}x3x{size}x{size} {steps} steps"
    return Case(
        "sampling_gradient",
        label,
        "all",
        inputs,
        ways,
        items=batch,
        device=device,
        quick=quick,
        needs=_NEEDS,
        slow_to_compile=True,
    )


def step_cases(device: str) -> list[Case]:
    sizes = [size for size in SIZES if size.device == device and "strides" not in size.name]
    return [make(size) for make in (hard_step_case, distillation_case) for size in sizes]


def diffusion_cases(device: str) -> list[Case]:
    if device == "cuda":
        return [chain_case(16, 64, steps, device="cuda") for steps in (20, 50)]
    return [config_case(2, 16, 5), chain_case(2, 16, 5, quick=True), chain_case(2, 32, 20)]
