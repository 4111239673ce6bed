"""``confidence_disagreement``: how sure the teacher is of a label and the student is not, in one number."""

from __future__ import annotations

from torch import Tensor

from hardfast import reference
from hardfast.ops import _checks, _rows

FORMS = ("probability", "log", "logit")


def confidence_disagreement(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    form: str = "probability",
    gamma: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """How far the teacher believes in the label and the student does not: a quantity to maximise.

    Equivalent to::

        p_s, p_t = (x.softmax(-1).gather(-1, labels[..., None])[..., 0] for x in (student_logits, teacher_logits))
        {
            "probability": p_t**gamma + (1 - p_s) ** gamma,
            "log": p_t.log() + (1 - p_s).log(),
            "logit": p_t.logit() - p_s.logit(),
        }[form].mean()

    but computed from the log-odds of the label, ``logits[y] - logsumexp(the other logits)``, so that values and
    gradients keep their digits where a model is nearly certain. The gradient to the student vanishes there for
    ``"probability"``, as ``p_s * (1 - p_s)**gamma``; that of ``"log"`` tends to a constant where the student is sure of
    the label, and that of ``"logit"`` is the same everywhere.

    Args:
        student_logits: ``[..., K]``, float32, float64, float16 or bfloat16.
        teacher_logits: the same shape. Where the two dtypes differ the wider one is used for both.
        labels: ``[...]``, int64, in 0 .. K - 1.
        form: ``"probability"``, in 0 .. 2; ``"log"``, at most 0; ``"logit"``, unbounded: the margin of the label over
            all other classes together, the teacher's less the student's.
        gamma: positive and finite; only for ``form="probability"``.
        reduction: ``"mean"`` or ``"sum"`` over the samples, or ``"none"`` for one value a sample, ``[...]``.

    Returns:
        A scalar, or ``[...]`` for ``reduction="none"``; float64 for float64 logits, otherwise float32. An empty batch
        gives an empty or zero sum, and NaN for a mean. With one class the label is certain: 1 for ``"probability"``,
        ``-inf`` for ``"log"``, NaN for ``"logit"``.

    Gradients: to both logits, each alone or together, to any order, in reverse mode.

    Memory: seven numbers a row are kept for the backward; it allocates the gradients asked for, and for half precision
    two rows per thread. Logits whose classes are not contiguous are copied.

    Errors: ``TypeError`` and ``ValueError`` name the argument. On a GPU and in compiled graphs the labels are not
    inspected: there one that is no class makes the value and the gradients of its sample NaN.

    Source: Popp et al., ConfiG, 2025, arXiv 2506.02294, for ``"probability"``.
    """
    _rows.check_logits(student_logits, teacher_logits)
    _rows.check_labels(labels, student_logits)
    _checks.one_of("form", form, FORMS)
    _checks.one_of("reduction", reduction, _rows.REDUCTIONS)
    gamma = _checks.positive("gamma", gamma)
    if gamma != 1 and form != "probability":
        raise ValueError(f"gamma is used only with form='probability', got gamma={gamma} with form={form!r}")
    divisor = labels.numel() if reduction == "mean" else 1
    return _disagreement((student_logits, teacher_logits, labels), (form, gamma), reduction, divisor)


def _reference(
    student: Tensor, teacher: Tensor, labels: Tensor, form: str, gamma: float, group_rows: int, divisor: int
) -> Tensor:
    rows = reference.confidence_disagreement(student, teacher, labels, form=form, gamma=gamma, reduction="none")
    return _rows.group_sum(rows, group_rows) / divisor


_disagreement = _rows.RowLoss(
    "confidence_disagreement", options="str form, float gamma", row_stats=7, reference=_reference, labelled=True
)
