"""What is measured: ops, sizes and passes, each with its equivalent in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.case import Case
from bench.warps import warp_cases
from hardfast.ops import (
    confidence_disagreement,
    distillation_loss,
    guided_step,
    kl_disagreement,
    linear_kl_disagreement,
)


def eager_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    log_student, log_teacher = F.log_softmax(student_logits / 2.0, -1), F.log_softmax(teacher_logits / 2.0, -1)
    return 4.0 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def our_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return kl_disagreement(student_logits, teacher_logits, temperature=2.0)


def kl_cases() -> list[Case]:
    floors = {(4096, 1000): {"eager": 3.0, "compiled": 1.2}}
    cases = []
    for rows, classes in [(4096, 1000), (256, 1000), (1024, 32000), (512, 10)]:
        generator = torch.Generator().manual_seed(0)
        logits = tuple(3 * torch.randn(rows, classes, generator=generator) for _ in range(2))
        cases.append(
            Case(
                "kl_disagreement",
                f"{rows}x{classes}",
                "all",
                (logits[0], logits[1]),
                (True, True),
                our_kl,
                eager_kl,
                floors.get((rows, classes), {}),
            )
        )
    return cases


def labelled_cases() -> list[Case]:
    """The ops that take labels, which are the same at every call."""
    cases = []
    for rows, classes in [(4096, 1000), (256, 1000), (512, 10)]:
        generator = torch.Generator().manual_seed(0)
        logits = tuple(3 * torch.randn(rows, classes, generator=generator) for _ in range(2))
        labels = torch.randint(classes, (rows,), generator=generator)

        def our_confidence(student: Tensor, teacher: Tensor, labels: Tensor = labels) -> Tensor:
            return confidence_disagreement(student, teacher, labels, gamma=2.0)

        def eager_confidence(student: Tensor, teacher: Tensor, labels: Tensor = labels) -> Tensor:
            p_s, p_t = (x.softmax(-1).gather(-1, labels[:, None])[:, 0] for x in (student, teacher))
            return (p_t**2.0 + (1 - p_s) ** 2.0).mean()

        def our_distillation(student: Tensor, teacher: Tensor, labels: Tensor = labels) -> Tensor:
            return distillation_loss(student, teacher, labels, temperature=2.0)

        def eager_distillation(student: Tensor, teacher: Tensor, labels: Tensor = labels) -> Tensor:
            return eager_kl(student, teacher) + F.cross_entropy(student, labels)

        inputs = (logits[0], logits[1])
        for op, pass_name, differentiable, ours, eager in [
            ("confidence_disagreement", "all", (True, True), our_confidence, eager_confidence),
            ("distillation_loss", "all", (True, True), our_distillation, eager_distillation),
            ("distillation_loss", "parameters", (True, False), our_distillation, eager_distillation),
        ]:
            cases.append(Case(op, f"{rows}x{classes}", pass_name, inputs, differentiable, ours, eager, {}))
    return cases


def eager_linear_kl(
    student_features: Tensor, student_weight: Tensor, teacher_features: Tensor, teacher_weight: Tensor
) -> Tensor:
    return eager_kl(F.linear(student_features, student_weight), F.linear(teacher_features, teacher_weight))


def our_linear_kl(
    student_features: Tensor, student_weight: Tensor, teacher_features: Tensor, teacher_weight: Tensor
) -> Tensor:
    return linear_kl_disagreement(student_features, student_weight, teacher_features, teacher_weight, temperature=2.0)


def linear_cases() -> list[Case]:
    """Two classifier heads: one trained, neither (gradients to the features alone), or both."""
    passes = {"features": (True, False, True, False), "parameters": (True, True, False, False), "all": (True,) * 4}
    cases = []
    for rows, width, classes in [(1024, 512, 32000), (128, 64, 10000)]:
        generator = torch.Generator().manual_seed(0)
        features = [torch.randn(rows, width, generator=generator) for _ in range(2)]
        weights = [torch.randn(classes, width, generator=generator) / width**0.5 for _ in range(2)]
        inputs = (features[0], weights[0], features[1], weights[1])
        cases += [
            Case(
                "linear_kl_disagreement",
                f"{rows}x{width}->{classes}",
                name,
                inputs,
                differentiable,
                our_linear_kl,
                eager_linear_kl,
                {},
            )
            for name, differentiable in passes.items()
        ]
    return cases


def eager_guided_step(latents: Tensor, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
    a, b = 0.3, 0.4
    epsilon = uncond + 7.5 * (cond - uncond)
    clean = ((latents - (1 - a) ** 0.5 * epsilon) / a**0.5).clamp(-1.0, 1.0)
    return b**0.5 * clean + (1 - b) ** 0.5 * epsilon, clean


def our_guided_step(latents: Tensor, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
    return guided_step(latents, cond, uncond, alpha_bar=0.3, alpha_bar_next=0.4, guidance_scale=7.5, clip_range=1.0)


def guided_step_cases() -> list[Case]:
    cases = []
    for shape in [(4, 4, 64, 64), (64, 4, 64, 64), (32, 3, 256, 256)]:
        generator = torch.Generator().manual_seed(0)
        inputs = tuple(torch.randn(shape, generator=generator) for _ in range(3))
        for name, differentiable in {"forward": (False,) * 3, "all": (True,) * 3}.items():
            size = "x".join(map(str, shape))
            cases.append(
                Case("guided_step", size, name, inputs, differentiable, our_guided_step, eager_guided_step, {})
            )
    return cases


def all_cases() -> list[Case]:
    return warp_cases() + kl_cases() + labelled_cases() + linear_cases() + guided_step_cases()
