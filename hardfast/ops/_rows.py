"""What the ops on rows of logits share: checks, flattening, and the rules that make one of them differentiable.

Such an op takes the logits of student and teacher, ``[N, K]``, labels ``[N]`` if it has any, options, and then

- ``group_rows``: how many rows a loss sums over; 1 gives a loss a row, 0 a scalar over all rows,
- ``divisor``: what each such sum is divided by,

and returns the loss with what its backward needs of each row, ``row_stats`` ``[N, stats]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from hardfast.ops import _checks
from hardfast.ops._library import LIBRARY, WITH_GRADIENTS, has_kernel, register_fallback
from hardfast.ops._transforms import differentiable, is_mapped
from hardfast.ops.keep_memory import empty_result

REDUCTIONS = ("mean", "sum", "none")
# On a GPU the host must not wait to learn that a gradient is 1: there the kernel asks.
LIBRARY.define("_scale_unless_one(Tensor(a!) values, Tensor factor) -> ()")


def _scale(values: Tensor, factor: Tensor) -> None:
    values.mul_(factor)


LIBRARY.impl("_scale_unless_one", _scale, "CompositeExplicitAutograd")
torch.library.register_fake("hardfast::_scale_unless_one", lambda values, factor: None, lib=LIBRARY)
_scale_unless_one = torch.ops.hardfast._scale_unless_one.default


class RowLoss:
    """The op ``hardfast::<name>``, its backward and their rules.

    Args:
        name: of the op.
        options: schema of the arguments between the tensors and ``group_rows``.
        row_stats: the columns of ``row_stats``; the op's file in ``kernels/`` names them.
        reference: the loss in plain PyTorch, from the arguments of the op.
        labelled: whether labels follow the logits.
    """

    def __init__(
        self, name: str, *, options: str, row_stats: int, reference: Callable[..., Tensor], labelled: bool = False
    ) -> None:
        logits = "Tensor student_logits, Tensor teacher_logits, " + ("Tensor labels, " if labelled else "")
        options = f"{options}, SymInt group_rows, SymInt divisor"
        LIBRARY.define(f"{name}({logits}{options}) -> (Tensor loss, Tensor row_stats)")
        LIBRARY.define(
            f"_{name}_backward(Tensor grad, {logits}Tensor row_stats, {options}, bool[2] output_mask) "
            "-> (Tensor, Tensor)"
        )
        self._name = name
        self._inputs = 3 if labelled else 2
        self._row_stats = row_stats
        self._reference = reference
        torch.library.register_fake(f"hardfast::{name}", self._fake, lib=LIBRARY)
        torch.library.register_fake(f"hardfast::_{name}_backward", self._fake_backward, lib=LIBRARY)
        register_fallback(name, self._plain)
        register_fallback(f"_{name}_backward", self._plain_backward)
        self._forward = differentiable(
            name, setup_context=self._setup_context, backward=self._autograd, vmap=self._vmap
        )
        self._backward = differentiable(
            f"_{name}_backward",
            setup_context=self._setup_context_backward,
            backward=self._double_autograd,
            vmap=self._vmap_backward,
        )
        self._ahead = self._define_gradients_ahead(name, options) if name in WITH_GRADIENTS else None

    def _define_gradients_ahead(self, name: str, options: str) -> Callable[..., Tensor]:
        """The loss as a function whose forward computes the gradients as well, while a row is in cache.

        Its backward only multiplies them, by a gradient that is seldom anything but 1. Half precision would round
        them before that, and lose the smallest, so it takes no part.
        """
        op_name = f"_{name}_with_gradients"
        LIBRARY.define(
            f"{op_name}(Tensor? grad, Tensor student_logits, Tensor teacher_logits, Tensor(a!)? grad_student, "
            f"Tensor(b!)? grad_teacher, {options}) -> (Tensor loss, Tensor row_stats)"
        )
        LIBRARY.impl(op_name, self._composed_with_gradients, "CompositeExplicitAutograd")
        torch.library.register_fake(
            f"hardfast::{op_name}", lambda grad, s, t, grad_s, grad_t, *args: self._fake(s, t, *args), lib=LIBRARY
        )
        op, differentiable_backward = getattr(torch.ops.hardfast, op_name).default, self._backward

        def loss_and_gradients(student: Tensor, teacher: Tensor, wanted: Sequence[bool], options: Any) -> Any:
            gradients = [
                empty_result(x) if asked else None for x, asked in zip((student, teacher), wanted, strict=True)
            ]
            return *op(None, student, teacher, *gradients, *options), gradients

        class GradientsAhead(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, student: Tensor, teacher: Tensor, *options: Any) -> Tensor:
                wanted = ctx.needs_input_grad[:2]
                # The gradients are not among the saved tensors: the first backward hands them out, multiplied in place.
                loss, row_stats, ctx.gradients = loss_and_gradients(student, teacher, wanted, options)
                ctx.save_for_backward(student, teacher, row_stats)
                ctx.options = options
                return loss

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
                wanted, constant = ctx.needs_input_grad[:2], (None,) * len(ctx.options)
                if torch.is_grad_enabled() or is_mapped(grad):
                    both = differentiable_backward(grad, *ctx.saved_tensors, *ctx.options, list(wanted))
                    return *(g if asked else None for g, asked in zip(both, wanted, strict=True)), *constant
                gradients, ctx.gradients = ctx.gradients, None
                if gradients is None:  # a second backward through the same graph
                    student, teacher, _ = ctx.saved_tensors
                    *_, gradients = loss_and_gradients(student, teacher, wanted, ctx.options)
                given = [g for g in gradients if g is not None]
                if not grad.is_cpu:
                    for gradient in given:
                        _scale_unless_one(gradient, grad)
                elif is_in_torch_dispatch_mode() or grad.item() != 1:  # a mode that traces must not see the value
                    for gradient in given:
                        gradient.mul_(grad)
                return *gradients, *constant

        return GradientsAhead.apply

    def __call__(self, inputs: tuple[Tensor, ...], options: tuple[Any, ...], reduction: str, divisor: int) -> Tensor:
        """The loss of logits ``[..., K]`` of any dtypes, with labels ``[...]`` behind them if the op has any."""
        student, teacher, *labels = inputs
        shape = student.shape
        if student.dtype != teacher.dtype:
            dtype = torch.promote_types(student.dtype, teacher.dtype)
            student, teacher = student.to(dtype), teacher.to(dtype)
        if len(shape) != 2:
            student, teacher = student.reshape(-1, shape[-1]), teacher.reshape(-1, shape[-1])
            labels = [value.reshape(-1) for value in labels]
        per_sample = reduction == "none"
        if self._ahead is not None and not per_sample and _gradients_fit_ahead(self._name, student, teacher):
            return self._ahead(student, teacher, *options, 0, divisor)
        loss, _ = self._forward(student, teacher, *labels, *options, 1 if per_sample else 0, divisor)
        return loss.reshape(shape[:-1]) if per_sample and len(shape) != 2 else loss

    def _fake(self, student: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        rows, dtype, group_rows = student.shape[0], compute_dtype(student), args[-2]
        shape = [] if group_rows == 0 else [rows // group_rows]
        return student.new_empty(shape, dtype=dtype), student.new_empty([rows, self._row_stats], dtype=dtype)

    def _fake_backward(self, grad: Tensor, student: Tensor, teacher: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        mask = args[-1]
        return (
            student.new_empty(student.shape if mask[0] else [0]),
            teacher.new_empty(teacher.shape if mask[1] else [0]),
        )

    def _plain(self, student: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        # The backward in plain PyTorch needs no statistics.
        row_stats = student.new_zeros([student.shape[0], self._row_stats], dtype=compute_dtype(student))
        return self._reference(student, *args), row_stats

    def _plain_backward(self, grad: Tensor, student: Tensor, teacher: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        labels = args[: self._inputs - 2]
        *options, mask = args[self._inputs - 1 :]
        vjp = torch.func.vjp(lambda s, t: self._reference(s, t, *labels, *options), student, teacher)[1]
        grad_student, grad_teacher = vjp(grad)
        return (
            grad_student if mask[0] else student.new_empty(0),
            grad_teacher if mask[1] else teacher.new_empty(0),
        )

    def _composed_with_gradients(
        self, grad: Tensor | None, student: Tensor, teacher: Tensor, *args: Any
    ) -> tuple[Tensor, Tensor]:
        targets, options = args[:2], args[2:]
        loss, row_stats = self._forward(student, teacher, *options)
        grad = torch.ones_like(loss) if grad is None else grad
        mask = [target is not None for target in targets]
        gradients = self._backward(grad, student, teacher, row_stats, *options, mask)
        for target, gradient in zip(targets, gradients, strict=True):
            if target is not None:
                target.copy_(gradient)
        return loss, row_stats

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[: self._inputs], output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.options = inputs[self._inputs :]

    def _autograd(self, ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        constant = (None,) * (self._inputs - 2 + len(ctx.options))
        if grad is None:
            return None, None, *constant
        mask = list(ctx.needs_input_grad[:2])
        grad_student, grad_teacher = self._backward(grad, *ctx.saved_tensors, *ctx.options, mask)
        return grad_student if mask[0] else None, grad_teacher if mask[1] else None, *constant

    def _setup_context_backward(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        tensors = self._inputs + 2  # the gradient before, the statistics behind
        ctx.save_for_backward(*inputs[:tensors])
        ctx.options = inputs[tensors:]

    def _double_autograd(self, ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad, student, teacher, *others = ctx.saved_tensors

        def gradients(grad: Tensor, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
            # The row statistics are functions of the logits: the reference differentiates through them.
            return self._plain_backward(grad, student, teacher, *others, *ctx.options)

        vjp = torch.func.vjp(gradients, grad, student, teacher)[1]
        return *vjp(grads), *(None,) * (len(others) + len(ctx.options))

    def _vmap(self, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        batch = info.batch_size
        tensors = [_mapped_first(args[i], in_dims[i], batch) for i in range(self._inputs)]
        *options, group_rows, divisor = args[self._inputs :]
        rows = tensors[0].shape[1]
        flat = (x.flatten(0, 1) for x in tensors)
        loss, row_stats = self._forward(*flat, *options, _mapped_group(group_rows, rows), divisor)
        if group_rows != 0:
            loss = loss.reshape(batch, rows // group_rows)
        elif rows == 0:
            loss = loss.new_zeros(batch) / divisor
        return (loss, row_stats.unflatten(0, (batch, rows))), (0, 0)

    def _vmap_backward(
        self, info: Any, in_dims: tuple[Any, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        batch, count = info.batch_size, self._inputs + 2
        grad, *tensors = (_mapped_first(args[i], in_dims[i], batch) for i in range(count))
        *options, group_rows, divisor, mask = args[count:]
        rows = tensors[0].shape[1]
        grad = grad.reshape(-1) if rows else grad.new_empty(0)
        flat = (x.flatten(0, 1) for x in tensors)
        grads = self._backward(grad, *flat, *options, _mapped_group(group_rows, rows), divisor, mask)
        unfolded = tuple(
            g.unflatten(0, (batch, rows)) if wanted else g.expand(batch, 0)
            for g, wanted in zip(grads, mask, strict=True)
        )
        return unfolded, (0, 0)


def _gradients_fit_ahead(name: str, student: Tensor, teacher: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and (student.requires_grad or teacher.requires_grad)
        and student.dtype in (torch.float32, torch.float64)
        and _checks.eager(student)
        and _checks.eager(teacher)
        and has_kernel(name, student.device.type)  # plain PyTorch would have nothing of it
    )


def group_sum(rows: Tensor, group_rows: int) -> Tensor:
    """The sums of ``rows`` ``[N]`` over its groups."""
    if group_rows == 0:
        return rows.sum()
    return rows if group_rows == 1 else rows.unflatten(0, (-1, group_rows)).sum(1)


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    _checks.floating_tensor("student_logits", student_logits)
    _checks.floating_tensor("teacher_logits", teacher_logits)
    if student_logits.dim() == 0 or student_logits.shape[-1] == 0:
        raise ValueError(f"student_logits must have shape [..., K] with K >= 1, got {list(student_logits.shape)}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits must have the shape of student_logits, {list(student_logits.shape)}, "
            f"got {list(teacher_logits.shape)}"
        )
    if student_logits.device != teacher_logits.device:
        raise ValueError(
            f"teacher_logits must be on the device of student_logits, {student_logits.device}, "
            f"got {teacher_logits.device}"
        )


def check_labels(labels: Tensor, logits: Tensor, ignore_index: int | None = None) -> None:
    """Raises on labels that do not fit the logits; their values count where ``_checks.inspectable`` allows a look."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have the shape of student_logits without its classes, {list(logits.shape[:-1])}, "
            f"got {list(labels.shape)}"
        )
    if labels.device != logits.device:
        raise ValueError(f"labels must be on the device of student_logits, {logits.device}, got {labels.device}")
    if not _checks.inspectable(labels) or labels.numel() == 0:
        return
    classes = logits.shape[-1]
    low, high = torch.aminmax(labels)
    if low.item() >= 0 and high.item() < classes:
        return
    wrong = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        wrong &= labels != ignore_index
    if wrong.any():
        accepted = "" if ignore_index is None else f", or ignore_index={ignore_index}"
        raise ValueError(f"labels must lie in 0 .. {classes - 1}{accepted}, got {int(labels[wrong][0])}")


def compute_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _mapped_first(value: Tensor, dim: int | None, batch: int) -> Tensor:
    return value.expand(batch, *value.shape) if dim is None else value.movedim(dim, 0)


def _mapped_group(group_rows: int, rows: int) -> int:
    """The groups of a batch of inputs laid end to end: what was a scalar becomes one loss per ``rows``."""
    return group_rows or rows or 1
