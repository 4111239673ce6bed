"""The very deep VAE: the layout of the released weights, its likelihood, and files whole, prefixed or damaged."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hardfast.models import VDVAE, VDVAEConfig, load_vdvae
from hardfast.models.vdvae import RELEASED, Gaussian, Layer, parse_layers
from hardfast.models.vdvae_output import PixelMixture

RELEASES = {"CIFAR10": VDVAEConfig.CIFAR10, "IMAGENET32": VDVAEConfig.IMAGENET32, "IMAGENET64": VDVAEConfig.IMAGENET64}
SMALL = VDVAEConfig(
    image_size=6,
    channels=3,
    encoder_layers="6x2,6d2,3x1,3d3,1",
    decoder_layers="1x2,3m1,3x1,6m3",
    width=8,
    z_dim=2,
    bottleneck=0.5,
    mixtures=3,
    pixel_mean=100.0,
    pixel_std=50.0,
)
GREY = dataclasses.replace(SMALL, channels=1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_model(config: VDVAEConfig, seed: int = 0) -> VDVAE:
    """No weight is zero, as after training."""
    torch.manual_seed(seed)
    model = VDVAE(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(seed), dtype=torch.float64)
    return model.eval().requires_grad_(False)


def pictures(config: VDVAEConfig, count: int = 3) -> torch.Tensor:
    levels = torch.randint(256, (count, config.channels, config.image_size, config.image_size), generator=seeded(5))
    return levels.double() / 255


def conv(name: str, inputs: int, outputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def four(name: str, inputs: int, inside: int, outputs: int, side: int) -> dict[str, tuple[int, ...]]:
    kernel = 1 if side in (1, 2) else 3
    return (
        conv(f"{name}.c1", inputs, inside, 1)
        | conv(f"{name}.c2", inside, inside, kernel)
        | conv(f"{name}.c3", inside, inside, kernel)
        | conv(f"{name}.c4", inside, outputs, 1)
    )


def sides(text: str) -> list[int]:
    found: list[int] = []
    for item in text.split(","):
        side, letter, number = re.fullmatch(r"(\d+)([xmd]?)(\d*)", item).groups()
        found += [int(side)] * (int(number) if letter == "x" else 1)
    return found


def released_layout(width: int, encoder: str, decoder: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released checkpoint, written down from the published description."""
    inside, z = width // 4, 16
    layout = conv("encoder.in_conv", 3, width, 3)
    for k, side in enumerate(sides(encoder)):
        layout |= four(f"encoder.enc_blocks.{k}", width, inside, width, side)
    for k, side in enumerate(sides(decoder)):
        block = f"decoder.dec_blocks.{k}"
        layout |= four(f"{block}.enc", 2 * width, inside, 2 * z, side)
        layout |= four(f"{block}.prior", width, inside, 2 * z + width, side)
        layout |= conv(f"{block}.z_proj", z, width, 1)
        layout |= four(f"{block}.resnet", width, inside, width, side)
    for k, side in enumerate(sorted(set(sides(decoder)))):
        layout[f"decoder.bias_xs.{k}"] = (1, width, side, side)
    layout |= conv("decoder.out_net.out_conv", width, 100, 1)
    return layout | {"decoder.gain": (1, width, 1, 1), "decoder.bias": (1, width, 1, 1)}


@pytest.mark.parametrize(
    ("name", "width", "blocks", "millions"),
    [("CIFAR10", 384, 43, 39), ("IMAGENET32", 512, 78, 119), ("IMAGENET64", 512, 75, 125)],
)
def test_the_layout_is_that_of_the_released_weights(name, width, blocks, millions):
    config = RELEASES[name]
    with torch.device("meta"):
        model = VDVAE(config)
    expected = released_layout(width, config.encoder_layers, config.decoder_layers)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected
    # The numbers of parameters are those that are published with the weights.
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    assert len(model.latent_shapes) == blocks
    assert model.latent_shapes[0] == (16, 1, 1)
    assert model.latent_shapes[-1] == (16, config.image_size, config.image_size)


def test_layer_strings_are_read():
    assert parse_layers("encoder_layers", "8x2,8d2,4d4,1", "d") == (
        Layer(8, None), Layer(8, None), Layer(8, 2), Layer(4, 4), Layer(1, None)
    )  # fmt: skip
    for text in ("8x", "8m2", "x2", "8x2x2", "", "8x0", "-8"):
        with pytest.raises(ValueError, match=r"encoder_layers must be blocks such as"):
            parse_layers("encoder_layers", text, "d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"encoder_layers": "6x2,3x1"}, "encoder_layers must go down from 6 without a gap"),
        ({"encoder_layers": "6d4,1"}, "encoder_layers must go down"),
        ({"decoder_layers": "1x2,2m1,6m2"}, r"decoder_layers must have sides of the encoder, \[1, 3, 6\], got 2"),
        ({"decoder_layers": "1,6m3"}, "decoder_layers must take in smaller sides decoded before, got 3"),
        ({"decoder_layers": "1,3m1"}, "decoder_layers must end at 6, got 3"),
        ({"bottleneck": 0.1}, "bottleneck must leave a channel"),
        ({"width": 0}, "width must be an integer of at least 1"),
        ({"pixel_std": 0.0}, "pixel_std must be positive"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("config", [SMALL, GREY])
def test_the_likelihood_of_all_levels_sums_to_one(config):
    channels = config.channels
    kinds = (3, channels, 4, 1, 1)
    values = [torch.randn(kinds, dtype=torch.float64, generator=seeded(k)) for k in range(3)]
    mixture = PixelMixture(
        torch.randn(3, 4, 1, 1, dtype=torch.float64, generator=seeded(9)),
        values[0],
        values[1] - 2,
        values[2].tanh() if channels == 3 else None,
    )
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    grid = levels.expand(3, 256)
    if channels == 3:
        # Two channels given, the third summed: differences of the joint likelihood are those of the first two.
        given = levels[[40, 200]]
        pixels = torch.stack([given[0].expand_as(grid), given[1].expand_as(grid), grid], -1)
        with_blue = torch.stack([mixture.nll(pixels[:, k, :, None, None]) for k in range(256)])
        two = mixture._replace(log_scales=mixture.log_scales.clone())
        two.log_scales[:, 2] = 30.0  # blue is flat: all mass lies in its outermost levels, half in each
        expected = two.nll(pixels[:, 0, :, None, None]) - math.log(2)
        torch.testing.assert_close(-(-with_blue).logsumexp(0), expected, atol=1e-6, rtol=0)
    else:
        total = torch.stack([-mixture.nll(grid[:, k, None, None, None]) for k in range(256)]).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_likelihood_of_sharp_and_far_components_is_finite():
    mixture = PixelMixture(
        torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1, 1), 1.0), torch.full((1, 1, 1, 1, 1), -7.0), None
    )
    means = mixture.means.requires_grad_()
    nll = mixture.nll(torch.full((1, 1, 1, 1), -0.5))
    gradient = torch.autograd.grad(nll, means)[0]
    # Far in the tail the logistic's logarithm falls by its precision for each unit.
    torch.testing.assert_close(gradient.flatten(), torch.tensor([math.exp(7.0)]), rtol=1e-3, atol=0)
    torch.testing.assert_close(nll, torch.tensor([math.exp(7.0) * (1.5 - 1 / 255)]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("config", [SMALL, GREY])
def test_pixels_of_a_cold_mixture_are_true_samples_with_the_stated_mean(config):
    torch.manual_seed(1)
    count, channels, components = 40_000, config.channels, 3
    mixture = PixelMixture(
        torch.randn(1, components, 1, 1), torch.rand(1, channels, components, 1, 1) - 0.5,
        torch.full((1, channels, components, 1, 1), -4.0),
        0.3 * torch.randn(1, 3, components, 1, 1) if channels == 3 else None,
    )  # fmt: skip
    gumbel = -(-torch.rand(count, components, 1, 1).log()).log()
    logistic = torch.rand(count, channels, 1, 1).clamp(1e-5, 1 - 1e-5).logit()
    drawn = mixture.soft_sample(gumbel, logistic, 1e-3)
    torch.testing.assert_close(drawn.mean(0), mixture.mean()[0], atol=6e-3, rtol=0)
    assert drawn.std() > 0.05


def test_the_divergence_is_that_of_normal_distributions():
    one, two = (Gaussian(*torch.randn(2, 4, 3, 2, 2, generator=seeded(k))) for k in (0, 1))
    expected = torch.distributions.kl_divergence(
        *(torch.distributions.Normal(g.mean, g.log_std.exp()) for g in (one, two))
    )
    torch.testing.assert_close(one.divergence(two), expected.flatten(1).sum(1))


def plain_elbo(model: VDVAE, images: torch.Tensor, normals: list[torch.Tensor]) -> torch.Tensor:
    """The same network, written out along its parameters' names; nats for each number of each image."""
    config, weights = model.config, model.state_dict()

    def convolve(name, x):
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, weights[f"{name}.bias"], padding=kernel.shape[2] // 2)

    def block(name, x):
        for part in ("c1", "c2", "c3", "c4"):
            x = convolve(f"{name}.{part}", F.gelu(x))
        return x

    x = convolve("encoder.in_conv", (images * 255 - config.pixel_mean) / config.pixel_std)
    features = {}
    for k, rate in enumerate([1, 1, 2, 1, 3, 1]):
        x = x + block(f"encoder.enc_blocks.{k}", x)
        x = F.avg_pool2d(x, rate)
        features[x.shape[2]] = x
    state = {side: weights[f"decoder.bias_xs.{k}"].repeat(len(images), 1, 1, 1) for k, side in enumerate((1, 3, 6))}
    rate = 0
    for k, (side, source) in enumerate([(1, None), (1, None), (3, 1), (3, None), (6, 3)]):
        name = f"decoder.dec_blocks.{k}"
        x = state[side]
        if source:
            x = x + state[source].repeat_interleave(side // source, 2).repeat_interleave(side // source, 3)
        mean, log_std = block(f"{name}.enc", torch.cat([x, features[side]], 1)).chunk(2, 1)
        prior = block(f"{name}.prior", x)
        prior_mean, prior_log_std, more = prior[:, :2], prior[:, 2:4], prior[:, 4:]
        here, there = (
            torch.distributions.Normal(m, s.exp()) for m, s in ((mean, log_std), (prior_mean, prior_log_std))
        )
        rate = rate + torch.distributions.kl_divergence(here, there).sum((1, 2, 3))
        x = x + more + convolve(f"{name}.z_proj", mean + log_std.exp() * normals[k])
        state[side] = x + block(f"{name}.resnet", x)
    out = convolve("decoder.out_net.out_conv", state[6] * weights["decoder.gain"] + weights["decoder.bias"])
    total, count = 0, config.mixtures
    logits, rest = out[:, :count], out[:, count:]
    pixels = 2 * images - 1
    per_channel = rest.view(len(images), config.channels, -1, 6, 6)
    for channel in range(config.channels):
        means, log_scales = per_channel[:, channel, :count], per_channel[:, channel, count : 2 * count].clamp(min=-7)
        third = [per_channel[:, c, 2 * count :].tanh() for c in range(config.channels)]
        if channel == 1:
            means = means + third[0] * pixels[:, :1]
        if channel == 2:
            means = means + third[1] * pixels[:, :1] + third[2] * pixels[:, 1:2]
        here = pixels[:, channel : channel + 1]
        above = torch.where(here > 0.999, torch.inf, here + 1 / 255)
        below = torch.where(here < -0.999, -torch.inf, here - 1 / 255)
        up, down = (torch.sigmoid((edge - means) / log_scales.exp()) for edge in (above, below))
        total = total + (up - down).log()
    distortion = -(total + logits.log_softmax(1)).logsumexp(1).sum((1, 2))
    return (distortion + rate) / images[0].numel()


@pytest.mark.parametrize("config", [SMALL, GREY])
def test_the_bound_is_that_of_the_network_written_out(config):
    model, images = random_model(config), pictures(config)
    normals = model.split_latents(model.normal(3, seeded(3)))
    found = model.elbo(images, seeded(3))
    torch.testing.assert_close(found.loss, plain_elbo(model, images, normals).mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.loss, found.distortion + found.rate)
    assert found.rate > 0


@pytest.mark.parametrize("config", [SMALL, GREY])
def test_images_come_back_and_are_drawn_in_their_range(config):
    model, images = random_model(config), pictures(config, 4)
    for made in (model.reconstruct(images), model.sample(4, seeded(1))):
        assert made.shape == images.shape
        assert made.min() >= 0
        assert made.max() <= 1
        assert made.std() > 0.01
    assert torch.equal(model.sample(2, seeded(7)), model.sample(2, seeded(7)))
    assert not torch.equal(model.sample(2, seeded(7)), model.sample(2, seeded(8)))
    with pytest.raises(ValueError, match=r"images must have shape \[B, .*, 6, 6\], got"):
        model.encode(images[..., 1:])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_loaded_with_and_without_a_prefix(tmp_path, prefix):
    model = random_model(SMALL).float()
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "model.th")
    loaded = load_vdvae(tmp_path / "model.th", SMALL)
    images = pictures(SMALL).float()
    assert torch.equal(loaded.elbo(images, seeded(2)).loss, model.elbo(images, seeded(2)).loss)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("name", list(RELEASES))
def test_a_missing_file_is_named_with_its_source(tmp_path, name):
    config = RELEASES[name]
    with pytest.raises(FileNotFoundError, match=rf"no\.th .*{re.escape(RELEASED[config])}$"):
        load_vdvae(tmp_path / "no.th", config)
    assert re.search(rf"/{name.lower()}-.*ema\.th$", RELEASED[config])


def test_files_that_do_not_fit_are_refused(tmp_path):
    weights = random_model(SMALL).state_dict()
    path = tmp_path / "model.th"

    def refuse(content, message):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            load_vdvae(path, SMALL)

    missing = dict(weights)
    del missing["decoder.dec_blocks.1.z_proj.bias"]
    refuse(missing, r"must have decoder\.dec_blocks\.1\.z_proj\.bias of shape \[8\], which is missing")
    refuse(
        {**weights, "decoder.gain": torch.ones(1, 9, 1, 1)},
        r"decoder\.gain of shape \[1, 8, 1, 1\], got \[1, 9, 1, 1\]",
    )
    refuse({**weights, "decoder.dec_blocks.5.z_proj.bias": torch.ones(8)}, r"must have no decoder\.dec_blocks\.5")
    refuse([1, 2], "must be a state dict of tensors, got list")
    refuse(nn.Linear(1, 1), r"must be a state dict as torch\.save writes it")  # would run code
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"must be a state dict as torch\.save writes it"):
            load_vdvae(path, SMALL)
