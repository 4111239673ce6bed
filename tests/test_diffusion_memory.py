"""The memory strategies: equal gradients where they are exact, what the others compute, and what they hold."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler
from diffusion_models import TinyDenoiser

from bench.diffusion import ONE_CALL, class_denoiser, main, measure_memory
from bench.memory import peak_bytes
from hardfast.diffusion import COUPLED_STRATEGIES, EXACT_STRATEGIES, INEXACT_STRATEGIES, Memory, Sampler, Schedule


def schedule(steps: int, **options) -> Schedule:
    return Schedule.from_scheduler(DDIMScheduler(**{"clip_sample": False, **options}), steps)


def gradients(denoiser, steps: int, memory: str | Memory, keep_last: int = 1, **options) -> list[torch.Tensor]:
    """Outputs, and their gradients to all that can have one."""
    generator = torch.Generator().manual_seed(steps)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    latents, conditioning, null = leaf(2, 2, 4, 3), leaf(2, 6), leaf(1, 6)
    offsets, null_offsets = leaf(2, steps, 6), leaf(1, steps, 6)
    sampler = Sampler(denoiser, schedule(steps, **options), guidance_scale=1.7, memory=memory)
    torch.manual_seed(3)
    samples = sampler(
        latents, conditioning, null, conditioning_offsets=offsets, null_offsets=null_offsets, keep_last=keep_last
    )
    assert len(samples.clean) == keep_last
    outputs = [samples.latents, *samples.clean]
    loss = sum((k + 1) * output.sin().sum() for k, output in enumerate(outputs))
    leaves = [latents, conditioning, null, offsets, null_offsets]
    leaves += [p for p in denoiser.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return [*(output.detach() for output in outputs), *grads]


def strategies(*names: str) -> list[Memory]:
    kept = [Memory("recursive", kept_latents=n) for n in (1, 2, 3, 30)]
    return [Memory(name) for name in names if name not in ("full", "recursive")] + kept


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("memory", strategies(*EXACT_STRATEGIES), ids=lambda m: f"{m.strategy}{m.kept_latents}")
def test_exact_strategies_give_equal_gradients(steps, memory):
    denoiser = TinyDenoiser()
    keep_last = min(steps, 3)
    expected = gradients(denoiser, steps, "full", keep_last)
    assert all(value.abs().max() > 0 for value in expected)
    for ours, theirs in zip(gradients(denoiser, steps, memory, keep_last), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("strategy", ["per_step", "nested", "recursive"])
@pytest.mark.parametrize("options", [{"clip_sample": True}, {"prediction_type": "v_prediction"}], ids=["clipped", "v"])
@pytest.mark.parametrize("trainable", [False, True])
def test_dropout_parameters_and_clipping(strategy, options, trainable):
    denoiser = TinyDenoiser(dropout=0.4).train().requires_grad_(trainable)
    expected = gradients(denoiser, 5, "full", 2, **options)
    # Blocks recomputed in a recomputed call add up the parameters' gradients in another order.
    for ours, theirs in zip(gradients(denoiser, 5, strategy, 2, **options), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for p in denoiser.parameters())


@pytest.mark.parametrize("strategy", ["per_step", "recursive"])
def test_second_derivatives(strategy):
    latents, direction = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64)
    conditioning = torch.randn(1, 6, dtype=torch.float64)
    products = []
    for memory in ("full", strategy):
        leaf = latents.clone().requires_grad_()
        loss = Sampler(TinyDenoiser(), schedule(4), memory=memory)(leaf, conditioning).latents.sin().sum()
        (grad,) = torch.autograd.grad(loss, leaf, create_graph=True)
        products.append(torch.autograd.grad((grad * direction).sum(), leaf)[0])
    torch.testing.assert_close(products[1], products[0], rtol=1e-10, atol=1e-12)


def test_recomputation_keeps_autocast():
    denoiser = TinyDenoiser().float()
    latents, conditioning = torch.randn(2, 2, 4, 4), torch.randn(2, 6)
    grads = []
    for memory in ("full", "per_step"):
        leaf = latents.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            final = Sampler(denoiser, schedule(3), memory=memory)(leaf, conditioning).latents
        grads.append(torch.autograd.grad(final.float().square().sum(), leaf)[0])
    assert torch.equal(*grads)


def test_tensors_hidden_in_a_callable_get_their_gradients():
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    latents = torch.randn(2, 3, dtype=torch.float64)
    grads = []
    for memory in ("full", "per_step", "recursive"):
        final = Sampler(lambda x, t, c: (weight * x).tanh(), schedule(4), memory=memory)(latents).latents
        grads.append(torch.autograd.grad(final.sum(), weight)[0])
    torch.testing.assert_close(grads[1:], grads[:1] * 2)


@pytest.mark.parametrize(("slots", "repeats"), [(1, 4), (2, 3), (3, 2), (4, 2), (5, 1), (2, 5)])
def test_the_recursive_schedule_makes_the_fewest_calls(slots, repeats):
    """Griewank's optimum, one call for the gradient of each step, and one more: the first sweep goes to the end."""
    steps = math.comb(slots + repeats, repeats)
    denoiser = TinyDenoiser()
    gradients(denoiser, steps, Memory("recursive", kept_latents=slots))
    advances = repeats * steps - math.comb(slots + repeats, repeats - 1)
    assert denoiser.calls == advances + steps + 1


def test_per_step_makes_each_call_twice():
    for strategy, calls in (("full", 6), ("per_step", 12), ("truncated", 6 + 3), ("one_step", 8)):
        denoiser = TinyDenoiser()
        gradients(denoiser, 6, strategy)
        assert denoiser.calls == calls, strategy


@pytest.mark.parametrize("strategy", INEXACT_STRATEGIES)
def test_inexact_strategies_give_the_values_of_the_whole_chain(strategy):
    exact, ours = (gradients(TinyDenoiser(), 6, memory, 2) for memory in ("full", strategy))
    for value, expected in zip(ours[:3], exact[:3], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    assert all(value.abs().max() > 0 for value in ours[3:])
    assert (ours[3] - exact[3]).abs().max() > 1e-3 * exact[3].abs().max()


def test_truncation_after_all_steps_is_exact():
    expected = gradients(TinyDenoiser(), 5, "full", 2)
    for ours, theirs in zip(gradients(TinyDenoiser(), 5, Memory("truncated", last_steps=5), 2), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_truncation_reaches_no_offsets_of_earlier_steps():
    *_, offsets, null_offsets = gradients(TinyDenoiser(), 6, Memory("truncated", last_steps=2))
    for grad in (offsets, null_offsets):
        assert (grad[:, :4] == 0).all()
        assert (grad[:, 4:].abs().amax((0, 2)) > 0).all()


def test_one_step_has_the_gradient_of_the_first_prediction():
    denoiser, chain = TinyDenoiser(), schedule(6)
    latents = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    conditioning = torch.randn(2, 6, dtype=torch.float64)
    weight = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    output = Sampler(denoiser, chain, memory="one_step")(latents, conditioning).latents
    level = chain.alpha_bar[0]
    epsilon = denoiser(latents, chain.timesteps[:1].expand(2), conditioning)
    clean = (latents - (1 - level) ** 0.5 * epsilon) / level**0.5
    expected = torch.autograd.grad((clean * weight).sum(), latents)
    torch.testing.assert_close(torch.autograd.grad((output * weight).sum(), latents), expected)


@pytest.mark.parametrize("guided", [False, True])
def test_per_step_needs_the_memory_of_one_call(guided):
    """At 20 steps, by PyTorch's own allocator."""
    noise = torch.randn(2, 3, 16, 16)
    peaks = measure_memory(class_denoiser(), noise, 20, ("full", "per_step", "nested"), guided=guided)
    assert peaks["per_step"] <= 1.15 * peaks[ONE_CALL]
    assert peaks["per_step"] <= peaks["full"] / 10
    assert peaks["nested"] <= 0.85 * peaks["per_step"]


def test_one_command_prints_the_table(capsys):
    threads = torch.get_num_threads()
    try:
        assert main(["--steps", "1", "2", "--size", "8", "--batch", "1", "--rounds", "2"]) == 0
    finally:
        torch.set_num_threads(threads)
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == "| memory | 1 steps | 2 steps |"
    names = (*EXACT_STRATEGIES, *INEXACT_STRATEGIES, *COUPLED_STRATEGIES)
    for name, row in zip(names, rows, strict=False):
        cells = row.strip("| ").split(" | ")
        assert cells[0] == f"`{name}`"
        assert all(float(number) > 0 for cell in cells[1:] for number in cell.split(" · "))
        assert len(cells) == 3
    errors = rows[-1].split("relative error of ")[1].split(" (")[0].split(", ")
    assert all(0 < float(error) < 1e-4 for error in errors)


def test_recursion_holds_few_latents():
    """With latents far larger than a call, what is held is counted in latents."""

    def peak(memory: Memory) -> float:
        sampler = Sampler(lambda latents, t, conditioning: latents.tanh(), schedule(40), memory=memory)

        def run() -> torch.Tensor:
            latents = torch.full((1, 1 << 16), 0.5, requires_grad=True)
            return torch.autograd.grad(sampler(latents).latents.sum(), latents)[0]

        return peak_bytes(run) / (4 << 16)

    few, many = peak(Memory("recursive", kept_latents=3)), peak(Memory("per_step"))
    assert many > 40
    assert few < 3 + 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "reversed"}, "memory must be one of"),
        ({"kept_latents": 0}, "kept_latents must be an integer of at least 1"),
        ({"last_steps": 1.5}, "last_steps must be an integer of at least 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Memory(**options)
