"""A maker of images that costs nothing, and what the tests of the generator do with it in other processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hardfast.diffusion.generate import GenerationSummary, generate_images
from hardfast.diffusion.guidance import GuidedImages
from hardfast.diffusion.image_store import ImageStore

GROUP = 4


class FakeMaker:
    """Random images by number, a few of them not finite or not kept; they also depend on the size of the batch."""

    class_names = ("square", "St. Bernard / dog", "circle")

    def __init__(self, delay: float = 0.0, channels: int = 3, stuck_from: int | None = None) -> None:
        self.delay, self.channels, self.stuck_from = delay, channels, stuck_from
        self.made: list[list[int]] = []

    def seed_of(self, number: int) -> int:
        return 7 * number + 1

    def reason(self, number: int) -> str | None:
        if number % 7 == 3 or number % 11 == 5:
            return "not finite"
        return "teacher" if number % 5 == 4 else None

    def make(self, numbers: Sequence[int]) -> GuidedImages:
        time.sleep(self.delay if self.stuck_from is None or numbers[0] < self.stuck_from else 600)
        self.made.append(list(numbers))
        generators = [torch.Generator().manual_seed(self.seed_of(number)) for number in numbers]
        before = torch.stack([torch.rand(self.channels, 6, 5, generator=g) for g in generators])
        images = 1.5 * before - 0.25 + 0.01 * len(numbers)
        confidences = torch.stack([torch.rand(4, generator=g) for g in generators])
        valid = torch.tensor([number % 7 != 3 for number in numbers])
        confidences[~valid] = torch.nan
        for index, number in enumerate(numbers):
            if number % 11 == 5:
                images[index, 0, 2, 2] = torch.inf
        return GuidedImages(
            images=images,
            images_before=before,
            latents=images,
            labels=torch.tensor([number % 3 for number in numbers]),
            teacher_before=confidences[:, 0],
            teacher_after=confidences[:, 1],
            student_before=confidences[:, 2],
            student_after=confidences[:, 3],
            scores=confidences.T[:2].clone(),
            valid=valid,
            kept=valid & torch.tensor([number % 5 != 4 for number in numbers]),
        )


def generate(
    path: Path, format: str, count: int, *, maker: FakeMaker | None = None, group_size: int = GROUP, **options: Any
) -> GenerationSummary:
    store = ImageStore(path, format, recipe="fake", fields={"rate": 0.5, "objective.gamma": 1})
    return generate_images(maker or FakeMaker(), count, store, group_size=group_size, progress=False, **options)


def generate_elsewhere(
    path: Path, format: str, count: int, delay: float, ready: Any, stuck_from: int | None = None, **options: Any
) -> None:
    """For another process: says when it begins."""
    torch.set_num_threads(1)
    ready.set()
    generate(path, format, count, maker=FakeMaker(delay, stuck_from=stuck_from), **options)


def generate_until(path: Path, format: str, count: int, operation: int) -> None:
    """For another process: kills itself just before that operation on a file."""
    torch.set_num_threads(1)
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(path) in str(arguments[0]):
            seen += 1
            if seen > operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    generate(path, format, count)


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a directory, hidden ones too."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
