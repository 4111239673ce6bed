"""linear_kl_disagreement against F.linear and kl_disagreement, and its memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from bench.memory import peak_bytes
from hardfast import reference
from hardfast.ops import kl_disagreement, linear_kl_disagreement
from hardfast.testing import assert_as_exact

DIVERGENCES = ["forward", "reverse", "jensen_shannon"]
REDUCTIONS = ["batchmean", "mean", "sum", "none"]
NAMES = ("student_features", "student_weight", "student_bias", "teacher_features", "teacher_weight", "teacher_bias")


def random_heads(
    rows: int | tuple[int, ...], width: int, teacher_width: int, classes: int, dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor]:
    lead = (rows,) if isinstance(rows, int) else rows
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for side, size in (("student", width), ("teacher", teacher_width)):
        for name, shape in (("features", (*lead, size)), ("weight", (classes, size)), ("bias", (classes,))):
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            tensors[f"{side}_{name}"] = (value * (2 / size**0.5 if name == "weight" else 1)).to(dtype)
    return tensors


def value_and_gradients(
    function: Callable[..., Tensor], tensors: dict[str, Tensor], grad: Tensor | None = None, **options
) -> dict[str, Tensor]:
    leaves = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    value = function(**leaves, **options)
    grads = torch.autograd.grad(value, list(leaves.values()), torch.ones_like(value) if grad is None else grad)
    return {"loss": value.detach()} | dict(zip(leaves, grads, strict=True))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("rows", "chunk_rows"), [(13, 5), (12, 4), (3, None), ((2, 3, 2), 5), ((), None)], ids=str)
def test_equals_linear_and_kl_disagreement_in_float64(divergence, reduction, rows, chunk_rows):
    tensors = random_heads(rows, 6, 4, 17, torch.float64)
    options = {"temperature": 2.5, "divergence": divergence, "reduction": reduction}
    lead = (rows,) if isinstance(rows, int) else rows
    grad = torch.randn(lead if reduction == "none" else (), dtype=torch.float64)
    ours = value_and_gradients(linear_kl_disagreement, tensors, grad, chunk_rows=chunk_rows, **options)

    def composed(**heads: Tensor) -> Tensor:
        h = list(heads.values())
        return kl_disagreement(F.linear(*h[:3]), F.linear(*h[3:]), **options)

    theirs = value_and_gradients(composed, tensors, grad)
    plain = value_and_gradients(reference.linear_kl_disagreement, tensors, grad, **options)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("reduction", ["batchmean", "none"])
def test_teacher_logits_in_place_of_its_head_and_no_biases(reduction):
    tensors = random_heads(7, 6, 11, 11, torch.float64)
    given = {name: tensors[name] for name in ("student_features", "student_weight", "teacher_features")}
    ours = value_and_gradients(linear_kl_disagreement, given, reduction=reduction, chunk_rows=3)
    theirs = value_and_gradients(reference.linear_kl_disagreement, given, reduction=reduction)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_at_most_twice_the_error_of_torch(dtype, divergence):
    tensors = random_heads(200, 48, 32, 1500, dtype, seed=1)
    options = {"divergence": divergence, "temperature": 2.0}
    results = value_and_gradients(linear_kl_disagreement, tensors, chunk_rows=64, **options)
    peers = value_and_gradients(reference.linear_kl_disagreement, tensors, **options)
    exact = value_and_gradients(
        reference.linear_kl_disagreement, {k: x.double() for k, x in tensors.items()}, **options
    )
    assert results["loss"].dtype == torch.float32
    for name, truth in exact.items():
        assert name == "loss" or results[name].dtype == dtype
        assert_as_exact(results[name], peers[name], truth)


def test_half_precision_gradients_profit_from_a_loss_scale():
    # A logit's share of the loss, 1 / (rows * classes), is below the normal numbers of float16.
    tensors = random_heads(512, 16, 16, 4000, torch.float16)
    scale = 2.0**10
    scaled = value_and_gradients(linear_kl_disagreement, tensors, torch.tensor(scale))
    exact = value_and_gradients(reference.linear_kl_disagreement, {k: x.double() for k, x in tensors.items()})
    for name in NAMES:
        error = (scaled[name].double() / scale - exact[name]).abs().mean() / exact[name].abs().mean()
        assert error < 2e-3, name


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("reduction", ["batchmean", "none"])
def test_gradcheck(divergence, reduction):
    tensors = random_heads(3, 2, 2, 4, torch.float64)

    def loss(*values: Tensor) -> Tensor:
        return linear_kl_disagreement(
            **dict(zip(tensors, values, strict=True)), temperature=1.5, divergence=divergence, reduction=reduction,
            chunk_rows=2,
        )  # fmt: skip

    inputs = tuple(x.requires_grad_() for x in tensors.values())
    assert gradcheck(loss, inputs)
    assert gradgradcheck(loss, inputs)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_gradient_of_each_input_alone_equals_that_of_all(reduction):
    tensors = random_heads(9, 5, 4, 33, torch.float32)
    together = value_and_gradients(linear_kl_disagreement, tensors, reduction=reduction, chunk_rows=4)
    for name in NAMES:
        leaf = tensors[name].clone().requires_grad_()
        loss = linear_kl_disagreement(**tensors | {name: leaf}, reduction=reduction, chunk_rows=4)
        (alone,) = torch.autograd.grad(loss.sum(), leaf)
        assert torch.equal(alone, together[name]), name


def test_backward_twice_and_gradients_that_are_changed_in_place():
    tensors = {name: x.requires_grad_() for name, x in random_heads(6, 5, 4, 20, torch.float64).items()}
    loss = linear_kl_disagreement(**tensors, chunk_rows=4)
    inputs = list(tensors.values())
    first = torch.autograd.grad(loss, inputs, torch.tensor(3.0, dtype=torch.float64), retain_graph=True)
    kept = [x.clone() for x in first]
    for x in first:
        x.zero_()
    second = torch.autograd.grad(loss, inputs)
    for a, b in zip(kept, second, strict=True):
        torch.testing.assert_close(a, 3 * b)
    with torch.no_grad():
        assert not linear_kl_disagreement(**tensors).requires_grad


def test_a_loss_added_to_itself_and_shared_tensors():
    tensors = random_heads(6, 5, 5, 20, torch.float64)
    shared = tensors["student_weight"].requires_grad_()
    heads = tensors | {"teacher_weight": shared}
    once = linear_kl_disagreement(**heads)
    (ours,) = torch.autograd.grad(once + once.square(), shared)
    other = reference.linear_kl_disagreement(**heads)
    (theirs,) = torch.autograd.grad(other + other.square(), shared)
    torch.testing.assert_close(ours, theirs)


def test_gradients_of_a_batch_of_incoming_ones():
    features = torch.randn(5, 3, requires_grad=True)
    loss = linear_kl_disagreement(features, torch.randn(6, 3), torch.randn(5, 3), torch.randn(6, 3))
    incoming = torch.tensor([1.0, -2.5])
    (batched,) = torch.autograd.grad(loss, features, incoming, is_grads_batched=True, retain_graph=True)
    (once,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(batched, incoming[:, None, None] * once)


def test_narrower_teacher_logits_in_any_layout():
    features, weight = torch.randn(6, 4, requires_grad=True), torch.randn(7, 4)
    teacher = torch.randn(7, 6).bfloat16().t().requires_grad_()
    grads = [
        torch.autograd.grad(linear_kl_disagreement(features, weight, logits), (features, teacher))
        for logits in (teacher, teacher.contiguous())
    ]
    for mine, other in zip(*grads, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    tensors = [random_heads(5, 3, 4, 7, dtype)[name].requires_grad_() for name in NAMES]
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    thorough = (*quick, "test_aot_dispatch_dynamic") if dtype == torch.float32 else quick
    op = torch.ops.hardfast.linear_kl_disagreement
    backward = torch.ops.hardfast._linear_kl_disagreement_backward
    for per_sample, biased in itertools.product([True, False], [True, False]):
        inputs = [None if k in (2, 5) and not biased else x for k, x in enumerate(tensors)]
        options = (2.0, "forward", per_sample, 5, 2)
        torch.library.opcheck(op, (*inputs, *options, [False] * 6), test_utils=thorough)
        mask = [x is not None for x in inputs]
        detached = [None if x is None else x.detach() for x in inputs]
        torch.library.opcheck(op, (*detached, *options, mask), test_utils=quick)
        grad = torch.ones(5 if per_sample else ())
        for wanted in (mask, [False, True, False, False, False, False]):
            torch.library.opcheck(
                backward, (grad, *inputs, *options, wanted), test_utils=thorough if wanted is mask else quick
            )


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("reduction", ["batchmean", "none"])
def test_compiles_to_one_graph(dynamic, reduction):
    torch.compiler.reset()

    def loss(student_features: Tensor, **others: Tensor) -> Tensor:
        return linear_kl_disagreement(2 * student_features, **others, temperature=2.0, reduction=reduction).sin()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for rows in (4, 5):
        tensors = random_heads(rows, 5, 4, 11, torch.float32)
        ours, theirs = value_and_gradients(compiled, tensors), value_and_gradients(loss, tensors)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name])


def test_compiles_with_inductor():
    torch.compiler.reset()
    tensors = random_heads(8, 5, 4, 11, torch.float32)
    compiled = torch.compile(linear_kl_disagreement, fullgraph=True)
    ours, theirs = value_and_gradients(compiled, tensors), value_and_gradients(linear_kl_disagreement, tensors)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("reduction", ["batchmean", "none"])
def test_vmap_and_per_sample_gradients(reduction):
    tensors = random_heads((3, 4), 5, 5, 6, torch.float32)
    others = [tensors[name] for name in ("student_weight", "teacher_features", "teacher_weight")]

    def loss(features: Tensor, weight: Tensor, teacher_features: Tensor, teacher_weight: Tensor) -> Tensor:
        return linear_kl_disagreement(features, weight, teacher_features, teacher_weight, reduction=reduction).sum()

    gradient = torch.func.grad_and_value(loss, argnums=(0, 1))
    mapped, values = torch.func.vmap(gradient, (0, None, 0, None))(tensors["student_features"], *others)
    for k in range(3):
        grads, value = gradient(tensors["student_features"][k], others[0], others[1][k], others[2])
        torch.testing.assert_close(values[k], value)
        for mine, other in zip(mapped, grads, strict=True):
            torch.testing.assert_close(mine[k], other)


def test_hessian_by_torch_func():
    heads = random_heads(3, 2, 2, 4, torch.float64)
    weight = heads.pop("student_weight")
    ours, theirs = (
        torch.func.jacrev(torch.func.jacrev(lambda w, f=f: f(student_weight=w, **heads)))(weight)
        for f in (linear_kl_disagreement, reference.linear_kl_disagreement)
    )
    torch.testing.assert_close(ours, theirs)


def test_autocast_and_sides_of_different_dtypes():
    tensors = random_heads(9, 8, 8, 40, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = value_and_gradients(linear_kl_disagreement, tensors, chunk_rows=4)
        theirs = value_and_gradients(reference.linear_kl_disagreement, tensors)
    exact = value_and_gradients(reference.linear_kl_disagreement, {k: x.double() for k, x in tensors.items()})
    for name in ours:
        assert ours[name].dtype == torch.float32
        assert_as_exact(ours[name], theirs[name], exact[name], factor=3)
    mixed = {name: x.bfloat16() if name.startswith("teacher") else x for name, x in tensors.items()}
    ours, theirs = (
        value_and_gradients(function, mixed) for function in (linear_kl_disagreement, reference.linear_kl_disagreement)
    )
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        torch.testing.assert_close(ours[name], theirs[name], rtol=2e-2, atol=2e-4)


def test_strided_features_and_weights():
    tensors = random_heads(8, 6, 6, 10, torch.float32)
    variants = {
        "transposed": {name: x.t().contiguous().t() if x.dim() == 2 else x for name, x in tensors.items()},
        "sliced": {name: torch.cat([x, x], -1)[..., : x.shape[-1]] for name, x in tensors.items()},
        "one row for all": tensors | {"teacher_features": tensors["teacher_features"][:1].expand(8, 6)},
    }
    for variant in variants.values():
        leaves = {name: x.detach().requires_grad_() for name, x in variant.items()}
        grads = torch.autograd.grad(linear_kl_disagreement(**leaves, chunk_rows=3), list(leaves.values()))
        dense = value_and_gradients(
            linear_kl_disagreement, {k: x.contiguous() for k, x in variant.items()}, chunk_rows=3
        )
        for mine, name in zip(grads, NAMES, strict=True):
            torch.testing.assert_close(mine, dense[name])


def test_empty_batch():
    tensors = {name: x.requires_grad_() for name, x in random_heads(0, 3, 3, 5, torch.float32).items()}
    assert linear_kl_disagreement(**tensors, reduction="none").shape == (0,)
    total = linear_kl_disagreement(**tensors, reduction="sum")
    assert total.item() == 0
    total.backward()
    assert not tensors["student_weight"].grad.any()
    mean = linear_kl_disagreement(**tensors)
    assert mean.isnan()
    for gradient in torch.autograd.grad(mean, list(tensors.values()), create_graph=True):
        assert not gradient.any()
    assert not torch.autograd.grad(linear_kl_disagreement(**tensors), tensors["student_weight"])[0].any()


def test_bitwise_equal_over_runs():
    tensors = random_heads(70, 16, 16, 301, torch.float32)
    runs = [value_and_gradients(linear_kl_disagreement, tensors, chunk_rows=16) for _ in range(3)]
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("classes", [1, 7, 1025, 5000])
@pytest.mark.parametrize("threads", [1, 2, 3, 12])
def test_products_shared_among_threads(dtype, classes, threads):
    heads = random_heads(9, 6, 6, classes, dtype)
    features, weight, bias = (heads[f"student_{name}"] for name in ("features", "weight", "bias"))
    weights = {
        "contiguous": weight,
        "transposed": weight.t().contiguous().t(),
        "one for all": weight[:1].expand(classes, 6),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for w in weights.values():
            for b in (bias, None):
                logits = torch.full((9, classes), math.nan, dtype=dtype)
                torch.ops.hardfast._linear_logits(features, w, b, logits)
                torch.testing.assert_close(logits, F.linear(features, w, b))
            product = torch.full((9, 6), math.nan, dtype=dtype)
            torch.ops.hardfast._logits_times_weight(logits, w, product)
            torch.testing.assert_close(
                product.double(),
                logits.double() @ w.double(),
                rtol=1e-2 if dtype == torch.bfloat16 else 1e-4,
                atol=1e-2,
            )
    finally:
        torch.set_num_threads(before)


def test_products_refuse_shapes_that_do_not_fit():
    features, weight = torch.zeros(4, 3), torch.zeros(10, 3)
    for bias, logits in ((torch.zeros(9), torch.zeros(4, 10)), (None, torch.zeros(4, 9)), (None, torch.zeros(3, 10))):
        with pytest.raises(RuntimeError, match="logits must be"):
            torch.ops.hardfast._linear_logits(features, weight, bias, logits)
    with pytest.raises(RuntimeError, match="the product must be"):
        torch.ops.hardfast._logits_times_weight(torch.zeros(4, 9), weight, torch.zeros(4, 3))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_in_inference_mode_and_without_gradients(mode):
    tensors = random_heads(9, 6, 5, 5000, torch.float32)
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    with mode():
        loss = linear_kl_disagreement(**leaves, chunk_rows=4)
    torch.testing.assert_close(loss, reference.linear_kl_disagreement(**tensors))


@pytest.mark.parametrize("reduction", ["batchmean", "mean", "sum"])
def test_gradients_by_a_loss_that_is_multiplied_or_not(reduction):
    tensors = random_heads(9, 6, 5, 33, torch.float32)
    plain = value_and_gradients(linear_kl_disagreement, tensors, reduction=reduction, chunk_rows=4)
    exact = value_and_gradients(reference.linear_kl_disagreement, tensors, reduction=reduction)
    half = value_and_gradients(linear_kl_disagreement, tensors, torch.tensor(0.5), reduction=reduction, chunk_rows=4)
    for name in NAMES:
        torch.testing.assert_close(plain[name], exact[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(half[name], plain[name] / 2)


def test_nan_stays_in_its_row():
    tensors = random_heads(9, 4, 4, 12, torch.float32)
    tensors["student_features"][5, 2] = math.nan
    loss = linear_kl_disagreement(**tensors, reduction="none", chunk_rows=2)
    assert loss.isnan().nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("trained", ["features", "weight"])
def test_the_logits_are_never_in_memory(trained):
    rows, width, classes = 512, 32, 4000
    tensors = random_heads(rows, width, width, classes, torch.float32)
    wanted = [x.requires_grad_() for name, x in tensors.items() if name.endswith(trained)]
    peak = peak_bytes(lambda: torch.autograd.grad(linear_kl_disagreement(**tensors, chunk_rows=16), wanted))
    gradients = sum(x.numel() for x in wanted) * 4
    assert gradients <= peak <= gradients + 4.5 * 16 * classes * 4


X, W, LOGITS = torch.zeros(4, 3), torch.zeros(10, 3), torch.zeros(4, 10)


@pytest.mark.parametrize(
    ("error", "match", "args", "kwargs"),
    [
        (TypeError, "student_features must be a tensor, got list", ([1.0], W, X, W), {}),
        (TypeError, "student_weight must be float32", (X, W.int(), X, W), {}),
        (TypeError, "student_weight must be a tensor, got NoneType", (X, None, X, W), {}),
        (TypeError, "student_weight must have the dtype of student_features", (X, W.half(), X, W), {}),
        (TypeError, "teacher_bias must have the dtype of", (X, W, X, W), {"teacher_bias": torch.zeros(10).half()}),
        (ValueError, r"student_weight must have shape \[K, 3\], got \[10, 2\]", (X, W[:, :2], X, W), {}),
        (ValueError, r"student_weight must have shape \[K, D\] with K >= 1", (X, W[:0], X, W[:0]), {}),
        (ValueError, r"teacher_weight must have shape \[10, 3\], got \[9, 3\]", (X, W, X, W[:9]), {}),
        (ValueError, r"teacher_features must have shape \[..., D\] with the leading", (X, W, X[:2], W), {}),
        (ValueError, "without teacher_weight are logits of 10 classes", (X, W, X), {}),
        (ValueError, "teacher_bias is used only with", (X, W, LOGITS), {"teacher_bias": torch.zeros(10)}),
        (ValueError, r"student_bias must have shape \[10\], got \[1\]", (X, W, X, W), {"student_bias": torch.zeros(1)}),
        (ValueError, "teacher_weight must be on the device of student_features", (X, W, X, W.to("meta")), {}),
        (ValueError, "chunk_rows must be a positive whole number or None, got 0", (X, W, X, W), {"chunk_rows": 0}),
        (ValueError, "temperature must be positive", (X, W, X, W), {"temperature": 0.0}),
        (ValueError, "divergence must be one of", (X, W, X, W), {"divergence": "sideways"}),
        (ValueError, "reduction must be one of", (X, W, X, W), {"reduction": "median"}),
    ],
)
def test_errors_name_the_argument(error, match, args, kwargs):
    with pytest.raises(error, match=match):
        linear_kl_disagreement(*args, **kwargs)


def test_shapes_alone_are_enough_on_the_meta_device():
    inputs = [torch.empty(shape, device="meta") for shape in ((4, 8), (10, 8), (4, 6), (10, 6))]
    assert linear_kl_disagreement(*inputs, reduction="none").shape == (4,)
    assert linear_kl_disagreement(*inputs).is_meta
