"""One step of plain distillation: the teacher answers, the student follows. No augmentor, nothing kept from before."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hardfast.distill import Execution, StudentObjective, student_step

from .case import Runner
from .hard_step import Size, images_of, network_of, plain_divergence


def distillation_step(size: Size, execution: Execution | None, *, compiled: bool = False) -> Runner:
    """A callable that takes one step.

    Args:
        size: networks and images.
        execution: how hardfast runs the networks; None for plain PyTorch.
        compiled: whether plain PyTorch compiles networks and loss.
    """
    images = images_of(size)[: size.batch]
    teacher, student = network_of(size, size.teacher, 1).eval(), network_of(size, size.student, 2)
    teacher.requires_grad_(False)
    if execution is None:
        return _plain(size, images, teacher, student, compiled=compiled)
    execution = replace(execution, precision=size.precision)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, fused=True)
    images, run_student, run_teacher = execution.images(images), execution.network(student), execution.teacher(teacher)
    return lambda: student_step(run_student, run_teacher, images, optimizer, StudentObjective())


def _plain(size: Size, images: Tensor, teacher: torch.nn.Module, student: torch.nn.Module, *, compiled: bool) -> Runner:
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
    divergence = plain_divergence
    if compiled:
        teacher, student, divergence = torch.compile(teacher), torch.compile(student), torch.compile(divergence)

    def step() -> None:
        with torch.autocast(size.device, torch.bfloat16, enabled=size.precision == "bfloat16"):
            with torch.no_grad():
                answers = teacher(images)
            logits = student(images)
        loss = divergence(logits.float(), answers.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
