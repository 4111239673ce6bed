"""Differentiable diffusion sampling: the whole chain, for several images, in the memory of one denoiser call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hardfast.diffusion.denoisers import Denoiser
from hardfast.diffusion.memory import Memory, run_chain
from hardfast.diffusion.out_of_memory import memory_advice
from hardfast.diffusion.reversible import reconstruction_error
from hardfast.diffusion.schedule import Schedule
from hardfast.ops import _checks
from hardfast.ops.guided_step import guided_step
from hardfast.out_of_memory import advice_when_out_of_memory


class Samples(NamedTuple):
    """What a sampling chain ends with.

    Args:
        latents: ``[B, ...]``, after the last step.
        clean: the last predicted clean latents, each ``[B, ...]``, oldest first. The last of them is ``latents`` where
            the schedule ends without noise.
    """

    latents: Tensor
    clean: tuple[Tensor, ...]


@dataclass(frozen=True)
class Sampler:
    """A denoiser, its schedule and how its gradient is paid for: maps noise to clean latents, differentiably.

    Args:
        denoiser: see :class:`~hardfast.diffusion.Denoiser`. Its parameters get gradients only if they require them.
        schedule: the noise levels of its ``T`` steps.
        guidance_scale: of classifier-free guidance. At 1 there is none, and the unconditional pass is left out.
        memory: a strategy by name or a :class:`~hardfast.diffusion.Memory`.

    Errors: ``ValueError`` names what a strategy cannot do: ``"nested"`` without ``recompute_blocks()``;
    ``"reversible"`` with clipping, or with a step that starts without any signal.
    """

    denoiser: Denoiser
    schedule: Schedule
    guidance_scale: float = 1.0
    memory: str | Memory = "per_step"

    def __post_init__(self) -> None:
        _checks.number("guidance_scale", self.guidance_scale)
        if isinstance(self.memory, str):
            object.__setattr__(self, "memory", Memory(self.memory))
        if not isinstance(self.memory, Memory):
            raise TypeError(f"memory must be a string or a Memory, got {type(self.memory).__name__}")
        if self.memory.strategy == "nested" and not hasattr(self.denoiser, "recompute_blocks"):
            raise ValueError(
                "memory='nested' needs a denoiser with recompute_blocks(), such as the adapters; "
                f"got {type(self.denoiser).__name__}"
            )
        if self.memory.strategy == "reversible":
            if self.schedule.clip_range is not None:
                raise ValueError(
                    "schedule must have clip_range=None with memory='reversible', as clipping cannot be undone; "
                    f"got {self.schedule.clip_range}"
                )
            if bool((self.schedule.alpha_bar == 0).any()):
                raise ValueError(
                    "schedule must keep some signal at every step with memory='reversible', got alpha_bar = 0"
                )

    @property
    def guided(self) -> bool:
        return self.guidance_scale != 1

    def memory_advice(self, images: int, chunk: int | None = None) -> str:
        """What to try when memory runs out with so many images; ``chunk`` of them are decoded and judged at a time."""
        assert isinstance(self.memory, Memory)
        blocks = hasattr(self.denoiser, "recompute_blocks")
        return memory_advice(self.memory.strategy, images=images, blocks=blocks, chunk=chunk)

    def __call__(
        self,
        latents: Tensor,
        conditioning: Tensor | None = None,
        null_conditioning: Tensor | None = None,
        *,
        conditioning_offsets: Tensor | None = None,
        null_offsets: Tensor | None = None,
        keep_last: int = 1,
    ) -> Samples:
        """Runs the chain.

        Equivalent to, for the DDIM scheduler of diffusers and without guidance and offsets::

            for t in scheduler.timesteps:
                latents = scheduler.step(denoiser(latents, t, conditioning), t, latents).prev_sample

        Args:
            latents: ``[B, ...]``, standard normal noise (or inverted images), float32, float64, float16 or bfloat16.
            conditioning: ``[B, ...]`` or ``[1, ...]``, what the denoiser takes: labels, embeddings; None for none.
            null_conditioning: the same for the unconditional pass, which shares a call with the conditional one; needed
                with guidance, else not used.
            conditioning_offsets: ``[B or 1, T, ...]``, added to ``conditioning`` step by step; the latter floating.
            null_offsets: the same for ``null_conditioning``.
            keep_last: how many of the last predicted clean latents to return, 1 .. T.

        Gradients: to the latents and to all floating-point conditioning and offsets; exact or not as ``memory`` says.

        Memory: as ``memory`` says. Nothing is read from the device.

        Errors: ``TypeError`` and ``ValueError`` name the argument. Where memory runs out, here or in a backward that
        recomputes, the error keeps its class and says what to try.

        Source: Song et al., Denoising Diffusion Implicit Models, 2021, equation 12 with sigma 0; Ho and Salimans,
        Classifier-Free Diffusion Guidance, 2022, equation 6.
        """
        run = self._run(latents, conditioning, null_conditioning, conditioning_offsets, null_offsets)
        if isinstance(keep_last, bool) or not isinstance(keep_last, int) or not 1 <= keep_last <= run.steps:
            raise ValueError(f"keep_last must be an integer in 1 .. {run.steps}, the steps, got {keep_last!r}")
        assert isinstance(self.memory, Memory)
        with advice_when_out_of_memory(run.memory_advice):
            return Samples(*run_chain(run, latents * self.schedule.initial_scale, keep_last, self.memory))

    def reconstruction_error(
        self,
        latents: Tensor,
        conditioning: Tensor | None = None,
        null_conditioning: Tensor | None = None,
        *,
        conditioning_offsets: Tensor | None = None,
        null_offsets: Tensor | None = None,
    ) -> Tensor:
        """How far from its start the chain of ``memory="reversible"`` ends when it is undone from its final latents.

        Args:
            latents: as for :meth:`__call__`, and so is the rest.

        Returns:
            ``[B]``: the distance of the reconstructed pair of initial latents from the given ones, over their norm.

        Errors: ``ValueError`` with another strategy.
        """
        assert isinstance(self.memory, Memory)
        if self.memory.strategy != "reversible":
            raise ValueError(f"memory must be 'reversible' for something to be undone, got {self.memory.strategy!r}")
        run = self._run(latents, conditioning, null_conditioning, conditioning_offsets, null_offsets)
        return reconstruction_error(run, latents * self.schedule.initial_scale, self.memory.mixing)

    @torch.no_grad()
    def invert(
        self,
        clean: Tensor,
        conditioning: Tensor | None = None,
        null_conditioning: Tensor | None = None,
        *,
        iterations: int = 1,
    ) -> Tensor:
        """Noise from which the chain leads back to given clean latents.

        Each step of DDIM is undone, whatever ``memory`` is, with the noise that the denoiser predicts for its result,
        as in DDIM inversion; further iterations repeat that with the latents found; where they converge it is to the
        exact inverse. Clipping is left out.

        Args:
            clean: ``[B, ...]``, such as encoded real images.
            conditioning: as for sampling.
            null_conditioning: as for sampling.
            iterations: denoiser calls a step, >= 1.

        Returns:
            Latents for :meth:`__call__`, without gradient.

        Errors: ``ValueError`` for a schedule that starts without any signal, which cannot be inverted.

        Source: Song et al., Denoising Diffusion Implicit Models, 2021, section 4.3; Pan et al., Effective Real Image
        Editing with Accelerated Iterative Diffusion Inversion, 2023, for the iterations.
        """
        run = self._run(clean, conditioning, null_conditioning, None, None)
        _checks.integer("iterations", iterations, 1)
        if min(run.levels) == 0:
            raise ValueError("schedule must keep some signal at every step to be inverted, got alpha_bar = 0")
        latents = clean
        for i in reversed(range(run.steps)):
            target = latents
            for _ in range(iterations):
                noise = run.noise(i, latents, run.predict(i, latents, *run.inputs(i)))
                latents = guided_step(target, noise, alpha_bar=run.levels_next[i], alpha_bar_next=run.levels[i])[0]
        return latents / self.schedule.initial_scale

    def _run(
        self,
        latents: Tensor,
        conditioning: Tensor | None,
        null_conditioning: Tensor | None,
        conditioning_offsets: Tensor | None,
        null_offsets: Tensor | None,
    ) -> _Run:
        _checks.floating_tensor("latents", latents)
        if latents.dim() == 0:
            raise ValueError("latents must have shape [B, ...], got []")
        if self.guided and (conditioning is None or null_conditioning is None):
            name = "conditioning" if conditioning is None else "null_conditioning"
            raise ValueError(f"{name} must be given for guidance, got None with guidance_scale={self.guidance_scale}")
        steps = len(self.schedule)
        _check_conditioning("conditioning", conditioning, conditioning_offsets, len(latents), steps)
        if self.guided:
            _check_conditioning("null_conditioning", null_conditioning, null_offsets, len(latents), steps)
            return _Run(self, latents, (conditioning, null_conditioning), (conditioning_offsets, null_offsets))
        if null_offsets is not None:
            raise ValueError("null_offsets are used only with guidance, got some with guidance_scale=1")
        return _Run(self, latents, (conditioning,), (conditioning_offsets,))


def decode_in_chunks(decode: Callable[[Tensor], Tensor], latents: Tensor, chunk: int = 1) -> Tensor:
    """Decodes a few samples at a time, and again in the backward: the memory of a decoder for one chunk.

    Args:
        decode: maps ``[N, ...]`` to ``[N, ...]``, each sample by itself.
        latents: ``[B, ...]``.
        chunk: samples at a time, >= 1.

    Returns:
        What ``decode(latents)`` would, with the same gradients.
    """
    _checks.integer("chunk", chunk, 1)
    return torch.cat([checkpoint(decode, part, use_reentrant=False) for part in latents.split(chunk)])


class _Run:
    """One call of a sampler: its passes (conditional, then unconditional), and its levels as Python numbers."""

    def __init__(
        self,
        sampler: Sampler,
        latents: Tensor,
        conditioning: tuple[Tensor | None, ...],
        offsets: tuple[Tensor | None, ...],
    ) -> None:
        schedule = sampler.schedule
        self.sampler, self.conditioning, self.offsets = sampler, conditioning, offsets
        self.steps, self.samples = len(schedule), len(latents)
        self.timesteps = schedule.timesteps.to(latents.device, non_blocking=True)
        self.levels: list[float] = schedule.alpha_bar.tolist()
        self.levels_next: list[float] = schedule.alpha_bar_next.tolist()
        assert isinstance(sampler.memory, Memory)
        self.hides_tensors = not isinstance(sampler.denoiser, nn.Module)
        self.parameters: tuple[Tensor, ...] = ()
        if isinstance(sampler.denoiser, nn.Module):
            self.parameters = tuple(p for p in sampler.denoiser.parameters() if p.requires_grad)
        self.constant_denoiser = not self.hides_tensors and not self.parameters
        self.memory_advice = sampler.memory_advice(self.samples)
        self.recompute_blocks: Callable[[], Any] = nullcontext
        if sampler.memory.strategy == "nested":
            self.recompute_blocks = sampler.denoiser.recompute_blocks  # type: ignore[attr-defined]

    def inputs(self, i: int) -> tuple[Tensor | None, ...]:
        """The conditioning of each pass, then the offsets of each at this step."""
        return *self.conditioning, *(None if offsets is None else offsets[:, i] for offsets in self.offsets)

    def predict(self, i: int, latents: Tensor, *inputs: Tensor | None) -> Tensor:
        """``[P * B, ...]``: all passes in one call."""
        count = len(self.conditioning)
        passes = [self._conditioning_of(c, o) for c, o in zip(inputs[:count], inputs[count:], strict=True)]
        conditioning = None if passes[0] is None else torch.cat([p for p in passes if p is not None])
        repeated = torch.cat([latents] * count) if count > 1 else latents
        with self.recompute_blocks():
            prediction = self.sampler.denoiser(repeated, self.timesteps[i].expand(len(repeated)), conditioning)
        if prediction.shape != repeated.shape:
            raise ValueError(
                f"denoiser must predict the shape of its latents, {list(repeated.shape)}, got {list(prediction.shape)}"
            )
        return prediction

    def update(self, i: int, latents: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        cond, *uncond = prediction.chunk(len(self.conditioning))
        schedule = self.sampler.schedule
        return guided_step(
            latents,
            cond,
            uncond[0] if uncond else None,
            alpha_bar=self.levels[i],
            alpha_bar_next=self.levels_next[i],
            guidance_scale=self.sampler.guidance_scale,
            prediction_type=schedule.prediction_type,
            clip_range=schedule.clip_range,
        )

    def noise(self, i: int, latents: Tensor, prediction: Tensor) -> Tensor:
        """The guided prediction as noise."""
        cond, *uncond = prediction.chunk(len(self.conditioning))
        guided = uncond[0] + self.sampler.guidance_scale * (cond - uncond[0]) if uncond else cond
        signal, spread = self.levels[i] ** 0.5, (1 - self.levels[i]) ** 0.5
        if self.sampler.schedule.prediction_type == "epsilon":
            return guided
        if self.sampler.schedule.prediction_type == "v_prediction":
            return signal * guided + spread * latents
        return (latents - signal * guided) / spread

    def _conditioning_of(self, conditioning: Tensor | None, offset: Tensor | None) -> Tensor | None:
        if conditioning is None:
            return None
        if offset is not None:
            conditioning = conditioning + offset
        return conditioning.expand(self.samples, *conditioning.shape[1:])


def _check_conditioning(
    name: str, conditioning: Tensor | None, offsets: Tensor | None, samples: int, steps: int
) -> None:
    offsets_name = name.replace("null_conditioning", "null") + "_offsets"
    if conditioning is None:
        if offsets is not None:
            raise ValueError(f"{offsets_name} need {name}, got None")
        return
    if not isinstance(conditioning, Tensor):
        raise TypeError(f"{name} must be a tensor or None, got {type(conditioning).__name__}")
    if conditioning.dim() == 0 or conditioning.shape[0] not in (1, samples):
        raise ValueError(f"{name} must have shape [B or 1, ...] with B = {samples}, got {list(conditioning.shape)}")
    if offsets is None:
        return
    _checks.floating_tensor(offsets_name, offsets)
    if not conditioning.is_floating_point():
        raise TypeError(f"{offsets_name} need floating-point {name}, got {conditioning.dtype}")
    wanted = [steps, *conditioning.shape[1:]]
    if offsets.dim() == 0 or offsets.shape[0] not in (1, samples) or list(offsets.shape[1:]) != wanted:
        numbers = ", ".join(str(n) for n in wanted)
        raise ValueError(f"{offsets_name} must have shape [{samples} or 1, {numbers}], got {list(offsets.shape)}")
