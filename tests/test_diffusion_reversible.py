"""The reversible chain: its values, its gradients, what it keeps, and how well it finds its start again."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from diffusion_models import TinyDenoiser
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bench.memory import peak_bytes
from hardfast.diffusion import Memory, Sampler, Schedule

SCALE = 1.7


def schedule(steps: int, **options) -> Schedule:
    return Schedule.from_scheduler(DDIMScheduler(**{"clip_sample": False, **options}), steps)


def leaves(steps: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(steps)
    shapes = {
        "latents": (2, 2, 4, 3),
        "conditioning": (2, 6),
        "null_conditioning": (1, 6),
        "conditioning_offsets": (2, steps, 6),
        "null_offsets": (1, steps, 6),
    }
    return {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }


def plain_chain(
    denoiser, chain: Schedule, mixing: float, keep_last: int, scale: float = SCALE, **given: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The two coupled latents, written out."""
    passes = [("conditioning", "conditioning_offsets")]
    passes += [("null_conditioning", "null_offsets")] if scale != 1 else []
    x = y = given["latents"]
    kept = []
    for i, (level, following) in enumerate(zip(chain.alpha_bar.tolist(), chain.alpha_bar_next.tolist(), strict=True)):
        t = chain.timesteps[i].expand(len(x))

        def noise(latents: Tensor, i=i, level=level, t=t) -> Tensor:
            predictions = []
            for name, offsets in passes:
                conditioning = (given[name] + given[offsets][:, i]).expand(len(latents), 6)
                predictions.append(denoiser(latents, t, conditioning))
            value = predictions[0]
            if len(predictions) > 1:
                value = predictions[1] + scale * (value - predictions[1])
            if chain.prediction_type == "v_prediction":
                return level**0.5 * value + (1 - level) ** 0.5 * latents
            if chain.prediction_type == "sample":
                return (latents - level**0.5 * value) / (1 - level) ** 0.5
            return value

        def move(latents: Tensor, epsilon: Tensor, level=level, following=following) -> tuple[Tensor, Tensor]:
            clean = (latents - (1 - level) ** 0.5 * epsilon) / level**0.5
            return following**0.5 * clean + (1 - following) ** 0.5 * epsilon, clean

        x, clean_x = move(x, noise(y))
        y, clean_y = move(y, noise(x))
        x = mixing * x + (1 - mixing) * y
        y = mixing * y + (1 - mixing) * x
        kept.append(mixing * clean_x + (1 - mixing) * clean_y)
    return x, kept[-keep_last:]


def loss_of(final: Tensor, clean) -> Tensor:
    return sum((k + 1) * output.sin().sum() for k, output in enumerate((final, *clean)))


@pytest.mark.parametrize(
    ("steps", "keep_last", "mixing", "prediction_type", "trainable"),
    [
        (1, 1, 0.93, "epsilon", False),
        (5, 3, 0.93, "epsilon", True),
        (7, 7, 0.8, "v_prediction", False),
        (6, 2, 0.97, "sample", True),
        (20, 3, 1.0, "epsilon", False),
    ],
)
def test_values_and_gradients_are_those_of_the_coupled_chain(steps, keep_last, mixing, prediction_type, trainable):
    denoiser = TinyDenoiser().requires_grad_(trainable)
    chain, given = schedule(steps, prediction_type=prediction_type), leaves(steps)
    wanted = [*given.values(), *(denoiser.parameters() if trainable else ())]
    final, clean = plain_chain(denoiser, chain, mixing, keep_last, **given)
    expected = torch.autograd.grad(loss_of(final, clean), wanted)
    assert all(grad.abs().max() > 0 for grad in expected)

    sampler = Sampler(denoiser, chain, SCALE, Memory("reversible", mixing=mixing))
    samples = sampler(**given, keep_last=keep_last)
    torch.testing.assert_close([samples.latents, *samples.clean], [final, *clean], rtol=1e-12, atol=1e-13)
    grads = torch.autograd.grad(loss_of(*samples), wanted)
    torch.testing.assert_close(grads, expected, rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(sampler(**given).latents, final.detach(), rtol=1e-12, atol=1e-13)


def test_gradients_arrive_from_one_output_alone_and_reach_one_leaf_alone():
    denoiser, chain, given = TinyDenoiser(), schedule(6), leaves(6)
    given = {name: value.detach() for name, value in given.items()}
    given["conditioning_offsets"].requires_grad_()
    sampler = Sampler(denoiser, chain, SCALE, "reversible")
    for pick in range(4):
        ours, plain = sampler(**given, keep_last=3), plain_chain(denoiser, chain, 0.93, 3, **given)
        outputs = [(final, *clean)[pick].square().sum() for final, clean in (ours, plain)]
        grads = [torch.autograd.grad(output, given["conditioning_offsets"])[0] for output in outputs]
        torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)
        assert grads[0].abs().max() > 0


def test_without_guidance_and_with_labels():
    """No gradient is asked of what cannot have one."""
    chain = schedule(4)
    latents = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1])
    table = torch.randn(3, 6, dtype=torch.float64)
    denoiser = TinyDenoiser()

    class Labelled(torch.nn.Module):
        def forward(self, latents: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            return denoiser(latents, t, table[labels])

    final = Sampler(Labelled(), chain, memory="reversible")(latents, labels).latents
    zeros = torch.zeros(3, 4, 6, dtype=torch.float64)
    given = {"latents": latents, "conditioning": table[labels], "conditioning_offsets": zeros}
    expected, _ = plain_chain(denoiser, chain, 0.93, 1, scale=1, **given)
    weight = torch.randn_like(latents)
    grads = [torch.autograd.grad(value, latents, weight)[0] for value in (final, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-11)


def test_random_numbers_are_drawn_again():
    """By central differences, since no plain chain draws the same."""
    denoiser, latents = TinyDenoiser(dropout=0.4).train(), leaves(3)["latents"]
    conditioning = torch.randn(2, 6, dtype=torch.float64)
    direction = torch.randn_like(latents)

    def final(latents: Tensor) -> Tensor:
        torch.manual_seed(7)
        return Sampler(denoiser, schedule(3), memory="reversible")(latents, conditioning).latents.sum()

    (grad,) = torch.autograd.grad(final(latents), latents)
    with torch.no_grad():
        slope = (final(latents + 1e-6 * direction) - final(latents - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((grad * direction).sum(), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [5, 50])
def test_the_start_is_found_again(steps):
    given = {name: value.detach() for name, value in leaves(steps).items()}
    error = Sampler(TinyDenoiser(), schedule(steps), SCALE, "reversible").reconstruction_error(**given)
    assert error.shape == (2,)
    assert (error > 0).all()
    assert (error < 1e-11).all()
    given = {name: value.float() for name, value in given.items()}
    rounded = Sampler(TinyDenoiser().float(), schedule(steps), SCALE, "reversible").reconstruction_error(**given)
    assert (rounded > 1e3 * error).all()
    assert (rounded < 1e-2).all()


def saved_bytes(steps: int, memory: str) -> int:
    """Of what the graph holds after the forward, each storage once."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    latents = torch.randn(2, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    conditioning = torch.randn(2, 6, dtype=torch.float64)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        samples = Sampler(TinyDenoiser(), schedule(steps), memory=memory)(latents, conditioning)
    assert samples.latents.requires_grad
    return sum(storages.values())


def test_what_is_kept_does_not_grow_with_the_steps():
    pair = 2 * 2 * 2 * 8 * 8 * 8
    assert saved_bytes(40, "reversible") == saved_bytes(5, "reversible") <= pair + 2 * 6 * 8
    assert saved_bytes(40, "per_step") > 7 * saved_bytes(5, "per_step")


def test_peak_memory_does_not_grow_with_the_steps():
    """Of forward and backward, in latents: with a denoiser of no memory of its own."""

    class Tanh(torch.nn.Module):
        def forward(self, latents: Tensor, t: Tensor, conditioning: None) -> Tensor:
            return latents.tanh()

    def peak(steps: int) -> float:
        sampler = Sampler(Tanh(), schedule(steps), memory="reversible")

        def run() -> Tensor:
            latents = torch.full((1, 1 << 16), 0.5, requires_grad=True)
            return torch.autograd.grad(sampler(latents).latents.sum(), latents)[0]

        return peak_bytes(run) / (4 << 16)

    assert peak(40) < peak(4) + 0.5


def test_second_derivatives_are_refused():
    given = leaves(2)
    samples = Sampler(TinyDenoiser(), schedule(2), SCALE, "reversible")(**given)
    with pytest.raises(NotImplementedError, match="memory='reversible' has no second derivatives"):
        torch.autograd.grad(samples.latents.sum(), given["latents"], create_graph=True)


def test_tensors_hidden_in_a_callable_are_refused():
    weight = torch.tensor(0.3, requires_grad=True)
    latents = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="denoiser must be a module, or use no tensors of its own"):
        Sampler(lambda x, t, c: weight * x, schedule(2), memory="reversible")(latents)
    assert Sampler(lambda x, t, c: 0.3 * x, schedule(2), memory="reversible")(latents).latents.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Memory("reversible", mixing=0.0), "mixing must be in \\(0, 1\\], got 0.0"),
        (lambda: Memory(mixing=1.01), "mixing must be in"),
        (
            lambda: Sampler(TinyDenoiser(), schedule(2, clip_sample=True), memory="reversible"),
            "clip_range=None with memory='reversible'",
        ),
        (
            lambda: Sampler(
                TinyDenoiser(),
                schedule(2, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
                memory="reversible",
            ),
            "got alpha_bar = 0",
        ),
        (
            lambda: Sampler(TinyDenoiser(), schedule(2)).reconstruction_error(torch.randn(1, 2, 3, 3)),
            "memory must be 'reversible'",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
