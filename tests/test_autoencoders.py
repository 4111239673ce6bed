"""Autoencoders of diffusers as augmentors take them, found on disk, and small ones that are trained."""

from __future__ import annotations

import json

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file
from tiny_models import move_to_hub_cache
from torch import Tensor, nn

from hardfast.augment import LatentAugmentor
from hardfast.models import (
    VDVAE,
    AutoencoderCodec,
    VDVAEConfig,
    load_autoencoder,
    small_autoencoder,
    small_vdvae,
    train_autoencoder,
    train_vdvae,
)


def kl(channels: int = 3, levels: int = 3, **options) -> AutoencoderKL:
    """Strides of 4, with three levels."""
    torch.manual_seed(3)
    return AutoencoderKL(
        in_channels=channels, out_channels=channels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, block_out_channels=(4,) * levels, latent_channels=2,
        norm_num_groups=2, mid_block_add_attention=False, **{"scaling_factor": 0.5} | options,
    ).eval()  # fmt: skip


def tiny() -> AutoencoderTiny:
    """Strides of 4."""
    torch.manual_seed(4)
    return AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4), decoder_block_out_channels=(4, 4, 4), num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1), latent_channels=2,
    ).eval()  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(9))


def test_codes_and_images_are_the_models_own():
    images, model = pictures(2, 3, 8, 12), kl(shift_factor=0.3)
    codec = AutoencoderCodec(model, (8, 12))
    posterior = model.encode(2 * images - 1).latent_dist
    torch.testing.assert_close(codec.encode(images), 0.5 * (posterior.mode() - 0.3))
    torch.testing.assert_close(codec.posterior(images)[1], 0.5 * posterior.std)
    assert codec.code_shape() == (2, 2, 3)
    codes = torch.randn(2, 2, 2, 3, generator=seeded(1))
    torch.testing.assert_close(codec.decode(codes), model.decode(codes / 0.5 + 0.3).sample / 2 + 0.5)


def test_the_tiny_autoencoder_takes_the_same_range():
    images, model = pictures(2, 3, 8, 8), tiny()
    codec = AutoencoderCodec(model, (8, 8))
    codes = codec.encode(images)
    # Inside, it scales back to [0, 1].
    torch.testing.assert_close(codes, model.encoder.layers(images))
    assert not codec.posterior(images)[1].any()
    torch.testing.assert_close(codec.decode(codes), (model.decoder(codes) + 1) / 2)


@pytest.mark.parametrize("make", [kl, tiny])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 6), (5, 12)])
def test_grey_images_of_any_size_pass_through_a_model_for_colour(make, height, width):
    model = make()
    codec = AutoencoderCodec(model, (height, width), 1)
    images = pictures(2, 1, height, width)
    down, right = -height % 4, -width % 4
    rows = torch.arange(height + down).clamp(max=height - 1)
    columns = torch.arange(width + right).clamp(max=width - 1)
    whole = AutoencoderCodec(model, (height + down, width + right))
    codes = whole.encode(images[:, :, rows][..., columns].repeat(1, 3, 1, 1))
    torch.testing.assert_close(codec.encode(images), codes)
    torch.testing.assert_close(
        codec.decode(codes), whole.decode(codes)[..., :height, :width].mean(1, keepdim=True), atol=1e-6, rtol=1e-5
    )
    assert codec.code_shape() == tuple(codes.shape[1:])


def test_images_that_do_not_fit_are_refused():
    for channels in (3, 2):
        with pytest.raises(ValueError, match=r"channels must be those of the autoencoder, 1, or 1 of its 3, got"):
            AutoencoderCodec(kl(1), (8, 8), channels)
    with pytest.raises(ValueError, match="image_size must be an integer of at least 1"):
        AutoencoderCodec(kl(), (8, 0))
    with pytest.raises(ValueError, match=r"images must have shape \[B, 3, 8, 8\], got \[2, 1, 8, 8\]"):
        AutoencoderCodec(kl(), (8, 8)).encode(pictures(2, 1, 8, 8))


def augmentor_of(posterior: str = "mode", edit: str = "network", make=kl, **options) -> LatentAugmentor:
    return LatentAugmentor.from_autoencoder(
        make(), (6, 6), 1, posterior=posterior, edit=edit, **{"initial_scale": 0.2} | options
    ).double()


def learned(augmentor: LatentAugmentor) -> LatentAugmentor:
    with torch.no_grad():
        for parameter in augmentor.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=seeded(6))
    return augmentor


@pytest.mark.parametrize("make", [kl, tiny])
@pytest.mark.parametrize("posterior", ["mode", "sample"])
@pytest.mark.parametrize("edit", ["gaussian", "network"])
def test_images_and_gradients_are_those_of_the_plain_computation(make, posterior, edit):
    augmentor = learned(augmentor_of(posterior, edit, make))
    images = pictures(3, 1, 6, 6).double()
    noise = augmentor.noise(images, seeded(1))
    codec = AutoencoderCodec(make().double(), (6, 6), 1)
    codes, std = (value.detach() for value in codec.posterior(images))
    if posterior == "sample":
        codes = codes + std * noise["posterior"]
    mean, log_scale = 0.2 * augmentor.mean_offset, augmentor.log_scale
    if edit == "network":
        change = nn.functional.conv2d(codes, augmentor.edit_weight[:, :, None, None])
        mean, log_scale = mean + 0.2 * change[:, :2], log_scale + change[:, 2:]
    wanted = codec.decode(codes + mean + log_scale.exp() * noise["normal"])
    found = augmentor.transform(images, noise)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn(images.shape, dtype=torch.float64, generator=seeded(3))
    for one, other in zip(
        torch.autograd.grad((weight * found).sum(), augmentor.parameters()),
        torch.autograd.grad((weight * wanted).sum(), augmentor.parameters()),
        strict=True,
    ):
        assert (one != 0).all()
        torch.testing.assert_close(one, other)


def test_both_edits_start_alike_and_near_the_reconstruction():
    images = pictures(3, 1, 6, 6).double()
    one, other = (augmentor_of(edit=edit)(images, seeded(1)) for edit in ("gaussian", "network"))
    assert torch.equal(one, other)
    still = augmentor_of(initial_scale=1e-9)
    codec = AutoencoderCodec(kl().double(), (6, 6), 1)
    torch.testing.assert_close(still(images, seeded(1)), codec.decode(codec.encode(images)))


def test_draws_of_a_posterior_come_from_the_generator():
    augmentor, images = augmentor_of("sample"), pictures(2, 1, 6, 6).double()
    assert set(augmentor.noise(images, seeded(1))) == {"normal", "posterior"}
    assert torch.equal(augmentor(images, seeded(1)), augmentor(images, seeded(1)))
    assert not torch.equal(augmentor(images, seeded(1)), augmentor(images, seeded(2)))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_transform_is_one_graph_and_takes_any_batch(count):
    augmentor = learned(augmentor_of("sample", make=lambda: kl(levels=2)))
    images = pictures(count, 1, 6, 6).double()
    noise = augmentor.noise(images, seeded(1))
    wanted = augmentor.transform(images, noise)
    assert wanted.shape == images.shape
    if count == 3:
        compiled = torch.compile(augmentor.transform, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(images, noise), wanted)


def test_the_autoencoder_is_a_constant_that_follows():
    model = kl()
    augmentor = LatentAugmentor.from_autoencoder(model, (6, 6), 1, edit="network")
    assert {name: tuple(p.shape) for name, p in augmentor.named_parameters()} == {
        "mean_offset": (2, 2, 2), "log_scale": (2, 1, 1), "edit_weight": (4, 2)
    }  # fmt: skip
    assert set(augmentor.state_dict()) == {"mean_offset", "log_scale", "edit_weight"}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    augmentor.double()
    assert model.dtype == torch.float64
    assert augmentor(pictures(2, 1, 6, 6).double()).dtype == torch.float64
    frozen = augmentor.frozen()
    augmentor.float()
    assert frozen(pictures(2, 1, 6, 6).double()).dtype == torch.float64


@pytest.mark.parametrize("edit", ["gaussian", "network"])
@pytest.mark.parametrize("centre", [0.0, 2.0])
def test_moves_are_described_in_percent_of_the_codes_spread(edit, centre):
    torch.manual_seed(0)
    spread = torch.tensor([[2.0, 0.5], [0.0, 1.0]])
    codes = torch.einsum("oc,bchw->bohw", spread, torch.randn(20_000, 2, 2, 3)) + centre
    augmentor = learned(LatentAugmentor(nn.Identity(), nn.Identity(), (2, 2, 3), edit=edit, codes=codes))
    moves = (augmentor(codes, seeded(2)) - codes).detach() / codes.std((0, 2, 3), keepdim=True)
    described = augmentor.describe((28, 28))
    assert list(described) == ["code_0_percent", "code_1_percent"]
    for channel, entry in enumerate(described.values()):
        assert entry.mean == pytest.approx(100 * float(moves[:, channel].mean()), abs=1.0)
        assert entry.std == pytest.approx(100 * float(moves[:, channel].std()), rel=0.02)
    untouched = LatentAugmentor(nn.Identity(), nn.Identity(), (2, 2, 3), initial_scale=0.25).describe((28, 28))
    for entry in untouched.values():
        assert tuple(entry) == pytest.approx((0.0, 25.0))


def test_a_reference_gives_the_unit():
    images = pictures(50, 1, 6, 6)
    augmentor = LatentAugmentor.from_autoencoder(kl(), (6, 6), 1, reference=images, initial_scale=0.1)
    spread = AutoencoderCodec(kl(), (6, 6), 1).encode(images).std((0, 2, 3)).tolist()
    for channel in range(2):
        described = augmentor.describe((6, 6))[f"code_{channel}_percent"]
        assert described.std == pytest.approx(10 / spread[channel], rel=0.02)
    for codes, message in (
        (torch.randn(1, 2, 2, 2), r"codes must have shape \[N, \[2, 2, 2\]\], N >= 2, got \[1, 2, 2, 2\]"),
        (torch.zeros(4, 2, 2, 2), "codes must differ in every channel"),
    ):
        with pytest.raises(ValueError, match=message):
            LatentAugmentor(nn.Identity(), nn.Identity(), (2, 2, 2), codes=codes)
    for options in ({"edit": "none"}, {"posterior": "mean"}):
        with pytest.raises(ValueError, match=r"must be one of"):
            LatentAugmentor(nn.Identity(), nn.Identity(), (2, 2, 2), **options)


@pytest.mark.parametrize("make", [kl, tiny])
@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_autoencoders_are_found_in_folders(tmp_path, make, subfolder):
    model, folder = make(), tmp_path / "model"
    model.save_pretrained(folder / subfolder)
    loaded = load_autoencoder(folder)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    images = pictures(1, 3, 8, 8)
    found, wanted = (AutoencoderCodec(each, (8, 8)).encode(images) for each in (loaded, model))
    assert torch.equal(found, wanted)


def test_autoencoders_are_found_in_the_hubs_cache(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"(?s)autoencoder 'someone/tiny' .*hf download someone/tiny"):
        load_autoencoder("someone/tiny")
    move_to_hub_cache(tmp_path / "model", tmp_path / "cache", "someone/tiny")
    assert type(load_autoencoder("someone/tiny")) is AutoencoderTiny


def test_autoencoders_that_are_missing_or_damaged_are_named(tmp_path):
    kl().save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    save_file({name: value for name, value in whole.items() if name != "decoder.conv_in.bias"}, weights)
    with pytest.raises(ValueError, match=r"1 are missing, the first decoder\.conv_in\.bias"):
        load_autoencoder(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(OSError, match=r"weights of AutoencoderKL in .* cannot be loaded"):
        load_autoencoder(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no diffusion_pytorch_model\*\.safetensors"):
        load_autoencoder(tmp_path)
    save_file(whole, weights)
    config.write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match=r"config\.json must be that of an autoencoder .*UNet2DModel"):
        load_autoencoder(tmp_path)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json or vae/config\.json"):
        load_autoencoder(tmp_path)


def squares(count: int = 64) -> Tensor:
    """Squares of different grey at different places."""
    images = torch.zeros(count, 1, 8, 8)
    for k in range(count):
        row, column = k % 5, (k // 5) % 5
        images[k, 0, row : row + 4, column : column + 4] = 0.3 + 0.7 * (k % 7) / 6
    return images


def fresh_vdvae(seed: int = 0) -> VDVAE:
    torch.manual_seed(seed)
    return VDVAE(VDVAEConfig(8, 1, "8d2,4d4,1", "1,4m1,8m4", 12, z_dim=3, bottleneck=0.5, mixtures=2))


def test_rescaled_codes_give_the_same_images():
    images, model = squares(), kl(1, scaling_factor=1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "quant_conv" in name:
                parameter += torch.randn(parameter.shape, generator=seeded(len(name)))
    codec = AutoencoderCodec(model, (8, 8), 1)
    with torch.no_grad():
        (mean, std), decoded = codec.posterior(images), codec.decode(codec.encode(images))
    train_autoencoder(model, images, steps=1, learning_rate=1e-12)
    with torch.no_grad():
        new_mean, new_std = codec.posterior(images)
    torch.testing.assert_close(new_mean.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(new_mean.std((0, 2, 3)), torch.ones(2))
    spread = mean.std((0, 2, 3), keepdim=True)
    torch.testing.assert_close(new_std, std / spread)
    torch.testing.assert_close(new_mean, (mean - mean.mean((0, 2, 3), keepdim=True)) / spread, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codec.decode(new_mean), decoded, atol=1e-5, rtol=1e-4)


def fresh(train) -> nn.Module:
    return kl(1) if train is train_autoencoder else fresh_vdvae()


TRAININGS = pytest.mark.parametrize("train", [train_autoencoder, train_vdvae])


@TRAININGS
def test_a_training_depends_on_its_seed_alone(train):
    images, weights = squares(8), []
    for seed in (1, 1, 2):
        model = fresh(train)
        torch.manual_seed(len(weights))  # of no influence
        weights.append(train(model, images, steps=3, batch_size=4, seed=seed).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][name]) for name, value in weights[0].items())


@TRAININGS
def test_a_trained_network_is_a_constant_that_fits_its_images(train):
    images = squares(16)

    def error(model: nn.Module) -> float:
        with torch.no_grad():
            if train is train_vdvae:
                return float(model.elbo(images, seeded(1)).loss)
            codec = AutoencoderCodec(model, (8, 8), 1)
            return float((codec.decode(codec.encode(images)) - images).square().mean() / images.var())

    model = train(fresh(train), images, steps=40, batch_size=16, learning_rate=2e-2)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    # A constant image is as good as 1, and an untrained network's nats are those of its first draw.
    assert error(model) < (error(fresh_vdvae()) - 0.3 if train is train_vdvae else 0.8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_small_networks_are_for_digits(channels):
    images = pictures(2, channels, 28, 28)
    codec = AutoencoderCodec(small_autoencoder(channels), (28, 28), channels)
    assert codec.code_shape() == (4, 7, 7)
    assert codec.decode(codec.encode(images)).shape == images.shape
    assert small_vdvae(channels).reconstruct(images).shape == images.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"kl_weight": -1.0}, "kl_weight must be finite and at least 0"),
    ],
)
def test_bad_arguments_of_training_raise(options, message):
    with pytest.raises(ValueError, match=message):
        train_autoencoder(kl(1), squares(), **options)
    with pytest.raises(ValueError, match="vae must have quant_conv and post_quant_conv"):
        train_autoencoder(kl(1, use_quant_conv=False), squares())
