"""``python -m bench.hard_step``: the training step of HARD against the same mathematics in plain eager PyTorch.

Five steps of the student and one of an affine augmentor; both sides start from the same networks, images and noise.
The plain side is written as people do: ``affine_grid`` and ``grid_sample``, ``kl_div`` of ``log_softmax``, optimisers
as they are by default, and a teacher that answers the clean images every time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardfast.augment import AffineAugmentor
from hardfast.distill import AugmentorObjective, Execution, StudentObjective, augmentor_step, student_step
from hardfast.distill.step import AugmentorStep

from .memory import peak_bytes, peak_bytes_gpu

STUDENT_STEPS = 5
BATCHES = 8


@dataclass(frozen=True)
class Size:
    """Networks and images; ``teacher`` and ``student`` are the widths of a small CNN, or names of timm."""

    name: str
    batch: int
    shape: tuple[int, int, int]
    teacher: tuple[int, ...] | str
    student: tuple[int, ...] | str
    floor: float
    pooling: bool = True
    device: str = "cpu"
    precision: str = "float32"


SIZES = (
    Size("28x28", 128, (1, 28, 28), (16, 32, 32), (8, 16, 16), 1.5),
    Size("3x64x64", 32, (3, 64, 64), (16, 32, 64), (8, 16, 32), 1.5),
    Size("3x64x64, strides", 32, (3, 64, 64), (16, 32, 64), (8, 16, 32), 1.5, pooling=False),
    Size("ResNet50 -> ResNet18", 128, (3, 224, 224), "resnet50", "resnet18", 2.0, device="cuda", precision="bfloat16"),
)


@dataclass(frozen=True)
class Way:
    """How a step is taken: ``execution`` None is plain PyTorch, eager or, all functions of it, ``compiled``."""

    name: str
    execution: Execution | None
    cached: bool = False
    reused: bool = False
    compiled: bool = False


WAYS = (
    Way("plain eager", None),
    Way("plain eager, teacher's answers cached", None, cached=True),
    Way("fused ops and optimisers", Execution()),
    Way("+ teacher's answers cached", Execution(), cached=True),
    Way("+ augmented images reused", Execution(), cached=True, reused=True),
    Way("+ channels_last", Execution(channels_last=True), cached=True, reused=True),
    Way("+ folded teacher", Execution(channels_last=True, fold_teacher=True), cached=True, reused=True),
)
PLAIN, FULL = WAYS[0], WAYS[-1]
PLAIN_COMPILED = Way("plain compiled", None, compiled=True)
COMPILED = Way("+ compiled", replace(WAYS[-1].execution or Execution(), compile=True), cached=True, reused=True)


def small_cnn(channels: int, widths: Sequence[int], pooling: bool) -> nn.Module:
    """Convolutions with batch norm, each but the last halving the side, by pooling or by its stride."""
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(zip((channels, *widths[:-1]), widths, strict=True)):
        halved = place < len(widths) - 1
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2 if halved and not pooling else 1, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(), *([nn.MaxPool2d(2)] if halved and pooling else [])]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def network_of(size: Size, kind: tuple[int, ...] | str, seed: int) -> nn.Module:
    """A teacher or student of a size, on its device."""
    torch.manual_seed(seed)
    if isinstance(kind, str):
        import timm

        return timm.create_model(kind, pretrained=False).to(size.device)
    return small_cnn(size.shape[0], kind, size.pooling).to(size.device)


class Training:
    """Takes the steps of one way: call it for five of the student and one of the augmentor."""

    def __init__(self, size: Size, way: Way, images: Tensor) -> None:
        self.way, self.batches = way, images.split(size.batch)
        self.teacher, self.student = network_of(size, size.teacher, 1).eval(), network_of(size, size.student, 2)
        self.teacher.requires_grad_(False)
        self.augmentor = AffineAugmentor().to(size.device)
        self.generator = torch.Generator(size.device).manual_seed(3)
        fused = {} if way.execution is None else {"fused": True}
        self.student_optimizer = torch.optim.AdamW(self.student.parameters(), 1e-3, **fused)
        self.augmentor_optimizer = torch.optim.Adam(self.augmentor.parameters(), 1e-2, **fused)
        with torch.no_grad():
            self.answers = [self.teacher(batch) for batch in self.batches]
        self.autocast = torch.autocast(size.device, torch.bfloat16, enabled=size.precision == "bfloat16")
        compile_function = torch.compile if way.compiled else _as_it_is
        self.run_student, self.run_teacher = compile_function(self.student), compile_function(self.teacher)
        self.warp, self.divergence = compile_function(_warped), compile_function(plain_divergence)
        if way.execution is not None:
            execution = replace(way.execution, precision=size.precision)
            self.batches = [execution.images(batch) for batch in self.batches]
            self.run_student, self.run_teacher = execution.network(self.student), execution.teacher(self.teacher)
            self.run_augmentor = execution.augmentor(self.augmentor)
        self.taken = 0
        self.made: AugmentorStep | None = None

    def __call__(self) -> None:
        for _ in range(STUDENT_STEPS):
            self._student_step() if self.way.execution is None else self._our_student_step()
        self._augmentor_step() if self.way.execution is None else self._our_augmentor_step()

    def _next(self) -> tuple[Tensor, Tensor | None]:
        place = self.taken % len(self.batches)
        self.taken += 1
        return self.batches[place], self.answers[place] if self.way.cached else None

    def _our_student_step(self) -> None:
        images, answers = self._next()
        made, self.made = self.made, None
        student_step(
            self.run_student,
            self.run_teacher,
            images,
            self.student_optimizer,
            StudentObjective(),
            augmentor=self.run_augmentor if made is None else None,
            teacher_clean=answers,
            generated=None if made is None else (made.images, made.teacher_logits),
            generator=self.generator,
        )

    def _our_augmentor_step(self) -> None:
        images, answers = self._next()
        taken = augmentor_step(
            self.run_augmentor,
            self.run_student,
            self.run_teacher,
            images,
            self.augmentor_optimizer,
            AugmentorObjective(),
            teacher_clean=answers,
            generator=self.generator,
        )
        self.made = taken if self.way.reused else None

    def _student_step(self) -> None:
        images, answers = self._next()
        with torch.no_grad():
            augmented = self.warp(images, self._theta(images))
            answers, held = self._answers(images, answers), self._logits(self.run_teacher, augmented)
            self.divergence(held, answers)  # for the log
        student_augmented, student_clean = self._logits(self.run_student, torch.cat([augmented, images])).chunk(2)
        loss = self.divergence(student_augmented, held) + self.divergence(student_clean, answers)
        self.student_optimizer.zero_grad()
        loss.backward()
        self.student_optimizer.step()

    def _augmentor_step(self) -> None:
        images, answers = self._next()
        self.student.eval().requires_grad_(False)
        with torch.no_grad():
            answers = self._answers(images, answers)
        augmented = self.warp(images, self._theta(images))
        held = self._logits(self.run_teacher, augmented)
        loss = self.divergence(held, answers) - self.divergence(self._logits(self.run_student, augmented), held)
        self.augmentor_optimizer.zero_grad()
        loss.backward()
        self.augmentor_optimizer.step()
        self.student.train().requires_grad_(True)

    def _answers(self, images: Tensor, cached: Tensor | None) -> Tensor:
        return self._logits(self.run_teacher, images) if cached is None else cached

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        with self.autocast:
            logits = network(images)
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    def _theta(self, images: Tensor) -> Tensor:
        return self.augmentor.draw(images, self.generator)["theta"]


def _as_it_is(function: Any) -> Any:
    return function


def _warped(images: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def plain_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """``kl_disagreement`` as people write it."""
    return F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), log_target=True, reduction="batchmean")


@dataclass(frozen=True)
class Row:
    """What a way came to; ``speedup`` is the median over rounds, in which all ways take their turns."""

    size: str
    way: str
    images_per_second: float
    speedup: float
    peak_mib: float
    floor: float


def images_of(size: Size) -> Tensor:
    """What one training goes through, over and over."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(BATCHES * size.batch, *size.shape, generator=generator).to(size.device)


def measure(size: Size, ways: Sequence[Way], rounds: int) -> list[Row]:
    """Times all ways in alternation and measures the memory of each; the first way is what the others are held to."""
    images = images_of(size)
    trainings = [Training(size, way, images) for way in ways]
    for _ in range(2):  # the second also sees what an augmentor step leaves
        for training in trainings:
            training()
    seconds = [[_seconds(training, size.device) for training in trainings] for _ in range(rounds)]
    clean = (STUDENT_STEPS + 1) * size.batch
    return [
        Row(
            size.name,
            way.name,
            clean / statistics.median(row[place] for row in seconds),
            statistics.median(row[0] / row[place] for row in seconds),
            (peak_bytes if size.device == "cpu" else peak_bytes_gpu)(training) / 2**20,
            size.floor,
        )
        for place, (way, training) in enumerate(zip(ways, trainings, strict=True))
    ]


def _seconds(training: Training, device: str) -> float:
    start = time.perf_counter()
    training()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hard_step", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="few rounds of small batches, to see that it runs")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled networks out")
    parser.add_argument("--filter", default="", help="only sizes whose name contains this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    ways = WAYS if args.no_compile else (*WAYS, COMPILED)
    rows: list[Row] = []
    print(
        "| networks and images | way | images/s | / plain eager | peak MiB | / plain eager |\n|---|---|---|---|---|---|"
    )
    for size in SIZES:
        if args.filter not in size.name:
            continue
        if size.device == "cuda" and not torch.cuda.is_available():
            print(f"\n{size.name} at {size.shape[1]} px in {size.precision} needs an NVIDIA GPU: not measured here.")
            continue
        found = measure(replace(size, batch=4) if args.quick else size, ways, 1 if args.quick else args.rounds)
        rows += found
        for row in found:
            memory = row.peak_mib / found[0].peak_mib
            print(
                f"| {row.size} | {row.way} | {row.images_per_second:.0f} | {row.speedup:.2f} | {row.peak_mib:.1f} "
                f"| {memory:.2f} |",
                flush=True,
            )
    print(f"\n{args.threads} CPU thread(s); {STUDENT_STEPS} student steps and one of the augmentor.")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    ours = {row.size: row for row in rows if row.way == ways[-1].name}
    missed = [f"{name}: {row.speedup:.2f} < {row.floor}" for name, row in ours.items() if row.speedup < row.floor]
    print("\n".join(f"below the floor: {line}" for line in missed) or "all at or above their floors")
    return 1 if missed and not args.quick else 0


if __name__ == "__main__":
    raise SystemExit(main())
