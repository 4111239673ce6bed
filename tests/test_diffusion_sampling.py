"""The sampling chain against diffusers' own schedulers, its inversion, the adapters and its errors."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
)
from diffusion_models import TinyDenoiser, class_unet, prompt_unet, transformer

from hardfast.diffusion import (
    ClassUNetDenoiser,
    PromptUNetDenoiser,
    Sampler,
    Schedule,
    TransformerDenoiser,
    decode_in_chunks,
)

SCALE = 2.5


def ddim(**options) -> DDIMScheduler:
    scheduler = DDIMScheduler(**{"clip_sample": False, **options})
    # The scheduler computes its coefficients in the dtype of its levels.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    latents = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    conditioning, null = torch.randn(2, 3, 6, dtype=torch.float64)
    return latents, conditioning, null


def guided_prediction(denoiser, latents, t, conditioning, null, scale):
    t = torch.as_tensor(t).expand(len(latents))
    uncond = denoiser(latents, t, null)
    return uncond + scale * (denoiser(latents, t, conditioning) - uncond)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_sample": True, "clip_sample_range": 0.7},
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "linspace", "beta_schedule": "scaled_linear"},
        {"steps_offset": 1, "set_alpha_to_one": False},
    ],
    ids=["default", "clipped", "trailing", "linspace", "offset"],
)
def test_equals_the_ddim_scheduler_with_guidance(prediction_type, options):
    scheduler = ddim(prediction_type=prediction_type, **options)
    denoiser = TinyDenoiser()
    latents, conditioning, null = inputs()
    sampler = Sampler(denoiser, Schedule.from_scheduler(scheduler, 7), guidance_scale=SCALE)
    samples = sampler(latents, conditioning, null, keep_last=3)

    scheduler.set_timesteps(7)
    clean = []
    for t in scheduler.timesteps:
        prediction = guided_prediction(denoiser, latents, t, conditioning, null, SCALE)
        step = scheduler.step(prediction, t, latents)
        latents = step.prev_sample
        clean.append(step.pred_original_sample)
    torch.testing.assert_close(samples.latents, latents, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(samples.clean, clean[-3:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_schedule_without_any_signal_at_first():
    scheduler = ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    schedule = Schedule.from_scheduler(scheduler, 4)
    assert schedule.alpha_bar[0] < 1e-7
    latents, conditioning, _ = inputs()
    denoiser = TinyDenoiser()
    samples = Sampler(denoiser, schedule)(latents, conditioning)
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        latents = scheduler.step(denoiser(latents, t.expand(3), conditioning), t, latents).prev_sample
    torch.testing.assert_close(samples.latents, latents, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "leading"}])
def test_equals_the_euler_scheduler(prediction_type, options):
    scheduler = EulerDiscreteScheduler(prediction_type=prediction_type, **options)
    schedule = Schedule.from_scheduler(scheduler, 6)
    denoiser = TinyDenoiser()
    noise, conditioning, null = inputs()
    samples = Sampler(denoiser, schedule, guidance_scale=SCALE)(noise, conditioning, null)

    scheduler.set_timesteps(6)
    latents = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, t)
        prediction = guided_prediction(denoiser, scaled, t, conditioning, null, SCALE)
        latents = scheduler.step(prediction, t, latents).prev_sample
    # The scheduler rounds latents to float32 at every step.
    torch.testing.assert_close(samples.latents, latents.double(), rtol=2e-5, atol=2e-5)


def test_conditional_and_unconditional_passes_share_a_call():
    sizes = []

    def denoiser(latents, t, conditioning):
        sizes.append((len(latents), len(t), len(conditioning)))
        return latents * 0.1

    schedule = Schedule.from_scheduler(ddim(), 3)
    labels = torch.arange(3)
    latents = inputs()[0]
    Sampler(denoiser, schedule, guidance_scale=2.0)(latents, labels, labels[:1])
    Sampler(denoiser, schedule)(latents, labels, labels)
    assert sizes == [(6, 6, 6)] * 3 + [(3, 3, 3)] * 3


def test_offsets_are_added_at_their_own_step():
    seen = []

    def denoiser(latents, t, conditioning):
        seen.append(conditioning)
        return latents * 0.1

    latents, conditioning, null = inputs()
    offsets, null_offsets = torch.randn(3, 4, 6).double(), torch.randn(1, 4, 6).double()
    sampler = Sampler(denoiser, Schedule.from_scheduler(ddim(), 4), guidance_scale=2.0)
    sampler(latents, conditioning[:1], null, conditioning_offsets=offsets, null_offsets=null_offsets)
    for i, value in enumerate(seen):
        torch.testing.assert_close(value, torch.cat([conditioning[:1] + offsets[:, i], null + null_offsets[:, i]]))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_inversion_leads_back(prediction_type):
    scheduler = ddim(prediction_type=prediction_type)
    noise_of = TinyDenoiser(strength=0.1)

    def denoiser(latents, t, conditioning):
        level = scheduler.alphas_cumprod[t][:, None, None, None]
        noise = noise_of(latents, t, conditioning)
        clean = (latents - (1 - level) ** 0.5 * noise) / level**0.5
        velocity = level**0.5 * noise - (1 - level) ** 0.5 * clean
        return {"epsilon": noise, "sample": clean, "v_prediction": velocity}[prediction_type]

    sampler = Sampler(denoiser, Schedule.from_scheduler(scheduler, 10), guidance_scale=1.5)
    clean, conditioning, null = inputs()
    errors = []
    for iterations in (1, 4, 60):
        noise = sampler.invert(clean, conditioning, null, iterations=iterations)
        errors.append((sampler(noise, conditioning, null).latents - clean).abs().max().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_one_iteration_is_ddim_inversion():
    scheduler = ddim()
    denoiser = TinyDenoiser()
    clean, conditioning, _ = inputs()
    schedule = Schedule.from_scheduler(scheduler, 5)
    noise = Sampler(denoiser, schedule).invert(clean, conditioning)
    scheduler.set_timesteps(5)
    latents, level = clean, scheduler.final_alpha_cumprod
    for t in scheduler.timesteps.flip(0):
        epsilon = denoiser(latents, t.expand(3), conditioning)
        image = (latents - (1 - level) ** 0.5 * epsilon) / level**0.5
        level = scheduler.alphas_cumprod[t]
        latents = level**0.5 * image + (1 - level) ** 0.5 * epsilon
    torch.testing.assert_close(noise, latents, rtol=1e-9, atol=1e-9)


def test_euler_inversion_undoes_the_initial_scale():
    schedule = Schedule.from_scheduler(EulerDiscreteScheduler(), 5)
    assert schedule.initial_scale < 1
    sampler = Sampler(TinyDenoiser(strength=0.1), schedule)
    clean, conditioning, _ = inputs()
    noise = sampler.invert(clean, conditioning, iterations=60)
    torch.testing.assert_close(sampler(noise, conditioning).latents, clean, rtol=1e-6, atol=1e-6)


ADAPTERS = {
    "classes": (lambda: ClassUNetDenoiser(class_unet(num_class_embeds=11)), torch.tensor([1, 7])),
    "no classes": (lambda: ClassUNetDenoiser(class_unet()), None),
    "class embeddings": (lambda: ClassUNetDenoiser(class_unet(class_embed_type="identity")), torch.randn(2, 32)),
    "prompts": (lambda: PromptUNetDenoiser(prompt_unet()), torch.randn(2, 5, 12)),
    "transformer": (lambda: TransformerDenoiser(transformer()), torch.tensor([1, 7])),
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("memory", ["per_step", "nested"])
def test_adapters_agree_with_their_models_and_pass_gradients(kind, memory):
    make, conditioning = ADAPTERS[kind]
    denoiser = make()
    schedule = Schedule.from_scheduler(DDIMScheduler(), 3)
    size = 4 if kind == "prompts" else 3
    latents = torch.randn(2, size, 8, 8, requires_grad=True)
    differentiable = [latents]
    if conditioning is not None and conditioning.is_floating_point():
        conditioning = conditioning.clone().requires_grad_()
        differentiable.append(conditioning)
    results = {}
    for strategy in ("full", memory):
        output = Sampler(denoiser, schedule, memory=strategy)(latents, conditioning).latents
        results[strategy] = [output.detach(), *torch.autograd.grad(output.square().sum(), differentiable)]
    torch.testing.assert_close(results[memory], results["full"], rtol=1e-4, atol=1e-5)
    assert all(value.abs().max() > 0 for value in results["full"])
    assert not denoiser.model.is_gradient_checkpointing

    scheduler = DDIMScheduler()
    scheduler.set_timesteps(3)
    value = latents.detach()
    with torch.no_grad():
        for t in scheduler.timesteps:
            if kind == "prompts":
                prediction = denoiser.model(value, t, conditioning).sample
            else:
                prediction = denoiser.model(value, t.expand(2), class_labels=conditioning).sample[:, :3]
            value = scheduler.step(prediction, t, value).prev_sample
    torch.testing.assert_close(results["full"][0], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_decoding_in_chunks(chunk):
    decoder = torch.nn.Sequential(torch.nn.ConvTranspose2d(2, 3, 2, 2), torch.nn.Tanh()).double()
    sizes = []

    def decode(latents):
        sizes.append(len(latents))
        return decoder(latents)

    latents = inputs()[0].requires_grad_()
    images = decode_in_chunks(decode, latents, chunk)
    expected = decoder(latents)
    torch.testing.assert_close(images, expected)
    assert max(sizes) == min(chunk, 3)
    assert sum(sizes) == 3
    weight = torch.randn_like(images)
    torch.testing.assert_close(
        torch.autograd.grad((images * weight).sum(), latents), torch.autograd.grad((expected * weight).sum(), latents)
    )
    assert sum(sizes) == 6


def schedule(steps: int = 3, **options) -> Schedule:
    return Schedule.from_scheduler(ddim(**options), steps)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Schedule.from_scheduler(DDPMScheduler(), 3), TypeError, "scheduler must be a DDIM"),
        (lambda: schedule(0), ValueError, "steps must be an integer"),
        (lambda: schedule(thresholding=True), ValueError, "thresholding"),
        (lambda: Schedule(torch.arange(2), torch.ones(2) / 2, torch.ones(2)), TypeError, "alpha_bar must be float64"),
        (
            lambda: Schedule(torch.arange(2), torch.ones(2).double() / 2, torch.ones(3).double()),
            ValueError,
            "alpha_bar_next must have as many steps",
        ),
        (
            lambda: Schedule(torch.arange(2), torch.zeros(2).double(), torch.ones(2).double()),
            ValueError,
            r"alpha_bar must be in \(0, 1\)",
        ),
        (lambda: Sampler(TinyDenoiser(), schedule(), memory="none"), ValueError, "memory must be one of"),
        (lambda: Sampler(TinyDenoiser(), schedule(), memory=3), TypeError, "memory must be a string"),
        (
            lambda: Sampler(lambda latents, t, c: latents, schedule(), memory="nested"),
            ValueError,
            "memory='nested' needs a denoiser with recompute_blocks",
        ),
        (lambda: Sampler(TinyDenoiser(), schedule())(torch.arange(3)), TypeError, "latents must be float32"),
    ],
)
def test_errors_of_the_parts(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("changes", "scale", "error", "message"),
    [
        ({"null_conditioning": None}, 2.0, ValueError, "null_conditioning must be given for guidance"),
        ({"conditioning": torch.zeros(2, 6)}, 2.0, ValueError, "conditioning must have shape"),
        ({"null_conditioning": 3}, 2.0, TypeError, "null_conditioning must be a tensor"),
        (
            {"conditioning_offsets": torch.zeros(3, 4, 6)},
            1.0,
            ValueError,
            r"conditioning_offsets must have shape \[3 or",
        ),
        (
            {"conditioning": torch.arange(3), "conditioning_offsets": torch.zeros(3, 3)},
            1.0,
            TypeError,
            "conditioning_offsets need floating-point conditioning",
        ),
        ({"null_offsets": torch.zeros(3, 3, 6)}, 1.0, ValueError, "null_offsets are used only with guidance"),
        ({"conditioning": None, "conditioning_offsets": torch.zeros(3, 3, 6)}, 1.0, ValueError, "need conditioning"),
        ({"keep_last": 4}, 1.0, ValueError, "keep_last must be an integer in 1 .. 3"),
    ],
)
def test_errors_of_a_call(changes, scale, error, message):
    latents, conditioning, null = inputs()
    arguments = {"conditioning": conditioning, "null_conditioning": null, **changes}
    with pytest.raises(error, match=message):
        Sampler(TinyDenoiser(), schedule(), guidance_scale=scale)(latents, **arguments)


def test_a_denoiser_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match="denoiser must predict the shape of its latents"):
        Sampler(lambda latents, t, c: latents[:, :1], schedule())(inputs()[0])


def test_a_schedule_without_signal_is_not_inverted():
    levels = torch.tensor([0.0, 0.5]).double(), torch.tensor([0.5, 1.0]).double()
    chain = Schedule(torch.tensor([9, 4]), *levels, "v_prediction")
    with pytest.raises(ValueError, match="schedule must keep some signal"):
        Sampler(TinyDenoiser(), chain).invert(inputs()[0], inputs()[1])
