"""``python -m bench.guidance``: the batched search against the published way, same networks, same draws, same images.

The published way, in plain PyTorch and diffusers: one image at a time, the whole chain kept with the model's own
block checkpointing, the objective evaluated once more per iteration for the log, and the device waited for each time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor, nn

from hardfast.diffusion import ClassUNetDenoiser, CutOuts, GuidanceSettings, Sampler, Schedule, guide, seeded_noise
from hardfast.models import CNN

from .diffusion import CLASSES, class_denoiser
from .memory import peak_bytes
from .timing import clock_for

GUIDANCE_SCALE = 3.0
STRATEGIES = ("per_step", "nested")


@dataclass(frozen=True)
class Search:
    """What both ways are given."""

    denoiser: ClassUNetDenoiser
    student: nn.Module
    teacher: nn.Module
    labels: Tensor
    noise: Tensor
    steps: int
    settings: GuidanceSettings

    def first(self, count: int) -> Search:
        """The same for some of the images."""
        return replace(self, labels=self.labels[:count], noise=self.noise[:count])


def search_of(images: int, *, size: int, steps: int, iterations: int, cutouts: int = 16, chunk: int = 1) -> Search:
    """A small UNet, and two small classifiers that are sure enough of their answers to differ."""
    torch.manual_seed(1)
    networks = [CNN(widths, (1, 2, 2), 0.0, 3, CLASSES).eval() for widths in ((16, 32, 32), (32, 64, 64))]
    for network in networks:
        network.requires_grad_(False)
        nn.init.normal_(next(layer for layer in network.modules() if isinstance(layer, nn.Linear)).weight)
    settings = GuidanceSettings(
        cutouts=CutOuts(size=size, smallest=size // 2, count=cutouts),
        iterations=iterations,
        latents_rate=0.02,
        chunk=chunk,
    )
    labels, noise = torch.arange(images) % CLASSES, seeded_noise(range(images), (3, size, size))
    return Search(class_denoiser(), networks[0], networks[1], labels, noise, steps, settings)


def batched_way(search: Search, memory: str = "per_step") -> Tensor:
    """The best images ``[B, C, H, W]`` by :func:`hardfast.diffusion.guide`."""
    sampler = Sampler(
        search.denoiser,
        Schedule.from_scheduler(DDIMScheduler(clip_sample=False, prediction_type="v_prediction"), search.steps),
        GUIDANCE_SCALE,
        memory,
    )
    return guide(
        sampler,
        search.student,
        search.teacher,
        search.labels,
        search.noise,
        range(len(search.labels)),
        conditioning=search.labels,
        null_conditioning=torch.full_like(search.labels[:1], CLASSES),
        settings=search.settings,
    ).images


def published_way(search: Search, *, model: nn.Module | None = None, recompute: bool = True) -> Tensor:
    """The same, as published.

    Args:
        model: in place of the denoiser's own, such as what ``torch.compile`` makes of it.
        recompute: whether the blocks of the model are computed again in the backward.
    """
    model = search.denoiser.model if model is None else model
    with search.denoiser.recompute_blocks() if recompute else nullcontext():
        return torch.cat([_search_of_one_image(search, model, n) for n in range(len(search.labels))])


def _search_of_one_image(search: Search, model: nn.Module, n: int) -> Tensor:
    settings, label = search.settings, search.labels[n : n + 1]
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    scheduler.set_timesteps(search.steps)
    classes = torch.cat([label, torch.full_like(label, CLASSES)])
    generator = torch.Generator().manual_seed(2 * n + 1)  # as guide() seeds the cut-outs of seed n
    latents = search.noise[n : n + 1].clone().requires_grad_()
    norm = latents.detach().norm()
    optimizer = torch.optim.Adam([latents], lr=settings.latents_rate)
    log, best_loss, best = [], float("inf"), latents.detach()
    for iteration in range(settings.iterations + 1):
        last = iteration == settings.iterations
        with torch.set_grad_enabled(not last):
            sample, clean = latents, []
            for t in scheduler.timesteps:
                prediction = model(torch.cat([sample, sample]), t, classes, return_dict=False)[0]
                cond, uncond = prediction.chunk(2)
                step = scheduler.step(uncond + GUIDANCE_SCALE * (cond - uncond), t, sample)
                sample = step.prev_sample
                clean.append(step.pred_original_sample)
            clean = clean[-settings.keep_last :]
            draws = [_draw_cutouts(settings.cutouts, generator, sample) for _ in clean]
            loss = _loss(search, clean, draws, label)
        if loss.item() < best_loss:
            best_loss, best = loss.item(), sample.detach()
        with torch.no_grad():
            log.append(_loss(search, clean, draws, label).item())
        if not last:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                latents *= norm / latents.norm()
    return best


def _draw_cutouts(cutouts: CutOuts, generator: torch.Generator, image: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of random squares, and noise: the numbers that ``CutOuts`` draws."""
    side, x, y = torch.rand(cutouts.count, 3, generator=generator).unbind(1)
    noise = torch.randn(cutouts.count, image.shape[1], cutouts.size, cutouts.size, generator=generator)
    length = image.shape[-1]
    smallest = cutouts.smallest or length
    scale = (smallest + (length - smallest) * side) / length
    zero = torch.zeros_like(scale)
    rows = [scale, zero, (1 - scale) * (2 * x - 1), zero, scale, (1 - scale) * (2 * y - 1)]
    return torch.stack(rows, 1).unflatten(1, (2, 3)), cutouts.noise * noise


def _loss(search: Search, clean: Sequence[Tensor], draws: Sequence[tuple[Tensor, Tensor]], label: Tensor) -> Tensor:
    total = sum(range(1, len(clean) + 1))
    loss = torch.zeros(())
    for k, (image, (theta, noise)) in enumerate(zip(clean, draws, strict=True)):
        grid = F.affine_grid(theta, list(noise.shape), align_corners=False)
        repeated = image.expand(len(theta), -1, -1, -1)
        seen = F.grid_sample(repeated, grid, padding_mode="border", align_corners=False) + noise
        right = [network(seen).softmax(1)[:, label] for network in (search.teacher, search.student)]
        loss = loss - (k + 1) / total * (right[0] + 1 - right[1]).mean()
    return loss


def seconds_alternating(
    ways: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median over rounds in which each is called once, in turn."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            samples[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in samples.items()}


def _relative_difference(images: Tensor, expected: Tensor) -> float:
    """The largest of the images' distances, over their norm."""
    distances = torch.linalg.vector_norm((images - expected).flatten(1), dim=1)
    return float((distances / torch.linalg.vector_norm(expected.flatten(1), dim=1)).max())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.guidance", description=__doc__)
    parser.add_argument("--size", type=int, default=16, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 12], help="images at a time, of the batched way")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    search = search_of(max(args.batch), size=args.size, steps=args.steps, iterations=args.iterations)
    one = search.first(1)
    expected = published_way(search.first(min(args.batch)))  # warms up too
    published = "published, one image at a time"
    ways: dict[str, Callable[[], object]] = {published: partial(published_way, one)}
    peaks, counts, differences = {published: peak_bytes(ways[published])}, {published: 1}, {published: 0.0}
    for memory in STRATEGIES:
        for count in args.batch:
            name = f"`guide`, `{memory}`, batch {count}"
            part = search.first(count)
            ways[name] = partial(batched_way, part, memory)
            peaks[name], counts[name] = peak_bytes(ways[name]), count
            differences[name] = _relative_difference(batched_way(part, memory)[: len(expected)], expected)
    seconds = seconds_alternating(ways, args.rounds, clock_for(args.threads))
    print("| search | images/s | / published | peak MiB | / published | peak MiB per image | relative difference |")
    print(f"|---|{'---|' * 6}")
    for name, count in counts.items():
        speed, peak = count / seconds[name], peaks[name] / 2**20
        print(
            f"| {name} | {speed:.3f} | {speed * seconds[published]:.2f} | {peak:.1f} "
            f"| {peaks[name] / peaks[published]:.2f} | {peak / count:.1f} | {differences[name]:.1e} |"
        )
    print(
        f"\n{args.steps} steps with guidance, {args.iterations} iterations, {search.settings.cutouts.count} cut-outs, "
        f"{args.size}x{args.size} pixels, {args.threads} thread(s). Differences are of the best images."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
