"""One training step of the student, of the augmentor, or of a network on labels: functions for any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from hardfast.distill.constant import held_constant
from hardfast.distill.finite_steps import FiniteSteps
from hardfast.distill.objectives import AugmentorObjective, StudentObjective, StudentTerms
from hardfast.distill.processes import ALONE
from hardfast.distill.shard import Shard
from hardfast.ops._checks import NotFiniteError

_WHOLE = Shard(ALONE, 1)  # whatever the batch's size is: means over it are those over this process's part


class AugmentorStep(NamedTuple):
    """What an augmentor step leaves, without gradients.

    Args:
        loss: what the augmentor minimised.
        disagreement: ``D(s(x~), t(x~))``.
        teacher_consistency: ``D(t(x~), t(x))``.
        images: as augmented before the step, ``[B, C, H, W]``; a student step can train on them (``generated``) and
            so saves a warp and the teacher's forward.
        teacher_logits: the teacher's on ``images``, ``[B, K]``.
    """

    loss: Tensor
    disagreement: Tensor
    teacher_consistency: Tensor
    images: Tensor
    teacher_logits: Tensor


def student_step(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    optimizer: Optimizer,
    objective: StudentObjective,
    *,
    augmentor: nn.Module | None = None,
    teacher_clean: Tensor | None = None,
    generated: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
    finite: FiniteSteps | None = None,
    shard: Shard | None = None,
) -> StudentTerms:
    """Moves the student towards the teacher's answers, on clean and on augmented or generated images.

    The student runs in the mode it is in (call ``student.train()`` once); teacher and augmentor are
    constants. Clean and augmented images go through the student as one batch, so its batch norm sees the
    mixture it is trained on.

    Args:
        student: maps images to logits ``[B, K]``.
        teacher: the same interface.
        images: clean images ``[B, C, H, W]``.
        optimizer: of the student's parameters.
        objective: combines the logits into the loss.
        augmentor: maps ``(images, generator)`` to images of the same shape; None for plain distillation.
        teacher_clean: the teacher's logits on ``images``, ``[B, K]``, to save their computation.
        generated: images ``[n, C, H, W]`` in place of augmented ones, and the teacher's logits on them: those of a
            generator, or those that :func:`augmentor_step` returns. They show other things than ``images``, so there is
            no consistency to tell.
        generator: source of the augmentor's noise.
        finite: skips the step where it would not be finite; None to take every step.
        shard: of the batch, of which the images are a part; None for a whole batch.

    Returns:
        The loss and its parts, detached; nothing is read from the device.

    Raises:
        ValueError: both ``augmentor`` and ``generated`` are given.
    """
    if augmentor is not None and generated is not None:
        raise ValueError("augmentor and generated exclude each other, got both")
    with held_constant(teacher), torch.no_grad():
        if teacher_clean is None:
            teacher_clean = teacher(images)
        if augmentor is not None:
            with held_constant(augmentor):
                augmented = _augmented(augmentor, images, generator)
            teacher_augmented = teacher(augmented)
    if generated is not None:
        others, teacher_others = generated
        student_others, student_clean = student(torch.cat([others, images])).split([len(others), len(images)])
        clean = objective(student_clean, teacher_clean)
        terms = objective(student_others, teacher_others)
        terms = StudentTerms(terms.loss + objective.clean_weight * clean.loss, terms.disagreement)
    elif augmentor is not None:
        student_augmented, student_clean = student(torch.cat([augmented, images])).split([len(augmented), len(images)])
        terms = objective(student_clean, teacher_clean, student_augmented, teacher_augmented)
    else:
        terms = objective(student(images), teacher_clean)
    told = [term for term in terms if term is not None]
    return StudentTerms(*_descend(told, optimizer, finite, shard or _WHOLE))


def augmentor_step(
    augmentor: nn.Module,
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    optimizer: Optimizer,
    objective: AugmentorObjective,
    *,
    teacher_clean: Tensor | None = None,
    generator: torch.Generator | None = None,
    finite: FiniteSteps | None = None,
    shard: Shard | None = None,
) -> AugmentorStep:
    """Moves the augmentor towards images on which the student fails and the teacher holds its answer.

    Student and teacher are constants: neither their parameters, nor the gradients stored there, nor their
    batch norm statistics change; the gradient runs through both of them to the image.

    Args:
        augmentor: maps ``(images, generator)`` to images of the same shape, differentiable in its parameters.
        student: maps images to logits ``[B, K]``.
        teacher: the same interface.
        images: clean images ``[B, C, H, W]``.
        optimizer: of the augmentor's parameters.
        objective: combines the logits into the loss.
        teacher_clean: the teacher's logits on ``images``, ``[B, K]``, to save their computation.
        generator: source of the augmentor's noise.
        finite: skips the step where it would not be finite; None to take every step.
        shard: of the batch, of which the images are a part; None for a whole batch.

    Returns:
        The loss and its parts, and what the teacher was shown and said; detached, nothing is read from the device.
    """
    with held_constant(student, teacher):
        if teacher_clean is None:
            with torch.no_grad():
                teacher_clean = teacher(images)
        augmented = _augmented(augmentor, images, generator)
        teacher_augmented = teacher(augmented)
        # Its loss may be no mean of the parts' losses, so that the divergences must be those of the batch before.
        mean = None if shard is None or shard.processes.alone else shard.mean
        terms = objective(student(augmented), teacher_augmented, teacher_clean, mean)
        loss, disagreement, consistency = _descend(terms, optimizer, finite, _WHOLE)
    return AugmentorStep(loss, disagreement, consistency, augmented.detach(), teacher_augmented.detach())


def _augmented(augmentor: nn.Module, images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Images of an augmentor, of which a diverged one has none."""
    try:
        return augmentor(images, generator)
    except NotFiniteError as error:
        raise FloatingPointError(
            f"the augmentor has diverged: {error}. Lower its learning rate or its initial scale"
        ) from error


def supervised_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: Optimizer,
    *,
    label_smoothing: float = 0.0,
    finite: FiniteSteps | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """Moves a network towards labels by cross-entropy.

    Args:
        model: maps images to logits ``[B, K]``, in the mode it is in.
        images: ``[B, C, H, W]``.
        labels: ``[B]``, int64, in [0, K).
        optimizer: of the model's parameters.
        label_smoothing: in [0, 1].
        finite: skips the step where it would not be finite; None to take every step.
        shard: of the batch, of which the images are a part; None for a whole batch.

    Returns:
        The loss, a detached scalar.
    """
    loss = F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
    (loss,) = _descend([loss], optimizer, finite, shard or _WHOLE)
    return loss


def _descend(
    terms: Sequence[Tensor], optimizer: Optimizer, finite: FiniteSteps | None, shard: Shard
) -> tuple[Tensor, ...]:
    """Takes a step down the first of the terms, means over this part of a batch; returns those over the batch."""
    means = shard.mean_later(torch.stack([*terms]))  # on their way during the backward
    optimizer.zero_grad(set_to_none=True)
    shard.weigh(terms[0]).backward()
    told = means().unbind()
    if finite is not None:
        finite.judge(told[0])
    optimizer.step()
    return told
