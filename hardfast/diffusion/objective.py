"""What guidance maximises: ConfiG's disagreement and its controls, one value an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardfast.ops import _checks, confidence_disagreement, kl_disagreement
from hardfast.ops.confidence_disagreement import FORMS as CONFIDENCE_FORMS

FORMS = (*CONFIDENCE_FORMS, "kl")
MODELS = ("both", "teacher", "student")


@dataclass(frozen=True)
class GuidanceObjective:
    """How far the teacher believes in the label and the student does not; for ``"kl"``, how far their answers differ.

    Args:
        form: ``"probability"``, ``"log"`` or ``"logit"`` of :func:`~hardfast.confidence_disagreement`, or ``"kl"`` of
            :func:`~hardfast.kl_disagreement`, which does not look at the label.
        gamma: positive; only for ``"probability"``. Above 1 the student's gradient vanishes where it is sure of the
            label, which is where the search starts.
        temperature: positive; only for ``"kl"``.
        models: ``"both"``, or one control: ``"teacher"`` seeks images of which the teacher is sure, ``"student"``
            those of which the student is not. A constant answer stands for the other network, so that it moves neither
            the gradient nor the choice of the best image. Unguided images are those of no iterations.

    Source: Popp et al., ConfiG, 2025, arXiv 2506.02294.
    """

    form: str = "probability"
    gamma: float = 1.0
    temperature: float = 1.0
    models: str = "both"

    def __post_init__(self) -> None:
        _checks.one_of("form", self.form, FORMS)
        _checks.one_of("models", self.models, MODELS)
        _checks.positive("gamma", self.gamma)
        _checks.positive("temperature", self.temperature)
        if self.gamma != 1 and self.form != "probability":
            raise ValueError(f"gamma is used only with form='probability', got {self.gamma} with form={self.form!r}")
        if self.temperature != 1 and self.form != "kl":
            raise ValueError(f"temperature is used only with form='kl', got {self.temperature} with {self.form!r}")
        if self.models != "both" and self.form == "kl":
            raise ValueError(f"models must be 'both' with form='kl', got {self.models!r}")

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """One value to maximise for each row of logits ``[N, K]`` with labels ``[N]``; gradients to both logits."""
        if self.form == "kl":
            return kl_disagreement(student_logits, teacher_logits, temperature=self.temperature, reduction="none")
        if self.models == "teacher":
            student_logits = torch.zeros_like(student_logits)
        elif self.models == "student":
            teacher_logits = torch.zeros_like(teacher_logits)
        return confidence_disagreement(
            student_logits, teacher_logits, labels, form=self.form, gamma=self.gamma, reduction="none"
        )
