"""MixUp and CutMix: what they draw, and what they make of it."""

import math

import pytest
import torch
from torch import nn

from hardfast.augment import CutMix, MixAugmentor, MixUp
from hardfast.data import LabelledImages
from hardfast.diffusion import CutOuts, GuidanceSettings
from hardfast.diffusion.guidance import guide_augmentor
from hardfast.distill import Trainer, TrainerConfig

MIXES = [MixUp, CutMix]
KINDS = {"gaussian": {}, "mixture": {"components": 3}, "conditional": {"conditional": True, "in_channels": 2}}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def level(count: int, size: tuple[int, int] = (16, 16), dtype=torch.float32) -> torch.Tensor:
    """Images of one value each, by which a pixel tells the image that it came from."""
    return torch.arange(count, dtype=dtype).view(-1, 1, 1, 1).expand(count, 1, *size)


@pytest.mark.parametrize("mix", MIXES)
def test_the_generator_alone_decides_the_draw(mix):
    augmentor, images = mix(), torch.rand(8, 3, 6, 9)
    before = torch.get_rng_state()
    first, again, other = (augmentor(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 5.0])
def test_shares_follow_a_symmetric_beta_distribution(alpha):
    variables = MixUp(alpha).draw(torch.zeros(20_000, 1, 1, 1), seeded(3))
    share = variables["share"]
    assert 0 <= share.min() <= share.max() <= 1
    assert share.mean().item() == pytest.approx(0.5, abs=0.01)
    if alpha >= 0.3:  # below, Gamma variables are too small for float32 and the tails are cut
        assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    assert sorted(variables["partner"].tolist()) == list(range(20_000))
    assert 0 <= variables["place"].min() <= variables["place"].max() < 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_mixup_is_the_weighted_mean(dtype):
    images = torch.rand(5, 2, 4, 3).to(dtype)
    augmentor = MixUp()
    variables = augmentor.draw(images, seeded(7))
    mixed = augmentor.render(images, variables)
    assert mixed.dtype == dtype
    for k in range(5):
        share, partner = float(variables["share"][k]), images[variables["partner"][k]]
        expected = share * images[k].double() + (1 - share) * partner.double()
        torch.testing.assert_close(mixed[k].double(), expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (12, 40)])
def test_cutmix_pastes_a_rectangle_of_the_shape_of_the_image(size):
    count = 300
    augmentor, images = CutMix(), level(count, size)
    variables = augmentor.draw(images, seeded(4))
    mixed = augmentor.render(images, variables)
    for k in range(count):
        partner, share = int(variables["partner"][k]), float(variables["share"][k])
        assert set(mixed[k].unique().tolist()) <= {float(k), float(partner)}
        if partner == k:
            continue
        inside = mixed[k, 0] == partner
        for axis, length in enumerate(size):
            pixels = inside.any(1 - axis).nonzero()[:, 0]
            assert torch.equal(inside, inside.any(1, keepdim=True) & inside.any(0, keepdim=True))
            # A side of a rectangle that is cut at the image's edge.
            centre, half = float(variables["place"][k, axis]) * length, math.sqrt(1 - share) * length / 2
            expected = min(length, centre + half) - max(0.0, centre - half)
            if inside.any():
                assert len(pixels) == pytest.approx(expected, abs=1 + 1e-3)
            else:
                assert math.sqrt(1 - share) * min(size) < 1 + 1e-3


def test_cutmix_area_is_the_partners_share_where_nothing_is_cut():
    augmentor, images = CutMix(), level(2000, (64, 64))
    variables = augmentor.draw(images, seeded(5))
    partner = variables["partner"]
    middle = variables | {"place": torch.full((2000, 2), 0.5)}
    other = partner != torch.arange(2000)
    areas, cut = (
        (augmentor.render(images, drawn) == partner.view(-1, 1, 1, 1)).double().mean((1, 2, 3))[other]
        for drawn in (middle, variables)
    )
    torch.testing.assert_close(areas, 1 - variables["share"][other].double(), atol=0.05, rtol=0)
    assert areas.mean().item() == pytest.approx(0.5, abs=0.02)
    assert (cut <= areas + 0.05).all()
    assert cut.mean() < areas.mean() - 0.05


@pytest.mark.parametrize("mix", MIXES)
def test_gradients_reach_the_images(mix):
    augmentor, images = mix(), torch.rand(4, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    variables = augmentor.draw(images, seeded(1))
    assert torch.autograd.gradcheck(lambda x: augmentor.render(x, variables), (images,))


@pytest.mark.parametrize("mix", MIXES)
def test_a_batch_of_one_is_left_as_it_is(mix):
    image = torch.rand(1, 3, 5, 5)
    torch.testing.assert_close(mix()(image, seeded(0)), image)


@pytest.mark.parametrize("mix", MIXES)
def test_nothing_is_learned_and_nothing_stored(mix):
    augmentor = mix(0.4)
    assert list(augmentor.parameters()) == []
    assert augmentor.state_dict() == {}
    assert augmentor.frozen().alpha == 0.4
    assert "alpha=0.4" in repr(augmentor)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_must_be_positive(mix, alpha):
    with pytest.raises(ValueError, match="alpha must be positive"):
        mix(alpha)


@pytest.mark.parametrize("mix", MIXES)
def test_a_student_trains_on_mixed_images(mix):
    train = LabelledImages(torch.rand(20, 1, 4, 4), torch.randint(3, (20,)))
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(2))
    config = TrainerConfig(steps=60, batch_size=10, learning_rate=0.1)
    before = (student(train.images).softmax(1) - teacher(train.images).softmax(1)).abs().max()
    Trainer(student, train, train, config, teacher=teacher, augmentor=mix()).fit()
    assert (student(train.images).softmax(1) - teacher(train.images).softmax(1)).abs().max() < 0.3 * before


@pytest.mark.parametrize("mix", MIXES)
def test_a_search_refuses_what_mixes_the_images_of_a_batch(mix):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    settings = GuidanceSettings(cutouts=CutOuts(4, None, count=1), iterations=1)
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    with pytest.raises(
        TypeError,
        match=rf"augmentor must draw floating-point variables.*got torch.int64 from {mix.__name__} for 'partner'",
    ):
        guide_augmentor(mix(), network, network, images, labels, [1, 2], settings=settings)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_describe_tells_the_share(mix, alpha):
    share = 100 * mix(alpha).draw(torch.zeros(20_000, 1, 1, 1), seeded(1))["share"]
    described = mix(alpha).describe((8, 8))
    assert set(described) == {"share_percent"}
    assert described["share_percent"] == pytest.approx((share.mean().item(), share.std().item()), rel=0.02)


def learned(**options) -> MixAugmentor:
    """With parameters that are nowhere zero or equal."""
    augmentor = MixAugmentor(**options).double()
    generator = seeded(8)
    with torch.no_grad():
        for parameter in augmentor.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return augmentor


@pytest.mark.parametrize("size", [(7, 12), (16, 5)])
def test_learned_mix_is_plain_pytorch(size):
    augmentor = learned(softness=0.1)
    images = torch.rand(6, 2, *size, dtype=torch.float64, generator=seeded(1))
    noise = augmentor.noise(images, seeded(2))
    logits = augmentor.mean_offset + augmentor.log_scale.exp() * noise["normal"]
    expected = []
    for k, (opacity, y, x, height, width) in enumerate(torch.sigmoid(logits)):
        fades = []
        for length, centre, side in ((size[0], y, height), (size[1], x, width)):
            distance = ((torch.arange(length).double() + 0.5) / length - centre).abs()
            fades.append(1 / (1 + torch.exp((distance - side) / 0.1)))
        seen = opacity * fades[0][:, None] * fades[1]
        expected.append((1 - seen) * images[k] + seen * images[noise["partner"][k]])
    actual = augmentor.transform(images, noise)
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-12, rtol=0)
    weight = torch.randn(actual.shape, generator=seeded(3), dtype=torch.float64)
    gradients = (
        torch.autograd.grad((weight * output).sum(), [augmentor.mean_offset, augmentor.log_scale])
        for output in (actual, torch.stack(expected))
    )
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_learned_mix_learns(kind):
    augmentor, images = learned(**KINDS[kind]), torch.rand(20, 2, 6, 9, dtype=torch.float64, generator=seeded(1))
    augmentor(images, seeded(2)).square().sum().backward()
    for name, parameter in augmentor.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_learned_mix_keeps_state_and_formats(kind):
    augmentor, other = learned(**KINDS[kind]).float(), MixAugmentor(**KINDS[kind])
    other.load_state_dict(augmentor.state_dict())
    images = torch.rand(3, 2, 6, 9)
    first, again, different = (module(images, seeded(k)) for module, k in ((augmentor, 1), (other, 1), (other, 2)))
    assert torch.equal(first, again)
    assert not torch.equal(first, different)
    assert other.frozen()(images.bfloat16(), seeded(1)).dtype == torch.bfloat16
    assert augmentor(images[:0]).shape == (0, 2, 6, 9)
    torch.testing.assert_close(augmentor(images[:1]), images[:1])


def test_mixup_and_cutmix_are_limits_of_the_learned_mix():
    augmentor, images = MixAugmentor(softness=1e-4, initial_scale=0.01), level(4, (8, 8), torch.float32)
    noise = augmentor.noise(images, seeded(3))
    partner = images[noise["partner"]]
    with torch.no_grad():
        augmentor.log_scale.fill_(-30)
        augmentor.mean_offset.copy_(torch.tensor([math.log(3), 0, 0, 30, 30]) / 0.01)
        torch.testing.assert_close(augmentor.transform(images, noise), 0.25 * images + 0.75 * partner)
        half = math.log(0.25 / 0.75)  # of twice the side a quarter
        augmentor.mean_offset.copy_(torch.tensor([30, 0, 0, half, half]) / 0.01)
        cut = {"partner": noise["partner"], "share": torch.full((4,), 0.75), "place": torch.full((4, 2), 0.5)}
        torch.testing.assert_close(augmentor.transform(images, noise), CutMix().render(images, cut))


def test_learned_mix_describes_its_draws():
    augmentor = learned(components=2).float()
    described, size = augmentor.describe((12, 30)), (12, 30)
    images = level(5000, size)
    variables = augmentor.draw(images, seeded(9))
    kept = augmentor.kept(variables, size).detach()
    expected = {
        "share_percent": 100 * kept.mean((1, 2, 3)),
        "opacity_percent": 100 * variables["opacity"],
        "centre_x_px": 30 * variables["centre"][:, 1],
        "centre_y_px": 12 * variables["centre"][:, 0],
        "width_px": 30 * variables["side"][:, 1],
        "height_px": 12 * variables["side"][:, 0],
    }
    assert list(described) == list(expected)
    for name, value in expected.items():
        spread = value.std().item()
        assert described[name].mean == pytest.approx(value.mean().item(), abs=0.08 * spread), name
        assert described[name].std == pytest.approx(spread, rel=0.08), name
    assert all(value > 0 for value in augmentor.scalars().values())


def test_softness_must_be_positive():
    with pytest.raises(ValueError, match="softness must be positive"):
        MixAugmentor(softness=0.0)
