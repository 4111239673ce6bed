"""One training step of the student, of the augmentor, or of a network on labels: functions for any training loop."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from hardfast.distill.constant import held_constant
from hardfast.distill.finite_steps import FiniteSteps
from hardfast.distill.objectives import AugmentorObjective, Mean, StudentObjective, StudentTerms


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
    mean: Mean | None = None,
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
        mean: that of a :class:`~hardfast.distill.shard.Shard`, of which the images are a part; None for a whole batch.

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
                augmented = augmentor(images, generator)
            teacher_augmented = teacher(augmented)
    if generated is not None:
        others, teacher_others = generated
        student_others, student_clean = student(torch.cat([others, images])).split([len(others), len(images)])
        clean = objective(student_clean, teacher_clean, mean=mean)
        terms = objective(student_others, teacher_others, mean=mean)
        terms = StudentTerms(terms.loss + objective.clean_weight * clean.loss, terms.disagreement, None)
    elif augmentor is not None:
        student_augmented, student_clean = student(torch.cat([augmented, images])).split(len(images))
        terms = objective(student_clean, teacher_clean, student_augmented, teacher_augmented, mean)
    else:
        terms = objective(student(images), teacher_clean, mean=mean)
    _descend(terms.loss, optimizer, finite)
    return StudentTerms(terms.loss.detach(), terms.disagreement, terms.teacher_consistency)


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
    mean: Mean | None = None,
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
        mean: that of a :class:`~hardfast.distill.shard.Shard`, of which the images are a part; None for a whole batch.

    Returns:
        The loss and its parts, and what the teacher was shown and said; detached, nothing is read from the device.
    """
    with held_constant(student, teacher):
        if teacher_clean is None:
            with torch.no_grad():
                teacher_clean = teacher(images)
        augmented = augmentor(images, generator)
        teacher_augmented = teacher(augmented)
        terms = objective(student(augmented), teacher_augmented, teacher_clean, mean)
        _descend(terms.loss, optimizer, finite)
    return AugmentorStep(*(value.detach() for value in (*terms, augmented, teacher_augmented)))


def supervised_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: Optimizer,
    *,
    label_smoothing: float = 0.0,
    finite: FiniteSteps | None = None,
    mean: Mean | None = None,
) -> Tensor:
    """Moves a network towards labels by cross-entropy.

    Args:
        model: maps images to logits ``[B, K]``, in the mode it is in.
        images: ``[B, C, H, W]``.
        labels: ``[B]``, int64, in [0, K).
        optimizer: of the model's parameters.
        label_smoothing: in [0, 1].
        finite: skips the step where it would not be finite; None to take every step.
        mean: that of a :class:`~hardfast.distill.shard.Shard`, of which the images are a part; None for a whole batch.

    Returns:
        The loss, a detached scalar.
    """
    loss = F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
    loss = loss if mean is None else mean(loss)
    _descend(loss, optimizer, finite)
    return loss.detach()


def _descend(loss: Tensor, optimizer: Optimizer, finite: FiniteSteps | None) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if finite is not None:
        finite.judge(loss)
    optimizer.step()
