"""A coupled DDIM chain of two latents that can be run backwards: its gradient keeps the last two and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from hardfast.diffusion.recompute import autocast_settings
from hardfast.ops.guided_step import guided_step
from hardfast.out_of_memory import advice_when_out_of_memory


class ReversibleChain(Protocol):
    """What the coupled chain needs of a sampling run."""

    steps: int
    levels: list[float]
    levels_next: list[float]
    conditioning: tuple[Tensor | None, ...]
    offsets: tuple[Tensor | None, ...]  # [B or 1, T, ...]
    parameters: tuple[Tensor, ...]  # of the denoiser, that need a gradient
    hides_tensors: bool  # the denoiser may use others that need a gradient
    memory_advice: str

    def predict(self, i: int, latents: Tensor, *inputs: Tensor | None) -> Tensor: ...

    def noise(self, i: int, latents: Tensor, prediction: Tensor) -> Tensor: ...


def run_reversible(
    chain: ReversibleChain, latents: Tensor, keep_last: int, mixing: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Final latents of the coupled chain and the ``keep_last`` last predicted clean ones, oldest first.

    Step ``i`` moves two latents, each by the noise that is predicted for the other, and then mixes them::

        x = a * x + b * noise(y);  y = a * y + b * noise(x)
        x = mixing * x + (1 - mixing) * y;  y = mixing * y + (1 - mixing) * x

    with the coefficients ``a`` and ``b`` of a DDIM step. The results are those of ``x``; where the last step ends
    without noise the last predicted clean latents are the final ones.

    Gradients: to the latents, the conditioning, the offsets and the denoiser's parameters, once.
    """
    sources = (*chain.conditioning, *chain.offsets)
    if chain.hides_tensors and torch.is_grad_enabled():
        _refuse_hidden_tensors(chain, latents)
    final, *clean = _Reversible.apply(_Coupled(chain, mixing, latents), keep_last, latents, *sources, *chain.parameters)
    return final, tuple(clean)


@torch.no_grad()
def reconstruction_error(chain: ReversibleChain, latents: Tensor, mixing: float) -> Tensor:
    """Distance of the two reconstructed initial latents from the given ones, over the norm of these; ``[B]``."""
    coupled = _Coupled(chain, mixing, latents)
    sources = (*chain.conditioning, *chain.offsets)
    inputs = [_at_step(chain, i, sources) for i in range(chain.steps)]
    x = y = latents
    for i in range(chain.steps):
        x, y, _ = coupled.step(i, x, y, inputs[i])
    for i in reversed(range(chain.steps)):
        x, y = coupled.unmix(x, y)
        y = coupled.undo(i, y, coupled.noise(2 * i + 1, x, inputs[i]))
        x = coupled.undo(i, x, coupled.noise(2 * i, y, inputs[i]))
    error = torch.stack([x - latents, y - latents]).transpose(0, 1).flatten(1)
    norm = torch.linalg.vector_norm(latents.flatten(1), dim=1)
    return torch.linalg.vector_norm(error, dim=1) / (2**0.5 * norm)


class _Coupled:
    """The steps of the two latents and their inverses. Random numbers of a call come from a seed of its own."""

    def __init__(self, chain: ReversibleChain, mixing: float, latents: Tensor) -> None:
        self.chain, self.mixing = chain, mixing
        self.device = latents.device
        self.seed = int(torch.randint(2**62, ()))
        self.autocast = autocast_settings(latents)

    def noise(self, call: int, latents: Tensor, inputs: Sequence[Tensor | None]) -> Tensor:
        """What the denoiser predicts at a call, two a step, as noise."""
        with _seeded(self.seed + call, self.device):
            return self.chain.noise(call // 2, latents, self.chain.predict(call // 2, latents, *inputs))

    def move(self, i: int, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Next latents and predicted clean ones."""
        level, following = self.chain.levels[i], self.chain.levels_next[i]
        return guided_step(latents, noise, alpha_bar=level, alpha_bar_next=following)

    def undo(self, i: int, moved: Tensor, noise: Tensor) -> Tensor:
        level, following = self.chain.levels[i], self.chain.levels_next[i]
        return guided_step(moved, noise, alpha_bar=following, alpha_bar_next=level)[0]

    def step(self, i: int, x: Tensor, y: Tensor, inputs: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
        x, clean_x = self.move(i, x, self.noise(2 * i, y, inputs))
        y, clean_y = self.move(i, y, self.noise(2 * i + 1, x, inputs))
        p = self.mixing
        x = p * x + (1 - p) * y
        return x, p * y + (1 - p) * x, p * clean_x + (1 - p) * clean_y

    def unmix(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        p = self.mixing
        y = (y - (1 - p) * x) / p
        return (x - (1 - p) * y) / p, y


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, coupled: _Coupled, keep_last: int, latents: Tensor, *sources: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        steps = coupled.chain.steps
        x = y = latents
        kept: list[Tensor] = []
        for i in range(steps):
            x, y, clean = coupled.step(i, x, y, _at_step(coupled.chain, i, sources))
            if i >= steps - keep_last:
                kept.append(clean)
        ctx.coupled = coupled
        ctx.save_for_backward(x, y, *sources)
        return x, *kept

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor | None, *grads_clean: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "memory='reversible' has no second derivatives, so its backward cannot run with create_graph=True; "
                "use memory='per_step'"
            )
        x, y, *sources = ctx.saved_tensors
        backward = _Backward(ctx.coupled, sources, ctx.needs_input_grad[3:])
        with advice_when_out_of_memory(ctx.coupled.chain.memory_advice):
            return None, None, backward.run(x, y, grad_x, grads_clean), *backward.totals


class _Backward:
    """One sweep from the final latents to the initial ones, which adds up the gradients of all else on its way."""

    def __init__(self, coupled: _Coupled, sources: Sequence[Tensor | None], needed: Sequence[bool]) -> None:
        self.coupled, self.sources = coupled, sources
        self.totals = [
            torch.zeros_like(source) if need and source is not None else None
            for source, need in zip(sources, needed, strict=True)
        ]

    def run(self, x: Tensor, y: Tensor, grad_x: Tensor | None, grads_clean: Sequence[Tensor | None]) -> Tensor:
        p, steps = self.coupled.mixing, self.coupled.chain.steps
        grad_x = torch.zeros_like(x) if grad_x is None else grad_x
        grad_y = torch.zeros_like(y)
        for i in reversed(range(steps)):
            kept = i - (steps - len(grads_clean))
            grad_clean = grads_clean[kept] if kept >= 0 else None
            grad_clean_x, grad_clean_y = (None if grad_clean is None else share * grad_clean for share in (p, 1 - p))
            x, y = self.coupled.unmix(x, y)
            grad_x = grad_x + (1 - p) * grad_y
            grad_x, grad_y = p * grad_x, p * grad_y + (1 - p) * grad_x
            y, grad_y, grad_seen = self.undo(2 * i + 1, y, x, grad_y, grad_clean_y)
            grad_x = grad_x + grad_seen
            x, grad_x, grad_seen = self.undo(2 * i, x, y, grad_x, grad_clean_x)
            grad_y = grad_y + grad_seen
        return grad_x + grad_y

    def undo(
        self, call: int, moved: Tensor, seen: Tensor, grad_moved: Tensor, grad_clean: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents before a move by the noise of ``seen``, and the gradients to both."""
        i, passes = call // 2, len(self.coupled.chain.conditioning)
        seen = seen.detach().requires_grad_()
        # Of the offsets this step's alone.
        inputs = [
            value if value is None else value.detach().requires_grad_(total is not None)
            for value, total in zip(_at_step(self.coupled.chain, i, self.sources), self.totals, strict=False)
        ]
        with torch.enable_grad(), torch.autocast(**self.coupled.autocast):
            noise = self.coupled.noise(call, seen, inputs)
            before = self.coupled.undo(i, moved, noise.detach()).requires_grad_()
            outputs = self.coupled.move(i, before, noise)
        asked = [(o, g) for o, g in zip(outputs, (grad_moved, grad_clean), strict=True) if g is not None]
        wanted = []
        for k, (value, total) in enumerate(zip((*inputs, *self.sources[len(inputs) :]), self.totals, strict=True)):
            if value is not None and total is not None:
                wanted.append((value, total[:, i] if passes <= k < len(inputs) else total))
        grad_before, grad_seen, *grads = torch.autograd.grad(
            [output for output, _ in asked],
            [before, seen, *(value for value, _ in wanted)],
            [grad for _, grad in asked],
            materialize_grads=True,
        )
        for (_, total), grad in zip(wanted, grads, strict=True):
            total += grad
        return before.detach(), grad_before, grad_seen


def _at_step(chain: ReversibleChain, i: int, sources: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The denoiser's inputs of a step from the conditioning and the offsets, which ``sources`` starts with."""
    passes = len(chain.conditioning)
    offsets = sources[passes : passes + len(chain.offsets)]
    return *sources[:passes], *(None if values is None else values[:, i] for values in offsets)


def _refuse_hidden_tensors(chain: ReversibleChain, latents: Tensor) -> None:
    with torch.enable_grad():
        inputs = [value if value is None else value.detach() for value in (*chain.conditioning, *chain.offsets)]
        if chain.predict(0, latents.detach(), *_at_step(chain, 0, inputs)).requires_grad:
            raise ValueError(
                "denoiser must be a module, or use no tensors of its own that need a gradient, "
                "with memory='reversible'; got a callable that does: use memory='per_step'"
            )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        for index in devices:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        yield
