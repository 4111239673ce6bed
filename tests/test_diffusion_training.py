"""The training of a small diffusion model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hardfast.diffusion.training import train_denoiser

ALPHA_BAR = torch.linspace(0.999, 0.01, 50, dtype=torch.float64)
NULL = 2


class Denoiser(nn.Module):
    """Linear in latents and noise level, by class; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.classes = nn.Embedding(3, 4)
        self.layers = nn.Sequential(nn.Linear(9, 32), nn.SiLU(), nn.Linear(32, 4))
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, latents: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        self.seen.append((latents, t, labels))
        level = (t / len(ALPHA_BAR)).float()[:, None]
        return self.layers(torch.cat([latents, self.classes(labels), level], 1))


def points(count: int = 60) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    return (2.0 * labels - 1)[:, None].expand(-1, 4) * torch.tensor([1.0, -1, 0.5, 0]), labels


def trained(model: nn.Module | None = None, **options) -> nn.Module:
    settings = {"steps": 40, "batch_size": 16, "learning_rate": 0.01, "null_label": NULL} | options
    return train_denoiser(model or Denoiser(), *points(), ALPHA_BAR, **settings)


def loss(model: nn.Module, null: bool = False) -> float:
    """The error of predicted noise, at all levels."""
    generator = torch.Generator().manual_seed(1)
    clean, labels = (x.repeat(20, *[1] * (x.dim() - 1)) for x in points())
    t = torch.randint(50, (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    level = ALPHA_BAR[t].float()[:, None]
    labels = torch.full_like(labels, NULL) if null else labels
    with torch.no_grad():
        prediction = model(level.sqrt() * clean + (1 - level).sqrt() * noise, t, labels)
    return (prediction - noise).square().mean().item()


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_error_falls_and_the_class_is_used():
    before, model = loss(Denoiser()), trained(steps=600)
    assert before > 0.9
    assert loss(model) < 0.4 * before
    # The classes are opposite: who does not know which one it is cannot know the noise as well.
    assert loss(model, null=True) > 1.2 * loss(model)


def test_the_seed_alone_decides():
    first = trained()
    torch.manual_seed(8)
    state = torch.get_rng_state()
    again = trained(Denoiser())
    assert same(first, again)
    assert not same(first, trained(seed=1))
    model = Denoiser()
    state = torch.get_rng_state()
    trained(model)
    assert torch.equal(state, torch.get_rng_state())


def test_what_comes_back_is_the_average_of_the_weights_constant_and_in_evaluation_mode():
    model = Denoiser()
    average = trained(model, steps=200, ema_decay=0.9)
    assert average is not model
    assert not same(average, model)
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())
    assert all(p.requires_grad for p in model.parameters())
    # Between the start and the end, and with this decay close to the end.
    start, end, mean = (m.layers[2].weight.detach() for m in (Denoiser(), model, average))
    assert 0 < (mean - end).norm() < 0.2 * (start - end).norm()
    slow = trained(steps=200, ema_decay=0.9999)
    assert (slow.layers[2].weight - end).norm() > (mean - end).norm()


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_some_latents_are_without_a_class(fraction):
    model = Denoiser()
    trained(model, null_fraction=fraction, steps=100)
    labels = torch.cat([given for _, _, given in model.seen])
    share = (labels == NULL).double().mean().item()
    assert share == pytest.approx(fraction, abs=0.04)
    if fraction < 1:
        assert set(labels[labels != NULL].tolist()) == {0, 1}


def test_latents_have_the_noise_of_their_time():
    model = Denoiser()
    trained(model, null_fraction=0.0, steps=200)
    latents, t, labels = (torch.cat(parts) for parts in zip(*model.seen, strict=True))
    assert set(t.tolist()) == set(range(50))
    level = ALPHA_BAR[t].float()[:, None]
    clean = points()[0][:2][labels]
    noise = (latents - level.sqrt() * clean) / (1 - level).sqrt()
    assert abs(noise.mean().item()) < 0.05
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    late = t >= 25
    assert noise[late].std().item() == pytest.approx(noise[~late].std().item(), abs=0.05)


def test_a_loss_that_is_no_number_stops_the_training():
    with pytest.raises(FloatingPointError, match=r"loss is not finite at step .*; lower its learning_rate"):
        trained(Denoiser(), steps=200, learning_rate=1e38)


def test_the_rate_falls_to_zero(monkeypatch):
    rates = []
    original = torch.optim.AdamW.step

    def watched(self, *args, **options):
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    trained(steps=20)
    expected = [0.01 * 0.5 * (1 + math.cos(math.pi * k / 20)) for k in range(20)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"null_fraction": 1.5}, r"null_fraction must be in \[0, 1\], got 1.5"),
        ({"ema_decay": 1.5}, r"ema_decay must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        trained(**options)
