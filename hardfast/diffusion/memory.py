"""What a sampling chain keeps for its backward, and what it computes again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hardfast.diffusion.recompute import recompute
from hardfast.diffusion.reversible import ReversibleChain, run_reversible
from hardfast.ops import _checks
from hardfast.out_of_memory import advice_when_out_of_memory

EXACT_STRATEGIES = ("full", "per_step", "nested", "recursive")
INEXACT_STRATEGIES = ("truncated", "one_step")
COUPLED_STRATEGIES = ("reversible",)  # exact gradients of values that are not those of DDIM
STRATEGIES = EXACT_STRATEGIES + INEXACT_STRATEGIES + COUPLED_STRATEGIES


@dataclass(frozen=True)
class Memory:
    """How the gradient of a chain of ``T`` denoiser calls is paid for: in memory or in time.

    Exact, with equal gradients (random numbers drawn in a call, as by dropout, are drawn again when it is recomputed):

    - ``"full"``: everything is kept. Memory of T calls, no call twice.
    - ``"per_step"``: the T latents are kept and each call is computed again in the backward, one at a time. Memory of
      one call and the latents; every call runs twice.
    - ``"nested"``: the same, and inside the recomputed call its blocks are recomputed one at a time. Memory of the
      inputs of the blocks of one call and of one block; every call runs about three times.
    - ``"recursive"``: at most ``kept_latents`` latents at a time, by the binomial schedule that needs the fewest calls.
      With at least T of them it is ``"per_step"``.

    Inexact: values are those of the whole chain, gradients are not.

    - ``"truncated"``: the predictions of all but the ``last_steps`` last calls are constants. Gradients reach the
      initial latents through the update rule alone there, and no conditioning of those steps.
    - ``"one_step"``: the gradient is that of the clean latents predicted by the first call. It reaches the initial
      latents and the conditioning of the first step; the later calls are constants.

    Of another chain, with values of its own:

    - ``"reversible"``: **the samples are not those of DDIM** but of two coupled latents that move by the noise
      predicted for each other, so that every step can be undone. Memory of one call and two latents, whatever T is; two
      calls a step, each run twice. Gradients are exact for these values, but for the rounding errors that the
      reconstructed latents gather (:meth:`Sampler.reconstruction_error`): use float32 or wider. To first order only. No
      clipping. A callable that is no module must not use tensors that need a gradient.

    Args:
        strategy: one of the above.
        kept_latents: for ``"recursive"``, >= 1.
        last_steps: for ``"truncated"``, >= 1.
        mixing: for ``"reversible"``, in (0, 1]: the share of itself that each latent keeps after a step, the rest is
            the other's. Less holds the two together, but reconstruction enlarges their difference by
            ``1 / mixing**2`` a step.

    Source: Griewank, Achieving Logarithmic Growth of Temporal and Spatial Complexity in Reverse Automatic
    Differentiation, 1992, for ``"recursive"``; Clark et al., Directly Fine-Tuning Diffusion Models on Differentiable
    Rewards, 2024, for cutting the chain; Wallace et al., EDICT: Exact Diffusion Inversion via Coupled Transformations,
    2023, for ``"reversible"``.
    """

    strategy: str = "per_step"
    kept_latents: int = 4
    last_steps: int = 3
    mixing: float = 0.93

    def __post_init__(self) -> None:
        _checks.one_of("memory", self.strategy, STRATEGIES)
        for name in ("kept_latents", "last_steps"):
            _checks.integer(name, getattr(self, name), 1)
        if not 0 < _checks.number("mixing", self.mixing) <= 1:
            raise ValueError(f"mixing must be in (0, 1], got {self.mixing}")


class Chain(ReversibleChain, Protocol):
    """One sampling run: what the denoiser predicts at step ``i`` from its inputs, and what follows from it."""

    constant_denoiser: bool  # nothing needs a gradient but the latents and the inputs

    def inputs(self, i: int) -> tuple[Tensor | None, ...]: ...

    def update(self, i: int, latents: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]: ...


# Latents after some steps, and the predicted clean latents of those of them that are asked for.
State = tuple[Tensor, tuple[Tensor, ...]]


def run_chain(chain: Chain, latents: Tensor, keep_last: int, memory: Memory) -> State:
    """Final latents and the ``keep_last`` last predicted clean latents, oldest first."""
    first_kept = chain.steps - keep_last

    def kept(i: int, step: tuple[Tensor, ...]) -> State:
        return step[0], step[1:] if i >= first_kept else ()

    def step(i: int, latents: Tensor) -> State:
        with advice_when_out_of_memory(chain.memory_advice):  # here too, for a recomputation by torch's checkpoint
            return kept(i, chain.update(i, latents, chain.predict(i, latents, *chain.inputs(i))))

    def constant_step(i: int, latents: Tensor) -> State:
        with torch.no_grad():
            prediction = chain.predict(i, latents, *chain.inputs(i))
        return kept(i, chain.update(i, latents, prediction))

    def recomputed_step(i: int, latents: Tensor) -> State:
        if not chain.constant_denoiser:
            return _recomputed(step)(i, latents)

        def from_inputs(latents: Tensor, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
            return chain.update(i, latents, chain.predict(i, latents, *inputs))

        return kept(i, recompute(from_inputs, latents, *chain.inputs(i), advice=chain.memory_advice))

    if memory.strategy == "full":
        return _loop([step] * chain.steps, latents)
    if memory.strategy == "recursive":
        return _recursive(step, 0, chain.steps, memory.kept_latents, latents, last_step=recomputed_step)
    if memory.strategy == "truncated":
        constant = max(0, chain.steps - memory.last_steps)
        return _loop([constant_step] * constant + [recomputed_step] * (chain.steps - constant), latents)
    if memory.strategy == "one_step":
        return _one_step(chain, step, latents)
    if memory.strategy == "reversible":
        return run_reversible(chain, latents, keep_last, memory.mixing)
    return _loop([recomputed_step] * chain.steps, latents)


def _loop(steps: Sequence[Callable[[int, Tensor], State]], latents: Tensor) -> State:
    kept: tuple[Tensor, ...] = ()
    for i, step in enumerate(steps):
        latents, clean = step(i, latents)
        kept += clean
    return latents, kept


def _recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: checkpoint(function, *args, use_reentrant=False)


def _recursive(
    step: Callable[[int, Tensor], State],
    first: int,
    end: int,
    slots: int,
    latents: Tensor,
    *,
    last_step: Callable[[int, Tensor], State],
) -> State:
    """Steps ``first .. end - 1`` with ``slots`` latents to keep, of which ``latents`` is one.

    The steps up to the split are forgotten and recomputed from ``latents`` once all that follows them is done with.
    The last step is computed as ``last_step`` says: in a recomputation it is the next one in the backward.
    """
    kept: tuple[Tensor, ...] = ()
    while end - first > 1:
        split = first + _first_part(end - first, slots)
        inner = _recomputed(lambda *args: _recursive(step, *args, last_step=step))
        latents, clean = inner(first, split, slots, latents)
        kept += clean
        first, slots = split, slots - 1
    latents, clean = last_step(first, latents)
    return latents, kept + clean


def _first_part(steps: int, slots: int) -> int:
    """How many of at least two steps go before the split, so that the fewest are computed again.

    With ``slots`` latents and no step more than ``r`` times recomputed, ``comb(slots + r, r)`` steps can be reversed.
    """
    repeats = next(r for r in range(1, steps) if comb(slots + r, r) >= steps)
    return min(comb(slots + repeats - 1, repeats - 1), steps - comb(slots + repeats - 2, repeats - 1))


def _one_step(chain: Chain, step: Callable[[int, Tensor], State], latents: Tensor) -> State:
    with torch.no_grad():
        final, kept = _loop([step] * chain.steps, latents)

    def first_clean(latents: Tensor) -> Tensor:
        return chain.update(0, latents, chain.predict(0, latents, *chain.inputs(0)))[1]

    clean = _recomputed(first_clean)(latents)
    # Zero in value, and the gradient of the first predicted clean latents.
    change = clean - clean.detach()
    return final + change, tuple(value + change for value in kept)
