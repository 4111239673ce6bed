"""What student and augmentor minimise: the two sides of HARD (arXiv 2305.14890), on logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardfast.ops import _checks, kl_disagreement
from hardfast.ops.kl_disagreement import DIVERGENCES

FORMS = ("saturating", "non_saturating")
#: Makes of means over the images at hand, ``[n]``, those over the whole batch, differentiably.
Mean = Callable[[Tensor], Tensor]

# Below this the logarithm of the non-saturating form is flat: two float32 networks that agree to rounding
# error.
_SMALLEST_DISAGREEMENT = 1e-6


class StudentTerms(NamedTuple):
    """The student's loss and its parts, scalars; only ``loss`` carries gradients to the student.

    Args:
        loss: what the student minimises.
        disagreement: ``D(s(x~), t(x~))``, or ``D(s(x), t(x))`` without augmented images.
        teacher_consistency: ``D(t(x~), t(x))``, or None without augmented images.
    """

    loss: Tensor
    disagreement: Tensor
    teacher_consistency: Tensor | None = None


class AugmentorTerms(NamedTuple):
    """The augmentor's loss and its parts, scalars with gradients to the augmented images.

    Args:
        loss: what the augmentor minimises.
        disagreement: ``D(s(x~), t(x~))``.
        teacher_consistency: ``D(t(x~), t(x))``.
    """

    loss: Tensor
    disagreement: Tensor
    teacher_consistency: Tensor


@dataclass(frozen=True)
class StudentObjective:
    """``D(s(x~), t(x~)) + clean_weight * D(s(x), t(x))``, with ``D = T**2 KL(softmax(t/T) || softmax(s/T))``.

    Args:
        temperature: ``T`` > 0.
        clean_weight: weight of the term on clean images, >= 0.
        divergence: in place of the KL divergence, as :func:`hardfast.kl_disagreement` takes it.
    """

    temperature: float = 1.0
    clean_weight: float = 1.0
    divergence: str = "forward"

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_weight("clean_weight", self.clean_weight)
        _checks.one_of("divergence", self.divergence, DIVERGENCES)

    def __call__(
        self,
        student_clean: Tensor,
        teacher_clean: Tensor,
        student_augmented: Tensor | None = None,
        teacher_augmented: Tensor | None = None,
    ) -> StudentTerms:
        """Combines logits ``[B, K]``; without augmented ones it is plain distillation, ``D(s(x), t(x))``.

        Raises:
            ValueError: the logits of only one network are given for the augmented images.
        """
        options: Any = {"temperature": self.temperature, "divergence": self.divergence}
        clean = kl_disagreement(student_clean, teacher_clean, **options)
        if student_augmented is None and teacher_augmented is None:
            return StudentTerms(clean, clean.detach())
        if student_augmented is None or teacher_augmented is None:
            raise ValueError("student_augmented and teacher_augmented must be given together; got only one of them")
        augmented = kl_disagreement(student_augmented, teacher_augmented, **options)
        with torch.no_grad():
            consistency = kl_disagreement(teacher_augmented, teacher_clean, **options)
        return StudentTerms(augmented + self.clean_weight * clean, augmented.detach(), consistency)


@dataclass(frozen=True)
class AugmentorObjective:
    """Where the student is wrong and the teacher is still sure of its answer on the clean image.

    With ``D_s = D(s(x~), t(x~))`` and ``D_t = D(t(x~), t(x))``, batch means:

    - ``form="saturating"``: ``teacher_weight * D_t - student_weight * D_s``. Its gradient vanishes where the
      student agrees with the teacher, since ``D_s`` is there at its minimum.
    - ``form="non_saturating"``: ``teacher_weight * D_t - student_weight * log(D_s)``. The gradient of ``D_s``
      is divided by ``D_s``, so the pull on the augmentor does not fade as the student catches up, and does
      not grow with the unbounded ``D_s``.

    Args:
        temperature: ``T`` of ``D``, > 0.
        teacher_weight: >= 0; how strongly the teacher's answer is held.
        student_weight: >= 0; how strongly disagreement is sought.
        form: ``"saturating"`` or ``"non_saturating"``.
        divergence: of ``D``, as :func:`hardfast.kl_disagreement` takes it.
    """

    temperature: float = 1.0
    teacher_weight: float = 1.0
    student_weight: float = 1.0
    form: str = "saturating"
    divergence: str = "forward"

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_weight("teacher_weight", self.teacher_weight)
        _check_weight("student_weight", self.student_weight)
        if self.teacher_weight == self.student_weight == 0:
            raise ValueError("one of teacher_weight and student_weight must be above 0; got 0 for both")
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {list(FORMS)}; got {self.form!r}")
        _checks.one_of("divergence", self.divergence, DIVERGENCES)

    def __call__(
        self, student_augmented: Tensor, teacher_augmented: Tensor, teacher_clean: Tensor, mean: Mean | None = None
    ) -> AugmentorTerms:
        """Combines logits ``[B, K]``; gradients run through both augmented arguments.

        ``mean`` is that of a :class:`~hardfast.distill.shard.Shard`, whose logits they are; None for a whole batch.
        """
        options: Any = {"temperature": self.temperature, "divergence": self.divergence}
        disagreement = kl_disagreement(student_augmented, teacher_augmented, **options)
        consistency = kl_disagreement(teacher_augmented, teacher_clean, **options)
        if mean is not None:
            disagreement, consistency = mean(torch.stack([disagreement, consistency])).unbind()
        sought = disagreement
        if self.form == "non_saturating":
            sought = (disagreement + _SMALLEST_DISAGREEMENT).log()
        return AugmentorTerms(
            self.teacher_weight * consistency - self.student_weight * sought, disagreement, consistency
        )


def _check_temperature(value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"temperature must be finite and > 0; got {value!r}")


def _check_weight(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and >= 0; got {value!r}")
