"""``kl_disagreement``: how much teacher and student disagree, with gradients to the logits of both."""

from __future__ import annotations

from torch import Tensor

from hardfast import reference
from hardfast.ops import _checks, _rows
from hardfast.reference.kl_disagreement import reduction_divisor

DIVERGENCES = ("forward", "reverse", "jensen_shannon")
REDUCTIONS = ("batchmean", *_rows.REDUCTIONS)


def kl_disagreement(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    divergence: str = "forward",
    reduction: str = "batchmean",
) -> Tensor:
    """Divergence between the softened class distributions of teacher and student, from raw logits.

    Equivalent to::

        log_s, log_t = log_softmax(student_logits / T, -1), log_softmax(teacher_logits / T, -1)
        T**2 * F.kl_div(log_s, log_t, log_target=True, reduction="batchmean")

    The factor ``T**2`` is always included, so that gradients keep their size as the temperature changes.

    Args:
        student_logits: ``[..., K]``, float32, float64, float16 or bfloat16.
        teacher_logits: the same shape. Where the two dtypes differ the wider one is used for both.
        temperature: ``T``, positive and finite.
        divergence: ``"forward"`` for KL(teacher || student), ``"reverse"`` for KL(student || teacher),
            ``"jensen_shannon"`` for the mean of the divergences of both from their average.
        reduction: as in ``F.kl_div``: ``"batchmean"`` divides the sum by the length of the first dimension
            (by 1 for a single row ``[K]``), ``"mean"`` by the number of logits, ``"sum"`` by nothing;
            ``"none"`` gives one value a sample, ``[...]``, summed over the classes.

    Returns:
        A scalar, or ``[...]`` for ``reduction="none"``; float64 for float64 logits, otherwise float32: a half
        precision loss would lose most of its digits. An empty batch gives an empty or zero sum, and NaN for a mean.

    Gradients: to both logits, each alone or together, to any order, in reverse mode. Those of a scalar loss of float32
    or float64 logits are computed in the forward, row by row while it has them at hand, and only multiplied in the
    backward: evaluate under ``torch.no_grad()``. A second backward through one graph, which needs
    ``retain_graph=True``, computes them again. Not where the op is compiled or mapped.

    Memory: seven numbers a row are kept for the backward, and where they are computed early the gradients, which are
    allocated once either way; besides two rows per thread for half precision, and three for gradients.
    Logits whose classes are not contiguous are copied.

    Errors: ``TypeError`` and ``ValueError`` name the argument.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2, for ``T**2``.
    """
    _rows.check_logits(student_logits, teacher_logits)
    _checks.one_of("divergence", divergence, DIVERGENCES)
    _checks.one_of("reduction", reduction, REDUCTIONS)
    options = (_checks.positive("temperature", temperature), divergence)
    return _loss(
        (student_logits, teacher_logits), options, reduction, reduction_divisor(student_logits.shape, reduction)
    )


def _reference(
    student: Tensor, teacher: Tensor, temperature: float, divergence: str, group_rows: int, divisor: int
) -> Tensor:
    rows = reference.kl_disagreement(student, teacher, temperature=temperature, divergence=divergence, reduction="none")
    return _rows.group_sum(rows, group_rows) / divisor


_loss = _rows.RowLoss("kl_disagreement", options="float temperature, str divergence", row_stats=7, reference=_reference)
