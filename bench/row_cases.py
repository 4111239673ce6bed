"""The losses on logits, and the guided diffusion step, beside the same in plain PyTorch and Liger's kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardfast.ops import (
    confidence_disagreement,
    distillation_loss,
    guided_step,
    kl_disagreement,
    linear_kl_disagreement,
)

from . import roofline
from .case import OURS, Case, Floors, Implementation, Inputs, differentiated, eager_and_compiled

TEMPERATURE = 2.0
SIDES = {"parameters": (True, False), "all": (True, True), "weighted": (True, True)}  # gradients to student and teacher
WEIGHT = 0.5
HEADS = {  # gradients to features and weight of the student, then of the teacher
    "features": (True, False, True, False),
    "parameters": (True, True, False, False),
    "all": (True, True, True, True),
}


def eager_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    log_student, log_teacher = (F.log_softmax(x / TEMPERATURE, -1) for x in (student_logits, teacher_logits))
    return TEMPERATURE**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def our_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return kl_disagreement(student_logits, teacher_logits, temperature=TEMPERATURE)


def liger_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Takes logarithms of probabilities, and has no gradient to the teacher."""
    from liger_kernel.transformers import LigerKLDIVLoss

    log_student, log_teacher = (F.log_softmax(x / TEMPERATURE, -1) for x in (student_logits, teacher_logits))
    return TEMPERATURE**2 * LigerKLDIVLoss(reduction="batchmean", log_target=True)(log_student, log_teacher)


def eager_confidence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    p_s, p_t = (x.softmax(-1).gather(-1, labels[:, None])[:, 0] for x in (student, teacher))
    return (p_t**2.0 + (1 - p_s) ** 2.0).mean()


def our_confidence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return confidence_disagreement(student, teacher, labels, gamma=2.0)


def eager_distillation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return eager_kl(student, teacher) + F.cross_entropy(student, labels)


def our_distillation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return distillation_loss(student, teacher, labels, temperature=TEMPERATURE)


def eager_linear_kl(
    student_features: Tensor, student_weight: Tensor, teacher_features: Tensor, teacher_weight: Tensor
) -> Tensor:
    return eager_kl(F.linear(student_features, student_weight), F.linear(teacher_features, teacher_weight))


def our_linear_kl(
    student_features: Tensor, student_weight: Tensor, teacher_features: Tensor, teacher_weight: Tensor
) -> Tensor:
    return linear_kl_disagreement(
        student_features, student_weight, teacher_features, teacher_weight, temperature=TEMPERATURE
    )


def liger_linear_kl(
    student_features: Tensor, student_weight: Tensor, teacher_features: Tensor, teacher_weight: Tensor
) -> Tensor:
    """Its Jensen-Shannon divergence with a weight of 0, which is the forward KL; the teacher gets no gradient."""
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=0.0, temperature=TEMPERATURE)
    return TEMPERATURE**2 * loss(student_features, student_weight, teacher_features, teacher_weight)


def eager_guided_step(latents: Tensor, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
    a, b = 0.3, 0.4
    epsilon = uncond + 7.5 * (cond - uncond)
    clean = ((latents - (1 - a) ** 0.5 * epsilon) / a**0.5).clamp(-1.0, 1.0)
    return b**0.5 * clean + (1 - b) ** 0.5 * epsilon, clean


def our_guided_step(latents: Tensor, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
    return guided_step(latents, cond, uncond, alpha_bar=0.3, alpha_bar_next=0.4, guidance_scale=7.5, clip_range=1.0)


def _logits(rows: int, classes: int, device: str, dtype: str, *, labelled: bool = False) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(rows, classes, generator=generator) for _ in range(2)]
    labels = [torch.randint(classes, (rows,), generator=generator).to(device)] if labelled else []
    return (*(x.to(device, getattr(torch, dtype)) for x in logits), *labels)


def _weighted(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *inputs: WEIGHT * loss(*inputs)


def _implementations(
    ours: Callable[..., Any],
    eager: Callable[..., Any],
    differentiable: tuple[bool, ...],
    liger: Callable[..., Any] | None = None,
) -> dict[str, Implementation]:
    found = {OURS: differentiated(ours, differentiable)} | eager_and_compiled("eager", eager, differentiable)
    return found if liger is None else found | {"Liger": differentiated(liger, differentiable)}


def row_case(
    op: str,
    rows: int,
    classes: int,
    pass_name: str = "all",
    *,
    dtype: str = "float32",
    device: str = "cpu",
    floors: Floors | None = None,
    quick: bool = False,
) -> Case:
    """A loss on the logits of student and teacher.

    Args:
        pass_name: ``parameters`` is the gradient to the student alone, ``weighted`` that of half the loss to both.
    """
    ours, eager = {
        "kl_disagreement": (our_kl, eager_kl),
        "confidence_disagreement": (our_confidence, eager_confidence),
        "distillation_loss": (our_distillation, eager_distillation),
    }[op]
    if pass_name == "weighted":
        ours, eager = _weighted(ours), _weighted(eager)
    labelled = op != "kl_disagreement"
    differentiable = SIDES[pass_name] + (False,) * labelled
    liger = liger_kl if device == "cuda" and pass_name == "parameters" and not labelled else None
    element = getattr(torch, dtype).itemsize
    return Case(
        op,
        f"{rows}x{classes}",
        pass_name,
        partial(_logits, rows, classes, device, dtype, labelled=labelled),
        _implementations(ours, eager, differentiable, liger),
        roofline.rows(rows * classes, element, sum(SIDES[pass_name])),
        floors or Floors(),
        rows,
        dtype,
        device=device,
        quick=quick,
    )


def linear_case(
    rows: int,
    width: int,
    classes: int,
    pass_name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    floors: Floors | None = None,
    quick: bool = False,
) -> Case:
    """Two classifier heads: neither trained (gradients to the features alone), one, or both."""

    def inputs() -> Inputs:
        generator = torch.Generator().manual_seed(0)
        features = [torch.randn(rows, width, generator=generator) for _ in range(2)]
        weights = [torch.randn(classes, width, generator=generator) / width**0.5 for _ in range(2)]
        heads = (features[0], weights[0], features[1], weights[1])
        return tuple(x.to(device, getattr(torch, dtype)) for x in heads)

    differentiable = HEADS[pass_name]
    liger = liger_linear_kl if device == "cuda" and pass_name == "parameters" else None
    followed, trained = differentiable[0] + differentiable[2], differentiable[1] + differentiable[3]
    return Case(
        "linear_kl_disagreement",
        f"{rows}x{width}->{classes}",
        pass_name,
        inputs,
        _implementations(our_linear_kl, eager_linear_kl, differentiable, liger),
        roofline.linear_rows(rows, width, classes, getattr(torch, dtype).itemsize, trained, followed),
        floors or Floors(),
        rows,
        dtype,
        device=device,
        quick=quick,
    )


def guided_step_case(
    shape: tuple[int, int, int, int], pass_name: str, *, device: str = "cpu", quick: bool = False
) -> Case:
    def inputs() -> Inputs:
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randn(shape, generator=generator).to(device) for _ in range(3))

    numel = shape[0] * shape[1] * shape[2] * shape[3]
    return Case(
        "guided_step",
        "x".join(map(str, shape)),
        pass_name,
        inputs,
        _implementations(our_guided_step, eager_guided_step, (pass_name == "all",) * 3),
        roofline.guided_step(numel, 4, pass_name),
        items=shape[0],
        device=device,
        quick=quick,
    )


def cpu_cases() -> list[Case]:
    floors = {
        (4096, 1000): Floors({"compiled": 1.5}, roofline=0.5),
        (1024, 32000): Floors({"compiled": 1.2}),
        (256, 1000): Floors({"compiled": 1.5}),
        (512, 10): Floors({"compiled": 1.5}),
    }
    kl = partial(row_case, "kl_disagreement")
    cases = [kl(*size, floors=least, quick=size != (1024, 32000)) for size, least in floors.items()]
    cases += [kl(4096, 1000, "parameters"), kl(4096, 1000, "weighted"), kl(4096, 1000, dtype="bfloat16")]
    cases += [kl(*size) for size in ((4096, 10), (4096, 100), (1024, 8000))]
    labelled = [("confidence_disagreement", "all"), ("distillation_loss", "parameters"), ("distillation_loss", "all")]
    cases += [
        row_case(op, *size, pass_name, quick=size == (256, 1000))
        for op, pass_name in labelled
        for size in ((4096, 1000), (256, 1000), (512, 10))
    ]
    cases += [linear_case(1024, 512, 32000, name, floors=_lean(name)) for name in HEADS]
    cases += [linear_case(128, 64, 10000, name, quick=True) for name in HEADS]
    return cases + [
        guided_step_case(shape, name, quick=shape[0] == 4)
        for shape in ((4, 4, 64, 64), (64, 4, 64, 64), (32, 3, 256, 256))
        for name in ("forward", "all")
    ]


def _lean(pass_name: str) -> Floors:
    """The gradients to both weights alone are more than an eighth of eager's memory."""
    return Floors({"compiled": 1.0}, memory={} if pass_name == "all" else {"eager": 8.0})


def gpu_cases() -> list[Case]:
    ahead = {"compiled": 1.0, "Liger": 1.0}
    sizes = ((16384, 4096), (4096, 1000), (1024, 32000), (512, 10))
    cases = [
        row_case(
            "kl_disagreement",
            *size,
            name,
            dtype=dtype,
            device="cuda",
            floors=Floors(ahead, roofline=0.8 if size == (16384, 4096) else None),
            quick=dtype == "float32",
        )
        for size in sizes
        for dtype in ("float32", "bfloat16")
        for name in ("parameters", "all")
    ]
    cases += [
        row_case(op, *size, device="cuda")
        for op in ("confidence_disagreement", "distillation_loss")
        for size in ((16384, 4096), (512, 10))
    ]
    cases += [
        linear_case(4096, 1024, 32000, name, dtype=dtype, device="cuda", floors=_lean(name))
        for dtype in ("float32", "bfloat16")
        for name in HEADS
    ]
    return cases + [guided_step_case((64, 4, 64, 64), name, device="cuda", quick=True) for name in ("forward", "all")]
