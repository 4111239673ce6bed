"""Triton kernels of the ops on rows of logits, through Triton's interpreter and through its compiler."""

from __future__ import annotations

import inspect
import math
import os
from functools import partial

import pytest
import torch
from interpreter import assert_passes_interpreted
from row_losses import random_rows, value_and_gradients
from torch import Tensor

from hardfast import ops, reference
from hardfast.testing import assert_as_exact

triton = pytest.importorskip("triton", reason="needs the triton package")

KL_OPTIONS = [
    {},
    {"temperature": 2.5},
    {"temperature": 0.5, "divergence": "reverse"},
    {"temperature": 2.5, "divergence": "jensen_shannon"},
]
CONFIDENCE_OPTIONS = [{"gamma": 1.0}, {"gamma": 2.0}, {"gamma": 0.5}, {"form": "log"}, {"form": "logit"}]
DISTILLATION_OPTIONS = [
    {},
    {"temperature": 2.5, "label_smoothing": 0.1, "kl_weight": 0.3},
    {"temperature": 4.0, "label_weight": 0.0},
    {"kl_weight": 0.0, "ignore_index": 0},
]
CASES = [
    *[("kl_disagreement", options) for options in KL_OPTIONS],
    *[("confidence_disagreement", options) for options in CONFIDENCE_OPTIONS],
    *[("distillation_loss", options) for options in DISTILLATION_OPTIONS],
]
PLAIN_CASES = [("kl_disagreement", {}), ("confidence_disagreement", {"form": "log"}), ("distillation_loss", {})]
KL_FORWARD = {"DIVERGENCE": 0, "TO_STUDENT": False, "TO_TEACHER": False, "WEIGHTED": False, "ONE_TILE": False}
BATCH_MEAN = {"kl_disagreement": "batchmean", "confidence_disagreement": "mean", "distillation_loss": "mean"}


def pair(op: str, labels: Tensor, **options: object) -> tuple[partial[Tensor], partial[Tensor]]:
    """The op, and its reference, as functions of the logits."""
    if op != "kl_disagreement":
        options["labels"] = labels
    return partial(getattr(ops, op), **options), partial(getattr(reference, op), **options)


def with_ignored(op: str, labels: Tensor, options: dict[str, object]) -> Tensor:
    if op == "distillation_loss":
        labels.view(-1)[1::3] = options.get("ignore_index", -100)
    return labels


if os.environ.get("TRITON_INTERPRET") != "1":

    def test_the_interpreted_kernels():
        assert_passes_interpreted(__file__)

    @pytest.mark.parametrize(
        ("module", "kernel", "constants"),
        [
            ("kl_disagreement", "forward_kernel", KL_FORWARD | {"TO_STUDENT": True, "ONE_TILE": True}),
            ("kl_disagreement", "forward_kernel", KL_FORWARD | {"TO_TEACHER": True, "WEIGHTED": True}),
            ("kl_disagreement", "backward_kernel", {"DIVERGENCE": 2, "TO_STUDENT": True, "TO_TEACHER": True}),
            ("kl_disagreement", "sum_kernel", {}),
            ("scale_unless_one", "scale_kernel", {}),
            ("confidence_disagreement", "forward_kernel", {"FORM": 0}),
            ("confidence_disagreement", "backward_kernel", {"FORM": 0, "OF_TEACHER": False}),
            ("distillation_loss", "forward_kernel", {"HAS_LABELS": True, "SMOOTH": True}),
            ("distillation_loss", "backward_kernel", {"HAS_LABELS": True, "TO_STUDENT": True, "TO_TEACHER": True}),
        ],
    )
    def test_compiles_for_gpus(module, kernel, constants):
        import importlib

        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        function = getattr(importlib.import_module(f"hardfast._triton.{module}"), kernel)
        parameters = inspect.signature(function.fn).parameters
        constants |= {"DTYPE": triton.language.float32, "ROWS": 2, "BLOCK": 1024}
        constants = {name: value for name, value in constants.items() if name in parameters}
        signature = {}
        for name, parameter in parameters.items():
            if name in constants:
                signature[name] = "constexpr"
            elif name == "labels":
                signature[name] = "*i64"
            elif "float64" in str(parameter.annotation):
                signature[name] = "fp64"
            elif name in ("row_stats", "loss", "grad_loss", "scaled_grad", "values", "factor"):
                signature[name] = "*fp32"
            elif name in ("student", "teacher", "logits") or (name.startswith("grad_") and name != "grad_stride"):
                signature[name] = "*bf16"
            else:
                signature[name] = "i32"
        source = ASTSource(function, signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert "st.global" in compiled.asm["ptx"]
        # Numbers arrive in double; the arithmetic of other dtypes is float.
        assert "fma.rn.f64" not in compiled.asm["ptx"]

else:

    @pytest.fixture
    def small_tiles(monkeypatch):
        """Several blocks to a row, and several programs."""
        from hardfast._triton import _logit_rows

        monkeypatch.setattr(_logit_rows, "LARGEST_BLOCK", 32)
        monkeypatch.setattr(_logit_rows, "TILE", 64)

    def test_triton_serves():
        assert all(ops.backends()[op]["cpu"] == "triton" for op, _ in CASES)

    @pytest.mark.parametrize(
        ("op", "options", "shape"),
        [
            *[(*case, shape) for case in CASES for shape in [(5, 70), (2, 1030)]],
            *[(*case, shape) for case in PLAIN_CASES for shape in [(1, 7), (3, 1)]],
        ],
        ids=str,
    )
    def test_equals_the_reference_in_float64(op, options, shape, request):
        if shape == (5, 70):
            request.getfixturevalue("small_tiles")
        student, teacher, labels = random_rows(shape, torch.float64)
        labels = with_ignored(op, labels, options)
        ours, theirs = pair(op, labels, reduction="none", **options)
        grad = torch.linspace(-1, 2, shape[0], dtype=torch.float64)
        expected = value_and_gradients(theirs, student, teacher, grad=grad)
        actual = value_and_gradients(ours, student, teacher, grad=grad)
        for mine, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-13, equal_nan=shape[1] == 1)

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize(
        ("op", "options", "dtype"),
        [*[(*case, torch.float32) for case in CASES], *[(*case, torch.float16) for case in PLAIN_CASES]],
        ids=str,
    )
    def test_at_most_twice_the_error_of_torch(op, options, dtype):
        student, teacher, labels = random_rows((6, 70), dtype)
        labels = with_ignored(op, labels, options)
        ours, theirs = pair(op, labels, reduction="none", **options)
        grad = torch.linspace(-1, 2, 6)
        results = value_and_gradients(ours, student, teacher, grad=grad)
        peers = value_and_gradients(lambda s, t: theirs(s.float(), t.float()), student, teacher, grad=grad)
        exact = value_and_gradients(theirs, student.double(), teacher.double(), grad=grad.double())
        for result, peer, truth in zip(results, peers, exact, strict=True):
            assert_as_exact(result, peer, truth)

    @pytest.mark.parametrize("op", BATCH_MEAN)
    def test_bfloat16(op):
        student, teacher, labels = random_rows((5, 1000), torch.bfloat16)
        ours, _ = pair(op, labels)
        half = value_and_gradients(ours, student, teacher)
        wide = value_and_gradients(ours, student.float(), teacher.float())
        assert [x.dtype for x in half] == [torch.float32, torch.bfloat16, torch.bfloat16]
        for mine, other in zip(half, wide, strict=True):
            torch.testing.assert_close(mine.float(), other, rtol=2**-7, atol=0)

    @pytest.mark.parametrize("op", BATCH_MEAN)
    def test_reductions_and_groups(op):
        student, teacher, labels = random_rows((3, 4, 6), torch.float64)
        labels = with_ignored(op, labels, {})
        for reduction in (BATCH_MEAN[op], "sum", "none"):
            ours, theirs = pair(op, labels, reduction=reduction)
            for mine, other in zip(
                value_and_gradients(ours, student, teacher), value_and_gradients(theirs, student, teacher), strict=True
            ):
                torch.testing.assert_close(mine, other)

        def total(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return pair(op, y)[0](s, t)

        mapped = torch.func.vmap(torch.func.grad_and_value(total, argnums=(0, 1)))(student, teacher, labels)
        for k in range(3):
            value, *grads = value_and_gradients(pair(op, labels[k])[1], student[k], teacher[k])
            torch.testing.assert_close(mapped[1][k], value)
            torch.testing.assert_close([grad[k] for grad in mapped[0]], grads)

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize(("op", "options"), CASES, ids=str)
    def test_rising_falling_and_saturated_logits(op, options):
        rise = torch.linspace(-300, 300, 60, dtype=torch.float64).float()
        student = torch.stack([rise, rise.flip(0), 100 * rise, rise + 1e4, torch.zeros(60)])
        teacher = torch.stack([rise.flip(0), rise.flip(0), rise, rise - 1e4, 1000 * rise])
        labels = torch.tensor([0, 59, 59, 30, 59])
        ours, theirs = pair(op, labels, reduction="none", **options)
        actual = value_and_gradients(ours, student, teacher)
        exact = value_and_gradients(theirs, student.double(), teacher.double())
        for mine, truth in zip(actual, exact, strict=True):
            assert torch.isfinite(mine).all()
            torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-4)

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize(("op", "options"), CASES, ids=str)
    def test_excluded_classes(op, options):
        student, teacher, labels = random_rows((4, 20), torch.float64)
        pad = torch.full((4, 40), -math.inf, dtype=torch.float64)  # whole blocks of them, before and behind
        options = {**options, "label_smoothing": 0.0} if op == "distillation_loss" else options
        ours, _ = pair(op, labels + 40, **options)
        _, theirs = pair(op, labels, **options)
        if "ignore_index" in options:
            ours = partial(ours, ignore_index=-100)
            theirs = partial(theirs, ignore_index=-100)
        padded = value_and_gradients(ours, torch.cat([pad, student, pad], 1), torch.cat([pad, teacher, pad], 1))
        smaller = value_and_gradients(theirs, student, teacher)
        torch.testing.assert_close(padded[0], smaller[0])
        for full, part in zip(padded[1:], smaller[1:], strict=True):
            torch.testing.assert_close(full[:, 40:60], part)
            assert not full[:, :40].any()
            assert not full[:, 60:].any()

    @pytest.mark.usefixtures("small_tiles")
    def test_a_class_that_only_the_teacher_allows_is_infinitely_far():
        student, teacher, _ = random_rows((2, 60), torch.float32)
        student[1, :20] = -math.inf
        assert ops.kl_disagreement(student, teacher, reduction="none").isinf().tolist() == [False, True]

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize(("op", "options"), CASES, ids=str)
    def test_nan_stays_in_its_row(op, options):
        student, teacher, labels = random_rows((3, 40), torch.float32)
        student[1, 20] = math.nan
        if options.get("kl_weight") == 0.0:
            options = {**options, "ignore_index": -1}
        value, *grads = value_and_gradients(pair(op, labels, reduction="none", **options)[0], student, teacher)
        assert value.isnan().tolist() == [False, True, False]
        assert grads[0].isnan().any(-1).tolist() == [False, True, False]

    @pytest.mark.parametrize("op", ["confidence_disagreement", "distillation_loss"])
    def test_a_label_that_is_no_class_gives_nan(op):
        student, teacher, labels = random_rows((3, 6), torch.float32)
        labels[1] = 6
        options = ("log", 1.0) if op == "confidence_disagreement" else (2.0, 1.0, 1.0, -100, 0.1, False)

        def loss(s: Tensor, t: Tensor) -> Tensor:
            return getattr(torch.ops.hardfast, op)(s, t, labels, *options, 1, 1)[0]

        value, grad_student, grad_teacher = value_and_gradients(loss, student, teacher)
        assert value.isnan().tolist() == [False, True, False]
        assert grad_student.isnan().all(-1).tolist() == [False, True, False]
        assert not grad_teacher[::2].isnan().any()

    @pytest.mark.parametrize("op", BATCH_MEAN)
    def test_strides_gradients_alone_and_empty_batches(op):
        student, teacher, labels = random_rows((6, 12), torch.float32)
        for s, t, y in [
            (student[:, 1:10], teacher[:, :9], labels.clamp(max=8)),
            (student[::2], teacher[1::2], labels[::2]),
            (student.t()[:6, :], teacher.t()[:6, :], labels.clamp(max=5)),
            (student, teacher[:1].expand(6, 12), labels[:1].expand(6)),
        ]:
            ours, _ = pair(op, y)
            strided = value_and_gradients(ours, s, t)
            plain = value_and_gradients(pair(op, y.contiguous())[0], s.contiguous(), t.contiguous())
            alone = [
                value_and_gradients(partial(ours, teacher_logits=t), s)[1],
                value_and_gradients(lambda t, s=s, ours=ours: ours(s, t), t)[1],
            ]
            assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(alone, strided[1:], strict=True))
        empty = value_and_gradients(pair(op, labels[:0], reduction="sum")[0], student[:0], teacher[:0])
        assert [x.shape for x in empty] == [(), (0, 12), (0, 12)]
        assert empty[0] == 0
        assert pair(op, labels[:0])[0](student[:0], teacher[:0]).isnan()

    @pytest.mark.parametrize("shape", [(1,), (7, 3), (5, 4100)])
    def test_gradients_are_scaled_where_the_factor_is_not_one(shape):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for factor in (1.0, 0.5, float("nan")):
            scaled = values.clone()
            torch.ops.hardfast._scale_unless_one(scaled, torch.tensor(factor))
            torch.testing.assert_close(scaled, values * factor, rtol=0, atol=0, equal_nan=True)

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("options", KL_OPTIONS, ids=str)
    @pytest.mark.parametrize("classes", [30, 70])
    def test_one_launch_finds_loss_and_gradients(classes, options, weighted, small_tiles):
        student, teacher, _ = random_rows((6, classes), torch.float64)
        grad = torch.linspace(0.5, 2, 6, dtype=torch.float64) if weighted else None
        temperature, divergence = options.get("temperature", 1.0), options.get("divergence", "forward")
        targets = [torch.empty_like(student), torch.empty_like(teacher)]
        call = torch.ops.hardfast._kl_disagreement_with_gradients
        loss, _ = call(grad, student, teacher, *targets, temperature, divergence, 1 if weighted else 0, 3)
        leaves = [student.requires_grad_(), teacher.requires_grad_()]
        rows = reference.kl_disagreement(*leaves, reduction="none", **options) / 3
        expected = rows if weighted else rows.sum()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        for mine, other in zip(targets, torch.autograd.grad(expected, leaves, grad), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("factor", [1.0, -2.5])
    def test_gradients_found_ahead_are_multiplied_without_the_host(factor, monkeypatch):
        """The way of a GPU, through tensors that deny being on the CPU."""
        student, teacher, _ = random_rows((6, 70), torch.float32)
        leaves = [student.requires_grad_(), teacher.requires_grad_()]
        expected = torch.autograd.grad(factor * reference.kl_disagreement(*leaves), leaves)
        loss = factor * ops.kl_disagreement(*leaves)
        monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda tensor: False))
        monkeypatch.setattr(torch.Tensor, "item", None)
        for _ in range(2):  # the second backward finds them anew
            for mine, other in zip(torch.autograd.grad(loss, leaves, retain_graph=True), expected, strict=True):
                torch.testing.assert_close(mine, other)

    @pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon"])
    @pytest.mark.parametrize("classes", [10, 300])
    def test_near_agreement_is_as_exact_as_torchs(classes, divergence):
        student, _, _ = random_rows((8, classes), torch.float32)
        teacher = student + 1e-4 * torch.randn(student.shape, generator=torch.Generator().manual_seed(1))

        def found(function, dtype):
            leaves = [student.to(dtype).requires_grad_(), teacher.to(dtype).requires_grad_()]
            loss = function(*leaves, divergence=divergence, reduction="sum")
            return loss.detach(), *torch.autograd.grad(loss, leaves)

        exact = found(reference.kl_disagreement, torch.float64)
        peers = found(reference.kl_disagreement, torch.float32)
        results = found(ops.kl_disagreement, torch.float32)
        for mine, peer, true in zip(results[1:], peers[1:], exact[1:], strict=True):
            assert_as_exact(mine, peer, true)
        if divergence == "jensen_shannon":  # what each half rounds off cancels
            torch.testing.assert_close(results[0].double(), exact[0], rtol=0, atol=1e-7)
            assert all(gradient.sum(1).abs().max() < 1e-10 for gradient in results[1:])

    def test_gradients_in_place_of_the_logits(small_tiles):
        student, teacher, _ = random_rows((6, 70), torch.float32)
        call = torch.ops.hardfast._kl_disagreement_with_gradients
        apart = [torch.empty_like(student), torch.empty_like(teacher)]
        call(None, student, teacher, *apart, 2.0, "forward", 0, 6)
        call(None, student, teacher, student, teacher, 2.0, "forward", 0, 6)
        assert torch.equal(student, apart[0])
        assert torch.equal(teacher, apart[1])
        with pytest.raises(ValueError, match="a gradient must be contiguous"):
            call(None, student, teacher, torch.empty(70, 6).t(), None, 2.0, "forward", 0, 6)
