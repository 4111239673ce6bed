"""guided_step against diffusers' DDIMScheduler and plain PyTorch, and the properties that a drop-in op must have."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck

from hardfast import reference
from hardfast.ops import guided_step
from hardfast.testing import assert_as_exact

PREDICTION_TYPES = ["epsilon", "v_prediction", "sample"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [(3, 4, 9, 7), (2, 5), (4, 3, 11), (1, 2, 3, 4, 5), (6,), (2, 16411)]
SCHEDULE = {"alpha_bar": 0.3, "alpha_bar_next": 0.6}


def random_tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Latents, conditional and unconditional prediction, noise."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]


def step(latents: Tensor, cond: Tensor, uncond: Tensor, noise: Tensor, function=guided_step, **options):
    options = SCHEDULE | {"guidance_scale": 3.5, "eta": 0.7, "clip_range": 0.8} | options
    return function(latents, cond, uncond, noise=noise if options["eta"] else None, **options)


def outputs_and_gradients(function, inputs: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    outputs = function(*leaves)
    results = torch.autograd.grad(outputs, leaves, [g.to(o.dtype) for g, o in zip(grads, outputs, strict=True)])
    return (*(o.detach() for o in outputs), *results)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clip", [None, 0.9])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_equals_diffusers_over_a_whole_trajectory(prediction_type, eta, clip, spacing):
    scheduler = DDIMScheduler(
        prediction_type=prediction_type,
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(7)
    generator = torch.Generator().manual_seed(1)
    ours = theirs = torch.randn(2, 4, 8, 6, generator=generator, dtype=torch.float64)
    for t in scheduler.timesteps:
        cond, uncond, noise = (torch.randn(ours.shape, generator=generator, dtype=torch.float64) for _ in range(3))
        following = int(t) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        alpha_bar = scheduler.alphas_cumprod[t]
        alpha_bar_next = scheduler.alphas_cumprod[following] if following >= 0 else scheduler.final_alpha_cumprod
        prediction = uncond + 2.5 * (cond - uncond)
        expected = scheduler.step(prediction, int(t), theirs, eta=eta, variance_noise=noise)
        for values in ((alpha_bar, alpha_bar_next), (alpha_bar.item(), alpha_bar_next.item())):
            next_latents, clean = guided_step(
                ours,
                cond,
                uncond,
                alpha_bar=values[0],
                alpha_bar_next=values[1],
                guidance_scale=2.5,
                prediction_type=prediction_type,
                eta=eta,
                noise=noise if eta else None,
                clip_range=clip,
            )
            # The scheduler keeps its table, and so its square roots, in float32.
            torch.testing.assert_close(clean, expected.pred_original_sample, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(next_latents, expected.prev_sample, rtol=1e-4, atol=1e-4)
        ours, theirs = next_latents, expected.prev_sample


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("eta", "clip"), [(0.0, None), (0.6, 0.7)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_equals_the_reference_in_float64(prediction_type, shape, eta, clip, per_sample):
    inputs = random_tensors(shape, torch.float64)
    grads = random_tensors(shape, torch.float64, seed=1)[:2]
    options = {"prediction_type": prediction_type, "eta": eta, "clip_range": clip}
    if per_sample:
        spread = torch.linspace(0, 0.3, shape[0], dtype=torch.float64)
        options |= {"alpha_bar": 0.2 + spread, "alpha_bar_next": 0.6 + spread, "guidance_scale": 1 + 10 * spread}
    inputs = inputs if eta else inputs[:3]

    def run(function, *tensors: Tensor):
        return step(*tensors, *([] if eta else [None]), function=function, **options)

    ours = outputs_and_gradients(lambda *x: run(guided_step, *x), inputs, grads)
    theirs = outputs_and_gradients(lambda *x: run(reference.guided_step, *x), inputs, grads)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-11)


def test_without_guidance_the_prediction_is_used_itself():
    latents, cond, *_ = random_tensors((3, 4, 5))
    alone = guided_step(latents, cond, **SCHEDULE, clip_range=1.0)
    guided = guided_step(latents, cond, torch.zeros_like(cond), **SCHEDULE, clip_range=1.0)
    for mine, other in zip(alone, guided, strict=True):
        torch.testing.assert_close(mine, other)
    leaf = cond.detach().clone().requires_grad_()
    next_latents, _ = guided_step(latents, leaf, **SCHEDULE)
    (ours,) = torch.autograd.grad(next_latents.sum(), leaf)
    other = cond.detach().clone().requires_grad_()
    (theirs,) = torch.autograd.grad(reference.guided_step(latents, other, **SCHEDULE)[0].sum(), other)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("clip", [None, 1.0])
def test_at_most_twice_the_error_of_torch(dtype, prediction_type, clip):
    inputs = random_tensors((8, 4, 31, 33), dtype)
    grads = random_tensors((8, 4, 31, 33), torch.float32, seed=1)[:2]
    options = {"prediction_type": prediction_type, "clip_range": clip}
    results = outputs_and_gradients(lambda *x: step(*x, **options), inputs, grads)

    def peer(*x: Tensor):
        return step(*x, function=reference.guided_step, **options)

    peers = outputs_and_gradients(peer, inputs, grads)
    exact = outputs_and_gradients(peer, [x.double() for x in inputs], [g.to(dtype).double() for g in grads])
    clean = step(*[x.double() for x in inputs], function=reference.guided_step, prediction_type=prediction_type,
                 clip_range=None)[1]  # fmt: skip
    for k, (result, other, truth) in enumerate(zip(results, peers, exact, strict=True)):
        assert result.dtype == dtype
        if clip and k >= 2:  # at the very edge of the range either answer of the clipping is right
            sure = (clean.abs() - clip).abs() > 1e-5
            result, other, truth = result[sure], other[sure], truth[sure]
        assert_as_exact(result, other, truth)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradcheck_to_every_input_and_the_schedule(prediction_type, clip):
    latents, cond, uncond, noise = (x.requires_grad_() for x in random_tensors((2, 3), torch.float64, seed=3))
    schedule = [torch.tensor([0.3, 0.35]), torch.tensor(0.6), torch.tensor([2.0])]
    schedule = [x.double().requires_grad_() for x in schedule]

    def run(latents, cond, uncond, noise, alpha_bar, alpha_bar_next, scale):
        return step(latents, cond, uncond, noise, alpha_bar=alpha_bar, alpha_bar_next=alpha_bar_next,
                    guidance_scale=scale, prediction_type=prediction_type, clip_range=clip)  # fmt: skip

    assert gradcheck(run, (latents, cond, uncond, noise, *schedule))
    assert gradgradcheck(run, (latents, cond, uncond, noise, *schedule), atol=1e-4)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradient_of_each_input_alone_and_of_each_output_alone(output, clip):
    inputs = random_tensors((3, 7), torch.float64)
    leaves = [x.clone().requires_grad_() for x in inputs]
    together = torch.autograd.grad(step(*leaves, clip_range=clip)[output].sin().sum(), leaves, allow_unused=True)
    for k in range(4):
        alone = [x.clone().requires_grad_(j == k) for j, x in enumerate(inputs)]
        (grad,) = torch.autograd.grad(step(*alone, clip_range=clip)[output].sin().sum(), alone[k], allow_unused=True)
        torch.testing.assert_close(grad, together[k], rtol=0, atol=0)
        assert gradcheck(lambda *x: step(*x, clip_range=clip)[output], alone)


def test_a_guidance_scale_can_be_learned():
    latents, cond, uncond, _ = random_tensors((16, 4, 8, 8), seed=5)
    goal = guided_step(latents, cond, uncond, **SCHEDULE, guidance_scale=4.0)[0]
    scale = torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.SGD([scale], lr=0.8)
    for _ in range(30):
        optimizer.zero_grad()
        (guided_step(latents, cond, uncond, **SCHEDULE, guidance_scale=scale)[0] - goal).square().mean().backward()
        optimizer.step()
    assert scale.item() == pytest.approx(4.0, abs=1e-3)


def test_without_clipping_no_latents_are_kept_for_the_backward():
    inputs = [x.requires_grad_() for x in random_tensors((2, 300))]
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step(*inputs, clip_range=None)
    assert max((x.numel() for x in kept), default=0) <= 14


def test_properties():
    latents, cond, uncond, noise = random_tensors((4, 3, 8))
    _, clean = step(latents, cond, uncond, noise, clip_range=0.25)
    assert clean.abs().max() <= 0.25
    # Towards no noise at all the next latents are the clean ones.
    final, clean = guided_step(latents, cond, uncond, alpha_bar=0.4, alpha_bar_next=1.0, guidance_scale=2.0)
    torch.testing.assert_close(final, clean)
    # To where it comes from, a step is none; and there and back is where it started, if the prediction stays.
    same, _ = guided_step(latents, cond, alpha_bar=0.4, alpha_bar_next=0.4)
    torch.testing.assert_close(same, latents)
    there, _ = guided_step(latents, cond, alpha_bar=0.4, alpha_bar_next=0.7)
    back, _ = guided_step(there, cond, alpha_bar=0.7, alpha_bar_next=0.4)
    torch.testing.assert_close(back, latents)
    # Zero terminal signal-to-noise ratio, for predictions that allow it.
    assert torch.isfinite(
        guided_step(latents, cond, alpha_bar=0.0, alpha_bar_next=0.1, prediction_type="sample")[0]
    ).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_element(bad):
    inputs = random_tensors((2, 40))
    inputs[0][1, 7] = bad
    following, clean = step(*inputs)
    elsewhere = torch.ones(2, 40, dtype=torch.bool)
    elsewhere[1, 7] = False
    assert not math.isfinite(following[1, 7])
    assert torch.isfinite(following[elsewhere]).all()
    assert torch.isfinite(clean[elsewhere]).all()
    assert clean[1, 7].isnan().item() == math.isnan(bad)


def test_strided_inputs_and_memory_formats():
    inputs = random_tensors((4, 6, 10, 8))
    channels_last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    expected = step(*inputs)
    variants = {
        "channels last": channels_last,
        "only latents channels last": [channels_last[0], *inputs[1:]],
        "only predictions channels last": [inputs[0], *channels_last[1:]],
        "half of the channels of a wider tensor": [torch.cat([x, x], 1)[:, :6] for x in inputs],
        "transposed": [x.transpose(2, 3).contiguous().transpose(2, 3) for x in inputs],
        "every other sample": [x.repeat_interleave(2, 0)[::2] for x in inputs],
    }
    for name, variant in variants.items():
        for mine, other in zip(step(*variant), expected, strict=True):
            assert torch.equal(mine, other), name
            if name.endswith("latents channels last") or name == "channels last":
                assert mine.is_contiguous(memory_format=torch.channels_last), name
            else:
                assert mine.is_contiguous(), name
        ours = outputs_and_gradients(step, variant, list(expected))
        theirs = outputs_and_gradients(step, inputs, list(expected))
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.equal(mine, other), name
    shared = step(inputs[0], *(x[:1].expand(4, 6, 10, 8) for x in inputs[1:]))
    copied = step(inputs[0], *(x[:1].repeat(4, 1, 1, 1) for x in inputs[1:]))
    assert torch.equal(shared[0], copied[0])


def test_mixed_dtypes_use_the_widest():
    latents, cond, uncond, noise = random_tensors((3, 4, 5))
    mixed = step(latents, cond.bfloat16(), uncond.bfloat16(), noise)
    widened = step(latents, cond.bfloat16().float(), uncond.bfloat16().float(), noise)
    for mine, other in zip(mixed, widened, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(step(latents, cond, uncond, noise)[0], step(latents, cond, uncond, noise)[0])


def test_empty_batch():
    inputs = [torch.zeros(0, 4, 3, 3, requires_grad=True) for _ in range(4)]
    following, clean = step(*inputs)
    assert following.shape == clean.shape == (0, 4, 3, 3)
    following.sum().backward()
    assert inputs[0].grad.shape == (0, 4, 3, 3)
    scale = torch.tensor(2.0, requires_grad=True)
    step(*inputs, guidance_scale=scale)[0].sum().backward()
    assert scale.grad == 0


def test_bitwise_equal_over_runs_and_threads():
    inputs = random_tensors((3, 40001))
    scale = torch.tensor([2.0], requires_grad=True)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            outputs = step(*inputs, guidance_scale=scale)
            results.append((*outputs, torch.autograd.grad(outputs[0].sin().sum(), scale)[0]))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    latents, cond, uncond, noise = (x.requires_grad_() for x in random_tensors((3, 2, 3), dtype))
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    coefficients = torch.rand(3, 7, dtype=compute).requires_grad_()
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    thorough = (*quick, "test_aot_dispatch_dynamic") if dtype == torch.float32 else quick
    op, backward = torch.ops.hardfast.guided_step, torch.ops.hardfast._guided_step_backward
    for optional, rows, clip in itertools.product([True, False], [1, 3], [None, 0.5]):
        absent = (uncond, noise) if optional else (None, None)
        args = (latents, cond, *absent, coefficients[:rows].detach().requires_grad_(), clip)
        torch.library.opcheck(op, args, test_utils=thorough if clip and rows == 3 else quick)
        grads = op(*args)
        for mask in ([True] * 5, [True, False, False, False, False], [False, True, True, True, False]):
            saved = args[:4] if mask[4] or clip else (None,) * 4
            for given in (tuple(g.detach() for g in grads), (grads[0].detach(), None), (None, grads[1].detach())):
                every = all(mask) and clip and rows == 3 and given[0] is not None and given[1] is not None
                utils = thorough if every else quick
                torch.library.opcheck(backward, (*given, *saved, *args[4:], mask), test_utils=utils)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_to_one_graph(dynamic):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    schedule = torch.tensor([0.3, 0.6])

    def run(latents, cond, uncond, noise):
        return step(2 * latents, cond, uncond, noise, alpha_bar=schedule[0], alpha_bar_next=schedule[1])

    compiled = torch.compile(run, backend=counter, fullgraph=True, dynamic=dynamic)
    for batch in (4, 5, 7):
        inputs = random_tensors((batch, 3, 6, 5), seed=batch)
        grads = random_tensors((batch, 3, 6, 5), seed=1)[:2]
        ours, theirs = outputs_and_gradients(compiled, inputs, grads), outputs_and_gradients(run, inputs, grads)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)
    assert counter.frame_count <= (1 if dynamic else 2)


def test_compiles_with_numbers_that_vary_and_channels_last():
    torch.compiler.reset()
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in random_tensors((2, 3, 4, 5))]

    def run(a: float, b: float):
        return step(*inputs, alpha_bar=a, alpha_bar_next=b)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run, backend=counter, fullgraph=True)
    for a, b in ((0.1, 0.3), (0.3, 0.6), (0.6, 0.95), (0.7, 0.8)):
        for mine, other in zip(compiled(a, b), run(a, b), strict=True):
            torch.testing.assert_close(mine, other)
            assert mine.stride() == other.stride()
    assert counter.frame_count <= 2


@pytest.mark.parametrize("in_dims", [(0, 0, 0, 0), (0, None, None, None), (None, 1, 0, 2)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_vmap_and_per_sample_gradients(in_dims, per_sample):
    batched = random_tensors((4, 3, 6))
    args = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip(batched, in_dims, strict=True)]
    scale = torch.tensor([1.0, 2.0, 3.0]) if per_sample else torch.tensor(2.0)

    def loss(latents, cond, uncond, noise, scale):
        following, clean = step(latents, cond, uncond, noise, guidance_scale=scale)
        return following.sin().sum() + clean.square().sum()

    grad = torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))
    mapped = torch.func.vmap(grad, (*in_dims, None))(*args, scale)
    for k in range(4):
        single = grad(*(x[0] if dim is None else x[k] for x, dim in zip(batched, in_dims, strict=True)), scale)
        for mine, other in zip(mapped, single, strict=True):
            torch.testing.assert_close(mine[k], other)


def test_vmap_over_the_schedule():
    inputs = random_tensors((3, 6))
    alpha_bar = torch.tensor([0.2, 0.3])
    following, _ = torch.func.vmap(lambda a: step(*inputs, alpha_bar=a))(alpha_bar)
    for k in range(2):
        torch.testing.assert_close(following[k], step(*inputs, alpha_bar=alpha_bar[k])[0])


X = torch.zeros(4, 3, 2)


@pytest.mark.parametrize(
    ("error", "match", "args", "kwargs"),
    [
        (TypeError, "latents must be a tensor, got list", ([1.0], X), {}),
        (TypeError, "noise_cond must be float32", (X, X.int()), {}),
        (ValueError, r"noise_cond must have the shape of latents, \[4, 3, 2\], got \[4, 3\]", (X, X[..., 0]), {}),
        (ValueError, r"noise_uncond must have the shape of latents", (X, X, X[:1]), {}),
        (ValueError, r"latents must have shape \[B, \.\.\.\], got \[\]", (X.sum(), X.sum()), {}),
        (ValueError, "noise_cond must be on the device of latents", (X, X.to("meta")), {}),
        (ValueError, r"alpha_bar must be in \(0, 1\], got 0", (X, X), {"alpha_bar": 0.0}),
        (ValueError, r"alpha_bar must be in \(0, 1\], got nan", (X, X), {"alpha_bar": math.nan}),
        (ValueError, r"alpha_bar must be in \(0, 1\], got tensor", (X, X), {"alpha_bar": torch.tensor([0.1, 1, 2, 1])}),
        (ValueError, r"alpha_bar must be in \[0, 1\), got 1", (X, X), {"alpha_bar": 1, "prediction_type": "sample"}),
        (ValueError, r"alpha_bar must be in \(0, 1\), got 1", (X, X), {"alpha_bar": 1, "eta": 0.5, "noise": X}),
        (ValueError, r"alpha_bar_next must be in \(0, 1\], got 1.5", (X, X), {"alpha_bar_next": 1.5}),
        (ValueError, "alpha_bar_next must be at least alpha_bar", (X, X), {"alpha_bar": 0.7, "eta": 1.0, "noise": X}),
        (ValueError, r"alpha_bar must have shape \[\] or \[B\] = \[4\]", (X, X), {"alpha_bar": torch.full([3], 0.5)}),
        (TypeError, "alpha_bar must be a number or a tensor, got str", (X, X), {"alpha_bar": "0.5"}),
        (TypeError, "alpha_bar_next must be float32", (X, X), {"alpha_bar_next": torch.tensor(1)}),
        (ValueError, "noise_uncond must be given for guidance", (X, X), {"guidance_scale": 2.0}),
        (ValueError, "prediction_type must be one of", (X, X), {"prediction_type": "noise"}),
        (ValueError, r"eta must be in \[0, 1\], got 2", (X, X), {"eta": 2}),
        (TypeError, "eta must be a number, got Tensor", (X, X), {"eta": torch.tensor(0.0)}),
        (ValueError, "noise must be given with eta > 0", (X, X), {"eta": 0.5}),
        (ValueError, "noise is used only with eta > 0", (X, X), {"noise": X}),
        (ValueError, "clip_range must be positive and finite, or None, got 0", (X, X), {"clip_range": 0}),
        (TypeError, "clip_range must be a number or None, got tuple", (X, X), {"clip_range": (-1, 1)}),
    ],
)
def test_errors_name_the_argument(error, match, args, kwargs):
    with pytest.raises(error, match=match):
        guided_step(*args, **(SCHEDULE | kwargs))
