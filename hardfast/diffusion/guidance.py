"""Guided generation: search the noise of a diffusion model for images on which teacher and student disagree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hardfast.diffusion.cutouts import CutOuts
from hardfast.diffusion.objective import GuidanceObjective
from hardfast.diffusion.sampling import Sampler
from hardfast.distill.constant import held_constant
from hardfast.ops import _checks, _rows


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
    generators = _generators(seeds, torch.device(device), stream=0)
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
    GPU also for want of a valid label, is marked invalid and no longer changed; the others go on. Nothing is read from
    the device.

    Source: Popp et al., ConfiG, 2025, arXiv 2506.02294.
    """
    settings = settings or GuidanceSettings()
    _check(sampler, labels, latents, seeds, settings)
    networks = [part for part in (student, teacher, sampler.denoiser, decode) if isinstance(part, nn.Module)]
    judge = _Judge(student, teacher, labels, decode, settings, _generators(seeds, latents.device, stream=1))
    with held_constant(*networks):
        search = _Search(sampler, latents, conditioning, null_conditioning, settings)
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


class _Judge:
    """The objective of clean latents, with its gradient to them."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        labels: Tensor,
        decode: Callable[[Tensor], Tensor] | None,
        settings: GuidanceSettings,
        generators: list[torch.Generator],
    ) -> None:
        self.student, self.teacher, self.labels = student, teacher, labels
        self.decode = decode or (lambda latents: latents)
        self.settings, self.generators = settings, generators
        chunk = settings.chunk or len(labels)
        self.chunks = [slice(start, start + chunk) for start in range(0, len(labels), chunk)]

    def __call__(self, clean: tuple[Tensor, ...], *, gradient: bool) -> tuple[Tensor, list[Tensor]]:
        """The weighted objective ``[B]``, and its gradient to each of ``clean``, if asked for."""
        total = sum(range(1, len(clean) + 1))
        score = torch.zeros(len(self.labels), device=self.labels.device)
        grads = []
        for k, latents in enumerate(clean):
            weight = (k + 1) / total
            parts = [self._judge_chunk(latents[part], part, gradient) for part in self.chunks]
            score = score + weight * torch.cat([value for value, _ in parts])
            if gradient:
                grads.append(weight * torch.cat([grad for _, grad in parts]))
        return score, grads

    def whole(self, latents: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Images, each network's probability of the label (student, teacher), and whether the teacher answers it."""
        images = torch.cat([self.decode(latents[part]) for part in self.chunks])
        seen = [self.settings.cutouts.whole(images[part]) for part in self.chunks]
        logits = [torch.cat([network(part) for part in seen]) for network in (self.student, self.teacher)]
        # A label that is no class has made its image invalid, unless the objective does not look at labels.
        column = self.labels.clamp(0, logits[0].shape[1] - 1)[:, None]
        confidences = [x.float().softmax(1).gather(1, column)[:, 0] for x in logits]
        return images, confidences, logits[1].argmax(1) == self.labels

    def _judge_chunk(self, latents: Tensor, part: slice, gradient: bool) -> tuple[Tensor, Tensor]:
        cutouts = self.settings.cutouts
        with torch.set_grad_enabled(gradient):
            latents = latents.detach().requires_grad_(gradient)
            seen = cutouts(self.decode(latents), self.generators[part])
            labels = self.labels[part].repeat_interleave(cutouts.count)
            student_logits, teacher_logits = self.student(seen), self.teacher(seen)
            _rows.check_labels(labels, student_logits)
            values = self.settings.objective(student_logits, teacher_logits, labels)
            value = values.unflatten(0, (-1, cutouts.count)).mean(1)
            grad = torch.autograd.grad(value.sum(), latents)[0] if gradient else latents
        return value.detach().float(), grad


class _Search:
    """The variables of the search, Adam's steps on them, and which images are still valid."""

    def __init__(
        self,
        sampler: Sampler,
        latents: Tensor,
        conditioning: Tensor | None,
        null_conditioning: Tensor | None,
        settings: GuidanceSettings,
    ) -> None:
        self.sampler, self.settings = sampler, settings
        self.conditioning, self.null_conditioning = conditioning, null_conditioning
        self.latents = latents.detach().clone().requires_grad_()
        self.norm = _norm(self.latents.detach())
        self.valid = torch.ones(len(latents), dtype=torch.bool, device=latents.device)
        self.offsets: dict[str, Tensor] = {}
        if settings.offsets:
            named = {"conditioning_offsets": conditioning}
            if sampler.guided:
                named["null_offsets"] = null_conditioning
            for name, value in named.items():
                if value is not None and value.is_floating_point():
                    shape = (len(latents), len(sampler.schedule), *value.shape[1:])
                    self.offsets[name] = value.new_zeros(shape).requires_grad_()
        self.variables = [self.latents, *self.offsets.values()]
        groups = [{"params": [self.latents], "lr": settings.latents_rate}]
        groups += [{"params": [offset], "lr": settings.rate} for offset in self.offsets.values()]
        self.optimizer = torch.optim.Adam(groups)

    def run(self, judge: _Judge) -> tuple[Tensor, Tensor, Tensor]:
        """Final latents of the first and of the best candidates, and the scores of all."""
        first = best = self.latents
        best_score = torch.full_like(self.valid, -math.inf, dtype=torch.float32)
        scores = []
        for iteration in range(self.settings.iterations + 1):
            gradient = iteration < self.settings.iterations
            with torch.set_grad_enabled(gradient):
                samples = self.sampler(
                    self.latents,
                    self.conditioning,
                    self.null_conditioning,
                    keep_last=self.settings.keep_last,
                    **self.offsets,
                )
            score, grads = judge(samples.clean, gradient=gradient)
            final = samples.latents.detach()
            self.valid = self.valid & score.isfinite()
            better = self.valid & (score > best_score)
            best_score = torch.where(better, score, best_score)
            if iteration == 0:
                first = best = final
            best = torch.where(_per_image(better, final), final, best)
            scores.append(score)
            if gradient:
                self._ascend(samples.clean, grads)
        return first, best, torch.stack(scores)

    def _ascend(self, clean: tuple[Tensor, ...], grads: list[Tensor]) -> None:
        grads = list(torch.autograd.grad(clean, self.variables, grads))
        for grad in grads:
            self.valid = self.valid & grad.flatten(1).isfinite().all(1)
        before = [variable.detach().clone() for variable in self.variables]
        for variable, grad in zip(self.variables, grads, strict=True):
            variable.grad = -grad
        self.optimizer.step()
        # Adam works number by number: what is NaN for an invalid image, there too, touches no other.
        with torch.no_grad():
            self.latents *= _per_image(self.norm / _norm(self.latents), self.latents)
            for variable, old in zip(self.variables, before, strict=True):
                variable.copy_(torch.where(_per_image(self.valid, old), variable, old))


def _check(sampler: Sampler, labels: Tensor, latents: Tensor, seeds: Sequence[int], settings: GuidanceSettings) -> None:
    _checks.floating_tensor("latents", latents)
    if latents.dim() < 2 or not len(latents):
        raise ValueError(f"latents must have shape [B, ...] with B >= 1, got {list(latents.shape)}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if labels.shape != latents.shape[:1]:
        raise ValueError(f"labels must have shape [{len(latents)}], one an image, got {list(labels.shape)}")
    if labels.device != latents.device:
        raise ValueError(f"labels must be on the device of latents, {latents.device}, got {labels.device}")
    if len(seeds) != len(latents):
        raise ValueError(f"seeds must be one an image, {len(latents)}, got {len(seeds)}")
    if settings.keep_last > len(sampler.schedule):
        raise ValueError(f"keep_last must be at most the {len(sampler.schedule)} steps, got {settings.keep_last}")


def _generators(seeds: Sequence[int], device: torch.device, stream: int) -> list[torch.Generator]:
    """One generator a seed; two streams, since noise and cut-outs of one image must not be the same numbers."""
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**62:
            raise ValueError(f"seeds must be integers in 0 .. 2**62 - 1, got {seed!r}")
    return [torch.Generator(device).manual_seed(2 * seed + stream) for seed in seeds]


def _norm(latents: Tensor) -> Tensor:
    return torch.linalg.vector_norm(latents.flatten(1), dim=1)


def _per_image(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (like.dim() - 1))
