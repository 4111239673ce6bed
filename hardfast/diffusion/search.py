"""The search behind guidance: what judges an image, and the ascent on whatever the image is made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from hardfast.diffusion.cutouts import CutOuts
from hardfast.diffusion.objective import GuidanceObjective
from hardfast.ops import _rows

Render = Callable[[Mapping[str, Tensor]], tuple[Tensor, tuple[Tensor, ...]]]


class Judge:
    """The objective of clean latents, with its gradient to them."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        labels: Tensor,
        decode: Callable[[Tensor], Tensor] | None,
        cutouts: CutOuts,
        objective: GuidanceObjective,
        chunk: int | None,
        generators: list[torch.Generator],
    ) -> None:
        self.student, self.teacher, self.labels = student, teacher, labels
        self.decode = decode or (lambda latents: latents)
        self.cutouts, self.objective, self.generators = cutouts, objective, generators
        chunk = chunk or len(labels)
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
        seen = [self.cutouts.whole(images[part]) for part in self.chunks]
        logits = [torch.cat([network(part) for part in seen]) for network in (self.student, self.teacher)]
        # A label that is no class has made its image invalid, unless the objective does not look at labels.
        column = self.labels.clamp(0, logits[0].shape[1] - 1)[:, None]
        confidences = [x.float().softmax(1).gather(1, column)[:, 0] for x in logits]
        return images, confidences, logits[1].argmax(1) == self.labels

    def _judge_chunk(self, latents: Tensor, part: slice, gradient: bool) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(gradient):
            latents = latents.detach().requires_grad_(gradient)
            seen = self.cutouts(self.decode(latents), self.generators[part])
            labels = self.labels[part].repeat_interleave(self.cutouts.count)
            student_logits, teacher_logits = self.student(seen), self.teacher(seen)
            if student_logits.shape != teacher_logits.shape:
                raise ValueError(
                    f"student and teacher must have the same classes, got logits of {student_logits.shape[1]} and of "
                    f"{teacher_logits.shape[1]}"
                )
            _rows.check_labels(labels, student_logits)
            values = self.objective(student_logits, teacher_logits, labels)
            value = values.unflatten(0, (-1, self.cutouts.count)).mean(1)
            grad = torch.autograd.grad(value.sum(), latents)[0] if gradient else latents
        return value.detach().float(), grad


class Search:
    """Gradient ascent on the variables of every image by itself, and which images are still valid.

    Args:
        render: maps the variables, by name, to final latents ``[B, ...]`` and to those that are judged.
        variables: ``[B, ...]`` each: where to start.
        rates: Adam's, for each of the variables.
        norm_preserved: names of variables that get back their norm after each step.
        iterations: gradient steps, >= 0.
    """

    def __init__(
        self,
        render: Render,
        variables: Mapping[str, Tensor],
        rates: Mapping[str, float],
        norm_preserved: Collection[str],
        iterations: int,
    ) -> None:
        self.render, self.iterations = render, iterations
        self.variables = {name: value.detach().clone().requires_grad_() for name, value in variables.items()}
        self.norms = {name: _norm(self.variables[name].detach()) for name in norm_preserved}
        first = next(iter(self.variables.values()))
        self.valid = torch.ones(len(first), dtype=torch.bool, device=first.device)
        groups = [{"params": [value], "lr": rates[name]} for name, value in self.variables.items()]
        self.optimizer = torch.optim.Adam(groups)

    def run(self, judge: Judge) -> tuple[Tensor, Tensor, Tensor]:
        """Final latents of the first and of the best candidates, and the scores of all."""
        first = best = best_score = None
        scores = []
        for iteration in range(self.iterations + 1):
            gradient = iteration < self.iterations
            with torch.set_grad_enabled(gradient):
                latents, judged = self.render(self.variables)
            score, grads = judge(judged, gradient=gradient)
            final = latents.detach()
            self.valid = self.valid & score.isfinite()
            if first is None or best is None or best_score is None:
                first = best = final
                best_score = torch.full_like(score, -math.inf)
            better = self.valid & (score > best_score)
            best_score = torch.where(better, score, best_score)
            best = torch.where(_per_image(better, final), final, best)
            scores.append(score)
            if gradient:
                self._ascend(judged, grads)
        assert first is not None
        assert best is not None
        return first, best, torch.stack(scores)

    def _ascend(self, judged: tuple[Tensor, ...], grads: list[Tensor]) -> None:
        variables = list(self.variables.values())
        for variable, grad in zip(variables, torch.autograd.grad(judged, variables, grads), strict=True):
            self.valid = self.valid & grad.flatten(1).isfinite().all(1)
            variable.grad = -grad
        before = [variable.detach().clone() for variable in variables]
        self.optimizer.step()
        # Adam works number by number: what is NaN for an invalid image, there too, touches no other.
        with torch.no_grad():
            for name, norm in self.norms.items():
                variable = self.variables[name]
                variable *= _per_image(norm / _norm(variable), variable)
            for variable, old in zip(variables, before, strict=True):
                variable.copy_(torch.where(_per_image(self.valid, old), variable, old))


def _norm(latents: Tensor) -> Tensor:
    return torch.linalg.vector_norm(latents.flatten(1), dim=1)


def _per_image(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (like.dim() - 1))
