"""The edited very deep VAE: what it draws, from which distribution of which block, and what it learns."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from test_vdvae import GREY, SMALL, pictures, random_model, seeded
from torch import Tensor
from torch.nn import functional as F

from hardfast.augment import HierarchicalAugmentor
from hardfast.models import VDVAE

BLOCKS = 5


def augmentor_of(config=SMALL, start: int = 1, end: int = 4, **options) -> HierarchicalAugmentor:
    return HierarchicalAugmentor(random_model(config), start, end, **options)


def with_edits(augmentor: HierarchicalAugmentor, size: float = 0.3) -> HierarchicalAugmentor:
    with torch.no_grad():
        for parameter in augmentor.parameters():
            parameter += size * torch.randn(parameter.shape, dtype=parameter.dtype, generator=seeded(11))
    return augmentor


def plainly(
    model: VDVAE, images: Tensor, noise: dict[str, Tensor], start: int, end: int, *,
    weight: Tensor, bias: Tensor, later: str = "prior", drawn: bool = True, std=lambda s: F.elu(s) + 1,
) -> Tensor:  # fmt: skip
    """The same mathematics block by block, with convolutions and torch.distributions-like plain steps."""
    encoded, state, used = model.encode(images), {}, 0
    for index, (layer, block) in enumerate(zip(model.config.decoder, model.decoder.dec_blocks, strict=True)):
        side, z_dim = layer.side, model.config.z_dim
        x = state.get(side, model.decoder.bias_xs[[1, 3, 6].index(side)].repeat(len(images), 1, 1, 1))
        if layer.other:
            x = x + F.interpolate(state[layer.other], scale_factor=side // layer.other)
        prior = block.prior(x)
        statistics = block.enc(torch.cat([x, encoded[side]], 1))
        if start <= index < end:
            edit = index - start
            kernel = torch.eye(2 * z_dim, dtype=weight.dtype) + weight[edit]
            statistics = F.conv2d(statistics, kernel[:, :, None, None], bias[edit])
        if index >= end and later == "prior":
            statistics = prior[:, : 2 * z_dim]
        numbers = z_dim * side * side
        normal = noise["normal"][:, used : used + numbers].view(-1, z_dim, side, side)
        used += numbers
        z = statistics[:, :z_dim] + std(statistics[:, z_dim:]) * normal
        x = x + prior[:, 2 * z_dim :] + block.z_proj(z)
        state[side] = x + block.resnet(x)
    mixture = model.decoder.out_net(state[6] * model.decoder.gain + model.decoder.bias)
    pixels = mixture.soft_sample(noise["gumbel"], noise["logistic"], 1.0) if drawn else mixture.mean()
    return (pixels + 1) / 2


@pytest.mark.parametrize("config", [SMALL, GREY])
@pytest.mark.parametrize(("start", "end"), [(0, BLOCKS), (0, 1), (2, 4), (4, 5)])
@pytest.mark.parametrize("later", ["prior", "posterior"])
def test_images_and_gradients_are_those_of_the_plain_computation(config, start, end, later):
    augmentor = with_edits(augmentor_of(config, start, end, later=later))
    images = pictures(config)
    noise = augmentor.noise(images, seeded(1))
    weight = torch.randn(images.shape, dtype=torch.float64, generator=seeded(3))
    found = augmentor.transform(images, noise)
    edits = {"weight": augmentor.edit_weight, "bias": augmentor.edit_bias}
    wanted = plainly(augmentor.vae, images, noise, start, end, later=later, **edits)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad((weight * found).sum(), augmentor.parameters())
    expected = torch.autograd.grad((weight * wanted).sum(), augmentor.parameters())
    for one, other in zip(gradients, expected, strict=True):
        assert (one.flatten(1).abs().amax(1) > 0).all()
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("config", [SMALL, GREY])
@pytest.mark.parametrize("pixels", ["mixture", "mean"])
def test_at_the_start_it_is_the_plain_autoencoder(config, pixels):
    augmentor = augmentor_of(config, 1, 3, later="posterior", pixels=pixels)
    images = pictures(config)
    noise = augmentor.noise(images, seeded(4))
    none = {"weight": torch.zeros_like(augmentor.edit_weight), "bias": torch.zeros_like(augmentor.edit_bias)}
    wanted = plainly(augmentor.vae, images, noise, 0, 0, later="posterior", drawn=pixels == "mixture", **none)
    torch.testing.assert_close(augmentor.transform(images, noise), wanted, rtol=1e-12, atol=1e-13)
    gradient = torch.autograd.grad(augmentor.transform(images, noise).square().sum(), augmentor.edit_weight)[0]
    assert (gradient != 0).all()


def test_small_standard_deviations_are_those_of_the_released_model():
    model = random_model(SMALL)
    with torch.no_grad():
        for block in model.decoder.dec_blocks:
            block.enc.c4.bias[SMALL.z_dim :] -= 3
    augmentor = HierarchicalAugmentor(model, 0, BLOCKS)
    images = pictures(SMALL)
    noise = augmentor.noise(images, seeded(1))
    edits = {"weight": augmentor.edit_weight, "bias": augmentor.edit_bias}
    wanted = plainly(model, images, noise, 0, BLOCKS, std=torch.exp, **edits)
    torch.testing.assert_close(augmentor.transform(images, noise), wanted)
    with torch.no_grad():
        augmentor.edit_bias[:, SMALL.z_dim :] += 60  # exp would overflow in half precision, and drown all else here
    assert augmentor.transform(images, noise).isfinite().all()
    assert not torch.allclose(
        augmentor.transform(images, noise), plainly(model, images, noise, 0, 5, std=torch.exp, **edits)
    )


def test_the_range_decides_what_depends_on_the_image_and_on_the_edits():
    images = pictures(SMALL)
    other = images.flip(0)
    for later, depends in (("prior", False), ("posterior", True)):
        augmentor = with_edits(augmentor_of(start=2, end=3, later=later))
        noise = augmentor.noise(images, seeded(1))
        with torch.no_grad():
            for block in list(augmentor.vae.decoder.dec_blocks)[:3]:
                block.enc.c4.weight.zero_()  # no posterior up to the end of the range sees the image
        same = torch.allclose(augmentor.transform(images, noise), augmentor.transform(other, noise))
        assert same is not depends


def test_all_randomness_comes_from_the_generator():
    augmentor, images = augmentor_of(), pictures(SMALL)
    before = torch.get_rng_state()
    one, again, other = (augmentor(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert set(augmentor.noise(images)) == {"normal", "gumbel", "logistic"}
    mean = augmentor_of(pixels="mean")
    assert set(mean.noise(images)) == {"normal"}
    assert (mean(images, seeded(1)) >= 0).all()
    assert (mean(images, seeded(1)) <= 1).all()


@pytest.mark.parametrize("count", [0, 1, 4])
def test_images_do_not_see_each_other(count):
    augmentor, images = with_edits(augmentor_of()), pictures(SMALL, count)
    noise = augmentor.noise(images, seeded(1))
    together = augmentor.transform(images, noise)
    assert together.shape == images.shape
    for k in range(count):
        alone = augmentor.transform(images[k : k + 1], {name: value[k : k + 1] for name, value in noise.items()})
        torch.testing.assert_close(alone[0], together[k])


def test_variables_are_noise_and_the_edits_of_each_image():
    augmentor, images = with_edits(augmentor_of()), pictures(SMALL)
    variables = {name: value.detach().clone() for name, value in augmentor.draw(images, seeded(1)).items()}
    for value in variables.values():
        value.requires_grad_()
    rendered = augmentor.render(images, variables)
    assert torch.equal(rendered, augmentor(images, seeded(1)))
    for gradient in torch.autograd.grad(rendered[1].sum(), list(variables.values())):
        assert (gradient[1] != 0).any()
        assert not gradient[[0, 2]].any()


def test_the_transform_is_one_graph():
    config = dataclasses.replace(SMALL, encoder_layers="6d2,3d3,1", decoder_layers="1,3m1,6m3")
    augmentor = with_edits(augmentor_of(config, 1, 2))
    images = pictures(config)
    noise = augmentor.noise(images, seeded(1))
    compiled = torch.compile(augmentor.transform, backend="aot_eager", fullgraph=True)
    found, wanted = compiled(images, noise), augmentor.transform(images, noise)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), augmentor.parameters()),
        torch.autograd.grad(wanted.square().sum(), augmentor.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_the_network_is_a_constant_that_follows_the_augmentor():
    augmentor = augmentor_of(start=1, end=4)
    z = 2 * SMALL.z_dim
    shapes = {"edit_weight": (3, z, z), "edit_bias": (3, z)}
    assert {name: tuple(p.shape) for name, p in augmentor.named_parameters()} == shapes
    assert set(augmentor.state_dict()) == set(shapes)
    assert not any(parameter.requires_grad for parameter in augmentor.vae.parameters())
    assert augmentor.vae.decoder.gain.dtype == torch.float64
    augmentor.float()
    assert augmentor.vae.decoder.gain.dtype == torch.float32
    assert augmentor(pictures(SMALL).float(), seeded(1)).dtype == torch.float32
    assert augmentor.to("meta").vae.decoder.gain.device.type == "meta"


def test_a_frozen_copy_does_not_follow():
    augmentor, images = augmentor_of(), pictures(SMALL)
    frozen = augmentor.frozen()
    before = frozen(images, seeded())
    with_edits(augmentor)
    augmentor.vae.decoder.gain.add_(1)
    assert torch.equal(frozen(images, seeded()), before)
    other = augmentor_of()
    other.load_state_dict(with_edits(augmentor_of()).state_dict())
    assert torch.equal(other(images, seeded()), with_edits(augmentor_of())(images, seeded()))
    assert not any(p.requires_grad for p in frozen.parameters())
    assert torch.equal(copy.deepcopy(augmentor)(images, seeded()), augmentor(images, seeded()))


@torch.no_grad()
def measured(augmentor: HierarchicalAugmentor, images: Tensor) -> dict[str, tuple[float, float]]:
    """The changes of the posteriors' parameters themselves, in percent."""
    model, z_dim, found = augmentor.vae, augmentor.vae.config.z_dim, {}

    def choose(index, posterior, prior):
        here = posterior()
        if augmentor.start <= index < augmentor.end:
            edit = index - augmentor.start
            kernel = augmentor.edit_weight[edit][:, :, None, None]
            change = F.conv2d(torch.cat(here, 1), kernel, augmentor.edit_bias[edit])
            for name, part in (("mean", change[:, :z_dim]), ("spread", change[:, z_dim:])):
                part = part.transpose(0, 1).flatten(1)
                if name == "mean":
                    part = part / (2 * here.log_std).exp().mean((0, 2, 3)).sqrt()[:, None]
                found[f"block_{index}_{name}_percent"] = (100 * float(part.mean()), 100 * float(part.std(correction=0)))
        return here.mean

    model.decode(len(images), choose, model.encode(images))
    return found


def test_it_describes_what_the_edits_do_to_the_posteriors():
    images = pictures(SMALL, 200)
    augmentor = augmentor_of(reference=images)
    assert all(entry == (0.0, 0.0) for entry in augmentor.describe((6, 6)).values())
    with_edits(augmentor)
    described, wanted = augmentor.describe((6, 6)), measured(augmentor, images)
    assert list(described) == [f"block_{k}_{name}_percent" for k in (1, 2, 3) for name in ("mean", "spread")]
    for name, (mean, std) in wanted.items():
        # The unit of the mean's move takes the logarithms of the standard deviations for normally distributed.
        assert described[name].mean == pytest.approx(mean, rel=0.1, abs=0.1)
        assert described[name].std == pytest.approx(std, rel=0.1, abs=0.1)
        assert std > 1
    without = with_edits(augmentor_of()).describe((6, 6))
    assert without == with_edits(augmentor_of()).describe((6, 6))
    assert set(without) == set(described)
    assert set(augmentor.arrays()) == {"edit_weight", "edit_bias"}
    assert all(value > 0 for value in augmentor.scalars().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1}, "start must be an integer of at least 0"),
        ({"start": 3, "end": 3}, "end must be an integer of at least 4"),
        ({"end": 6}, "end must be at most 5, the blocks of the decoder, got 6"),
        ({"later": "none"}, "later must be one of"),
        ({"pixels": "hard"}, "pixels must be one of"),
        ({"mixture_temperature": 0.0}, "mixture_temperature must be positive"),
        ({"reference": torch.zeros(1, 3, 6, 6)}, "reference must have at least 2 images, got 1"),
    ],
)
def test_bad_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        augmentor_of(**options)
