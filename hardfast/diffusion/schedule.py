"""The noise levels of a sampling chain, as plain numbers taken from diffusers' schedulers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardfast.ops import _checks
from hardfast.ops.guided_step import PREDICTION_TYPES


@dataclass(frozen=True)
class Schedule:
    """A deterministic sampling chain of ``T`` steps, from noise to clean latents.

    Latents always have the variance-preserving scale, ``sqrt(alpha_bar) * clean + sqrt(1 - alpha_bar) * noise``. In
    it an Euler step of the probability-flow equation in ``sigma = sqrt((1 - alpha_bar) / alpha_bar)`` *is* a DDIM step
    without noise, so one chain serves both samplers.

    Args:
        timesteps: ``[T]``, what the denoiser is told at each step, integers or floating point.
        alpha_bar: ``[T]``, float64 on the CPU: the share of signal in the latents of each step, in [0, 1); 0 only if
            ``prediction_type`` is not ``"epsilon"``.
        alpha_bar_next: ``[T]``, the same after the step, in (0, 1]. Some schedulers do not come out exactly at the
            level of their next step, hence a tensor of its own.
        prediction_type: what the denoiser predicts: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        clip_range: predicted clean latents are kept within ``[-clip_range, clip_range]``; None for no clipping.
        initial_scale: what standard normal noise is multiplied by to start the chain.
    """

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_next: Tensor
    prediction_type: str = "epsilon"
    clip_range: float | None = None
    initial_scale: float = 1.0

    def __post_init__(self) -> None:
        _checks.one_of("prediction_type", self.prediction_type, PREDICTION_TYPES)
        _checks.positive("initial_scale", self.initial_scale)
        for name in ("timesteps", "alpha_bar", "alpha_bar_next"):
            value = getattr(self, name)
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
            if value.dim() != 1 or not len(value):
                raise ValueError(f"{name} must have shape [T] with T >= 1, got {list(value.shape)}")
            if len(value) != len(self.timesteps):
                raise ValueError(
                    f"{name} must have as many steps as timesteps, {len(self.timesteps)}, got {len(value)}"
                )
        for name in ("alpha_bar", "alpha_bar_next"):
            value = getattr(self, name)
            if value.dtype != torch.float64 or value.device.type != "cpu":
                raise TypeError(f"{name} must be float64 on the CPU, got {value.dtype} on {value.device}")
        noisy_at_most = bool((self.alpha_bar < 1).all() and (self.alpha_bar >= 0).all())
        if not noisy_at_most or (self.prediction_type == "epsilon" and not bool((self.alpha_bar > 0).all())):
            low = "(" if self.prediction_type == "epsilon" else "["
            raise ValueError(f"alpha_bar must be in {low}0, 1) for {self.prediction_type!r}, got {self.alpha_bar}")
        if not bool(((self.alpha_bar_next > 0) & (self.alpha_bar_next <= 1)).all()):
            raise ValueError(f"alpha_bar_next must be in (0, 1], got {self.alpha_bar_next}")

    def __len__(self) -> int:
        return len(self.timesteps)

    def last(self, steps: int) -> Schedule:
        """The chain of the last steps alone, for latents that have the noise of their level.

        Args:
            steps: how many, 1 .. T.
        """
        _checks.integer("steps", steps, 1)
        if steps > len(self):
            raise ValueError(f"steps must be at most {len(self)}, those of the schedule, got {steps}")
        return Schedule(
            self.timesteps[-steps:],
            self.alpha_bar[-steps:],
            self.alpha_bar_next[-steps:],
            self.prediction_type,
            self.clip_range,
        )

    @classmethod
    def from_scheduler(cls, scheduler: Any, steps: int) -> Schedule:
        """The chain that a diffusers scheduler would run, with eta 0.

        Args:
            scheduler: a ``DDIMScheduler`` or an ``EulerDiscreteScheduler``; it is not changed.
            steps: the number of denoiser calls, >= 1.

        Raises:
            TypeError: ``scheduler`` is of another class.
            ValueError: it uses dynamic thresholding, which is not supported.
        """
        from diffusers import DDIMScheduler, EulerDiscreteScheduler

        if not isinstance(scheduler, (DDIMScheduler, EulerDiscreteScheduler)):
            raise TypeError(
                f"scheduler must be a DDIMScheduler or an EulerDiscreteScheduler, got {type(scheduler).__name__}"
            )
        _checks.integer("steps", steps, 1)
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(steps)
        return _ddim(scheduler) if isinstance(scheduler, DDIMScheduler) else _euler(scheduler)


def _ddim(scheduler: Any) -> Schedule:
    config = scheduler.config
    if config.thresholding:
        raise ValueError("scheduler must not use dynamic thresholding, got one with thresholding=True")
    levels = scheduler.alphas_cumprod.double()
    timesteps = scheduler.timesteps
    following = timesteps - config.num_train_timesteps // scheduler.num_inference_steps
    final = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64)
    return Schedule(
        timesteps,
        levels[timesteps],
        torch.where(following >= 0, levels[following.clamp(min=0)], final),
        config.prediction_type,
        config.clip_sample_range if config.clip_sample else None,
    )


def _euler(scheduler: Any) -> Schedule:
    levels = 1 / (1 + scheduler.sigmas.double() ** 2)
    # The scheduler starts from noise of init_noise_sigma in latents whose scale is sqrt(1 + sigma**2).
    start = float(scheduler.init_noise_sigma) * float(levels[0]) ** 0.5
    prediction_type = scheduler.config.prediction_type
    return Schedule(scheduler.timesteps, levels[:-1], levels[1:], prediction_type, initial_scale=start)
