"""``distillation_loss``: the divergence from the teacher and the cross-entropy of the labels, in one pass."""

from __future__ import annotations

from torch import Tensor

from hardfast import reference
from hardfast.ops import _checks, _rows
from hardfast.reference.distillation_loss import cross_entropy


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    kl_weight: float = 1.0,
    label_weight: float = 1.0,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """What a student of a teacher and of labels minimises: softened divergence plus cross-entropy.

    Equivalent to, for logits ``[N, K]``::

        log_s, log_t = log_softmax(student_logits / T, -1), log_softmax(teacher_logits / T, -1)
        kl = T**2 * F.kl_div(log_s, log_t, log_target=True, reduction="batchmean")
        entropy = F.cross_entropy(student_logits, labels, ignore_index=..., label_smoothing=...)
        kl_weight * kl + label_weight * entropy

    The two means differ: the divergence is divided by the number of all samples, the cross-entropy by the number of
    those whose label is not ignored. The number is counted where the labels are, without waiting for it.

    Args:
        student_logits: ``[..., K]``, float32, float64, float16 or bfloat16.
        teacher_logits: the same shape. Where the two dtypes differ the wider one is used for both.
        labels: ``[...]``, int64, in 0 .. K - 1 or ``ignore_index``.
        temperature: ``T``, positive and finite, of the divergence alone.
        kl_weight: finite, at least 0. A term of weight 0 is left out, even where it is infinite or NaN.
        label_weight: likewise.
        ignore_index: the label of samples without one: their cross-entropy is 0 and is not counted, their divergence
            from the teacher is as any other's.
        label_smoothing: in 0 .. 1: this part of the label's probability is spread over all classes.
        reduction: ``"mean"`` as above, ``"sum"`` for the weighted sum of both over all samples, ``"none"`` for that of
            each sample, ``[...]``.

    Returns:
        A scalar, or ``[...]`` for ``reduction="none"``; float64 for float64 logits, otherwise float32. An empty batch
        gives an empty or zero sum, and NaN for a mean. Where every label is ignored the mean is NaN, as that of
        ``F.cross_entropy``, and its gradients are those of the divergence.

    Gradients: to both logits, each alone or together, to any order, in reverse mode; the teacher's from the divergence.

    Memory: ten numbers a row are kept for the backward; it allocates the gradients asked for, and for half precision
    two rows per thread. Logits whose classes are not contiguous are copied.

    Errors: ``TypeError`` and ``ValueError`` name the argument. On a GPU and in compiled graphs the labels are not
    inspected: there one that is no class makes the loss, and the gradient to the logits of its sample, NaN.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    _rows.check_logits(student_logits, teacher_logits)
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an int, got {type(ignore_index).__name__}")
    _rows.check_labels(labels, student_logits, ignore_index)
    _checks.one_of("reduction", reduction, _rows.REDUCTIONS)
    temperature = _checks.positive("temperature", temperature)
    kl_weight = _checks.not_negative("kl_weight", kl_weight)
    label_weight = _checks.not_negative("label_weight", label_weight)
    label_smoothing = _checks.number("label_smoothing", label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in 0 .. 1, got {label_smoothing}")
    mean = reduction == "mean"
    options = (temperature, kl_weight, label_weight, ignore_index, label_smoothing, mean)
    return _loss((student_logits, teacher_logits, labels), options, reduction, labels.numel() if mean else 1)


def _reference(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    kl_weight: float,
    label_weight: float,
    ignore_index: int,
    label_smoothing: float,
    mean_over_valid: bool,
    group_rows: int,
    divisor: int,
) -> Tensor:
    loss = _rows.group_sum(student.new_zeros(student.shape[0], dtype=_rows.compute_dtype(student)), group_rows)
    if kl_weight != 0:
        divergence = reference.kl_disagreement(student, teacher, temperature=temperature, reduction="none")
        loss = loss + kl_weight * _rows.group_sum(divergence, group_rows) / divisor
    if label_weight != 0:
        entropy = cross_entropy(student.to(loss.dtype), labels, ignore_index, label_smoothing)
        valid = _rows.group_sum(labels != ignore_index, group_rows) if mean_over_valid else 1
        loss = loss + label_weight * _rows.group_sum(entropy, group_rows) / valid
    return loss


_loss = _rows.RowLoss(
    "distillation_loss",
    options="float temperature, float kl_weight, float label_weight, int ignore_index, float label_smoothing, "
    "bool mean_over_valid",
    row_stats=10,
    reference=_reference,
    labelled=True,
)
