"""Guidance: the cut-outs, the objective with its controls, and the search image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from diffusers import DDIMScheduler
from diffusion_models import TinyDenoiser
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from hardfast.diffusion import (
    CutOuts,
    GuidanceObjective,
    GuidanceSettings,
    Sampler,
    Schedule,
    guide,
    seeded_noise,
)
from hardfast.ops import _checks

SIDE = 8
CUTOUTS = CutOuts(size=6, smallest=5, largest=8, count=4, noise=0.005)
SETTINGS = GuidanceSettings(cutouts=CUTOUTS, iterations=4, rate=0.1, latents_rate=0.1, keep_last=2)
SEEDS = (3, 14, 159)
LABELS = torch.tensor([2, 0, 4])


@dataclass(frozen=True)
class RecordingSampler(Sampler):
    """Remembers what it was given and what came out."""

    starts: list[Tensor] = field(default_factory=list)
    results: list = field(default_factory=list)

    def __call__(self, latents, *args, **options):
        self.starts.append(latents.detach().clone())
        samples = super().__call__(latents, *args, **options)
        self.results.append(samples)
        return samples


def classifier(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(2, 8, 3, stride=2), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 5)
    return nn.Sequential(*layers).double()


def sampler(steps: int = 3, scale: float = 1.5, denoiser=None) -> RecordingSampler:
    schedule = Schedule.from_scheduler(DDIMScheduler(clip_sample=False), steps)
    return RecordingSampler(denoiser or TinyDenoiser(strength=0.5), schedule, guidance_scale=scale)


def run(pick=(0, 1, 2), *, chain=None, settings=SETTINGS, student=None, **changes):
    """The search of some of the three images."""
    pick = list(pick)
    seeds = [SEEDS[k] for k in pick]
    generator = torch.Generator().manual_seed(8)
    conditioning, null = torch.randn(2, 3, 6, dtype=torch.float64, generator=generator)
    arguments = {
        "conditioning": conditioning[pick],
        "null_conditioning": null[pick],
        "decode": lambda latents: latents.tanh(),
        **changes,
    }
    latents = arguments.pop("latents", seeded_noise(seeds, (2, SIDE, SIDE)).double())
    return guide(
        chain or sampler(), student or classifier(0), classifier(1), LABELS[pick], latents, seeds,
        settings=settings, **arguments,
    )  # fmt: skip


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_cutouts_are_squares_of_the_size_range_inside_the_image():
    height, width = 40, 60
    ramp_x = (torch.arange(width, dtype=torch.float64) + 0.5).expand(height, width)
    ramp_y = (torch.arange(height, dtype=torch.float64) + 0.5)[:, None].expand(height, width)
    images = torch.stack([ramp_x, ramp_y])[None].repeat(2, 1, 1, 1)
    seen = CutOuts(size=10, smallest=15, largest=30, count=50, noise=0.0)(images, generators(1, 2))
    assert seen.shape == (100, 2, 10, 10)
    # Inner pixels: half a pixel from the edge of the image the ramps are flat.
    side_x = (seen[:, 0, 1, 8] - seen[:, 0, 1, 1]) / 7 * 10
    side_y = (seen[:, 1, 8, 1] - seen[:, 1, 1, 1]) / 7 * 10
    torch.testing.assert_close(side_x, side_y, rtol=1e-4, atol=1e-3)
    assert 15 <= side_x.min() < 17
    assert 28 < side_x.max() <= 30
    left, top = seen[:, 0, 1, 1] - side_x * 0.15, seen[:, 1, 1, 1] - side_x * 0.15
    for start, length in ((left, width), (top, height)):
        assert start.min() > -1e-3
        assert (start + side_x).max() < length + 1e-3
        assert (start / (length - side_x)).std() > 0.2
    assert not torch.equal(seen[:50], seen[50:])


def test_cutouts_average_what_they_shrink_and_add_noise():
    images = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    means = F.avg_pool2d(images, 4)
    cut = CutOuts(size=4, smallest=None, count=2, noise=0.0)
    torch.testing.assert_close(cut(images, generators(0)), means.expand(2, 3, 4, 4))
    torch.testing.assert_close(cut.whole(images), means)
    noisy = replace(cut, noise=0.3, count=200)(images, generators(0)) - means
    assert abs(noisy.std().item() - 0.3) < 0.01


def test_cutouts_of_an_image_come_from_its_generator_alone():
    images = torch.rand(3, 2, 9, 9)
    cut = CutOuts(size=5, smallest=4, count=3)
    together = cut(images, generators(5, 6, 7))
    for k, alone in enumerate((5, 6, 7)):
        torch.testing.assert_close(cut(images[k : k + 1], generators(alone)), together[3 * k : 3 * k + 3])


@pytest.mark.parametrize("form", ["probability", "log", "logit", "kl"])
def test_objective_in_all_its_forms(form):
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    objective = GuidanceObjective(form, gamma=2.0 if form == "probability" else 1.0)
    p_s, p_t = (x.softmax(1)[torch.arange(6), labels] for x in (student, teacher))
    expected = {
        "probability": p_t**2 + (1 - p_s) ** 2,
        "log": p_t.log() + (1 - p_s).log(),
        "logit": p_t.logit() - p_s.logit(),
        "kl": (teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))).sum(1),
    }[form]
    torch.testing.assert_close(objective(student, teacher, labels), expected)


@pytest.mark.parametrize("form", ["probability", "log", "logit"])
def test_controls_look_at_one_network(form):
    student, teacher, other = torch.randn(3, 6, 5, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    both = GuidanceObjective(form)(student, teacher, labels)
    only_teacher, only_student = (GuidanceObjective(form, models=name) for name in ("teacher", "student"))
    assert torch.equal(only_teacher(student, teacher, labels), only_teacher(other, teacher, labels))
    assert torch.equal(only_student(student, teacher, labels), only_student(student, other, labels))
    rest = both - only_teacher(student, teacher, labels) - only_student(student, teacher, labels)
    torch.testing.assert_close(rest, rest[:1].expand(6))


@pytest.mark.parametrize(
    "objective",
    [
        GuidanceObjective(),
        GuidanceObjective(gamma=2.0),
        GuidanceObjective("log"),
        GuidanceObjective("logit"),
        GuidanceObjective("kl", temperature=2.0),
        GuidanceObjective("logit", models="teacher"),
        GuidanceObjective("logit", models="student"),
    ],
    ids=lambda o: f"{o.form}-{o.gamma}-{o.models}",
)
def test_guidance_increases_its_objective(objective):
    settings = replace(SETTINGS, objective=objective, iterations=10)
    result = run(settings=settings)
    assert result.valid.all()
    assert result.scores.shape == (11, 3)
    assert (result.scores.amax(0) > result.scores[0]).all()
    if objective.form != "kl" and objective.models != "student":
        assert result.teacher_after.mean() > result.teacher_before.mean()
    if objective.form != "kl" and objective.models != "teacher":
        assert result.student_after.mean() < result.student_before.mean()


def test_result_is_the_best_candidate_and_the_first():
    chain, student, teacher = sampler(), classifier(0).eval(), classifier(1).eval()
    result = run(chain=chain, student=student)
    finals = torch.stack([samples.latents.detach() for samples in chain.results])
    assert len(finals) == SETTINGS.iterations + 1
    best = result.scores.argmax(0)
    assert best.max() > 0
    assert torch.equal(result.latents, finals[best, torch.arange(3)])
    assert torch.equal(result.images, result.latents.tanh())
    assert torch.equal(result.images_before, finals[0].tanh())
    for images, by_student, by_teacher in (
        (result.images, result.student_after, result.teacher_after),
        (result.images_before, result.student_before, result.teacher_before),
    ):
        for network, ours in ((student, by_student), (teacher, by_teacher)):
            logits = network(CUTOUTS.whole(images))
            torch.testing.assert_close(ours, logits.softmax(1)[torch.arange(3), LABELS].float())
    right = teacher(CUTOUTS.whole(result.images)).argmax(1) == LABELS
    assert torch.equal(result.kept, right)


def test_score_and_gradient_are_those_of_plain_autograd():
    """Judging each predicted clean image by itself, before the chain, must not change the gradient."""
    chain, student, teacher = sampler(), classifier(0).eval(), classifier(1).eval()
    seen = {}

    def remember(optimizer, *_):
        seen.setdefault("grads", [p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    handle = register_optimizer_step_pre_hook(remember)
    try:
        result = run(chain=chain, student=student)
    finally:
        handle.remove()
    latents = chain.starts[0].requires_grad_()
    conditioning, null = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    offsets = torch.zeros(2, 3, 3, 6, dtype=torch.float64, requires_grad=True)
    plain = replace(chain, memory="full")
    options = {"conditioning_offsets": offsets[0], "null_offsets": offsets[1]}
    clean = plain(latents, conditioning, null, keep_last=2, **options).clean
    sources = generators(*(2 * seed + 1 for seed in SEEDS))
    score = 0
    for weight, value in zip((1 / 3, 2 / 3), clean, strict=True):
        views = CUTOUTS(value.tanh(), sources)
        labels = LABELS.repeat_interleave(CUTOUTS.count)
        values = GuidanceObjective()(student(views), teacher(views), labels)
        score = score + weight * values.view(3, CUTOUTS.count).mean(1)
    torch.testing.assert_close(result.scores[0], score.detach().float())
    grads = torch.autograd.grad(-score.sum(), [latents, offsets])
    torch.testing.assert_close(seen["grads"], [grads[0], *grads[1]], rtol=1e-9, atol=1e-12)


def test_latents_keep_their_norm_and_offsets_can_be_left_out():
    chain = sampler()
    run(chain=chain)
    norms = torch.stack([start.flatten(1).norm(dim=1) for start in chain.starts])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))
    assert (chain.starts[1] - chain.starts[0]).abs().amax((1, 2, 3)).min() > 0.05
    seen = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(len(optimizer.param_groups)))
    try:
        run()
        run(settings=replace(SETTINGS, offsets=False))
    finally:
        handle.remove()
    assert seen == [3] * 4 + [1] * 4


@pytest.mark.parametrize("pick", [(0,), (2, 1)])
def test_an_image_does_not_depend_on_its_batch(pick):
    together, some = run(), run(pick)
    for name in ("images", "latents", "teacher_after", "student_before", "kept"):
        torch.testing.assert_close(getattr(some, name), getattr(together, name)[list(pick)], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(some.scores, together.scores[:, list(pick)])


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_change_nothing(chunk):
    whole, chunked = run(), run(settings=replace(SETTINGS, chunk=chunk))
    torch.testing.assert_close(chunked.images, whole.images, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(chunked.scores, whole.scores)


class NanLater(nn.Module):
    """A student whose answers for one image become NaN, or have a NaN gradient, at one of its calls."""

    def __init__(self, image: int, call: int, *, gradient_only: bool) -> None:
        super().__init__()
        self.network = classifier(0)
        self.rows = slice(image * CUTOUTS.count, (image + 1) * CUTOUTS.count)
        self.call, self.calls, self.gradient_only = call, 0, gradient_only

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        self.calls += 1
        if self.calls == self.call and len(images) == 3 * CUTOUTS.count:
            # The square root of 0 is 0, and its gradient infinite; times 0 it is NaN.
            bad = (logits[self.rows] * 0).abs().sqrt() if self.gradient_only else logits[self.rows] * math.nan
            logits = logits.index_add(0, torch.arange(len(logits))[self.rows], bad)
        return logits


@pytest.mark.parametrize("gradient_only", [False, True], ids=["value", "gradient"])
def test_nan_guidance_freezes_that_image_only(gradient_only):
    expected = run()
    chain = sampler()
    result = run(chain=chain, student=NanLater(1, 5, gradient_only=gradient_only))
    assert result.valid.tolist() == [True, False, True]
    assert not result.kept[1]
    for k in (0, 2):
        torch.testing.assert_close(result.images[k], expected.images[k])
    # Two calls an iteration: the fifth is the third candidate's, after which the image stands still.
    assert torch.equal(chain.starts[3][1], chain.starts[2][1])
    assert torch.equal(chain.starts[4][1], chain.starts[2][1])
    assert not torch.equal(chain.starts[2][1], chain.starts[1][1])
    finals = [samples.latents[1] for samples in chain.results]
    candidates = result.scores[: 3 if gradient_only else 2, 1]
    assert torch.equal(result.latents[1], finals[int(candidates.argmax())])


def test_an_image_that_is_nan_from_the_start():
    latents = seeded_noise(SEEDS, (2, SIDE, SIDE)).double()
    latents[0] = math.nan
    result = run(latents=latents)
    assert result.valid.tolist() == [False, True, True]
    torch.testing.assert_close(result.images[1:], run().images[1:])


class HostReads(TorchDispatchMode):
    """Counts what would wait for a device."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.NAMES and not self.paused:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_from_the_device(monkeypatch):
    # On a GPU arguments are not inspected, and Adam's count of its steps, a number on the CPU, is not either.
    monkeypatch.setattr(_checks, "inspectable", lambda value: False)
    chain = sampler()
    with HostReads() as reads:
        torch.ones(1).item()
        assert reads.found
        reads.found.clear()
        handles = [
            register_optimizer_step_pre_hook(lambda *_: setattr(reads, "paused", True)),
            register_optimizer_step_post_hook(lambda *_: setattr(reads, "paused", False)),
        ]
        try:
            run(chain=chain)
        finally:
            for handle in handles:
                handle.remove()
    assert reads.found == []


def test_networks_are_constants():
    denoiser, student = TinyDenoiser(strength=0.5, dropout=0.5).requires_grad_(True).train(), classifier(0).train()
    before = [p.clone() for p in (*denoiser.parameters(), *student.parameters())]
    result = run(chain=sampler(denoiser=denoiser), student=student)
    torch.testing.assert_close(result.images, run().images)
    after = [*denoiser.parameters(), *student.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None and p.requires_grad for p in after)
    assert denoiser.training
    assert student.training


def test_unguided_images_are_samples():
    chain = sampler()
    result = run(chain=chain, settings=replace(SETTINGS, iterations=0))
    assert len(chain.results) == 1
    assert torch.equal(result.images, result.images_before)
    assert torch.equal(result.latents, chain.results[0].latents)


def test_start_from_inverted_images():
    chain = sampler(scale=1.0, denoiser=TinyDenoiser(strength=0.05))
    clean = torch.rand(3, 2, SIDE, SIDE, dtype=torch.float64)
    conditioning = torch.randn(3, 6, dtype=torch.float64)
    start = chain.invert(clean, conditioning, iterations=40)
    result = run(chain=chain, latents=start, conditioning=conditioning)
    torch.testing.assert_close(result.images_before, clean.tanh(), rtol=1e-5, atol=1e-6)
    assert (result.images - result.images_before).abs().amax((1, 2, 3)).min() > 1e-3


def test_seeded_noise_is_that_of_each_seed():
    together = seeded_noise([4, 9], (2, 3))
    assert torch.equal(together[1:], seeded_noise([9], (2, 3)))
    assert not torch.equal(together[0], together[1])


def test_the_teacher_filter_asks_for_confidence():
    result = run(settings=replace(SETTINGS, iterations=10))
    least = float(result.teacher_after[result.kept].min()) + 1e-6
    strict = run(settings=replace(SETTINGS, iterations=10, min_teacher_confidence=least))
    assert strict.kept.sum() == result.kept.sum() - 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CutOuts(size=0), ValueError, "size must be an integer"),
        (lambda: CutOuts(noise=-1.0), ValueError, "noise must be finite and at least 0"),
        (lambda: CutOuts(smallest=9)(torch.rand(1, 3, 8, 9), generators(0)), ValueError, "smallest <= largest <= 8"),
        (lambda: CutOuts()(torch.rand(2, 3, 8, 9), generators(0)), ValueError, "generators must be one an image, 2"),
        (lambda: GuidanceObjective("sum"), ValueError, "form must be one of"),
        (lambda: GuidanceObjective("log", gamma=2.0), ValueError, "gamma is used only"),
        (lambda: GuidanceObjective("log", temperature=2.0), ValueError, "temperature is used only"),
        (lambda: GuidanceObjective("kl", models="teacher"), ValueError, "models must be 'both'"),
        (lambda: GuidanceSettings(iterations=-1), ValueError, "iterations must be an integer of at least 0"),
        (lambda: GuidanceSettings(rate=0.0), ValueError, "rate must be positive"),
        (lambda: GuidanceSettings(cutouts=None), TypeError, "cutouts must be CutOuts, got NoneType"),
        (lambda: GuidanceSettings(min_teacher_confidence=2), ValueError, "min_teacher_confidence must be in"),
        (lambda: run(settings=replace(SETTINGS, keep_last=4)), ValueError, "keep_last must be at most the 3 steps"),
        (lambda: run(latents=torch.rand(2, 2, 8, 8).double()), ValueError, r"labels must have shape \[2\]"),
        (
            lambda: run((0, 1), student=nn.Sequential(nn.Flatten(), nn.Linear(72, 6)).double()),
            ValueError,
            "student and teacher must have the same classes, got logits of 6 and of 5",
        ),
        (lambda: seeded_noise([-1], (2,)), ValueError, "seeds must be integers"),
        (lambda: seeded_noise([], (2,)), ValueError, "seeds must be at least one"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
