"""Images by number: labels, seeds, the four starts, and what does not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusion_models import TinyDenoiser
from torch import Tensor, nn

from hardfast.augment import AffineAugmentor
from hardfast.data import LabelledImages
from hardfast.diffusion import CutOuts, GuidanceObjective, GuidanceSettings, Sampler, Schedule, guide, seeded_noise
from hardfast.diffusion.guidance import seeded_generators
from hardfast.diffusion.maker import STARTS, AugmentorMaker, DiffusionMaker, ImageModel

SIDE = 6
NAMES = ("ant", "bee", "cat")
SETTINGS = GuidanceSettings(
    GuidanceObjective("log"), CutOuts(SIDE, 4, count=2, noise=0.01), iterations=2, rate=0.1, latents_rate=0.1,
    keep_last=2,
)  # fmt: skip
CONDITIONS = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
NULL = torch.zeros(1, 6, dtype=torch.float64)
CPU = torch.device("cpu")


def classifier(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(2, 8, 3, stride=2), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, classes)
    return nn.Sequential(*layers).double()


class Pictures:
    """A lazy image set that remembers which images it was asked for; an image is filled with its number."""

    def __init__(self, labels) -> None:
        self.labels = torch.tensor(labels)
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: Tensor) -> Tensor:
        assert index.dtype == torch.int64
        self.asked += index.tolist()
        return (index.double() / len(self)).view(-1, 1, 1, 1).expand(-1, 2, SIDE, SIDE).clone()


SOURCES = [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 2, 1]


class PreciseDenoiser(TinyDenoiser):
    """Computes in float64, for latents of any precision."""

    def forward(self, latents: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        return super().forward(latents.double(), t, conditioning).to(latents.dtype)


def chain(scheduler=None, steps: int = 4) -> Sampler:
    schedule = Schedule.from_scheduler(scheduler or DDIMScheduler(clip_sample=False), steps)
    return Sampler(PreciseDenoiser(0.5), schedule, guidance_scale=1.5)


def encode(images: Tensor) -> Tensor:
    return 2 * images - 1


def decode(latents: Tensor) -> Tensor:
    return latents.double() / 2 + 0.5


MODEL = ImageModel(chain(), (2, SIDE, SIDE), CONDITIONS, NULL, decode, encode)


def maker(start: str = "noise", **options) -> DiffusionMaker:
    options = {"settings": SETTINGS, "sources": Pictures(SOURCES), "seed": 3, "model": MODEL} | options
    return DiffusionMaker(classifier(0), classifier(1), NAMES, start=start, **options)


def affine_maker(**options) -> AugmentorMaker:
    options = {"settings": SETTINGS, "sources": Pictures(SOURCES), "seed": 3} | options
    return AugmentorMaker(
        classifier(0), classifier(1), NAMES, augmentor=AffineAugmentor(initial_scale=0.3).double(), **options
    )


KINDS = (*STARTS, "affine")


def any_maker(kind: str, **options):
    return affine_maker(**options) if kind == "affine" else maker(kind, **options)


@pytest.mark.parametrize(("labels", "expected"), [(None, [1, 2, 0, 1, 2]), ((2, 0), [2, 0, 2, 0, 2])])
def test_labels_come_in_turn_by_number(labels, expected):
    found = maker(labels=labels).labels_of([4, 5, 6, 7, 8], CPU)
    assert found.dtype == torch.int64
    assert found.tolist() == expected
    assert maker(labels=labels).labels_of([8], CPU).tolist() == expected[4:]


def test_no_two_numbers_or_seeds_share_a_start():
    """PyTorch's generator on the CPU looks at 32 bits of a seed alone, so that equal seeds are not all there is."""
    numbers = (0, 1, 2, 3, 1000, 10**9)
    seeds = {maker(seed=seed).seed_of(number) for seed in (0, 1, 2, 1000, 1001, 2**29 - 1) for number in numbers}
    assert len(seeds) == 36
    noise = seeded_noise(sorted(seeds), (4,))
    assert len(noise.unique(dim=0)) == 36
    cutouts = torch.stack([torch.randn(4, generator=g) for g in seeded_generators(sorted(seeds), CPU, stream=1)])
    assert len(torch.cat([noise, cutouts]).unique(dim=0)) == 72


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_number_alone(kind):
    together = any_maker(kind).make(range(4, 9))
    assert together.labels.tolist() == [1, 2, 0, 1, 2]
    assert together.valid.all()
    torch.manual_seed(99)
    tolerance = 1e-5 if kind == "noise" else 1e-9  # such noise is float32
    for numbers in ([8, 5], [6]):
        alone = any_maker(kind).make(numbers)
        where = [number - 4 for number in numbers]
        for name in ("images", "images_before", "labels", "teacher_after", "student_after"):
            expected = getattr(together, name)[where]
            torch.testing.assert_close(getattr(alone, name), expected, atol=tolerance, rtol=tolerance, msg=name)
    other = any_maker(kind, seed=4).make([6])
    if kind == "inverted":
        assert other.images.shape == (1, 2, SIDE, SIDE)
        return
    assert (other.images_before - together.images_before[2:3]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_raises_the_objective(kind):
    settings = dataclasses.replace(SETTINGS, iterations=5)
    found = any_maker(kind, settings=settings).make(range(4))
    assert (found.scores.amax(0) > found.scores[0]).any()
    assert found.scores.amax(0).mean() > found.scores[0].mean() + 1e-3
    unguided = any_maker(kind, settings=dataclasses.replace(SETTINGS, iterations=0)).make(range(4))
    torch.testing.assert_close(unguided.images, found.images_before)


def started(start: str, **options) -> tuple[Tensor, list[int]]:
    """Unguided images of four numbers, and the source of each."""
    one = maker(start, settings=dataclasses.replace(SETTINGS, iterations=0, keep_last=1), **options)
    images = one.make(range(4)).images
    return images, one.sources.asked


def given(asked: list[int]) -> tuple[Tensor, Tensor]:
    """Conditions and clean latents of four numbers."""
    return CONDITIONS[[0, 1, 2, 0]], encode(Pictures(SOURCES).load(torch.tensor(asked)))


NOISE = seeded_noise([3 * 2**32 + number for number in range(4)], (2, SIDE, SIDE))


def test_a_start_from_noise_is_the_samplers():
    images, asked = started("noise")
    assert asked == []
    torch.testing.assert_close(images, decode(chain()(NOISE, CONDITIONS[[0, 1, 2, 0]], NULL).latents))


def test_a_start_from_inversion_leads_back_to_the_real_image():
    smooth = dataclasses.replace(chain(steps=40), denoiser=PreciseDenoiser(0.1))
    images, asked = started("inverted", model=dataclasses.replace(MODEL, sampler=smooth))
    sources = Pictures(SOURCES).load(torch.tensor(asked))
    assert [SOURCES[k] for k in asked] == [0, 1, 2, 0]
    assert (images - sources).abs().mean() < 0.05
    conditions, clean = given(asked)
    noise = chain().invert(clean, conditions, NULL)
    images, _ = started("inverted")
    torch.testing.assert_close(images, decode(chain()(noise, conditions, NULL).latents))


@pytest.mark.parametrize("scheduler", [DDIMScheduler(clip_sample=False), EulerDiscreteScheduler()])
@pytest.mark.parametrize("start", ["same_class", "other_class"])
@pytest.mark.parametrize(("strength", "steps"), [(0.1, 1), (0.5, 2), (0.8, 3), (1.0, 4)])
def test_a_start_from_a_real_image_runs_the_last_part_of_the_chain(start, strength, steps, scheduler):
    images, asked = started(start, strength=strength, model=dataclasses.replace(MODEL, sampler=chain(scheduler)))
    assert [(SOURCES[k] == label) for k, label in zip(asked, [0, 1, 2, 0], strict=True)] == [start == "same_class"] * 4
    conditions, clean = given(asked)
    full = chain(scheduler).schedule
    signal = full.alpha_bar[-steps]
    latents = signal.sqrt() * clean + (1 - signal).sqrt() * NOISE
    part = Schedule(full.timesteps[-steps:], full.alpha_bar[-steps:], full.alpha_bar_next[-steps:])
    expected = Sampler(PreciseDenoiser(0.5), part, 1.5)(latents, conditions, NULL).latents
    torch.testing.assert_close(images, decode(expected))


def test_such_a_chain_is_long_enough_for_what_is_judged():
    found = maker("same_class", strength=0.1).make([0])
    assert found.valid.all()


def test_sources_are_spread_over_all_that_fit():
    one, labels = maker(), torch.zeros(300, dtype=torch.int64)
    one.sources_of(range(300), labels)
    assert set(one.sources.asked) == {0, 5, 6}
    assert min(one.sources.asked.count(k) for k in (0, 5, 6)) > 60
    one.sources.asked.clear()
    one.sources_of(range(300), labels, same_class=False)
    assert set(one.sources.asked) == set(range(12)) - {0, 5, 6}


def test_sources_that_are_not_there_are_named():
    none = torch.tensor([1])
    with pytest.raises(ValueError, match="sources must be given where a search starts from real images, got None"):
        maker("same_class", sources=None).make([0])
    with pytest.raises(ValueError, match="sources must have an image of class 'bee', got none"):
        maker(sources=Pictures([0, 2])).sources_of([1], none)
    with pytest.raises(ValueError, match="sources must have an image other than class 'bee', got none"):
        maker(sources=Pictures([1, 1])).sources_of([1], none, same_class=False)


def test_making_keeps_no_graph_of_an_encoder_that_learns():
    encoder = nn.Conv2d(2, 2, 1).double()
    seen = []
    encoder.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    for start in ("inverted", "same_class"):
        maker(start, model=dataclasses.replace(MODEL, encode=encoder)).make([0])
    assert seen == [False, False]
    assert encoder.weight.grad is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed must be an integer of at least 0, got -1"),
        ({"seed": 2**29}, ValueError, "seed must be below 536870912, got 536870912"),
        ({"seed": 1.5}, ValueError, "seed"),
        ({"labels": (0, 3)}, ValueError, r"labels must be in \[0, 3\), the classes, got 3"),
        ({"labels": (-1,)}, ValueError, "labels"),
        ({"labels": ()}, ValueError, r"labels must be at least one, or None for all classes, got \(\)"),
        ({"start": "image"}, ValueError, "start must be one of .*'inverted'.*, got 'image'"),
        ({"strength": 0}, ValueError, r"strength must be in \(0, 1\], got 0"),
        ({"strength": 1.1}, ValueError, "strength"),
        ({"strength": "half"}, TypeError, "strength must be a number, got str"),
        ({"model": dataclasses.replace(MODEL, conditions=CONDITIONS[:2])}, ValueError,
         "conditions must be one for each of the 3 classes, got 2"),
        ({"start": "other_class", "model": dataclasses.replace(MODEL, encode=None)}, ValueError,
         "model must have encode to start from real images, got None with start='other_class'"),
    ],
)  # fmt: skip
def test_bad_arguments_raise(options, error, message):
    with pytest.raises(error, match=message):
        maker(**options)


@pytest.mark.parametrize("models", ["both", "teacher", "student"])
@pytest.mark.parametrize("form", ["log", "kl"])
def test_a_teacher_and_a_student_of_other_classes_are_named(models, form):
    if (models, form) in (("teacher", "kl"), ("student", "kl")):
        models = "both"
    settings = dataclasses.replace(SETTINGS, objective=GuidanceObjective(form, models=models))
    one = dataclasses.replace(maker(settings=settings), teacher=classifier(1, classes=4))
    message = "student and teacher must have the same classes, got logits of 3 and of 4"
    with pytest.raises(ValueError, match=message):
        one.make([0, 1])
    other = dataclasses.replace(affine_maker(settings=settings), teacher=classifier(1, classes=4))
    with pytest.raises(ValueError, match=message):
        other.make([0, 1])


@pytest.mark.parametrize("form", ["log", "kl"])
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_classes_is_an_error_on_the_cpu(form, label):
    settings = dataclasses.replace(SETTINGS, objective=GuidanceObjective(form))
    with pytest.raises(ValueError, match=rf"labels must lie in 0 .. 2, got {label}"):
        guide(
            chain(), classifier(0), classifier(1), torch.tensor([0, label]), NOISE[:2].double(), [1, 2],
            conditioning=CONDITIONS[:2], null_conditioning=NULL, decode=decode, settings=settings,
        )  # fmt: skip


def test_the_classes_of_the_networks_must_be_those_named():
    one = dataclasses.replace(maker(), class_names=(*NAMES, "dog"), model=dataclasses.replace(
        MODEL, conditions=torch.cat([CONDITIONS, NULL])
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. 2, got 3"):
        one.make([0, 1, 2, 3])


@pytest.mark.parametrize(
    "scheduler",
    [DDIMScheduler(clip_sample=True), EulerDiscreteScheduler(), DDIMScheduler(prediction_type="v_prediction")],
)
def test_the_last_steps_of_a_schedule(scheduler):
    full = Schedule.from_scheduler(scheduler, 6)
    part = full.last(2)
    assert len(part) == 2
    for name in ("timesteps", "alpha_bar", "alpha_bar_next"):
        assert torch.equal(getattr(part, name), getattr(full, name)[4:])
    assert (part.prediction_type, part.clip_range) == (full.prediction_type, full.clip_range)
    assert part.initial_scale == 1.0  # latents in the middle of a chain have the scale of their level already
    for steps, message in ((0, "steps must be an integer of at least 1, got 0"), (7, "at most 6, .*got 7")):
        with pytest.raises(ValueError, match=message):
            full.last(steps)


def test_the_last_steps_go_on_where_the_first_ones_stop():
    sampler = chain(DDIMScheduler(clip_sample=False), 5)
    schedule, latents = sampler.schedule, NOISE.double()
    arguments = (CONDITIONS[[0, 1, 2, 0]], NULL)
    first = Schedule(schedule.timesteps[:3], schedule.alpha_bar[:3], schedule.alpha_bar_next[:3])
    middle = dataclasses.replace(sampler, schedule=first)(latents, *arguments).latents
    ended = dataclasses.replace(sampler, schedule=schedule.last(2))(middle, *arguments).latents
    torch.testing.assert_close(ended, sampler(latents, *arguments).latents)


def test_images_in_memory_are_sources_too():
    memory = LabelledImages(Pictures(SOURCES).load(torch.arange(12)), torch.tensor(SOURCES))
    lazy, eager = maker("same_class").make(range(3)), maker("same_class", sources=memory).make(range(3))
    assert torch.equal(lazy.images, eager.images)
