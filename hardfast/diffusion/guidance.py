"""Guided generation: search the noise of a diffusion model for images on which teacher and student disagree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hardfast.augment.augmentor import Augmentor
from hardfast.diffusion.cutouts import CutOuts
from hardfast.diffusion.objective import GuidanceObjective
from hardfast.diffusion.sampling import Sampler
from hardfast.diffusion.search import Judge, Search
from hardfast.distill.constant import held_constant
from hardfast.ops import _checks
from hardfast.out_of_memory import advice_when_out_of_memory


@dataclass(frozen=True)
class GuidanceSettings:
    """How the search runs.

    Args:
        objective: what is maximised.
        cutouts: how the classifiers see an image.
        iterations: gradient steps, >= 0; one more candidate than that is judged. 0 gives unguided images.
        rate: Adam's, for the offsets of the conditioning; positive.
        latents_rate: Adam's, for the initial latents; positive.
        keep_last: how many of the last predicted clean latents are judged, weighted 1 .. keep_last over their sum.
        offsets: whether floating-point conditioning, and with classifier-free guidance the null conditioning, gets
            an offset of its own at each step.
        chunk: images decoded and judged at a time, >= 1; all of them if None.
        min_teacher_confidence: in [0, 1]; below it an image is not kept.

    Source: Augustin et al., DiG-IN: Diffusion Guidance for Investigating Networks, 2024, for the default numbers.
    """

    objective: GuidanceObjective = field(default_factory=GuidanceObjective)
    cutouts: CutOuts = field(default_factory=CutOuts)
    iterations: int = 20
    rate: float = 0.01
    latents_rate: float = 0.001
    keep_last: int = 3
    offsets: bool = True
    chunk: int | None = None
    min_teacher_confidence: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.cutouts, CutOuts):
            raise TypeError(f"cutouts must be CutOuts, got {type(self.cutouts).__name__}")
        for name, least in (("iterations", 0), ("keep_last", 1), ("chunk", 1)):
            value = getattr(self, name)
            if value is not None or name != "chunk":
                _checks.integer(name, value, least)
        _checks.positive("rate", self.rate)
        _checks.positive("latents_rate", self.latents_rate)
        if not 0 <= _checks.number("min_teacher_confidence", self.min_teacher_confidence) <= 1:
            raise ValueError(f"min_teacher_confidence must be in [0, 1], got {self.min_teacher_confidence}")


@dataclass(frozen=True)
class GuidedImages:
    """Images found by :func:`guide`, and what the classifiers say of them; all on the device.

    Args:
        images: ``[B, C, H, W]``, of the best candidates.
        images_before: of the first ones, which are unguided.
        latents: final latents of the best candidates, ``[B, ...]``.
        labels: ``[B]``.
        teacher_before: the teacher's probability of the label on the whole image before, ``[B]``.
        teacher_after: on the best one.
        student_before: the student's.
        student_after: on the best one.
        scores: the objective of every candidate, ``[iterations + 1, B]``.
        valid: ``[B]``; False where the objective or its gradient was NaN or infinite. Such an image stays at the best
            candidate before that.
        kept: ``[B]``; valid, and the teacher's answer is the label, with the confidence asked for.
    """

    images: Tensor
    images_before: Tensor
    latents: Tensor
    labels: Tensor
    teacher_before: Tensor
    teacher_after: Tensor
    student_before: Tensor
    student_after: Tensor
    scores: Tensor
    valid: Tensor
    kept: Tensor


def seeded_noise(seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal latents ``[len(seeds), *shape]``, float32, each from its own seed alone."""
    if not len(seeds):
        raise ValueError("seeds must be at least one, got none")
    generators = seeded_generators(seeds, torch.device(device), stream=0)
    return torch.stack([torch.randn(*shape, generator=g, device=device) for g in generators])


def guide(
    sampler: Sampler,
    student: nn.Module,
    teacher: nn.Module,
    labels: Tensor,
    latents: Tensor,
    seeds: Sequence[int],
    *,
    conditioning: Tensor | None = None,
    null_conditioning: Tensor | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    settings: GuidanceSettings | None = None,
) -> GuidedImages:
    """Searches, for each image by itself, the sampler's inputs for what the teacher knows and the student does not.

    Every iteration samples once, judges the last predicted clean latents through random cut-outs, keeps the best
    candidate of each image on the device and takes one step of Adam; initial latents then get back their norm. The
    decoder and the classifiers are differentiated one predicted clean image and one chunk at a time, before the chain.

    Args:
        sampler: of at least ``settings.keep_last`` steps.
        student: maps images ``[N, C, S, S]`` in the range of ``decode`` to logits ``[N, K]``; a constant here, in
            evaluation mode, like all networks.
        teacher: the same interface and classes.
        labels: ``[B]``, int64: what the images are to show.
        latents: ``[B, ...]``, where to start: :func:`seeded_noise`, or ``sampler.invert`` of encoded real images.
        seeds: one non-negative integer an image: the source of its cut-outs. What becomes of an image does not depend
            on what else is in the batch, but for rounding.
        conditioning: as for the sampler.
        null_conditioning: as for the sampler.
        decode: maps latents to images, each by itself; None where the latents are the images.
        settings: see :class:`GuidanceSettings`.

    Gradients: none to the caller.

    Memory: that of the sampler's strategy, or of decoding and judging one chunk, whichever is larger, besides the
    latents; with offsets, five times their size.

    Errors: ``TypeError`` and ``ValueError`` name the argument. An image whose objective or gradient is not finite, on a
    GPU also for want of a valid label, is marked invalid and no longer changed; the others go on. Where memory runs
    out, the error keeps its class and says what to try. Nothing is read from the device.

    Source: Popp et al., ConfiG, 2025, arXiv 2506.02294.
    """
    settings = settings or GuidanceSettings()
    _check_images("latents", latents, labels, seeds)
    if settings.keep_last > len(sampler.schedule):
        raise ValueError(f"keep_last must be at most the {len(sampler.schedule)} steps, got {settings.keep_last}")
    variables = {"latents": latents}
    if settings.offsets:
        variables |= _offsets(sampler, len(latents), conditioning, null_conditioning)

    def render(variables: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        start, offsets = variables["latents"], {name: value for name, value in variables.items() if name != "latents"}
        return sampler(start, conditioning, null_conditioning, keep_last=settings.keep_last, **offsets)

    rates = dict.fromkeys(variables, settings.rate) | {"latents": settings.latents_rate}
    search = Search(render, variables, rates, ["latents"], settings.iterations)
    constants = [part for part in (sampler.denoiser, decode) if isinstance(part, nn.Module)]
    with advice_when_out_of_memory(sampler.memory_advice(len(latents), settings.chunk or len(latents))):
        return _guided(search, student, teacher, labels, seeds, decode, constants, settings)


def guide_augmentor(
    augmentor: Augmentor,
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    *,
    settings: GuidanceSettings | None = None,
) -> GuidedImages:
    """The same search over the variables of any augmentor: affine maps, codes of an autoencoder, noise.

    Args:
        augmentor: draws the variables from which each image's search starts, floating-point and of each image by
            itself, which those of MixUp and CutMix are not; a constant here.
        student: as for :func:`guide`.
        teacher: as for :func:`guide`.
        images: ``[B, C, H, W]``, what the augmentor starts from.
        labels: ``[B]``, int64: what the images are to show.
        seeds: one non-negative integer an image: the source of its first variables and of its cut-outs.
        settings: ``keep_last`` and ``offsets`` concern a sampler alone and are not used; ``rate`` is that of all
            variables, but ``latents_rate`` of those that keep their norm.

    Returns:
        As :func:`guide`; ``latents`` are the images.

    Errors: as :func:`guide`.
    """
    settings = settings or GuidanceSettings()
    _check_images("images", images, labels, seeds)
    with torch.no_grad():
        draws = [
            augmentor.draw(image, generator)
            for image, generator in zip(images.split(1), seeded_generators(seeds, images.device, stream=0), strict=True)
        ]
    variables = {name: torch.cat([draw[name] for draw in draws]) for name in draws[0]}
    for name, value in variables.items():
        if not value.is_floating_point():
            raise TypeError(
                f"augmentor must draw floating-point variables, of each image by itself, "
                f"got {value.dtype} from {type(augmentor).__name__} for {name!r}"
            )

    def render(variables: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        rendered = augmentor.render(images, variables)
        return rendered, (rendered,)

    preserved = augmentor.norm_preserved
    rates = {name: settings.latents_rate if name in preserved else settings.rate for name in variables}
    search = Search(render, variables, rates, preserved, settings.iterations)
    return _guided(search, student, teacher, labels, seeds, None, [augmentor], settings)


def _guided(
    search: Search,
    student: nn.Module,
    teacher: nn.Module,
    labels: Tensor,
    seeds: Sequence[int],
    decode: Callable[[Tensor], Tensor] | None,
    constants: Sequence[nn.Module],
    settings: GuidanceSettings,
) -> GuidedImages:
    generators = seeded_generators(seeds, labels.device, stream=1)
    judge = Judge(student, teacher, labels, decode, settings.cutouts, settings.objective, settings.chunk, generators)
    with held_constant(student, teacher, *constants):
        first, best, scores = search.run(judge)
        with torch.no_grad():
            images_before, (student_before, teacher_before), _ = judge.whole(first)
            images, (student_after, teacher_after), teacher_right = judge.whole(best)
    return GuidedImages(
        images,
        images_before,
        best,
        labels,
        teacher_before,
        teacher_after,
        student_before,
        student_after,
        scores,
        search.valid,
        search.valid & teacher_right & (teacher_after >= settings.min_teacher_confidence),
    )


def _offsets(
    sampler: Sampler, count: int, conditioning: Tensor | None, null_conditioning: Tensor | None
) -> dict[str, Tensor]:
    """Zeros for every step and image, of each conditioning that can be moved."""
    named = {"conditioning_offsets": conditioning}
    if sampler.guided:
        named["null_offsets"] = null_conditioning
    return {
        name: value.new_zeros(count, len(sampler.schedule), *value.shape[1:])
        for name, value in named.items()
        if value is not None and value.is_floating_point()
    }


def _check_images(name: str, value: Tensor, labels: Tensor, seeds: Sequence[int]) -> None:
    _checks.floating_tensor(name, value)
    if value.dim() < 2 or not len(value):
        raise ValueError(f"{name} must have shape [B, ...] with B >= 1, got {list(value.shape)}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if labels.shape != value.shape[:1]:
        raise ValueError(f"labels must have shape [{len(value)}], one an image, got {list(labels.shape)}")
    if labels.device != value.device:
        raise ValueError(f"labels must be on the device of {name}, {value.device}, got {labels.device}")
    if len(seeds) != len(value):
        raise ValueError(f"seeds must be one an image, {len(value)}, got {len(seeds)}")


def seeded_generators(seeds: Sequence[int], device: torch.device, stream: int) -> list[torch.Generator]:
    """One generator a seed; two streams, since noise and cut-outs of one image must not be the same numbers."""
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**62:
            raise ValueError(f"seeds must be integers in 0 .. 2**62 - 1, got {seed!r}")
    return [torch.Generator(device).manual_seed(_spread(2 * seed + stream)) for seed in seeds]


def _spread(seed: int) -> int:
    """Lets the upper half of a seed below 2**64 count: PyTorch's generator on the CPU looks at the lower one alone.

    No two seeds become one, and where the upper halves are equal, nor do the lower ones.
    """
    high, low = divmod(seed, 2**32)
    # The odd factor, 2**32 over the golden ratio, lays what has the same lower half far apart.
    return high * 2**32 + (low + high * 0x9E3779B1) % 2**32
