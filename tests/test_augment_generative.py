"""Augmentors in the latent space of a generative model, and the interface that HARD and ConfiG share."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDIMScheduler
from diffusion_models import TinyDenoiser
from torch import Tensor, nn

from hardfast.augment import AffineAugmentor, Augmentor, DiffusionAugmentor, LatentAugmentor
from hardfast.data import LabelledImages
from hardfast.diffusion import CutOuts, GuidanceObjective, GuidanceSettings, Sampler, Schedule
from hardfast.diffusion.guidance import guide_augmentor
from hardfast.distill import AugmentorObjective, FixedRatio, Trainer, TrainerConfig, accuracy, augmentor_step

SIDE = 6
CODE = (3, 3, 3)
NULL = torch.zeros(1, 6, dtype=torch.float64)
SETTINGS = GuidanceSettings(
    GuidanceObjective("log"), CutOuts(SIDE, 4, count=2, noise=0.01), iterations=6, rate=0.1, latents_rate=0.1
)


def condition(images: Tensor) -> Tensor:
    return images.mean((2, 3)).repeat(1, 3)


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(5)
    encode = nn.Conv2d(2, 3, 2, stride=2).double()
    decode = nn.Sequential(nn.ConvTranspose2d(3, 2, 2, stride=2), nn.Sigmoid()).double()
    with torch.no_grad():
        decode[0].weight *= 5
    return encode, decode


def augmentor_of(kind: str, **options) -> Augmentor:
    if kind == "affine":
        return AffineAugmentor(**options).double()
    if kind == "latent":
        return LatentAugmentor(*networks(), CODE, **options).double()
    schedule = Schedule.from_scheduler(DDIMScheduler(clip_sample=False), 4)
    sampler = Sampler(TinyDenoiser(0.5), schedule, guidance_scale=1.5)
    return DiffusionAugmentor(
        sampler, lambda x: 2 * x - 1, lambda z: z / 2 + 0.5, (2, SIDE, SIDE),
        **{"condition": condition, "null_condition": NULL} | options,
    ).double()  # fmt: skip


def classifier(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(2, 8, 3, stride=2), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 4)
    return nn.Sequential(*layers).double()


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 2, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


GENERATIVE = ["latent", "diffusion"]
KINDS = ["affine", *GENERATIVE]


@pytest.mark.parametrize("kind", GENERATIVE)
def test_the_parameters_are_those_of_the_distribution(kind):
    augmentor = augmentor_of(kind)
    shape = CODE if kind == "latent" else (2, SIDE, SIDE)
    assert {name: tuple(p.shape) for name, p in augmentor.named_parameters()} == {
        "mean_offset": shape,
        "log_scale": (shape[0], 1, 1),
    }
    assert set(augmentor.state_dict()) == {"mean_offset", "log_scale"}
    assert set(augmentor.scalars()) == {"scale_latents", "mean_latents"}


@pytest.mark.parametrize("kind", GENERATIVE)
def test_draws_follow_mean_and_scale_and_come_from_the_generator(kind):
    augmentor = augmentor_of(kind)
    with torch.no_grad():
        augmentor.mean_offset.copy_(torch.linspace(-1, 1, augmentor.mean.numel()).view_as(augmentor.mean))
        augmentor.log_scale.copy_(torch.linspace(-2, 0, len(augmentor.log_scale)).view_as(augmentor.log_scale))
    images = pictures(1).repeat(4000, 1, 1, 1)
    before = torch.get_rng_state()
    (drawn,) = augmentor.draw(images, seeded(1)).values()
    (again,) = augmentor.draw(images, seeded(1)).values()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(drawn, again)
    centre = augmentor.mean + (networks()[0](images[:1])[0] if kind == "latent" else 0)
    torch.testing.assert_close(drawn.mean(0).detach(), centre.detach(), atol=0.08, rtol=0)
    scale = augmentor.log_scale.exp().expand_as(augmentor.mean)
    torch.testing.assert_close(drawn.std(0).detach(), scale.detach(), atol=0, rtol=0.06)


@pytest.mark.parametrize("kind", GENERATIVE)
def test_the_gradient_reaches_the_distribution(kind):
    augmentor = augmentor_of(kind)
    images = pictures()
    weight = torch.randn(images.shape, dtype=torch.float64, generator=seeded(3))

    def value() -> Tensor:
        return (weight * augmentor(images, seeded(2))).sum()

    value().backward()
    for parameter in (augmentor.mean_offset, augmentor.log_scale):
        gradient = parameter.grad.clone()
        assert gradient.abs().min() > 0
        with torch.no_grad():
            direction = torch.randn(parameter.shape, dtype=torch.float64, generator=seeded(4))
            values = []
            for step in (1e-5, -2e-5):
                parameter += step * direction
                values.append(value())
            parameter += 1e-5 * direction
        expected = (values[0] - values[1]) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-8)


def test_latent_augmentor_is_the_autoencoder_around_moved_codes():
    encode, decode = networks()
    augmentor = LatentAugmentor(encode, decode, CODE, initial_scale=0.3).double()
    images = pictures()
    moves = 0.3 * torch.randn(3, *CODE, dtype=torch.float64, generator=seeded(6))
    expected = decode(encode(images) + moves)
    torch.testing.assert_close(augmentor(images, seeded(6)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("strength", "steps"), [(0.05, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_diffusion_augmentor_runs_the_last_part_of_the_chain(strength, steps):
    augmentor = augmentor_of("diffusion", strength=strength)
    images = pictures()
    noise = torch.randn(3, 2, SIDE, SIDE, dtype=torch.float64, generator=seeded(8))
    rendered = augmentor.render(images, {"noise": noise})
    full = Schedule.from_scheduler(DDIMScheduler(clip_sample=False), 4)
    part = Schedule(full.timesteps[4 - steps :], full.alpha_bar[4 - steps :], full.alpha_bar_next[4 - steps :])
    signal = full.alpha_bar[4 - steps]
    latents = signal.sqrt() * (2 * images - 1) + (1 - signal).sqrt() * noise
    samples = Sampler(TinyDenoiser(0.5), part, 1.5, "full")(latents, condition(images), NULL)
    torch.testing.assert_close(rendered, samples.latents / 2 + 0.5)


def test_a_stronger_diffusion_augmentor_leaves_less_of_the_image():
    images = pictures(8)
    with torch.no_grad():
        moved = [
            (augmentor_of("diffusion", strength=strength)(images, seeded(1)) - images).square().mean()
            for strength in (0.25, 0.5, 1.0)
        ]
    assert moved == sorted(moved)


def test_a_diffusion_model_without_conditions_is_taken():
    class Unconditional(nn.Module):
        def forward(self, latents, t, conditioning):
            assert conditioning is None
            return 0.1 * latents

    schedule = Schedule.from_scheduler(DDIMScheduler(clip_sample=False), 4)
    augmentor = DiffusionAugmentor(Sampler(Unconditional(), schedule), nn.Identity(), nn.Identity(), (2, SIDE, SIDE))
    assert augmentor(pictures().float()).shape == (3, 2, SIDE, SIDE)


@pytest.mark.parametrize("kind", GENERATIVE)
def test_a_frozen_copy_does_not_follow_the_original(kind):
    augmentor = augmentor_of(kind)
    frozen, images = augmentor.frozen(), pictures()
    before = frozen(images, seeded()).clone()
    with torch.no_grad():
        augmentor.mean_offset.add_(1)
        augmentor.log_scale.add_(1)
    assert torch.equal(frozen(images, seeded()), before)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in augmentor.parameters())
    copied = copy.deepcopy(augmentor)
    assert torch.equal(copied(images, seeded()), augmentor(images, seeded()))


@pytest.mark.parametrize("kind", GENERATIVE)
def test_weights_round_trip(kind):
    augmentor, other = augmentor_of(kind), augmentor_of(kind)
    with torch.no_grad():
        augmentor.mean_offset.add_(0.5)
    other.load_state_dict(augmentor.state_dict())
    assert torch.equal(other(pictures(), seeded()), augmentor(pictures(), seeded()))


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        ("latent", {"initial_scale": 0.0}, ValueError, "initial_scale must be positive"),
        ("latent", {"initial_scale": "1"}, TypeError, "initial_scale"),
        ("diffusion", {"strength": 0.0}, ValueError, r"strength must be in \(0, 1\], got 0.0"),
        ("diffusion", {"strength": 1.01}, ValueError, "strength"),
        ("diffusion", {"strength": float("nan")}, ValueError, "strength"),
        ("diffusion", {"strength": None}, TypeError, "strength"),
    ],
)
def test_bad_arguments_raise(kind, options, error, message):
    with pytest.raises(error, match=message):
        augmentor_of(kind, **options)


def learned_networks(train: LabelledImages) -> tuple[nn.Module, nn.Module]:
    student, teacher = classifier(0), classifier(1)
    Trainer(teacher, train, train, TrainerConfig(steps=40, batch_size=16, learning_rate=0.02)).fit()
    return student, teacher


def bright_channels(count: int = 32) -> LabelledImages:
    labels = torch.arange(count) % 4
    images = 0.3 * pictures(count)
    images[:, 0] += 0.6 * (labels % 2)[:, None, None]
    images[:, 1] += 0.6 * (labels // 2)[:, None, None]
    return LabelledImages(images, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_hards_loop_runs_and_learns(kind):
    train = bright_channels()
    student, teacher = learned_networks(train)
    augmentor = augmentor_of(kind)
    before = {name: value.clone() for name, value in augmentor.state_dict().items()}
    config = TrainerConfig(steps=30, batch_size=8, learning_rate=0.02, augmentor_learning_rate=0.05, snapshots=2)
    trainer = Trainer(student, train, train, config, teacher=teacher, augmentor=augmentor, alternation=FixedRatio(2))
    summary = trainer.fit()
    assert summary.augmentor_steps == 14
    assert summary.validation_accuracy >= 0.75 * accuracy(teacher, train.images, train.labels)
    assert all(not torch.equal(value, before[name]) for name, value in augmentor.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_the_augmentor_raise_the_disagreement(kind):
    student, teacher = learned_networks(bright_channels())
    augmentor, images = augmentor_of(kind), pictures(8)
    optimizer = torch.optim.Adam(augmentor.parameters(), lr=0.1)
    found = [
        augmentor_step(
            augmentor, student, teacher, images, optimizer, AugmentorObjective(teacher_weight=0.0),
            generator=seeded(1),
        ).disagreement.item()
        for _ in range(12)
    ]  # fmt: skip
    assert found[-1] > 1.2 * found[0]


def search(kind: str, pick=(0, 1, 2), *, images: Tensor | None = None, **options):
    pick = list(pick)
    images = pictures() if images is None else images
    return guide_augmentor(
        augmentor_of(kind), classifier(0), classifier(1), images[pick], torch.tensor([2, 0, 3])[pick],
        [(7, 41, 2**40)[k] for k in pick], settings=options.get("settings", SETTINGS),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_configs_search_raises_the_objective(kind):
    found = search(kind)
    assert found.scores.shape == (7, 3)
    assert (found.scores.amax(0) > found.scores[0]).all()
    assert found.scores.amax(0).mean() > found.scores[0].mean() + 0.05
    gap = [teacher - student for teacher, student in (
        (found.teacher_before, found.student_before), (found.teacher_after, found.student_after)
    )]  # fmt: skip
    assert gap[1].mean() > gap[0].mean()
    assert found.valid.all()
    assert found.images.shape == (3, 2, SIDE, SIDE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_does_not_depend_on_the_rest_of_the_batch(kind):
    together = search(kind)
    for k in range(3):
        alone = search(kind, [k])
        torch.testing.assert_close(alone.images[0], together.images[k], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(alone.scores[:, 0], together.scores[:, k], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_is_not_finite_is_dropped_and_the_others_go_on(kind):
    images = pictures()
    images[1] = torch.nan
    found, clean = search(kind, images=images), search(kind)
    assert found.valid.tolist() == [True, False, True]
    assert not found.kept[1]
    torch.testing.assert_close(found.images[::2], clean.images[::2], atol=1e-9, rtol=1e-9)


def test_searched_noise_keeps_its_norm_and_moves(monkeypatch):
    noises = []
    original = DiffusionAugmentor.render

    def watched(self, images, variables):
        noises.append(variables["noise"].detach().clone())
        return original(self, images, variables)

    monkeypatch.setattr(DiffusionAugmentor, "render", watched)
    assert DiffusionAugmentor.norm_preserved == {"noise"}
    assert not LatentAugmentor.norm_preserved
    search("diffusion")
    norms = torch.stack(noises).flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))
    assert all(not torch.equal(noises[0], later) for later in noises[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_leaves_the_augmentor_alone(kind):
    augmentor = augmentor_of(kind)
    before = copy.deepcopy(augmentor.state_dict())
    guide_augmentor(augmentor, classifier(0), classifier(1), pictures(1), torch.tensor([2]), [1], settings=SETTINGS)
    assert all(torch.equal(value, before[name]) for name, value in augmentor.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in augmentor.parameters())


def test_the_noise_is_described_by_channel_in_percent_of_standard_noise():
    augmentor = augmentor_of("diffusion")
    assert {name: tuple(entry) for name, entry in augmentor.describe((6, 6)).items()} == {
        "noise_0_percent": (0.0, 100.0),
        "noise_1_percent": (0.0, 100.0),
    }
    with torch.no_grad():
        augmentor.mean_offset[1] = torch.linspace(-1, 2, SIDE * SIDE).view(SIDE, SIDE)
        augmentor.log_scale[1] -= 0.5
    drawn = augmentor.draw(pictures(1).repeat(20_000, 1, 1, 1), seeded(1))["noise"][:, 1].detach()
    described = augmentor.describe((6, 6))["noise_1_percent"]
    assert described.mean == pytest.approx(100 * float(drawn.mean()), rel=0.01)
    assert described.std == pytest.approx(100 * float(drawn.std()), rel=0.01)
