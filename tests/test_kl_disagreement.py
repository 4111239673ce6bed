"""kl_disagreement against F.kl_div, and the properties that a drop-in op must have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from row_losses import random_rows
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck

from bench.memory import profiled_memory
from hardfast import reference
from hardfast.ops import kl_disagreement
from hardfast.testing import assert_as_exact

DIVERGENCES = ["forward", "reverse", "jensen_shannon"]
REDUCTIONS = ["batchmean", "mean", "sum", "none"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def torch_kl(
    student: Tensor, teacher: Tensor, temperature: float, divergence: str, reduction: str = "batchmean"
) -> Tensor:
    """The documented equivalent, on F.kl_div."""
    log_s, log_t = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)

    def kl(log_target: Tensor, log_input: Tensor) -> Tensor:
        return F.kl_div(log_input, log_target, log_target=True, reduction="none")

    if divergence == "forward":
        terms = kl(log_t, log_s)
    elif divergence == "reverse":
        terms = kl(log_s, log_t)
    else:
        log_m = torch.logaddexp(log_s, log_t) - math.log(2)
        terms = 0.5 * (kl(log_t, log_m) + kl(log_s, log_m))
    terms = temperature**2 * terms
    if reduction == "none":
        return terms.sum(-1)
    return {"batchmean": terms.sum() / len(terms), "mean": terms.mean(), "sum": terms.sum()}[reduction]


def random_logits(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, ...]:
    return random_rows(shape, dtype, scale, seed)[:2]


def value_and_gradients(function, logits: tuple[Tensor, ...], grad: Tensor | None = None) -> tuple[Tensor, ...]:
    inputs = tuple(x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in logits)
    value = function(*inputs)
    return (value.detach(), *torch.autograd.grad(value, inputs, torch.ones_like(value) if grad is None else grad))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 2), (17, 1031)], ids=str)
@pytest.mark.parametrize("temperature", [0.1, 1, 5.0])
def test_equals_kl_div_in_float64(divergence, reduction, shape, temperature):
    logits = random_logits(shape, torch.float64)
    grad = torch.randn(shape[0], dtype=torch.float64) if reduction == "none" else None
    ours = value_and_gradients(
        lambda s, t: kl_disagreement(s, t, temperature=temperature, divergence=divergence, reduction=reduction),
        logits,
        grad,
    )
    theirs = value_and_gradients(lambda s, t: torch_kl(s, t, temperature, divergence, reduction), logits, grad)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # PyTorch's remark on its own default
def test_reductions_divide_as_kl_div_does():
    student, teacher = random_logits((4, 3, 10), torch.float64)
    for reduction in ("batchmean", "mean", "sum"):
        expected = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction=reduction)
        torch.testing.assert_close(kl_disagreement(student, teacher, reduction=reduction), expected)
    per_sample = kl_disagreement(student, teacher, reduction="none")
    assert per_sample.shape == (4, 3)
    torch.testing.assert_close(per_sample.sum() / 4, kl_disagreement(student, teacher))
    one_row = kl_disagreement(student[0, 0], teacher[0, 0])
    torch.testing.assert_close(one_row, per_sample[0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("classes", [2, 10, 1000, 4099])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_at_most_twice_the_error_of_torch(dtype, divergence, classes, temperature):
    rows = 256 + 20000 // classes  # so many that the largest error of either is hardly a matter of chance
    logits = random_logits((rows, classes), dtype)
    # PyTorch's best in this dtype is float32 arithmetic on the same logits: in half itself it does far worse.
    grad = torch.randn(rows)

    def ours(s: Tensor, t: Tensor) -> Tensor:
        return kl_disagreement(s, t, temperature=temperature, divergence=divergence, reduction="none")

    def theirs(s: Tensor, t: Tensor) -> Tensor:
        return torch_kl(s, t, temperature, divergence, "none")

    results = value_and_gradients(ours, logits, grad)
    peers = value_and_gradients(lambda s, t: theirs(s.float(), t.float()), logits, grad)
    exact = value_and_gradients(theirs, tuple(x.double() for x in logits), grad.double())
    assert results[0].dtype == torch.float32
    assert results[1].dtype == results[2].dtype == dtype
    for result, peer, truth in zip(results, peers, exact, strict=True):
        assert_as_exact(result, peer, truth)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("which", ["student", "teacher", "both"])
@pytest.mark.parametrize("reduction", ["batchmean", "none"])
def test_gradcheck(divergence, which, reduction):
    student, teacher = random_logits((3, 5), torch.float64, scale=1.5)
    student.requires_grad_(which != "teacher")
    teacher.requires_grad_(which != "student")

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return kl_disagreement(student, teacher, temperature=2.5, divergence=divergence, reduction=reduction)

    assert gradcheck(loss, (student, teacher))
    assert gradgradcheck(loss, (student, teacher))


def test_gradient_of_one_side_alone_equals_that_of_both():
    logits = random_logits((33, 129), torch.float32)
    for divergence in DIVERGENCES:
        _, *both = value_and_gradients(lambda s, t, d=divergence: kl_disagreement(s, t, divergence=d), logits)
        _, student = value_and_gradients(
            lambda s, d=divergence: kl_disagreement(s, logits[1], divergence=d), logits[:1]
        )
        _, teacher = value_and_gradients(
            lambda t, d=divergence: kl_disagreement(logits[0], t, divergence=d), logits[1:]
        )
        assert torch.equal(both[0], student)
        assert torch.equal(both[1], teacher)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_properties(divergence):
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return kl_disagreement(student, teacher, divergence=divergence, reduction="none")

    student, teacher = random_logits((256, 37), torch.float32)
    assert (loss(student, teacher) >= 0).all()
    nearly = teacher + 1e-4 * torch.randn_like(teacher)
    assert (loss(nearly, teacher) >= 0).all()
    assert (loss(teacher, teacher) <= 1e-6).all()
    torch.testing.assert_close(loss(student + 3.0, teacher - 5.0), loss(student, teacher), rtol=1e-4, atol=1e-5)
    permutation = torch.randperm(37)
    torch.testing.assert_close(loss(student[:, permutation], teacher[:, permutation]), loss(student, teacher))
    _, grad_student, grad_teacher = value_and_gradients(loss, (student, teacher))
    for grad in (grad_student, grad_teacher):  # a shift of all logits changes nothing
        torch.testing.assert_close(grad.sum(-1), torch.zeros(256), rtol=0, atol=2e-5)
    if divergence == "jensen_shannon":
        assert (loss(1e4 * student, 1e4 * teacher) <= math.log(2) + 1e-6).all()
        torch.testing.assert_close(loss(student, teacher), loss(teacher, student))
    else:
        other = "reverse" if divergence == "forward" else "forward"
        torch.testing.assert_close(
            loss(student, teacher), kl_disagreement(teacher, student, divergence=other, reduction="none")
        )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_saturated_logits(divergence):
    student = torch.tensor([[1e4, 0.0, -1e4], [0.0, 80.0, 0.0], [3e38, -3e38, 0.0]])
    teacher = torch.tensor([[1e4, 0.0, -1e4], [80.0, 0.0, 0.0], [3e38, 0.0, -3e38]])

    def ours(s: Tensor, t: Tensor) -> Tensor:
        return kl_disagreement(s, t, divergence=divergence, reduction="none")

    value, grad_student, grad_teacher = value_and_gradients(ours, (student, teacher))
    exact = torch_kl(student.double(), teacher.double(), 1.0, divergence, "none")
    torch.testing.assert_close(value[:2].double(), exact[:2], rtol=1e-5, atol=1e-6)
    assert torch.isfinite(value).all()
    assert torch.isfinite(grad_student).all()
    assert torch.isfinite(grad_teacher).all()


def test_excluded_classes_count_as_zero():
    student, teacher = random_logits((4, 9), torch.float32)
    for divergence in DIVERGENCES:

        def loss(s: Tensor, t: Tensor, divergence: str = divergence) -> Tensor:
            return kl_disagreement(s, t, divergence=divergence)

        masked_student, masked_teacher = student.clone(), teacher.clone()
        masked_student[:, 5:] = masked_teacher[:, 5:] = -math.inf
        masked = value_and_gradients(loss, (masked_student, masked_teacher))
        smaller = value_and_gradients(loss, (student[:, :5], teacher[:, :5]))
        torch.testing.assert_close(masked[0], smaller[0])
        for full, part in zip(masked[1:], smaller[1:], strict=True):
            torch.testing.assert_close(full[:, :5], part)
            assert not full[:, 5:].any()
        inputs = (masked_student.requires_grad_(), masked_teacher.requires_grad_())
        first = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
        for second in torch.autograd.grad(sum(g.square().sum() for g in first), inputs):
            assert torch.isfinite(second).all(), divergence
    impossible = student.clone()
    impossible[:, 0] = -math.inf
    assert torch.equal(kl_disagreement(impossible, teacher), torch.tensor(math.inf))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_row(divergence, bad):
    student, teacher = random_logits((3, 40), torch.float32)
    student[1, 7] = bad

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return kl_disagreement(s, t, divergence=divergence, reduction="none")

    value, grad_student, grad_teacher = value_and_gradients(loss, (student, teacher))
    assert value.isnan().tolist() == [False, True, False]
    for grad in (grad_student, grad_teacher):
        assert grad[1].isnan().any()
        assert not grad[::2].isnan().any()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, divergence):
    student, teacher = (x.requires_grad_() for x in random_logits((3, 6), dtype))
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    thorough = (*quick, "test_aot_dispatch_dynamic") if (dtype, divergence) == (torch.float32, "forward") else quick
    op, backward = torch.ops.hardfast.kl_disagreement, torch.ops.hardfast._kl_disagreement_backward
    with_gradients = torch.ops.hardfast._kl_disagreement_with_gradients
    for group_rows in (0, 1, 3):
        options = (2.0, divergence, group_rows, 3)
        torch.library.opcheck(op, (student, teacher, *options), test_utils=thorough)
        value, row_stats = op(student.detach(), teacher.detach(), *options)
        for mask in itertools.product([True, False], repeat=2):
            args = (torch.ones_like(value), student, teacher, row_stats, *options, list(mask))
            torch.library.opcheck(backward, args, test_utils=thorough if all(mask) else quick)
            targets = [torch.empty_like(student) if wanted else None for wanted in mask]
            args = (None, student.detach(), teacher.detach(), *targets, *options)
            torch.library.opcheck(with_gradients, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_to_one_graph(dynamic):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return kl_disagreement(2 * student, teacher, temperature=3.0)

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=dynamic)
    for rows in (4, 5, 7):
        logits = random_logits((rows, 11), torch.float32)
        for mine, other in zip(value_and_gradients(compiled, logits), value_and_gradients(loss, logits), strict=True):
            torch.testing.assert_close(mine, other)
    assert counter.frame_count <= (1 if dynamic else 2)


def test_compiles_with_a_temperature_that_varies():
    torch.compiler.reset()
    logits = random_logits((4, 11), torch.float32)
    compiled = torch.compile(
        lambda s, t, temp: kl_disagreement(s, t, temperature=temp), backend="aot_eager", fullgraph=True
    )
    for temperature in (2.0, 3.0, 4.5):
        torch.testing.assert_close(compiled(*logits, temperature), kl_disagreement(*logits, temperature=temperature))


def test_compiles_with_inductor():
    torch.compiler.reset()
    logits = random_logits((8, 11), torch.float32)
    compiled = torch.compile(lambda s, t: kl_disagreement(s.sin(), t).exp(), fullgraph=True)
    for mine, other in zip(
        value_and_gradients(compiled, logits),
        value_and_gradients(lambda s, t: kl_disagreement(s.sin(), t).exp(), logits),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (2, 1)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_and_per_sample_gradients(in_dims, reduction):
    batched = random_logits((4, 3, 6), torch.float32)
    args = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip(batched, in_dims, strict=True)]

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return kl_disagreement(student, teacher, temperature=2.0, reduction=reduction).sum()

    mapped = torch.func.vmap(torch.func.grad_and_value(loss, argnums=(0, 1)), in_dims)(*args)
    for k in range(4):
        slices = [x[0] if dim is None else x[k] for x, dim in zip(batched, in_dims, strict=True)]
        grads, value = torch.func.grad_and_value(loss, argnums=(0, 1))(*slices)
        torch.testing.assert_close(mapped[1][k], value)
        torch.testing.assert_close(mapped[0][0][k], grads[0])
        torch.testing.assert_close(mapped[0][1][k], grads[1])


def test_hessian_by_torch_func():
    student, teacher = random_logits((2, 3), torch.float64)
    ours = torch.func.jacrev(torch.func.jacrev(lambda s: kl_disagreement(s, teacher)))(student)
    theirs = torch.func.jacrev(torch.func.jacrev(lambda s: torch_kl(s, teacher, 1.0, "forward")))(student)
    torch.testing.assert_close(ours, theirs)


def test_mixed_dtypes_and_autocast_use_the_wider_one():
    student, teacher = random_logits((5, 12), torch.float32)
    mixed = kl_disagreement(student.bfloat16(), teacher)
    torch.testing.assert_close(mixed, kl_disagreement(student.bfloat16().float(), teacher))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = torch.nn.Linear(12, 12)(student)
        assert half.dtype == torch.bfloat16
        assert kl_disagreement(half, teacher).dtype == torch.float32


def test_a_numpy_temperature_is_a_number():
    logits = random_logits((4, 11), torch.float32)
    assert torch.equal(kl_disagreement(*logits, temperature=np.float32(2)), kl_disagreement(*logits, temperature=2))


def test_strided_rows():
    base_student, base_teacher = random_logits((12, 40), torch.float32)
    pairs = {
        "sliced classes": (base_student[:, 3:20], base_teacher[:, 5:22]),
        "every other row": (base_student[::2], base_teacher[1::2]),
        "transposed": (base_student.t(), base_teacher.t()),
        "every other class": (base_student[:, ::2], base_teacher[:, ::2]),
        "one teacher for all": (base_student, base_teacher[:1].expand(12, 40)),
    }
    for name, logits in pairs.items():
        strided = value_and_gradients(kl_disagreement, logits)
        contiguous = value_and_gradients(kl_disagreement, tuple(x.contiguous() for x in logits))
        for mine, other in zip(strided, contiguous, strict=True):
            assert torch.equal(mine, other), name


def test_empty_batch():
    student, teacher = (torch.zeros(0, 10, requires_grad=True) for _ in range(2))
    assert kl_disagreement(student, teacher, reduction="none").shape == (0,)
    total = kl_disagreement(student, teacher, reduction="sum")
    assert total.item() == 0
    total.backward()
    assert student.grad.shape == teacher.grad.shape == (0, 10)
    expected = F.kl_div(torch.zeros(0, 10), torch.zeros(0, 10), reduction="batchmean", log_target=True)
    torch.testing.assert_close(kl_disagreement(student, teacher), expected, equal_nan=True)


def test_bitwise_equal_over_runs_and_threads():
    logits = random_logits((301, 997), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(value_and_gradients(kl_disagreement, logits))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def bytes_allocated(function: Callable[[], object]) -> int:
    with profiled_memory() as profiler:
        function()
    return sum(event.self_cpu_memory_usage for event in profiler.events() if event.self_cpu_memory_usage > 0)


@pytest.mark.parametrize(
    ("dtype", "reduction"), [(torch.float32, "mean"), (torch.float32, "none"), (torch.half, "mean")]
)
def test_nothing_of_the_logits_size_but_the_gradients_is_allocated(dtype, reduction):
    logits = tuple(x.requires_grad_() for x in random_logits((2000, 500), dtype))
    gradients = 2 * logits[0].nbytes
    ahead = gradients if (dtype, reduction) == (torch.float32, "mean") else 0  # a scalar loss brings them along
    losses: list[Tensor] = []

    def forward() -> None:
        losses.append(kl_disagreement(*logits, reduction=reduction))

    with torch.no_grad():
        assert bytes_allocated(forward) < gradients / 40
    assert ahead <= bytes_allocated(forward) < ahead + gradients / 40
    loss = losses[-1].sum()
    backward = bytes_allocated(lambda: torch.autograd.grad(loss, logits))
    assert gradients <= ahead + backward < 1.02 * gradients + 20 * 2000


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("shape", [(41, 3), (41, 8), (9, 13), (7, 16), (5, 300)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_a_scalar_loss_are_those_of_its_rows(shape, dtype, divergence):
    """A scalar loss has them before its backward, a loss of rows computes them there: two ways through the kernels."""
    logits = random_logits(shape, dtype)
    for weight in (1.0, -2.5):

        def scalar(s: Tensor, t: Tensor, weight: float = weight) -> Tensor:
            return weight * kl_disagreement(s, t, temperature=1.7, divergence=divergence, reduction="sum")

        def rows(s: Tensor, t: Tensor, weight: float = weight) -> Tensor:
            return weight * kl_disagreement(s, t, temperature=1.7, divergence=divergence, reduction="none").sum()

        for mine, other in zip(value_and_gradients(scalar, logits), value_and_gradients(rows, logits), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=2e-6)
        assert torch.equal(scalar(*logits), scalar(*(x.clone().requires_grad_() for x in logits)))


def test_a_second_backward_is_not_disturbed_by_the_first():
    student, teacher = (x.requires_grad_() for x in random_logits((6, 50), torch.float32))
    loss = kl_disagreement(student, teacher)
    one = torch.autograd.grad(loss, (student, teacher), retain_graph=True)
    kept = [g.clone() for g in one]
    three = torch.autograd.grad(loss, (student, teacher), torch.tensor(3.0), retain_graph=True)
    student_alone = torch.autograd.grad(loss, student, retain_graph=True)
    differentiable = torch.autograd.grad(loss, (student, teacher), create_graph=True)
    for mine, first, times_three, with_graph in zip(one, kept, three, differentiable, strict=True):
        assert torch.equal(mine, first)
        assert torch.equal(times_three, 3 * first)
        torch.testing.assert_close(with_graph, first)
    assert torch.equal(student_alone[0], kept[0])


def test_gradients_of_a_batch_of_incoming_ones():
    student, teacher = (x.requires_grad_() for x in random_logits((6, 50), torch.float32))
    loss = kl_disagreement(student, teacher)
    incoming = torch.tensor([1.0, -2.5])
    batched = torch.autograd.grad(loss, (student, teacher), incoming, is_grads_batched=True, retain_graph=True)
    mapped = torch.vmap(lambda g: torch.autograd.grad(loss, (student, teacher), g, retain_graph=True))(incoming)
    once = torch.autograd.grad(loss, (student, teacher))
    for mine, other, one in zip(batched, mapped, once, strict=True):
        torch.testing.assert_close(mine, incoming[:, None, None] * one)
        torch.testing.assert_close(other, mine)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [10, 17])
def test_gradients_may_take_the_place_of_the_logits(classes, dtype, divergence):
    student, teacher = random_logits((11, classes), dtype)
    op, grad = (
        torch.ops.hardfast._kl_disagreement_with_gradients,
        torch.rand(11).to(torch.promote_types(dtype, torch.float32)),
    )
    apart = [torch.empty_like(student), torch.empty_like(teacher)]
    options = (2.0, divergence, 1, 1)
    loss, _ = op(grad, student, teacher, *apart, *options)
    assert torch.equal(
        loss, kl_disagreement(student, teacher, temperature=2.0, divergence=divergence, reduction="none")
    )
    alone = torch.empty_like(teacher)
    op(grad, student, teacher, None, alone, *options)
    assert torch.equal(alone, apart[1])
    op(grad, student, teacher, student, teacher, *options)
    assert torch.equal(student, apart[0])
    assert torch.equal(teacher, apart[1])


def test_reference_is_the_documented_equivalent():
    student, teacher = random_logits((6, 8), torch.float64)
    for divergence, reduction in itertools.product(DIVERGENCES, REDUCTIONS):
        actual = reference.kl_disagreement(
            student, teacher, temperature=3.0, divergence=divergence, reduction=reduction
        )
        torch.testing.assert_close(actual, torch_kl(student, teacher, 3.0, divergence, reduction))


S, T = torch.zeros(4, 10), torch.zeros(4, 10)


@pytest.mark.parametrize(
    ("error", "match", "args", "kwargs"),
    [
        (TypeError, "student_logits must be a tensor, got list", ([1.0], T), {}),
        (TypeError, "student_logits must be float32", (S.int(), T), {}),
        (TypeError, "teacher_logits must be float32", (S, T.bool()), {}),
        (
            ValueError,
            r"teacher_logits must have the shape of student_logits, \[4, 10\], got \[4, 9\]",
            (S, T[:, :9]),
            {},
        ),
        (ValueError, r"student_logits must have shape \[..., K\]", (S[:, :0], T[:, :0]), {}),
        (ValueError, r"student_logits must have shape \[..., K\]", (S.sum(), T.sum()), {}),
        (ValueError, "teacher_logits must be on the device", (S, T.to("meta")), {}),
        (ValueError, "temperature must be positive and finite, got -1", (S, T), {"temperature": -1.0}),
        (ValueError, "temperature must be positive and finite, got 0", (S, T), {"temperature": 0}),
        (ValueError, "temperature must be positive and finite, got nan", (S, T), {"temperature": math.nan}),
        (TypeError, "temperature must be a number, got str", (S, T), {"temperature": "2"}),
        (TypeError, "temperature must be a number, got bool", (S, T), {"temperature": True}),
        (ValueError, "divergence must be one of", (S, T), {"divergence": "sideways"}),
        (ValueError, "reduction must be one of", (S, T), {"reduction": "median"}),
    ],
)
def test_errors_name_the_argument(error, match, args, kwargs):
    with pytest.raises(error, match=match):
        kl_disagreement(*args, **kwargs)
