"""What networks are measured by on a set, against sums over all images at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_evaluate import LazyImages
from torch import Tensor, nn

from hardfast.distill import accuracy, measure


def networks(classes: int, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, classes)) for _ in range(2))
    with torch.no_grad():
        student[2].weight.mul_(6)  # sure of itself, so that the calibration has something to find
    return student, teacher


def image_set(count: int, classes: int, seed: int = 0) -> LazyImages:
    generator = torch.Generator().manual_seed(seed)
    return LazyImages(
        torch.rand(count, 3, 2, 2, generator=generator), torch.randint(classes, (count,), generator=generator)
    )


def direct(logits: Tensor, teacher: Tensor, labels: Tensor, bins: int = 15) -> tuple[float, ...]:
    """The definitions, in NumPy and float64."""

    def softmax(values: Tensor) -> np.ndarray:
        exponent = np.exp(values.detach().double().numpy())
        return exponent / exponent.sum(1, keepdims=True)

    p, q, target = softmax(logits), softmax(teacher), labels.numpy()
    correct = p.argmax(1) == target
    confidence = p.max(1)
    error = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence >= low) & (confidence < low + 1 / bins)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    agreement = (p.argmax(1) == q.argmax(1)).mean()
    kl = (q * (np.log(q) - np.log(p))).sum(1).mean()
    return correct.mean(), agreement, kl, error, -np.log(p[np.arange(len(p)), target]).mean()


@pytest.mark.parametrize(("count", "classes", "batch_size"), [(1, 2, 4), (37, 10, 10), (200, 7, 64), (64, 3, 64)])
def test_metrics_are_those_of_all_images_at_once(count, classes, batch_size):
    images = image_set(count, classes, seed=count)
    student, teacher = networks(classes, seed=count)
    found = measure(
        {"student": student, "teacher": teacher}, images, teachers={"student": "teacher"}, batch_size=batch_size
    )
    assert images.asked == [len(part) for part in torch.arange(count).split(batch_size)]
    assert student.training
    student.eval(), teacher.eval()
    wanted = direct(student(images._images), teacher(images._images), images.labels)
    assert found["student"] == pytest.approx(wanted, abs=1e-6)
    assert found["student"].accuracy == accuracy(student, images, images.labels)
    assert found["teacher"].agreement is None
    assert found["teacher"].kl_to_teacher is None


def test_a_teacher_agrees_with_itself():
    student, _ = networks(5)
    found = measure({1: student, 2: student}, image_set(30, 5), teachers={1: 2})
    assert found[1].agreement == 1
    assert found[1].kl_to_teacher == pytest.approx(0, abs=1e-12)
    assert found[1].nll == found[2].nll


@pytest.mark.parametrize("order", [[2, 5, 8], [8, 2, 5]])
def test_a_subset_of_the_classes_is_the_choice_for_student_and_teacher(order):
    images = image_set(80, 3, seed=4)
    images.labels = torch.tensor([2, 5, 8])[images.labels]
    student, teacher = networks(11, seed=1)
    classes = torch.tensor(order)
    found = measure({"s": student, "t": teacher}, images, teachers={"s": "t"}, classes=classes, batch_size=33)
    student.eval(), teacher.eval()
    places = torch.tensor([order.index(label) for label in images.labels.tolist()])
    logits, answers = student(images._images)[:, order], teacher(images._images)[:, order]
    assert found["s"] == pytest.approx(direct(logits, answers, places), abs=1e-6)
    # The choice matters: among all eleven classes fewer of the answers are right.
    assert found["s"].accuracy > measure({"s": student}, images)["s"].accuracy


class Sure(nn.Module):
    """Has a confidence of exactly 1 in the class that the first pixel is."""

    def forward(self, images: Tensor) -> Tensor:
        return 1000 * nn.functional.one_hot(images[:, 0, 0, 0].long(), 4).float()


def test_certainty_is_in_the_last_bin():
    pixels = torch.tensor([0.0, 1, 2, 3, 3]).view(-1, 1, 1, 1)
    found = measure({0: Sure()}, LazyImages(pixels, torch.tensor([0, 1, 2, 3, 0])))
    assert found[0].accuracy == 0.8
    assert found[0].calibration_error == pytest.approx(0.2, abs=1e-6)
    assert found[0].nll == pytest.approx(200)


def test_what_does_not_fit_is_refused():
    student, _ = networks(4)
    images = image_set(6, 4)
    with pytest.raises(ValueError, match="got 0 and 6"):
        measure({0: student}, images, batch_size=0)
    with pytest.raises(ValueError, match="got 256 and 0"):
        measure({0: student}, LazyImages(torch.rand(0, 3, 2, 2), torch.zeros(0, dtype=torch.int64)))
    for classes in ([0, 1, 1, 2, 3], [0, 1]):
        with pytest.raises(ValueError, match="classes must be different and have every label"):
            measure({0: student}, images, classes=torch.tensor(classes))
    with pytest.raises(ValueError, match=r"logits of the 9 or more classes .*got shape \[6, 4\]"):
        measure({0: student}, images, classes=torch.arange(9))
    images.labels = images.labels + 1
    with pytest.raises(ValueError, match="logits of the 5 or more classes"):
        measure({0: student}, images)
