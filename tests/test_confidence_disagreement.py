"""confidence_disagreement against softmax, and the properties that a drop-in op must have."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from row_losses import random_rows, value_and_gradients
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck

from hardfast import reference
from hardfast.ops import confidence_disagreement
from hardfast.testing import assert_as_exact

FORMS = [("probability", 1.0), ("probability", 2.0), ("probability", 0.5), ("log", 1.0), ("logit", 1.0)]


def by_softmax(student: Tensor, teacher: Tensor, labels: Tensor, form: str, gamma: float) -> Tensor:
    """The documented equivalent, one value a sample."""
    p_s, p_t = (x.softmax(-1).gather(-1, labels[..., None])[..., 0] for x in (student, teacher))
    if form == "probability":
        return p_t**gamma + (1 - p_s) ** gamma
    return p_t.log() + (1 - p_s).log() if form == "log" else p_t.logit() - p_s.logit()


def by_log_softmax(student: Tensor, teacher: Tensor, labels: Tensor, form: str, gamma: float) -> Tensor:
    """What is written in PyTorch by who knows that probabilities saturate."""
    log_s, log_t = (-F.cross_entropy(x, labels, reduction="none") for x in (student, teacher))
    if form == "probability":
        return log_t.exp() ** gamma + (-log_s.expm1()) ** gamma
    rest_s, rest_t = (-x.expm1() for x in (log_s, log_t))
    return log_t + rest_s.log() if form == "log" else (log_t - rest_t.log()) - (log_s - rest_s.log())


@pytest.mark.parametrize(("form", "gamma"), FORMS)
@pytest.mark.parametrize("shape", [(5, 7), (1, 2), (17, 1031), (2, 3, 4), (6,)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_softmax_in_float64(form, gamma, shape, reduction):
    student, teacher, labels = random_rows(shape, torch.float64, scale=1.5)
    grad = torch.randn(shape[:-1], dtype=torch.float64) if reduction == "none" else None

    def ours(s: Tensor, t: Tensor) -> Tensor:
        return confidence_disagreement(s, t, labels, form=form, gamma=gamma, reduction=reduction)

    def theirs(s: Tensor, t: Tensor) -> Tensor:
        terms = by_softmax(s, t, labels, form, gamma)
        return {"mean": terms.mean(), "sum": terms.sum(), "none": terms}[reduction]

    for mine, other in zip(
        value_and_gradients(ours, student, teacher, grad=grad),
        value_and_gradients(theirs, student, teacher, grad=grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("form", "gamma"), FORMS)
def test_reference_equals_softmax(form, gamma):
    student, teacher, labels = random_rows((6, 8), torch.float64)
    for reduction in ("mean", "sum", "none"):
        actual = reference.confidence_disagreement(
            student, teacher, labels, form=form, gamma=gamma, reduction=reduction
        )
        terms = by_softmax(student, teacher, labels, form, gamma)
        torch.testing.assert_close(actual, {"mean": terms.mean(), "sum": terms.sum(), "none": terms}[reduction])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("form", "gamma"), FORMS)
@pytest.mark.parametrize("classes", [2, 10, 1000, 4099])
def test_at_most_twice_the_error_of_torch(dtype, form, gamma, classes):
    student, teacher, labels = random_rows((64 + 20000 // classes, classes), dtype)
    grad = torch.randn(len(labels))

    def ours(s: Tensor, t: Tensor) -> Tensor:
        return confidence_disagreement(s, t, labels, form=form, gamma=gamma, reduction="none")

    def theirs(s: Tensor, t: Tensor) -> Tensor:
        return by_log_softmax(s, t, labels, form, gamma)

    def exactly(s: Tensor, t: Tensor) -> Tensor:
        return reference.confidence_disagreement(s, t, labels, form=form, gamma=gamma, reduction="none")

    results = value_and_gradients(ours, student, teacher, grad=grad)
    peers = value_and_gradients(lambda s, t: theirs(s.float(), t.float()), student, teacher, grad=grad)
    exact = value_and_gradients(exactly, student.double(), teacher.double(), grad=grad.double())
    assert results[0].dtype == torch.float32
    assert results[1].dtype == results[2].dtype == dtype
    for result, peer, truth in zip(results, peers, exact, strict=True):
        assert_as_exact(result, peer, truth)


@pytest.mark.parametrize(("form", "gamma"), FORMS)
@pytest.mark.parametrize("which", ["student", "teacher", "both"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(form, gamma, which, reduction):
    student, teacher, labels = random_rows((3, 5), torch.float64, scale=1.0)
    student.requires_grad_(which != "teacher")
    teacher.requires_grad_(which != "student")

    def value(student: Tensor, teacher: Tensor) -> Tensor:
        return confidence_disagreement(student, teacher, labels, form=form, gamma=gamma, reduction=reduction)

    assert gradcheck(value, (student, teacher))
    assert gradgradcheck(value, (student, teacher))


def test_certain_models_keep_their_digits():
    margins = torch.tensor([-3e38, -1e4, -200.0, -40.0, -1.0, 0.0, 1.0, 40.0, 200.0, 1e4, 3e38])
    logits = torch.stack([margins, torch.zeros_like(margins)], -1)  # label 0 has these log-odds
    labels = torch.zeros(len(margins), dtype=torch.int64)
    other = torch.zeros_like(logits)

    def of_student(form: str) -> list[Tensor]:
        function = lambda s: confidence_disagreement(s, other, labels, form=form, reduction="none")  # noqa: E731
        value, grad = value_and_gradients(function, logits)
        torch.testing.assert_close(grad[:, 1], -grad[:, 0])
        return [value, grad[:, 0]]

    def of_teacher(form: str) -> list[Tensor]:
        function = lambda t: confidence_disagreement(other, t, labels, form=form, reduction="none")  # noqa: E731
        value, grad = value_and_gradients(function, logits)
        return [value, grad[:, 0]]

    x = margins.double()
    expected = {
        ("student", "logit"): [-x, -torch.ones_like(x)],
        ("student", "log"): [math.log(0.5) - F.softplus(x), -x.sigmoid()],
        ("student", "probability"): [0.5 + (-x).sigmoid(), -x.sigmoid() * (-x).sigmoid()],
        ("teacher", "logit"): [x, torch.ones_like(x)],
        ("teacher", "log"): [math.log(0.5) - F.softplus(-x), (-x).sigmoid()],
        ("teacher", "probability"): [0.5 + x.sigmoid(), x.sigmoid() * (-x).sigmoid()],
    }
    for (model, form), truths in expected.items():
        actual = (of_student if model == "student" else of_teacher)(form)
        for mine, truth in zip(actual, truths, strict=True):
            torch.testing.assert_close(mine, truth.float(), rtol=1e-6, atol=1e-37, msg=lambda m, f=form: f"{f}: {m}")


def test_excluded_classes_count_as_zero():
    student, teacher, labels = random_rows((4, 5), torch.float32)
    pad = torch.full((4, 3), -math.inf)
    for form, gamma in FORMS:

        def value(s: Tensor, t: Tensor, form: str = form, gamma: float = gamma) -> Tensor:
            return confidence_disagreement(s, t, labels, form=form, gamma=gamma)

        padded = value_and_gradients(value, torch.cat([student, pad], -1), torch.cat([teacher, pad], -1))
        smaller = value_and_gradients(value, student, teacher)
        torch.testing.assert_close(padded[0], smaller[0])
        for full, part in zip(padded[1:], smaller[1:], strict=True):
            torch.testing.assert_close(full[:, :5], part)
            assert not full[:, 5:].any()


def test_a_label_that_is_impossible_or_alone():
    inf = math.inf
    logits = torch.tensor([[-inf, 1.0, 2.0], [1.0, -inf, -inf]])  # p = 0 and p = 1
    labels = torch.zeros(2, dtype=torch.int64)
    zero = torch.zeros(2, 3)
    for form, gamma in FORMS:

        def value(s: Tensor, t: Tensor, form: str = form, gamma: float = gamma) -> Tensor:
            return confidence_disagreement(s, t, labels, form=form, gamma=gamma, reduction="none")

        as_teacher, as_student = value(zero, logits), value(logits, zero)
        if form == "probability":
            torch.testing.assert_close(as_teacher, torch.tensor([0.0, 1.0]) + (2 / 3) ** gamma)
            torch.testing.assert_close(as_student, torch.tensor([1.0, 0.0]) + (1 / 3) ** gamma)
        else:
            assert as_teacher[0] == -inf
            assert as_student[1] == -inf
        for grads in (value_and_gradients(value, zero, logits)[1:], value_and_gradients(value, logits, zero)[1:]):
            assert all(torch.isfinite(grad).all() for grad in grads)


def test_one_class_is_certain():
    student, teacher, labels = random_rows((3, 1), torch.float32)
    assert confidence_disagreement(student, teacher, labels, reduction="none").tolist() == [1, 1, 1]
    assert confidence_disagreement(student, teacher, labels, form="log") == -math.inf
    assert confidence_disagreement(student, teacher, labels, form="logit").isnan()


def test_nan_stays_in_its_row():
    student, teacher, labels = random_rows((3, 40), torch.float32)
    student[1, 7] = math.nan
    for form, gamma in FORMS:

        def value(s: Tensor, t: Tensor, form: str = form, gamma: float = gamma) -> Tensor:
            return confidence_disagreement(s, t, labels, form=form, gamma=gamma, reduction="none")

        values, grad_student, _ = value_and_gradients(value, student, teacher)
        assert values.isnan().tolist() == [False, True, False]
        assert grad_student.isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["probability", "log", "logit"])
def test_opcheck(dtype, form):
    student, teacher, labels = random_rows((4, 6), dtype)
    student.requires_grad_()
    teacher.requires_grad_()
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    thorough = (*quick, "test_aot_dispatch_dynamic") if (dtype, form) == (torch.float32, "log") else quick
    op, backward = torch.ops.hardfast.confidence_disagreement, torch.ops.hardfast._confidence_disagreement_backward
    for group_rows in (0, 1, 2):
        options = (form, 2.0, group_rows, 3)
        torch.library.opcheck(op, (student, teacher, labels, *options), test_utils=thorough)
        value, row_stats = op(student.detach(), teacher.detach(), labels, *options)
        for mask in itertools.product([True, False], repeat=2):
            args = (torch.ones_like(value), student, teacher, labels, row_stats, *options, list(mask))
            torch.library.opcheck(backward, args, test_utils=thorough if all(mask) else quick)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_to_one_graph(dynamic):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda s, t, y: confidence_disagreement(2 * s, t, y, gamma=2.0),
        backend=counter,
        fullgraph=True,
        dynamic=dynamic,
    )
    for rows in (4, 5, 7):
        student, teacher, labels = random_rows((rows, 11), torch.float32)
        for mine, other in zip(
            value_and_gradients(lambda s, t, y=labels: compiled(s, t, y), student, teacher),
            value_and_gradients(
                lambda s, t, y=labels: confidence_disagreement(2 * s, t, y, gamma=2.0), student, teacher
            ),
            strict=True,
        ):
            torch.testing.assert_close(mine, other)
    assert counter.frame_count <= (1 if dynamic else 2)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, 0), (None, 0, None), (2, 1, 1)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_vmap_and_per_sample_gradients(in_dims, reduction):
    batched = random_rows((4, 3, 6), torch.float32)
    args = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip(batched, in_dims, strict=True)]

    def value(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return confidence_disagreement(student, teacher, labels, form="log", reduction=reduction).sum()

    mapped = torch.func.vmap(torch.func.grad_and_value(value, argnums=(0, 1)), in_dims)(*args)
    for k in range(4):
        slices = [x[0] if dim is None else x[k] for x, dim in zip(batched, in_dims, strict=True)]
        grads, single = torch.func.grad_and_value(value, argnums=(0, 1))(*slices)
        torch.testing.assert_close(mapped[1][k], single)
        torch.testing.assert_close(mapped[0][0][k], grads[0])
        torch.testing.assert_close(mapped[0][1][k], grads[1])


def test_mixed_dtypes_and_autocast_use_the_wider_one():
    student, teacher, labels = random_rows((5, 12), torch.float32)
    mixed = confidence_disagreement(student.bfloat16(), teacher, labels)
    torch.testing.assert_close(mixed, confidence_disagreement(student.bfloat16().float(), teacher, labels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = torch.nn.Linear(12, 12)(student)
        assert half.dtype == torch.bfloat16
        assert confidence_disagreement(half, teacher, labels).dtype == torch.float32


def test_strided_rows_and_labels():
    student, teacher, labels = random_rows((12, 12), torch.float32)
    spread = torch.stack([labels, labels], -1)[:, 0]
    triples = {
        "sliced classes": (student[:, :9], teacher[:, 3:], labels.clamp(max=8)),
        "every other row": (student[::2], teacher[1::2], labels[::2]),
        "transposed": (student.t(), teacher.t(), spread),
        "one teacher for all": (student, teacher[:1].expand(12, 12), labels[:1].expand(12)),
    }
    for name, (s, t, y) in triples.items():
        strided = value_and_gradients(lambda s, t, y=y: confidence_disagreement(s, t, y), s, t)
        plain = value_and_gradients(
            lambda s, t, y=y: confidence_disagreement(s, t, y.contiguous()), s.contiguous(), t.contiguous()
        )
        assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True)), name


def test_empty_batch():
    student, teacher, labels = random_rows((0, 10), torch.float32)
    assert confidence_disagreement(student, teacher, labels, reduction="none").shape == (0,)
    assert confidence_disagreement(student, teacher, labels).isnan()
    total = lambda s, t: confidence_disagreement(s, t, labels, reduction="sum")  # noqa: E731
    value, *grads = value_and_gradients(total, student, teacher)
    assert value == 0
    assert [grad.shape for grad in grads] == [(0, 10), (0, 10)]


def test_bitwise_equal_over_runs_and_threads():
    student, teacher, labels = random_rows((301, 997), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(value_and_gradients(lambda s, t: confidence_disagreement(s, t, labels), student, teacher))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_a_label_that_is_no_class_is_nan_where_labels_are_not_inspected():
    student, teacher, labels = random_rows((3, 6), torch.float32)
    labels[1] = 6
    for implementation in ("kernel", "reference"):
        for form in ("probability", "log", "logit"):

            def value(s: Tensor, t: Tensor, form: str = form, implementation: str = implementation) -> Tensor:
                if implementation == "reference":
                    return reference.confidence_disagreement(s, t, labels, form=form, reduction="none")
                return torch.ops.hardfast.confidence_disagreement(s, t, labels, form, 1.0, 1, 1)[0]

            for result in value_and_gradients(value, student, teacher):
                assert result.reshape(3, -1).isnan().all(-1).tolist() == [False, True, False]
                assert not result[::2].isnan().any()


S, T, Y = torch.zeros(4, 10), torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("error", "match", "args", "kwargs"),
    [
        (TypeError, "student_logits must be a tensor, got list", ([1.0], T, Y), {}),
        (ValueError, "teacher_logits must have the shape of student_logits", (S, T[:, :9], Y), {}),
        (TypeError, "labels must be a tensor, got list", (S, T, [0, 1, 2, 3]), {}),
        (TypeError, "labels must be int64, got torch.int32", (S, T, Y.int()), {}),
        (ValueError, r"labels must have the shape .*, \[4\], got \[3\]", (S, T, Y[:3]), {}),
        (ValueError, "labels must be on the device", (S, T, Y.to("meta")), {}),
        (ValueError, "labels must lie in 0 .. 9, got 10", (S, T, Y + 10), {}),
        (ValueError, "labels must lie in 0 .. 9, got -1", (S, T, Y - 1), {}),
        (ValueError, "form must be one of", (S, T, Y), {"form": "odds"}),
        (ValueError, "reduction must be one of", (S, T, Y), {"reduction": "batchmean"}),
        (ValueError, "gamma must be positive and finite, got 0", (S, T, Y), {"gamma": 0}),
        (TypeError, "gamma must be a number, got str", (S, T, Y), {"gamma": "2"}),
        (ValueError, "gamma is used only with form='probability'", (S, T, Y), {"gamma": 2.0, "form": "log"}),
    ],
)
def test_errors_name_the_argument(error, match, args, kwargs):
    with pytest.raises(error, match=match):
        confidence_disagreement(*args, **kwargs)
