"""Makes images by number: the label, the start and the search of each depend on its number alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hardfast.augment.augmentor import Augmentor
from hardfast.data.image_set import ImageSet
from hardfast.diffusion.guidance import (
    GuidanceSettings,
    GuidedImages,
    guide,
    guide_augmentor,
    seeded_generators,
    seeded_noise,
)
from hardfast.diffusion.sampling import Sampler
from hardfast.ops import _checks

#: Sets of images have seeds below this, each of which leaves 2**32 numbers.
SEEDS = 2**29

STARTS = ("noise", "inverted", "same_class", "other_class")


@dataclass(frozen=True)
class ImageModel:
    """A diffusion model of images of ``K`` classes, with all that guidance needs of it.

    Args:
        sampler: from noise to clean latents.
        latent_shape: of one image.
        conditions: ``[K, ...]``, what the denoiser takes for each class: labels or embeddings of prompts.
        null_condition: ``[1, ...]``, what it takes for none; needed where the sampler has guidance.
        decode: maps clean latents to images ``[B, C, H, W]``, nominally in [0, 1].
        encode: maps images to clean latents; None where no real images are to be the start.
    """

    sampler: Sampler
    latent_shape: tuple[int, ...]
    conditions: Tensor
    null_condition: Tensor | None
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class NumberedImages:
    """What the makers of images have in common: a label and a seed for every number.

    Args:
        student: maps images ``[B, C, H, W]`` to logits ``[B, K]``.
        teacher: the same interface and classes.
        class_names: ``K``, by label.
        seed: of the whole set, in [0, ``SEEDS``).
        labels: those that are wanted, in turn; all classes if None.
        sources: real images for searches that start from one; they are chosen by class and by seed.
        settings: of the search.
    """

    student: nn.Module
    teacher: nn.Module
    class_names: tuple[str, ...]
    seed: int = 0
    labels: tuple[int, ...] | None = None
    sources: ImageSet | None = None
    settings: GuidanceSettings = field(default_factory=GuidanceSettings)

    def __post_init__(self) -> None:
        _checks.integer("seed", self.seed, 0)
        if self.seed >= SEEDS:
            raise ValueError(f"seed must be below {SEEDS}, got {self.seed}")
        if self.labels is not None and not self.labels:
            raise ValueError(f"labels must be at least one, or None for all classes, got {self.labels}")
        for label in self.labels or ():
            if not 0 <= label < len(self.class_names):
                raise ValueError(f"labels must be in [0, {len(self.class_names)}), the classes, got {label}")

    def seed_of(self, number: int) -> int:
        """The seed of an image's start and cut-outs."""
        return self.seed * 2**32 + number

    def make(self, numbers: Sequence[int]) -> GuidedImages:
        """The images of those numbers."""
        raise NotImplementedError

    def labels_of(self, numbers: Sequence[int], device: torch.device) -> Tensor:
        """``[B]``: the wanted labels in turn."""
        wanted = self.labels or tuple(range(len(self.class_names)))
        return torch.tensor([wanted[number % len(wanted)] for number in numbers], device=device)

    def sources_of(self, numbers: Sequence[int], labels: Tensor, *, same_class: bool = True) -> Tensor:
        """A real image ``[B, C, H, W]`` for each number, of its class or of any other."""
        if self.sources is None:
            raise ValueError("sources must be given where a search starts from real images, got None")
        known = self.sources.labels.cpu()
        generators = seeded_generators([self.seed_of(number) for number in numbers], torch.device("cpu"), stream=0)
        chosen = []
        for label, generator in zip(labels.tolist(), generators, strict=True):
            fitting = ((known == label) == same_class).nonzero()[:, 0]
            if not len(fitting):
                which = "of" if same_class else "other than"
                raise ValueError(f"sources must have an image {which} class {self.class_names[label]!r}, got none")
            chosen.append(fitting[torch.randint(len(fitting), (), generator=generator)])
        return self.sources.load(torch.stack(chosen)).to(labels.device)


@dataclass(frozen=True)
class DiffusionMaker(NumberedImages):
    """Searches the noise of a diffusion model.

    Args:
        model: the diffusion model.
        start: ``"noise"``; ``"inverted"``, the noise that leads to a real image of the class; or a real image of the
            class (``"same_class"``) or of another one (``"other_class"``) under as much noise as ``strength`` says,
            which is then removed with the wanted class as the condition.
        strength: part of the steps that follow such noise, in (0, 1].

    Source: Luzi et al., Boomerang, 2022, and He et al., Is Synthetic Data from Generative Models Ready for Image
    Recognition?, 2023, for ``"same_class"``; Koohpayegani et al., GeNIe, 2023, for ``"other_class"``. Without a search
    these are their image-to-image augmentations.
    """

    model: ImageModel = field(kw_only=True)
    start: str = "noise"
    strength: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.one_of("start", self.start, STARTS)
        if not 0 < _checks.number("strength", self.strength) <= 1:
            raise ValueError(f"strength must be in (0, 1], got {self.strength}")
        if len(self.model.conditions) != len(self.class_names):
            raise ValueError(
                f"conditions must be one for each of the {len(self.class_names)} classes, "
                f"got {len(self.model.conditions)}"
            )
        if self.start != "noise" and self.model.encode is None:
            raise ValueError(f"model must have encode to start from real images, got None with start={self.start!r}")

    def make(self, numbers: Sequence[int]) -> GuidedImages:
        model = self.model
        labels = self.labels_of(numbers, model.conditions.device)
        seeds = [self.seed_of(number) for number in numbers]
        conditioning = model.conditions[labels]
        noise = seeded_noise(seeds, model.latent_shape, labels.device)
        sampler, latents = self._begin(numbers, labels, conditioning, noise)
        return guide(
            sampler,
            self.student,
            self.teacher,
            labels,
            latents,
            seeds,
            conditioning=conditioning,
            null_conditioning=model.null_condition,
            decode=model.decode,
            settings=self.settings,
        )

    @torch.no_grad()
    def _begin(
        self, numbers: Sequence[int], labels: Tensor, conditioning: Tensor, noise: Tensor
    ) -> tuple[Sampler, Tensor]:
        """The chain that is searched, and the latents that it begins with."""
        sampler = self.model.sampler
        if self.start == "noise":
            return sampler, noise
        assert self.model.encode is not None
        clean = self.model.encode(self.sources_of(numbers, labels, same_class=self.start != "other_class"))
        if self.start == "inverted":
            return sampler, sampler.invert(clean, conditioning, self.model.null_condition)
        schedule = sampler.schedule.last(max(self.settings.keep_last, round(self.strength * len(sampler.schedule))))
        signal = float(schedule.alpha_bar[0])
        return dataclasses.replace(sampler, schedule=schedule), signal**0.5 * clean + (1 - signal) ** 0.5 * noise


@dataclass(frozen=True)
class AugmentorMaker(NumberedImages):
    """Searches the variables of any augmentor, from real images of the class.

    Args:
        augmentor: such as an affine map or an autoencoder.
    """

    augmentor: Augmentor = field(kw_only=True)

    def make(self, numbers: Sequence[int]) -> GuidedImages:
        device = next(self.student.parameters()).device
        labels = self.labels_of(numbers, device)
        images = self.sources_of(numbers, labels)
        seeds = [self.seed_of(number) for number in numbers]
        return guide_augmentor(
            self.augmentor, self.student, self.teacher, images, labels, seeds, settings=self.settings
        )
