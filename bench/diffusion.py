"""``python -m bench.diffusion``: memory and time of the sampling chain's gradient, by strategy and number of steps."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor, nn

from hardfast.diffusion import (
    COUPLED_STRATEGIES,
    EXACT_STRATEGIES,
    INEXACT_STRATEGIES,
    ClassUNetDenoiser,
    Sampler,
    Schedule,
)

from .memory import peak_bytes
from .timing import clock_for, time_alternating

CLASSES = 10
STRATEGIES = EXACT_STRATEGIES + INEXACT_STRATEGIES + COUPLED_STRATEGIES
ONE_CALL = "one call + latents"


def class_denoiser() -> ClassUNetDenoiser:
    """A small class-conditional UNet, as a constant."""
    torch.manual_seed(0)
    model = UNet2DModel(
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=CLASSES + 1,
    )
    return ClassUNetDenoiser(model.eval().requires_grad_(False))


def sampler_of(denoiser: ClassUNetDenoiser, steps: int, strategy: str, *, guided: bool) -> Sampler:
    schedule = Schedule.from_scheduler(DDIMScheduler(clip_sample=False), steps)
    return Sampler(denoiser, schedule, 3.0 if guided else 1.0, memory=strategy)


def labels_of(noise: Tensor) -> tuple[Tensor, Tensor]:
    """A class an image, and that of no class."""
    labels = torch.arange(len(noise), device=noise.device) % CLASSES
    return labels, torch.full_like(labels, CLASSES)


def gradient_of_chain(
    denoiser: ClassUNetDenoiser, noise: Tensor, steps: int, strategy: str, *, guided: bool
) -> Callable[[], Tensor]:
    """From noise to the gradient of the final latents' squares."""
    sampler = sampler_of(denoiser, steps, strategy, guided=guided)

    def run() -> Tensor:
        latents = noise.clone().requires_grad_()
        final = sampler(latents, *labels_of(noise)).latents
        return torch.autograd.grad(final.square().mean(), latents)[0]

    return run


def plain_gradient_of_chain(
    denoiser: ClassUNetDenoiser, noise: Tensor, steps: int, *, model: nn.Module | None = None, recompute: bool = False
) -> Callable[[], Tensor]:
    """The same as a loop over diffusers' scheduler, without guidance, keeping the whole chain.

    Args:
        model: in place of the denoiser's own, such as what ``torch.compile`` makes of it.
        recompute: whether the blocks of the model are computed again in the backward.
    """
    model = denoiser.model if model is None else model
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    labels, _ = labels_of(noise)

    def run() -> Tensor:
        latents = sample = noise.clone().requires_grad_()
        with denoiser.recompute_blocks() if recompute else nullcontext():
            for t in scheduler.timesteps:
                sample = scheduler.step(model(sample, t, labels, return_dict=False)[0], t, sample).prev_sample
            return torch.autograd.grad(sample.square().mean(), latents)[0]

    return run


def measure_memory(
    denoiser: ClassUNetDenoiser, noise: Tensor, steps: int, strategies: Sequence[str], *, guided: bool
) -> dict[str, int]:
    """Peak bytes of PyTorch's allocator by strategy, beside those of one call with gradient and of the latents."""
    inputs = torch.cat([noise, noise]) if guided else noise
    labels, _ = labels_of(inputs)

    def one_call() -> Tensor:
        latents = inputs.clone().requires_grad_()
        prediction = denoiser(latents, torch.full((len(inputs),), 500), labels)
        return torch.autograd.grad(prediction.square().mean(), latents)[0]

    peaks = {ONE_CALL: peak_bytes(one_call) + steps * noise.numel() * noise.element_size()}
    for strategy in strategies:
        peaks[strategy] = peak_bytes(gradient_of_chain(denoiser, noise, steps, strategy, guided=guided))
    return peaks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.diffusion", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 20, 50])
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="with classifier-free guidance: two passes a call")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    denoiser = class_denoiser()
    noise = torch.randn(args.batch, 3, args.size, args.size)
    cells: dict[str, list[str]] = {name: [] for name in STRATEGIES}
    errors = []
    for steps in args.steps:
        peaks = measure_memory(denoiser, noise, steps, STRATEGIES, guided=args.guided)
        runs = {name: gradient_of_chain(denoiser, noise, steps, name, guided=args.guided) for name in STRATEGIES}
        timings = time_alternating(runs, rounds=args.rounds, clock=clock_for(args.threads))
        times = {name: timing.median_ms for name, timing in timings.items()}
        for name in STRATEGIES:
            numbers = peaks[name] / peaks[ONE_CALL], peaks[name] / peaks["full"], times[name] / times["full"]
            cells[name].append("{:.2f} · {:.3f} · {:.2f}".format(*numbers))
        reversible = sampler_of(denoiser, steps, "reversible", guided=args.guided)
        errors.append(f"{float(reversible.reconstruction_error(noise, *labels_of(noise)).max()):.1e}")
    print(f"| memory | {' | '.join(f'{steps} steps' for steps in args.steps)} |")
    print(f"|---|{'---|' * len(args.steps)}")
    for name in STRATEGIES:
        print(f"| `{name}` | {' | '.join(cells[name])} |")
    print(
        "\nPeak memory over (one call with gradient + latents) · peak memory over `full` · time over `full`; "
        f"{args.batch} images of {args.size}x{args.size} pixels, {args.threads} thread(s)."
    )
    print(f"`reversible` finds its start again with a relative error of {', '.join(errors)} (float32, largest image).")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
