"""What is measured: ops, sizes and passes, each with its equivalent in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardfast.ops import affine_warp, confidence_disagreement, distillation_loss, kl_disagreement

Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One op at one size; ``floors`` is the least speed-up over each peer that the project promises."""

    op: str
    size: str
    pass_name: str  # forward | parameters | all
    inputs: tuple[Tensor, Tensor]
    differentiable: tuple[bool, bool]
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
        grad = torch.randn_like(function(*inputs))
        return lambda: torch.autograd.grad(function(*inputs), wanted, grad)


def eager_warp(image: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


def eager_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    log_student, log_teacher = F.log_softmax(student_logits / 2.0, -1), F.log_softmax(teacher_logits / 2.0, -1)
    return 4.0 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def our_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return kl_disagreement(student_logits, teacher_logits, temperature=2.0)


def warp_cases() -> list[Case]:
    floors = {
        (16, 3, 224, 224): {"forward": 2.5, "parameters": 3.0, "all": 2.5},
        (1024, 1, 28, 28): {"forward": 2.0, "parameters": 3.0, "all": 2.5},
    }
    passes = {"forward": (False, False), "parameters": (False, True), "all": (True, True)}
    cases = []
    for shape in [(16, 3, 224, 224), (64, 3, 224, 224), (256, 3, 32, 32), (1024, 1, 28, 28)]:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(shape, generator=generator)
        theta = torch.eye(2, 3) + 0.1 * torch.randn(shape[0], 2, 3, generator=generator)
        for name, differentiable in passes.items():
            least = floors.get(shape, {}).get(name)
            cases.append(
                Case(
                    "affine_warp",
                    "x".join(map(str, shape)),
                    name,
                    (image, theta),
                    differentiable,
                    affine_warp,
                    eager_warp,
                    {} if least is None else {"eager": least},
                )
            )
    return cases


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


def all_cases() -> list[Case]:
    return warp_cases() + kl_cases() + labelled_cases()
