"""``linear_kl_disagreement``: two classifier heads and their disagreement, a few rows of logits at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from hardfast import reference
from hardfast.ops import _checks
from hardfast.ops._library import LIBRARY
from hardfast.ops._transforms import differentiable, is_mapped, transforms_active
from hardfast.ops.kl_disagreement import DIVERGENCES, REDUCTIONS
from hardfast.reference.kl_disagreement import reduction_divisor

# A chunk's logits take at most this share of the student's weight, or the least number of elements if that is more.
# Fewer rows: each chunk reads the whole weight, and its gradient if there is one, for little work (32 rows take twice
# the time of 128 at 1024x512->32000). More rows: faster by a tenth, but then the scratch outgrows that gradient.
SHARE_OF_WEIGHT, SHARE_WITH_ITS_GRADIENT = 3 / 4, 5 / 16
LEAST_CHUNK_LOGITS = 1 << 20
CLASS_BLOCK = 4096

_INPUTS = (
    "Tensor student_features, Tensor student_weight, Tensor? student_bias, Tensor teacher_features, "
    "Tensor? teacher_weight, Tensor? teacher_bias, "
)
_OPTIONS = "float temperature, str divergence, bool per_sample, SymInt divisor, SymInt chunk_rows"
_GRADIENTS = "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor"

# With the loss come its gradients where grad_mask asks for them: computed while the logits are at hand, they save the
# backward from computing those again. They stay in the inputs' order; features in their dtype, the rest in that of the
# arithmetic; [0] where not asked for. They are those before the divisor where _divides_last().
LIBRARY.define(f"linear_kl_disagreement({_INPUTS}{_OPTIONS}, bool[6] grad_mask) -> (Tensor loss, {_GRADIENTS})")
LIBRARY.define(
    f"_linear_kl_disagreement_backward(Tensor grad, {_INPUTS}{_OPTIONS}, bool[6] output_mask) -> ({_GRADIENTS})"
)
# The products that a BLAS shares badly among threads, and pages for what is written first; csrc/ has them for the CPU.
LIBRARY.define("_linear_logits(Tensor features, Tensor weight, Tensor? bias, Tensor(a!) logits) -> ()")
LIBRARY.define("_logits_times_weight(Tensor logits, Tensor weight, Tensor(a!) product) -> ()")
LIBRARY.define("_ask_for_large_pages(Tensor tensor) -> ()")


def linear_kl_disagreement(
    student_features: Tensor,
    student_weight: Tensor,
    teacher_features: Tensor,
    teacher_weight: Tensor | None = None,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    temperature: float = 1.0,
    divergence: str = "forward",
    reduction: str = "batchmean",
    chunk_rows: int | None = None,
) -> Tensor:
    """Divergence between two linear classifiers, from their features: the ``[N, K]`` logits are never in memory.

    Equivalent to::

        student_logits = F.linear(student_features, student_weight, student_bias)
        teacher_logits = F.linear(teacher_features, teacher_weight, teacher_bias)
        kl_disagreement(student_logits, teacher_logits, temperature=T, divergence=divergence, reduction=reduction)

    Args:
        student_features: ``[..., D]``, float32, float64, float16 or bfloat16.
        student_weight: ``[K, D]``, in the dtype of the features, as for ``F.linear``. Under autocast both are cast.
        teacher_features: ``[..., D_t]``, with the leading shape of the student's; its dtype may be another. With
            ``teacher_weight=None`` they are the teacher's logits, ``[..., K]``.
        teacher_weight: ``[K, D_t]``.
        student_bias: ``[K]``, in the dtype of the weight.
        teacher_bias: ``[K]``; only with ``teacher_weight``.
        temperature: as in ``kl_disagreement``, like ``divergence`` and ``reduction``.
        divergence: ``"forward"``, ``"reverse"`` or ``"jensen_shannon"``.
        reduction: ``"batchmean"``, ``"mean"``, ``"sum"`` or ``"none"``.
        chunk_rows: rows whose logits exist at a time. If None, as many as make their logits 3/4 of the weight
            (``3 D / 4`` rows; ``5 D / 16`` with a gradient to a weight), or 2**20 elements if that is more.

    Returns:
        A scalar, or ``[...]`` for ``reduction="none"``, in float32, or float64 for float64 logits.

    Gradients: to features, weights and biases of both sides, each alone or together, to any order in reverse mode. For
    a scalar loss they are computed in the forward, which then takes most of the time of a step: evaluate under
    ``torch.no_grad()``. For ``reduction="none"``, under ``torch.func`` and in a second backward through one graph the
    backward computes the logits again. ``vmap`` runs its elements one after the other.

    Memory: the gradients, those of weights and biases in float32 for half precision, and for each side one chunk of
    logits, whose gradient takes their place; for half precision besides 4096 rows of a weight. Second derivatives are
    in plain PyTorch and hold all logits.

    Errors: ``TypeError`` and ``ValueError`` name the argument.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2, for the divergence.
    """
    # In the order of the operator.
    flat: list[Any] = _check_heads(
        (student_features, student_weight, student_bias, teacher_features, teacher_weight, teacher_bias)
    )
    _checks.one_of("divergence", divergence, DIVERGENCES)
    _checks.one_of("reduction", reduction, REDUCTIONS)
    temperature = _checks.positive("temperature", temperature)
    if chunk_rows is not None and (type(chunk_rows) is not int or not 1 <= chunk_rows < 2**63):
        raise ValueError(f"chunk_rows must be a positive whole number or None, got {chunk_rows!r}")

    lead, classes = student_features.shape[:-1], student_weight.shape[0]
    for k in (0, 3):
        if len(lead) != 1:
            flat[k] = flat[k].reshape(-1, flat[k].shape[-1])
    per_sample = reduction == "none"
    ahead = torch.is_grad_enabled() and not per_sample and not transforms_active()
    loss, *_ = _forward(
        *flat,
        temperature,
        divergence,
        per_sample,
        reduction_divisor(torch.Size([*lead, classes]), reduction),
        chunk_rows or 0,
        [ahead and tensor is not None and tensor.requires_grad for tensor in flat],
    )
    return loss.reshape(lead) if per_sample and len(lead) != 1 else loss


def _check_heads(inputs: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """The inputs as autocast would have them."""
    student: Any = inputs[0]
    classes: int | None = None
    checked: list[Tensor | None] = []
    for side, (features, weight, bias) in (("student", inputs[:3]), ("teacher", inputs[3:])):
        _checks.floating_tensor(f"{side}_features", features)
        assert features is not None
        if features.dim() == 0 or features.shape[:-1] != student.shape[:-1]:
            like = "" if side == "student" else f" with the leading shape of student_features, {list(student.shape)}"
            raise ValueError(f"{side}_features must have shape [..., D]{like}, got {list(features.shape)}")
        if weight is None and side == "teacher":
            if bias is not None:
                raise ValueError("teacher_bias is used only with teacher_weight, got teacher_weight=None")
            if features.shape[-1] != classes:
                raise ValueError(
                    f"teacher_features without teacher_weight are logits of {classes} classes, as student_weight has, "
                    f"got shape {list(features.shape)}"
                )
        else:
            _checks.floating_tensor(f"{side}_weight", weight)
            assert weight is not None
            if weight.dim() != 2 or weight.shape[1] != features.shape[-1] or classes not in (None, weight.shape[0]):
                wanted = f"[{classes or 'K'}, {features.shape[-1]}]"
                raise ValueError(f"{side}_weight must have shape {wanted}, got {list(weight.shape)}")
            if weight.shape[0] == 0:
                raise ValueError(f"{side}_weight must have shape [K, D] with K >= 1, got {list(weight.shape)}")
            classes = weight.shape[0]
        if bias is not None:
            _checks.floating_tensor(f"{side}_bias", bias)
            if bias.shape != (classes,):
                raise ValueError(f"{side}_bias must have shape [{classes}], got {list(bias.shape)}")
        checked += _check_head(side, student.device, features, weight, bias)
    return checked


def _check_head(
    side: str, device: torch.device, features: Tensor, weight: Tensor | None, bias: Tensor | None
) -> list[Tensor | None]:
    tensors = {"features": features, "weight": weight, "bias": bias}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{side}_{name} must be on the device of student_features, {device}, got {tensor.device}")
    autocasts = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    if weight is not None and autocasts:
        dtype = torch.get_autocast_dtype(device.type)
        return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors.values()]
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != features.dtype:
            raise TypeError(
                f"{side}_{name} must have the dtype of {side}_features, {features.dtype}, got {tensor.dtype}"
            )
    return list(tensors.values())


class _Head:
    """One side: its logits for some rows, and its gradients, summed up as the rows come."""

    def __init__(self, features: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
        self.features, self.weight, self.bias = features, weight, bias
        self.gradients: list[Tensor] = []
        self._logits = features.new_empty(0)  # of one chunk, kept for the next: fresh memory costs page faults

    def logits(self, rows: slice) -> Tensor:
        if self.weight is None:
            return self.features[rows]
        features = self.features[rows]
        if len(self._logits) < len(features):
            self._logits = features.new_empty(len(features), self.weight.shape[0])
        logits = self._logits[: len(features)]
        torch.ops.hardfast._linear_logits(features, self.weight, self.bias, logits)
        return logits

    def ask_for(self, mask: list[bool], dtype: torch.dtype) -> None:
        self.gradients = _empty_gradients((self.features, self.weight, self.bias), mask, dtype)
        for gradient in self.gradients:
            torch.ops.hardfast._ask_for_large_pages(gradient)
            if len(self.features) == 0:
                gradient.zero_()

    def room_for_gradient(self, logits: Tensor, rows: slice) -> Tensor:
        """Where the gradient to these logits goes: in their place, unless they are the caller's."""
        if self.weight is not None:
            return logits
        grad_features = self.gradients[0][rows]
        if grad_features.dtype == logits.dtype:
            return grad_features
        return torch.empty_like(logits, memory_format=torch.contiguous_format)

    def add(self, grad_logits: Tensor, rows: slice) -> None:
        grad_features, grad_weight, grad_bias = self.gradients
        grad_logits, features = grad_logits.to(self.features.dtype), self.features[rows]
        is_first = rows.start == 0  # sums begin with it: zeros would be written only to be read
        if grad_features.dim() == 2:
            if self.weight is not None:
                torch.ops.hardfast._logits_times_weight(grad_logits, self.weight, grad_features[rows])
            elif grad_features[rows].data_ptr() != grad_logits.data_ptr():
                grad_features[rows] = grad_logits
        if grad_weight.dim() == 2:
            if grad_weight.dtype != grad_logits.dtype:
                for k in range(0, grad_weight.shape[0], CLASS_BLOCK):
                    block = slice(k, k + CLASS_BLOCK)
                    product = torch.mm(grad_logits[:, block].t(), features)
                    grad_weight[block] = product if is_first else grad_weight[block] + product
            elif is_first:
                torch.mm(grad_logits.t(), features, out=grad_weight)
            else:
                grad_weight.addmm_(grad_logits.t(), features)
        if grad_bias.numel() > 0:
            summed = grad_logits.sum(0, dtype=grad_bias.dtype)
            grad_bias.copy_(summed if is_first else grad_bias + summed)


def _empty_gradients(
    tensors: tuple[Tensor | None, ...], mask: list[bool], dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Gradients of features, weight and bias, for one side or for both; ``dtype`` is that of all but the features."""
    like: Any = tensors[0]
    return [
        like.new_empty([0])
        if tensor is None or not wanted
        else torch.empty_like(
            tensor, dtype=tensor.dtype if k % 3 == 0 else dtype, memory_format=torch.contiguous_format
        )
        for k, (tensor, wanted) in enumerate(zip(tensors, mask, strict=True))
    ]


def _arithmetic_dtype(inputs: tuple[Tensor | None, ...]) -> torch.dtype:
    doubles = any(tensor is not None and tensor.dtype == torch.float64 for tensor in inputs)
    return torch.float64 if doubles else torch.float32


def _chunks(rows: int, width: int, classes: int, share: float, chunk_rows: int) -> Iterator[slice]:
    step = chunk_rows or max(int(share * width), LEAST_CHUNK_LOGITS // classes, 1)
    if not chunk_rows and rows > 0:
        step = math.ceil(rows / math.ceil(rows / step))  # chunks of one length
    return (slice(begin, min(begin + step, rows)) for begin in range(0, rows, step))


def _run(inputs: tuple[Any, ...], options: tuple[Any, ...], grad: Tensor | None, mask: list[bool]) -> list[Tensor]:
    """The losses of the rows, and the gradients asked for: of the rows' sum, weighted by ``grad`` ``[N]`` if given.

    Both are divided, unless ``_divides_last``.
    """
    temperature, divergence, _, divisor, chunk_rows = options
    divisor = 1 if _divides_last(inputs) else divisor
    student, teacher = _Head(*inputs[:3]), _Head(*inputs[3:])
    dtype, (rows, width) = _arithmetic_dtype(inputs), inputs[0].shape
    losses = inputs[0].new_empty([rows], dtype=dtype)
    sides = [any(mask[:3]), any(mask[3:])]
    student.ask_for(mask[:3], dtype)
    teacher.ask_for(mask[3:], dtype)
    share = SHARE_WITH_ITS_GRADIENT if mask[1] or mask[4] else SHARE_OF_WEIGHT
    loss_and_gradients = torch.ops.hardfast._kl_disagreement_with_gradients
    # The dtypes are settled: autocast must not look at the products of float32 weights' gradients.
    with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
        for chunk in _chunks(rows, width, inputs[1].shape[0], share, chunk_rows):
            pair = student.logits(chunk), teacher.logits(chunk)
            logits_dtype = torch.promote_types(pair[0].dtype, pair[1].dtype)
            pair = pair[0].to(logits_dtype), pair[1].to(logits_dtype)
            grads = [
                head.room_for_gradient(logits, chunk) if wanted else None
                for head, logits, wanted in zip((student, teacher), pair, sides, strict=True)
            ]
            losses[chunk], _ = loss_and_gradients(
                None if grad is None else grad[chunk], *pair, *grads, temperature, divergence, 1, divisor
            )
            del pair
            for head, grad_logits in zip((student, teacher), grads, strict=True):
                if grad_logits is not None:
                    head.add(grad_logits, chunk)
            del grads, grad_logits
    return [losses, *student.gradients, *teacher.gradients]


def _linear_kl(*args: Any) -> tuple[Tensor, ...]:
    inputs, options, mask = args[:6], args[6:11], args[11]
    losses, *gradients = _run(inputs, options, None, mask)
    _, _, per_sample, divisor, _ = options
    if per_sample:
        return losses, *gradients
    total = losses.sum(dtype=torch.float64)
    if _divides_last(inputs) or len(losses) == 0:  # of no rows, a mean is 0 / 0
        total = total / divisor
    return total.to(losses.dtype), *gradients


def _linear_kl_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    inputs, options, mask = args[:6], args[6:11], args[11]
    per_sample = options[2]
    gradients = _run(inputs, options, grad if per_sample else None, mask)[1:]
    return _scaled(gradients, inputs, None if per_sample else _share(grad, inputs, options))


def _divides_last(inputs: Sequence[Any]) -> bool:
    """Whether gradients are divided after a loss scale has multiplied them: half precision would lose the smallest."""
    return any(inputs[k].dtype in (torch.float16, torch.bfloat16) for k in (0, 3))


def _share(grad: Tensor, inputs: Sequence[Any], options: Sequence[Any]) -> Tensor | None:
    """What the gradients from ``_run`` are multiplied by, if by anything; of no rows they are zeros, not 0 / 0."""
    if _divides_last(inputs) and inputs[0].shape[0] > 0:
        return grad / options[3]
    if _checks.inspectable(grad) and not is_in_torch_dispatch_mode() and grad.item() == 1:
        return None
    return grad


def _scaled(gradients: Sequence[Tensor], inputs: Sequence[Any], scale: Tensor | None) -> tuple[Tensor, ...]:
    """The gradients in the dtypes of the inputs, multiplied in place: rounding to half precision comes last."""
    return tuple(
        gradient if tensor is None else (gradient if scale is None else gradient.mul_(scale)).to(tensor.dtype)
        for gradient, tensor in zip(gradients, inputs, strict=True)
    )


def _linear_logits(features: Tensor, weight: Tensor, bias: Tensor | None, logits: Tensor) -> None:
    if bias is None:
        torch.mm(features, weight.t(), out=logits)
    else:
        torch.addmm(bias, features, weight.t(), out=logits)


def _logits_times_weight(logits: Tensor, weight: Tensor, product: Tensor) -> None:
    torch.mm(logits, weight, out=product)


LIBRARY.impl("_linear_logits", _linear_logits, "CompositeExplicitAutograd")
LIBRARY.impl("_logits_times_weight", _logits_times_weight, "CompositeExplicitAutograd")
LIBRARY.impl("_ask_for_large_pages", lambda tensor: None, "CompositeExplicitAutograd")

# In Python on every device: what is computed is PyTorch's matrix products and the kernels of kl_disagreement.
LIBRARY.impl("linear_kl_disagreement", _linear_kl, "CompositeExplicitAutograd")
LIBRARY.impl("_linear_kl_disagreement_backward", _linear_kl_backward, "CompositeExplicitAutograd")


@torch.library.register_fake("hardfast::linear_kl_disagreement", lib=LIBRARY)
def _fake(*args: Any) -> tuple[Tensor, ...]:
    inputs, dtype, per_sample, mask = args[:6], _arithmetic_dtype(args[:6]), args[8], args[11]
    loss = inputs[0].new_empty([inputs[0].shape[0]] if per_sample else [], dtype=dtype)
    return loss, *_empty_gradients(inputs[:3], mask[:3], dtype), *_empty_gradients(inputs[3:], mask[3:], dtype)


@torch.library.register_fake("hardfast::_linear_kl_disagreement_backward", lib=LIBRARY)
def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    inputs, mask = args[:6], args[11]
    return *_empty_gradients(inputs[:3], mask[:3]), *_empty_gradients(inputs[3:], mask[3:])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.options, ctx.mask = inputs[6:11], inputs[11]
    # Not among the saved tensors: the first backward hands these buffers out, scaled in place, and a second one
    # computes its own. A copy would double the memory of the largest gradients.
    ctx.gradients = output[1:] if any(ctx.mask) else None


def _autograd(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    constant = (None,) * 6
    wanted = list(ctx.needs_input_grad[:6])
    if grad is None or not any(wanted):
        return (None,) * 6 + constant
    inputs = ctx.saved_tensors
    at_hand = ctx.gradients is not None and all(has for has, needs in zip(ctx.mask, wanted, strict=True) if needs)
    if at_hand and not torch.is_grad_enabled() and not is_mapped(grad):
        grads = _scaled(ctx.gradients, inputs, _share(grad, inputs, ctx.options))
        ctx.gradients = None
    else:
        grads = _backward(grad, *inputs, *ctx.options, wanted)
    return *(g if needs else None for g, needs in zip(grads, wanted, strict=True)), *constant


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.options, ctx.mask = inputs[7:12], inputs[12]


def _double_autograd(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    given = [k for k, tensor in enumerate(tensors) if tensor is not None]

    def gradients(*values: Tensor) -> tuple[Tensor, ...]:
        arguments: list[Any] = [None] * 7
        for k, value in zip(given, values, strict=True):
            arguments[k] = value
        return _reference_backward(arguments, ctx.options, ctx.mask)

    second = torch.func.vjp(gradients, *(tensors[k] for k in given))[1](grads)
    result: list[Any] = [None] * 13
    for k, value in zip(given, second, strict=True):
        result[k] = value
    return tuple(result)


def _reference_backward(arguments: list[Any], options: tuple[Any, ...], mask: list[bool]) -> tuple[Tensor, ...]:
    grad, *inputs = arguments
    temperature, divergence, per_sample, divisor, _ = options
    given = [k for k, tensor in enumerate(inputs) if tensor is not None]

    def loss(*values: Tensor) -> Tensor:
        tensors: list[Any] = [None] * 6
        for k, value in zip(given, values, strict=True):
            tensors[k] = value
        losses = reference.linear_kl_disagreement(
            tensors[0], tensors[1], tensors[3], tensors[4], student_bias=tensors[2], teacher_bias=tensors[5],
            temperature=temperature, divergence=divergence, reduction="none",
        )  # fmt: skip
        return losses if per_sample else losses.sum() / divisor

    values = torch.func.vjp(loss, *(inputs[k] for k in given))[1](grad)
    empty = inputs[0].new_empty(0)
    by_position = dict(zip(given, values, strict=True))
    return tuple(by_position[k] if mask[k] and k in by_position else empty for k in range(6))


def _one_by_one(op: Any, info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    results = [
        op(*(a if dim is None else a.select(dim, k) for a, dim in zip(args, in_dims, strict=True)))
        for k in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(column) for column in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _flat_dims(in_dims: tuple[Any, ...]) -> tuple[Any, ...]:
    """The last argument is a list of flags, and so is its entry."""
    return *in_dims[:-1], None


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    return _one_by_one(_forward, info, _flat_dims(in_dims), args)


def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    return _one_by_one(_backward, info, _flat_dims(in_dims), args)


_forward = differentiable("linear_kl_disagreement", setup_context=_setup_context, backward=_autograd, vmap=_vmap)
_backward = differentiable(
    "_linear_kl_disagreement_backward",
    setup_context=_setup_context_backward,
    backward=_double_autograd,
    vmap=_vmap_backward,
)
