"""distillation_loss against F.kl_div and F.cross_entropy, and the properties that a drop-in op must have."""

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
from hardfast.ops import distillation_loss, kl_disagreement
from hardfast.testing import assert_as_exact

OPTIONS = [
    {},
    {"temperature": 4.0, "kl_weight": 0.7, "label_weight": 0.3},
    {"temperature": 0.5, "label_smoothing": 0.1},
    {"temperature": 2.0, "kl_weight": 0.0, "label_smoothing": 1.0},
    {"temperature": 2.0, "label_weight": 0.0},
    {"temperature": 3.0, "ignore_index": 1, "label_smoothing": 0.2},
]


def torch_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    reduction: str,
    temperature: float = 1.0,
    kl_weight: float = 1.0,
    label_weight: float = 1.0,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The documented equivalent."""
    log_s, log_t = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
    divergence = temperature**2 * F.kl_div(log_s, log_t, log_target=True, reduction="none").sum(-1)
    entropy = F.cross_entropy(
        student.reshape(-1, student.shape[-1]),
        labels.reshape(-1),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    divergence = {"mean": divergence.mean(), "sum": divergence.sum(), "none": divergence}[reduction]
    return kl_weight * divergence + label_weight * entropy.reshape(divergence.shape)


def ignoring(labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Labels of which every third is ignored, from the second on."""
    labels = labels.clone()
    labels.view(-1)[1::3] = ignore_index
    return labels


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (17, 1031), (2, 3, 4), (6,)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_kl_div_and_cross_entropy_in_float64(options, shape, reduction):
    student, teacher, labels = random_rows(shape, torch.float64)
    labels = ignoring(labels, options.get("ignore_index", -100))
    grad = torch.randn(shape[:-1], dtype=torch.float64) if reduction == "none" else None
    ours = value_and_gradients(
        lambda s, t: distillation_loss(s, t, labels, reduction=reduction, **options), student, teacher, grad=grad
    )
    plain = (
        value_and_gradients(
            lambda s, t: reference.distillation_loss(s, t, labels, reduction=reduction, **options),
            student,
            teacher,
            grad=grad,
        )
        if options.get("kl_weight", 1)
        else ours
    )
    theirs = value_and_gradients(
        lambda s, t: torch_loss(s, t, labels, reduction, **options), student, teacher, grad=grad
    )
    for mine, reference_result, other in zip(ours, plain, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(reference_result, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
@pytest.mark.parametrize("classes", [2, 10, 1000, 4099])
def test_at_most_twice_the_error_of_torch(dtype, options, classes):
    student, teacher, labels = random_rows((256 + 20000 // classes, classes), dtype)  # so many that luck counts little
    labels = ignoring(labels)
    grad = torch.randn(len(labels))

    def theirs(s: Tensor, t: Tensor) -> Tensor:
        return torch_loss(s, t, labels, "none", **options)

    results = value_and_gradients(
        lambda s, t: distillation_loss(s, t, labels, reduction="none", **options), student, teacher, grad=grad
    )
    peers = value_and_gradients(lambda s, t: theirs(s.float(), t.float()), student, teacher, grad=grad)
    exact = value_and_gradients(theirs, student.double(), teacher.double(), grad=grad.double())
    assert results[0].dtype == torch.float32
    assert results[1].dtype == results[2].dtype == dtype
    for result, peer, truth in zip(results, peers, exact, strict=True):
        assert_as_exact(result, peer, truth)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("which", ["student", "teacher", "both"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(options, which, reduction):
    student, teacher, labels = random_rows((3, 5), torch.float64, scale=1.0)
    student.requires_grad_(which != "teacher")
    teacher.requires_grad_(which != "student")
    labels = ignoring(labels, options.get("ignore_index", -100))

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return distillation_loss(student, teacher, labels, reduction=reduction, **options)

    assert gradcheck(loss, (student, teacher))
    assert gradgradcheck(loss, (student, teacher))


def test_the_divergence_is_that_of_kl_disagreement():
    student, teacher, labels = random_rows((65, 130), torch.float32)
    alone = value_and_gradients(lambda s, t: kl_disagreement(s, t, temperature=3.0), student, teacher)
    nothing_labelled = torch.full_like(labels, -100)
    for arguments in ((labels, {"label_weight": 0.0}), (nothing_labelled, {"reduction": "sum"})):
        target, options = arguments
        scale = 65 if "reduction" in options else 1
        ours = value_and_gradients(
            lambda s, t, y=target, o=options: distillation_loss(s, t, y, temperature=3.0, **o), student, teacher
        )
        for mine, other in zip(ours, alone, strict=True):
            torch.testing.assert_close(mine, scale * other)


def test_where_all_labels_are_ignored_the_mean_is_nan_and_the_gradient_is_not():
    student, teacher, labels = random_rows((6, 9), torch.float32)
    labels.fill_(-100)
    value, *grads = value_and_gradients(lambda s, t: distillation_loss(s, t, labels), student, teacher)
    assert value.isnan()
    expected = value_and_gradients(kl_disagreement, student, teacher)[1:]
    for mine, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.isfinite(distillation_loss(student, teacher, labels, label_weight=0.0))


def test_saturated_logits():
    student = torch.tensor([[1e4, 0.0, -1e4], [0.0, 80.0, 0.0], [3e38, -3e38, 0.0]])
    teacher = torch.tensor([[1e4, 0.0, -1e4], [80.0, 0.0, 0.0], [3e38, 0.0, -3e38]])
    labels = torch.tensor([0, 2, 0])
    for options in ({}, {"temperature": 2.0, "label_smoothing": 0.1}):
        value, *grads = value_and_gradients(
            lambda s, t, o=options: distillation_loss(s, t, labels, reduction="none", **o), student, teacher
        )
        exact = torch_loss(student.double(), teacher.double(), labels, "none", **options)
        torch.testing.assert_close(value[:2].double(), exact[:2], rtol=1e-5, atol=1e-6)
        assert all(torch.isfinite(grad).all() for grad in grads)


def test_a_term_of_weight_zero_is_left_out_even_where_it_is_infinite():
    student, teacher, labels = random_rows((4, 6), torch.float32)
    student[:, 0] = -math.inf
    labels.fill_(1)
    value, *grads = value_and_gradients(
        lambda s, t: distillation_loss(s, t, labels, kl_weight=0.0, temperature=2.0), student, teacher
    )
    torch.testing.assert_close(value, F.cross_entropy(student, labels))
    assert torch.isfinite(grads[0]).all()
    assert not grads[1].any()
    assert distillation_loss(student, teacher, labels) == math.inf
    labels.fill_(0)
    teacher[:, 0] = -math.inf
    assert torch.isfinite(distillation_loss(student, teacher, labels, label_weight=0.0))


def test_nan_stays_in_its_row():
    student, teacher, labels = random_rows((3, 40), torch.float32)
    student[1, 7] = math.nan
    value, *grads = value_and_gradients(
        lambda s, t: distillation_loss(s, t, labels, temperature=2.0, reduction="none"), student, teacher
    )
    assert value.isnan().tolist() == [False, True, False]
    for grad in grads:
        assert grad.isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_opcheck(dtype):
    student, teacher, labels = random_rows((4, 6), dtype)
    student.requires_grad_()
    teacher.requires_grad_()
    labels = ignoring(labels)
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    thorough = (*quick, "test_aot_dispatch_dynamic") if dtype == torch.float32 else quick
    op, backward = torch.ops.hardfast.distillation_loss, torch.ops.hardfast._distillation_loss_backward
    for group_rows in (0, 1, 2):
        options = (2.0, 0.5, 0.5, -100, 0.1, group_rows != 1, group_rows, 3)
        torch.library.opcheck(op, (student, teacher, labels, *options), test_utils=thorough)
        value, row_stats = op(student.detach(), teacher.detach(), labels, *options)
        for mask in itertools.product([True, False], repeat=2):
            args = (torch.ones_like(value), student, teacher, labels, row_stats, *options, list(mask))
            torch.library.opcheck(backward, args, test_utils=thorough if all(mask) else quick)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_to_one_graph(dynamic):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        options = {"temperature": 3.0, "kl_weight": 0.5, "label_weight": 0.5, "label_smoothing": 0.1}
        return distillation_loss(2 * student, teacher, labels, **options)

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=dynamic)
    for rows in (4, 5, 7):
        student, teacher, labels = random_rows((rows, 11), torch.float32)
        for mine, other in zip(
            value_and_gradients(lambda s, t, y=labels: compiled(s, t, y), student, teacher),
            value_and_gradients(lambda s, t, y=labels: loss(s, t, y), student, teacher),
            strict=True,
        ):
            torch.testing.assert_close(mine, other)
    assert counter.frame_count <= (1 if dynamic else 2)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, 0), (None, 0, None), (2, 1, 1)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_vmap_and_per_sample_gradients(in_dims, reduction):
    student, teacher, labels = random_rows((4, 3, 6), torch.float32)
    labels[0, :2] = labels[1, 1] = -100  # so that the valid rows differ from one to the next
    batched = (student, teacher, labels)
    args = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip(batched, in_dims, strict=True)]

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return distillation_loss(student, teacher, labels, temperature=2.0, reduction=reduction).sum()

    mapped = torch.func.vmap(torch.func.grad_and_value(loss, argnums=(0, 1)), in_dims)(*args)
    for k in range(4):
        slices = [x[0] if dim is None else x[k] for x, dim in zip(batched, in_dims, strict=True)]
        grads, value = torch.func.grad_and_value(loss, argnums=(0, 1))(*slices)
        torch.testing.assert_close(mapped[1][k], value)
        torch.testing.assert_close(mapped[0][0][k], grads[0])
        torch.testing.assert_close(mapped[0][1][k], grads[1])


def test_nested_vmap():
    student, teacher, labels = random_rows((2, 3, 4, 5), torch.float32)
    labels[0, 1, :3] = -100
    twice = torch.func.vmap(torch.func.vmap(distillation_loss))(student, teacher, labels)
    expected = [[distillation_loss(student[i, j], teacher[i, j], labels[i, j]) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(twice, torch.tensor(expected))


def test_vmap_over_empty_batches():
    student, teacher, labels = random_rows((4, 0, 5), torch.float32)
    loss = lambda s, t, y: distillation_loss(s, t, y, reduction="sum")  # noqa: E731
    grads, value = torch.func.vmap(torch.func.grad_and_value(loss, argnums=(0, 1)))(student, teacher, labels)
    assert value.tolist() == [0, 0, 0, 0]
    assert [grad.shape for grad in grads] == [(4, 0, 5), (4, 0, 5)]


def test_autocast_and_mixed_dtypes_use_the_wider_one():
    student, teacher, labels = random_rows((5, 12), torch.float32)
    mixed = distillation_loss(student.bfloat16(), teacher, labels)
    torch.testing.assert_close(mixed, distillation_loss(student.bfloat16().float(), teacher, labels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = torch.nn.Linear(12, 12)(student)
        assert half.dtype == torch.bfloat16
        assert distillation_loss(half, teacher, labels).dtype == torch.float32


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
        strided = value_and_gradients(lambda s, t, y=y: distillation_loss(s, t, y), s, t)
        plain = value_and_gradients(
            lambda s, t, y=y: distillation_loss(s, t, y.contiguous()), s.contiguous(), t.contiguous()
        )
        assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True)), name


def test_empty_batch():
    student, teacher, labels = random_rows((0, 10), torch.float32)
    assert distillation_loss(student, teacher, labels, reduction="none").shape == (0,)
    assert distillation_loss(student, teacher, labels).isnan()
    value, *grads = value_and_gradients(lambda s, t: distillation_loss(s, t, labels, reduction="sum"), student, teacher)
    assert value == 0
    assert [grad.shape for grad in grads] == [(0, 10), (0, 10)]


def test_bitwise_equal_over_runs_and_threads():
    student, teacher, labels = random_rows((301, 997), torch.float32)
    labels = ignoring(labels)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(
                value_and_gradients(lambda s, t: distillation_loss(s, t, labels, temperature=4.0), student, teacher)
            )
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_a_label_that_is_no_class_is_nan_where_labels_are_not_inspected():
    student, teacher, labels = random_rows((3, 6), torch.float32)
    labels[1] = 6

    def kernel(s: Tensor, t: Tensor) -> Tensor:
        options = (2.0, 1.0, 1.0, -100, 0.1, False, 1, 1)
        return torch.ops.hardfast.distillation_loss(s, t, labels, *options)[0]

    def plain(s: Tensor, t: Tensor) -> Tensor:
        return reference.distillation_loss(s, t, labels, temperature=2.0, label_smoothing=0.1, reduction="none")

    for function in (kernel, plain):
        value, grad_student, grad_teacher = value_and_gradients(function, student, teacher)
        assert value.isnan().tolist() == [False, True, False]
        assert grad_student[1].isnan().all()
        assert not grad_student[::2].isnan().any()
        assert not grad_teacher.isnan().any()


S, T, Y = torch.zeros(4, 10), torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("error", "match", "args", "kwargs"),
    [
        (TypeError, "teacher_logits must be float32", (S, T.bool(), Y), {}),
        (TypeError, "labels must be int64, got torch.float32", (S, T, Y.float()), {}),
        (ValueError, r"labels must have the shape .*, \[4\], got \[4, 1\]", (S, T, Y[:, None]), {}),
        (ValueError, "labels must lie in 0 .. 9, or ignore_index=-100, got 10", (S, T, Y + 10), {}),
        (ValueError, "labels must lie in 0 .. 9, or ignore_index=7, got -100", (S, T, Y - 100), {"ignore_index": 7}),
        (ValueError, "temperature must be positive and finite, got 0", (S, T, Y), {"temperature": 0}),
        (ValueError, "kl_weight must be finite and at least 0, got -1", (S, T, Y), {"kl_weight": -1}),
        (ValueError, "label_weight must be finite and at least 0, got nan", (S, T, Y), {"label_weight": math.nan}),
        (ValueError, "label_smoothing must lie in 0 .. 1, got 1.5", (S, T, Y), {"label_smoothing": 1.5}),
        (TypeError, "ignore_index must be an int, got float", (S, T, Y), {"ignore_index": 1.0}),
        (ValueError, "reduction must be one of", (S, T, Y), {"reduction": "batchmean"}),
    ],
)
def test_errors_name_the_argument(error, match, args, kwargs):
    with pytest.raises(error, match=match):
        distillation_loss(*args, **kwargs)
