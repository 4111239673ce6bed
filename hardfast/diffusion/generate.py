"""The generator as a program: a set of guided images, made group by group, that can be stopped and continued."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from hardfast.diffusion.guidance import GuidedImages
from hardfast.diffusion.image_store import BrokenGroupError, Candidate, ImageStore
from hardfast.interruption import interruption
from hardfast.ops import _checks

__all__ = ["GenerationSummary", "Maker", "generate_images"]


class Maker(Protocol):
    """What makes images by number; label and noise of an image depend on its number alone."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""

    def seed_of(self, number: int) -> int:
        """The seed of an image's noise and cut-outs."""

    def make(self, numbers: Sequence[int]) -> GuidedImages:
        """The images of those numbers, nominally in [0, 1]."""


@dataclass(frozen=True)
class GenerationSummary:
    """What one process did.

    Args:
        made: candidates that were made.
        skipped: candidates of groups that were there already.
        kept: images among the made ones that were kept.
        dropped: the others among them, by reason.
        broken: a sentence for each group that was found damaged, and made again.
        seconds: spent making.
    """

    made: int
    skipped: int
    kept: int
    dropped: dict[str, int]
    broken: tuple[str, ...]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Candidates made per second; 0 if none was."""
        return self.made / self.seconds if self.made else 0.0


def generate_images(
    maker: Maker,
    count: int,
    store: ImageStore,
    *,
    group_size: int,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> GenerationSummary:
    """Makes the images 0 .. count - 1 that the store does not have yet.

    Groups of consecutive numbers are made as one batch and dealt to the processes in turn, so neither the number of
    processes nor an interruption changes the set. The last group is made whole too, since rounding may depend on the
    size of a batch; what is beyond ``count`` is not stored. An image that is not finite, or whose objective or
    gradient was not, is dropped and counted, and so is one that the teacher does not answer with its label.

    Args:
        maker: makes the images.
        count: how many numbers; those dropped are not made up for.
        store: where the images go.
        group_size: images a batch.
        rank: of this process, from 0.
        world_size: how many processes there are.
        progress: whether to show a bar with images per second, and a line for each damaged group.

    Memory: that of ``maker`` for one group, and its images on the CPU.

    Raises:
        ValueError: an argument is out of its range, or the store was begun with other settings.
        OSError: the store cannot be written.
        Interrupted: after Ctrl-C or SIGTERM, once the group at hand is stored; at once after a second one.
    """
    _checks.integer("count", count, 1)
    _checks.integer("group_size", group_size, 1)
    _checks.integer("world_size", world_size, 1)
    _checks.integer("rank", rank, 0)
    if rank >= world_size:
        raise ValueError(f"rank must be below world_size, {world_size}, got {rank}")
    store.begin(count=count, group_size=group_size, class_names=maker.class_names, rank=rank, world_size=world_size)
    sizes = {group: len(store.settings.numbers(group)) for group in range(rank, store.settings.groups, world_size)}
    pending, broken = _pending(store, sizes, progress)
    total, left = sum(sizes.values()), sum(sizes[group] for group in pending)
    reasons: Counter[str] = Counter()
    start = time.perf_counter()
    bar = tqdm(total=total, initial=total - left, unit="image", desc="generate", disable=not progress)
    with bar, interruption("stopping after this group") as asked:
        for group in pending:
            candidates, images, before = _make(maker, group, group_size, sizes[group])
            store.put(group, candidates, images, before)
            reasons.update(candidate.reason or "" for candidate in candidates)
            bar.update(len(candidates))
            if asked.requested:
                break
    seconds = time.perf_counter() - start
    store.finish()
    asked.raise_if_requested()
    kept = reasons.pop("", 0)
    return GenerationSummary(left, total - left, kept, dict(reasons), broken, seconds)


def _pending(store: ImageStore, groups: Iterable[int], progress: bool) -> tuple[list[int], tuple[str, ...]]:
    """The groups that are still to be made, and what is wrong with the damaged ones among them."""
    pending, broken = [], []
    for group in groups:
        try:
            done = store.is_done(group)
        except BrokenGroupError as error:
            broken.append(str(error))
            done = False
            if progress:
                tqdm.write(f"{error}; making it again")
        if not done:
            pending.append(group)
    return pending, tuple(broken)


def _make(maker: Maker, group: int, group_size: int, stored: int) -> tuple[list[Candidate], Tensor, Tensor]:
    """Makes a whole group; returns what is known of its first ``stored`` images, and those, on the CPU."""
    numbers = range(group * group_size, (group + 1) * group_size)
    guided = maker.make(numbers)
    if len(guided.images) != group_size:
        raise ValueError(f"the maker must return {group_size} images, one a number, got {len(guided.images)}")
    images, before = (x[:stored].float().cpu() for x in (guided.images, guided.images_before))
    finite = guided.valid[:stored].cpu() & images.flatten(1).isfinite().all(1)
    kept = finite & guided.kept[:stored].cpu()
    values = {
        name: getattr(guided, name)[:stored].cpu().tolist()
        for name in ("teacher_before", "teacher_after", "student_before", "student_after", "labels")
    }
    scores = guided.scores[:, :stored].nan_to_num(nan=-torch.inf).amax(0).cpu().tolist()
    candidates = []
    for index, number in enumerate(numbers[:stored]):
        label = values["labels"][index]
        if not 0 <= label < len(maker.class_names):
            raise ValueError(f"labels must be in [0, {len(maker.class_names)}), the classes named, got {label}")
        valid, keep = bool(finite[index]), bool(kept[index])
        candidates.append(
            Candidate(
                number=number,
                seed=maker.seed_of(number),
                label=label,
                class_name=maker.class_names[label],
                teacher_before=_rounded(values["teacher_before"][index]),
                teacher_after=_rounded(values["teacher_after"][index]),
                student_before=_rounded(values["student_before"][index]),
                student_after=_rounded(values["student_after"][index]),
                score=_rounded(scores[index]) if valid else None,
                kept=keep,
                reason=None if keep else "teacher" if valid else "not finite",
            )
        )
    return candidates, images, before


def _rounded(value: float) -> float | None:
    """Six digits, which is what float32 has; None where it is not finite, which JSON does not have."""
    return float(f"{value:.6g}") if abs(value) < float("inf") else None
