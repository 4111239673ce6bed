"""Stable Diffusion from the folders of diffusers' pipeline: the same images as that gives, and gradients too."""

from __future__ import annotations

import re
import shutil

import huggingface_hub
import pytest
import torch
from diffusers import EulerDiscreteScheduler, PNDMScheduler
from safetensors.torch import load_file, save_file
from tiny_models import move_to_hub_cache, write_clip, write_stable_diffusion

from hardfast.diffusion import CutOuts, GuidanceSettings, guide, seeded_noise
from hardfast.diffusion.stable_diffusion import load_stable_diffusion
from hardfast.models import create_timm_model, fill_templates, load_zero_shot_clip

PROMPTS = ["a photograph of a bird", "x, y"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "sd"
    return folder, write_stable_diffusion(folder)


def images_of(model, latents, scale):
    null = model.embed([""]) if scale != 1 else None
    samples = model.sampler(scale)(latents, model.embed(PROMPTS), null)
    return model.decode(samples.latents)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_images_are_those_of_the_pipeline(tmp_path, prediction_type):
    pipeline = write_stable_diffusion(tmp_path, prediction_type=prediction_type)
    model = load_stable_diffusion(tmp_path, steps=4)
    latents = seeded_noise([3, 4], model.latent_shape())
    assert latents.shape == (2, 4, 8, 8)
    wanted = pipeline(PROMPTS, latents=latents, guidance_scale=3.0, num_inference_steps=4, output_type="pt").images
    images = images_of(model, latents, 3.0)
    torch.testing.assert_close(images.clamp(0, 1), wanted, atol=1e-5, rtol=0)
    assert wanted.std() > 0.01


def test_images_of_few_euler_steps_are_those_of_the_pipeline(tmp_path):
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing", steps_offset=1
    )
    pipeline = write_stable_diffusion(tmp_path, scheduler=scheduler)
    model = load_stable_diffusion(tmp_path, steps=3, scheduler="euler")
    latents = seeded_noise([8, 1], model.latent_shape())
    wanted = pipeline(PROMPTS, latents=latents, guidance_scale=0, num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(images_of(model, latents, 1).clamp(0, 1), wanted, atol=1e-4, rtol=0)


def test_the_scheduler_of_early_models_becomes_ddim_without_clipping(tmp_path):
    write_stable_diffusion(tmp_path, scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_start=0.001))
    schedule = load_stable_diffusion(tmp_path, steps=5).schedule
    assert schedule.clip_range is None
    assert schedule.timesteps.tolist() == [801, 601, 401, 201, 1]


def test_gradients_reach_noise_and_prompts_through_the_decoder(published):
    model = load_stable_diffusion(published[0], steps=2)
    latents = seeded_noise([5], model.latent_shape()).requires_grad_()
    prompt = model.embed_classes(["bird"]).requires_grad_()

    def energy(latents, prompt):
        samples = model.sampler(2.0)(latents, prompt, model.embed([""]))
        return model.decode(samples.latents).square().sum()

    grads = torch.autograd.grad(energy(latents, prompt), (latents, prompt))
    with torch.no_grad():
        step = 1e-2 * torch.randn_like(latents)
        change = (energy(latents + step, prompt) - energy(latents - step, prompt)) / 2
        assert float(change) == pytest.approx(float((grads[0] * step).sum()), rel=0.03)
        step = 1e-1 * torch.randn_like(prompt)
        change = (energy(latents, prompt + step) - energy(latents, prompt - step)) / 2
        assert float(change) == pytest.approx(float((grads[1] * step).sum()), rel=0.03)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_recomputed_decoder_keeps_less_for_the_same_gradient(published):
    kept, grads = {}, {}
    for recompute in (False, True):
        model = load_stable_diffusion(published[0], steps=1, recompute_decoder=recompute)
        latents = seeded_noise([5, 9], model.latent_shape()).requires_grad_()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x):
            images = model.decode(latents)
        kept[recompute] = sum(saved)
        grads[recompute] = torch.autograd.grad(images.square().sum(), latents)[0]
    torch.testing.assert_close(grads[True], grads[False])
    assert kept[True] < kept[False] / 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_search_finds_what_a_clip_teacher_and_a_student_disagree_on(published, tmp_path, dtype):
    write_clip(tmp_path)
    teacher = load_zero_shot_clip(tmp_path, fill_templates(["land bird", "water bird"]), dtype=dtype)
    student = create_timm_model("test_resnet", 2)
    model = load_stable_diffusion(published[0], steps=3, dtype=dtype)
    labels = torch.tensor([1, 0])
    settings = GuidanceSettings(
        cutouts=CutOuts(size=32, smallest=12, count=2), iterations=4, keep_last=2, latents_rate=0.1, rate=0.1, chunk=1
    )
    found = guide(
        model.sampler(2.0),
        student,
        teacher,
        labels,
        seeded_noise([1, 2], model.latent_shape()),
        [1, 2],
        conditioning=model.embed_classes(["land bird", "water bird"])[labels],
        null_conditioning=model.embed([""]).expand(2, -1, -1),
        decode=model.decode,
        settings=settings,
    )
    assert found.images.shape == (2, 3, 16, 16)
    assert found.valid.all()
    assert (found.scores.max(0).values > found.scores[0]).all()
    assert not torch.equal(found.images, found.images_before)


def test_half_precision_is_inside_the_networks_only(published):
    exact = load_stable_diffusion(published[0], steps=2)
    half = load_stable_diffusion(published[0], steps=2, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    latents = seeded_noise([5, 6], half.latent_shape())
    embeddings = half.embed(PROMPTS)
    images = images_of(half, latents, 3.0)
    assert {latents.dtype, embeddings.dtype, images.dtype, half.encode(images).dtype} == {torch.float32}
    torch.testing.assert_close(images, images_of(exact, latents, 3.0), atol=0.05, rtol=0)


def test_images_are_encoded_for_inversion(published):
    folder, pipeline = published
    model = load_stable_diffusion(folder, steps=4)
    images = torch.rand(2, 3, 16, 16)
    latents = model.encode(images)
    posterior = pipeline.vae.encode(2 * images - 1).latent_dist
    torch.testing.assert_close(latents, posterior.mean * pipeline.vae.config.scaling_factor)
    torch.testing.assert_close(model.decode(latents) * 2 - 1, pipeline.vae.decode(posterior.mean).sample)


def test_latent_shape_and_mode(published):
    model = load_stable_diffusion(published[0], steps=1)
    assert model.latent_shape(24) == (4, 12, 12)
    with pytest.raises(ValueError, match="multiple of 2 pixels, got 17"):
        model.latent_shape(17)
    assert not any(module.training for module in model.train().modules())


def test_prompts_are_not_cut_silently(published):
    model = load_stable_diffusion(published[0], steps=1)
    assert model.embed(["x" * 38]).shape == (1, 40, 12)
    with pytest.raises(ValueError, match=r"at most 40 tokens, got 41 in 'xxx"):
        model.embed(["a", "x" * 39])
    with pytest.raises(ValueError, match="at least one string"):
        model.embed([])
    with pytest.raises(ValueError, match="template must have"):
        model.embed_classes(["bird"], "a photograph")
    torch.testing.assert_close(model.embed_classes(["bird"]), model.embed(["a photograph of a bird"]))


def test_a_model_is_found_in_the_hubs_cache(tmp_path, monkeypatch):
    write_stable_diffusion(tmp_path / "sd")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"(?s)'someone/tiny-sd' is neither .*hf download someone/tiny-sd"):
        load_stable_diffusion("someone/tiny-sd")
    move_to_hub_cache(tmp_path / "sd", tmp_path / "cache", "someone/tiny-sd")
    assert len(load_stable_diffusion("someone/tiny-sd", steps=7).schedule) == 7


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("unet/diffusion_pytorch_model.safetensors", r"has no unet/diffusion_pytorch_model\*\.safetensors"),
        ("vae/config.json", "has no vae/config.json"),
        ("text_encoder/model.safetensors", "has no text_encoder"),
        ("tokenizer", "has no tokenizer/tokenizer.json or tokenizer/vocab.json"),
        ("scheduler", "has no scheduler/scheduler_config.json"),
    ],
)
def test_what_is_missing_is_named(published, tmp_path, part, message):
    folder = tmp_path / "sd"
    shutil.copytree(published[0], folder)
    (folder / part).rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=message):
        load_stable_diffusion(folder)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_damaged_weights_are_never_replaced_by_random_ones(published, tmp_path, part):
    folder = tmp_path / "sd"
    shutil.copytree(published[0], folder)
    file = folder / f"{part}.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("bias"))
    save_file({key: value for key, value in weights.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"must be whole, but 1 are missing, the first {re.escape(name)}"):
        load_stable_diffusion(folder)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises((ValueError, FileNotFoundError), match=part.partition("/")[0]):
        load_stable_diffusion(folder)


def test_other_bad_arguments_are_named(published, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"(?s)weights of UNet2DConditionModel in .*unet cannot be loaded.*fp16"
    ):
        load_stable_diffusion(published[0], variant="fp16")
    with pytest.raises(FileNotFoundError, match="neither a folder nor in the hub's cache"):
        load_stable_diffusion(tmp_path / "nowhere" / "sd")
    with pytest.raises(ValueError, match="scheduler must be one of"):
        load_stable_diffusion(published[0], scheduler="heun")
    with pytest.raises(ValueError, match="attention must be one of"):
        load_stable_diffusion(published[0], attention="flash")
    with pytest.raises(ValueError, match=r"dtype must be torch\.float32"):
        load_stable_diffusion(published[0], dtype=torch.int8)
