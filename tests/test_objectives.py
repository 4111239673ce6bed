"""The two sides of HARD, against their formulas in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from hardfast.distill import AugmentorObjective, StudentObjective

T = 2.0


def disagreement(student: torch.Tensor, teacher: torch.Tensor, temperature: float = T) -> torch.Tensor:
    """``T**2`` times the batch mean of KL(teacher || student), spelled out."""
    p = torch.softmax(teacher / temperature, 1)
    log_ratio = p.log() - F.log_softmax(student / temperature, 1)
    return temperature**2 * (p * log_ratio).sum(1).mean()


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(7, 5, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(4)]


def assert_same_with_gradients(actual, expected, inputs):
    torch.testing.assert_close(actual, expected)
    ours = torch.autograd.grad(actual, inputs)
    theirs = torch.autograd.grad(expected, inputs)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("clean_weight", [0.0, 1.0, 0.3])
def test_student_objective(logits, clean_weight):
    student_clean, teacher_clean, student_augmented, teacher_augmented = logits
    terms = StudentObjective(T, clean_weight)(student_clean, teacher_clean, student_augmented, teacher_augmented)
    augmented = disagreement(student_augmented, teacher_augmented)
    expected = augmented + clean_weight * disagreement(student_clean, teacher_clean)
    torch.testing.assert_close(terms.disagreement, augmented.detach())
    torch.testing.assert_close(terms.teacher_consistency, disagreement(teacher_augmented, teacher_clean).detach())
    assert_same_with_gradients(terms.loss, expected, [student_clean, student_augmented])


def test_student_objective_without_augmentation_is_distillation(logits):
    student, teacher, *_ = logits
    terms = StudentObjective(T, clean_weight=0.0)(student, teacher)
    assert terms.teacher_consistency is None
    torch.testing.assert_close(terms.disagreement, terms.loss.detach())
    assert_same_with_gradients(terms.loss, disagreement(student, teacher), [student])


@pytest.mark.parametrize(("teacher_weight", "student_weight"), [(0.3, 1.0), (1.0, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("form", ["saturating", "non_saturating"])
def test_augmentor_objective(logits, form, teacher_weight, student_weight):
    student_augmented, teacher_augmented, teacher_clean, _ = logits
    terms = AugmentorObjective(T, teacher_weight, student_weight, form)(
        student_augmented, teacher_augmented, teacher_clean
    )
    sought = disagreement(student_augmented, teacher_augmented)
    held = disagreement(teacher_augmented, teacher_clean)
    torch.testing.assert_close(terms.disagreement, sought)
    torch.testing.assert_close(terms.teacher_consistency, held)
    sought = (sought + 1e-6).log() if form == "non_saturating" else sought
    expected = teacher_weight * held - student_weight * sought
    assert_same_with_gradients(terms.loss, expected, [student_augmented, teacher_augmented])


def other_divergence(name: str, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The two that are not the default, by PyTorch's own KL divergence of probabilities."""
    p_s, p_t = (torch.softmax(logits / T, 1) for logits in (student, teacher))
    middle = (p_s + p_t) / 2
    parts = {"reverse": [(p_t, p_s)], "jensen_shannon": [(middle, p_s), (middle, p_t)]}[name]
    divergences = [F.kl_div(q.log(), p, reduction="batchmean") for q, p in parts]
    return T**2 * sum(divergences) / len(parts)


@pytest.mark.parametrize("form", ["saturating", "non_saturating"])
@pytest.mark.parametrize("name", ["reverse", "jensen_shannon"])
def test_every_divergence_in_both_objectives(logits, name, form):
    student_clean, teacher_clean, student_augmented, teacher_augmented = logits
    terms = StudentObjective(T, 0.3, name)(student_clean, teacher_clean, student_augmented, teacher_augmented)
    held = other_divergence(name, teacher_augmented, teacher_clean)
    expected = other_divergence(name, student_augmented, teacher_augmented)
    expected = expected + 0.3 * other_divergence(name, student_clean, teacher_clean)
    torch.testing.assert_close(terms.teacher_consistency, held.detach())
    assert_same_with_gradients(terms.loss, expected, [student_clean, student_augmented])
    plain = StudentObjective(T, divergence=name)(student_clean, teacher_clean)
    torch.testing.assert_close(plain.loss, other_divergence(name, student_clean, teacher_clean))

    found = AugmentorObjective(T, 0.3, 1.5, form, name)(student_augmented, teacher_augmented, teacher_clean)
    sought = other_divergence(name, student_augmented, teacher_augmented)
    expected = 0.3 * held - 1.5 * ((sought + 1e-6).log() if form == "non_saturating" else sought)
    assert_same_with_gradients(found.loss, expected, [student_augmented, teacher_augmented])


@pytest.mark.parametrize("objective", [StudentObjective, AugmentorObjective])
def test_unknown_divergence_raises(objective):
    with pytest.raises(ValueError, match=r"divergence must be one of .*'jensen_shannon'.*wasserstein"):
        objective(divergence="wasserstein")


def test_only_the_non_saturating_form_pulls_where_the_student_agrees():
    """As the student closes in on the teacher, one gradient vanishes and the other grows."""
    teacher = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    direction = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)

    def pull(form: str, distance: float) -> float:
        student = (teacher + distance * direction).requires_grad_()
        loss = AugmentorObjective(1.0, 0.0, 1.0, form)(student, teacher, teacher).loss
        return torch.autograd.grad(loss, student)[0].norm().item()

    assert pull("saturating", 0.01) < 0.1 * pull("saturating", 0.2)
    assert pull("non_saturating", 0.01) > pull("non_saturating", 0.2)


def test_the_log_is_finite_where_the_networks_are_equal():
    teacher = torch.tensor([[2.0, 0.0, -1.0]])
    student = teacher.clone().requires_grad_()
    loss = AugmentorObjective(1.0, 0.0, 1.0, "non_saturating")(student, teacher, teacher).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(student.grad).all()


def test_half_of_the_augmented_logits_raises(logits):
    with pytest.raises(ValueError, match="student_augmented and teacher_augmented must be given together"):
        StudentObjective()(logits[0], logits[1], student_augmented=logits[2])
    with pytest.raises(ValueError, match="given together"):
        StudentObjective()(logits[0], logits[1], teacher_augmented=logits[2])


def test_mismatched_logits_raise(logits):
    with pytest.raises(ValueError, match="shape"):
        StudentObjective()(logits[0], logits[1][:, :4])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("objective", [StudentObjective, AugmentorObjective])
def test_bad_temperature_raises(objective, temperature):
    with pytest.raises(ValueError, match="temperature must be finite and > 0"):
        objective(temperature)


@pytest.mark.parametrize("name", ["teacher_weight", "student_weight"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_weights_raise(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite and >= 0"):
        AugmentorObjective(**{name: value})
    with pytest.raises(ValueError, match="clean_weight"):
        StudentObjective(clean_weight=value)


def test_unknown_form_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"form must be one of \['saturating', 'non_saturating'\]; got 'wasserstein'"):
        AugmentorObjective(form="wasserstein")
