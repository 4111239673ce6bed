"""Accuracy by group, and networks on image sets that decode when asked."""

import math

import pytest
import torch
from torch import Tensor, nn

from hardfast.data import GroupedImages, LabelledImages
from hardfast.distill import accuracy, predict_logits
from hardfast.distill.evaluate import group_accuracies, measure


class LazyImages:
    """Decodes when asked, and remembers the sizes that it was asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images, self.labels = images, labels
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: Tensor) -> Tensor:
        self.asked.append(len(index))
        return self._images[index]


class Echo(nn.Module):
    """Answers with the class that the first pixel is; has a buffer, and no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("classes", torch.arange(4.0))

    def forward(self, images: Tensor) -> Tensor:
        return -(images[:, 0, 0, :1] - self.classes).abs()


def answered(answers: list[int], labels: list[int]) -> LazyImages:
    images = torch.tensor(answers).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return LazyImages(images, torch.tensor(labels))


def test_lazy_images_are_asked_for_in_chunks_and_in_order():
    images = LazyImages(torch.rand(11, 1, 3, 3), torch.zeros(11, dtype=torch.int64))
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.Dropout(0.5))
    logits = predict_logits(network, images, batch_size=4)
    assert images.asked == [4, 4, 3]
    torch.testing.assert_close(logits, predict_logits(network, images._images))
    assert network.training
    assert not logits.requires_grad
    assert accuracy(network, images, images.labels, 5) == accuracy(network, images._images, images.labels)


def test_a_network_needs_no_parameters():
    assert predict_logits(Echo(), answered([2, 0, 3], [0, 0, 0])).argmax(1).tolist() == [2, 0, 3]

    class Constant(nn.Module):
        def forward(self, images):
            return images.flatten(1)

    assert predict_logits(Constant(), answered([2, 0], [0, 0])).shape == (2, 4)


def test_every_group_has_its_own_accuracy():
    images = answered([0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 0, 1, 1, 3])
    tested = GroupedImages(images, torch.tensor([0, 0, 0, 0, 3, 3, 1]), ("a", "b", "c", "d"))
    # The third group has no image, and so no accuracy; it must not count as one of 0.
    assert group_accuracies(Echo(), tested) == {"a": 0.75, "b": 0.0, "d": 0.5}
    assert group_accuracies(Echo(), tested, batch_size=2) == {"a": 0.75, "b": 0.0, "d": 0.5}


class Unsure(nn.Module):
    """Answers with NaN where the first pixel is 9, and at the first pixel otherwise."""

    def forward(self, images: Tensor) -> Tensor:
        return Echo()(images) + torch.where(images[:, 0, 0, :1] == 9, torch.nan, 0.0)


def test_nan_is_no_answer():
    """Its argmax is a class all the same."""
    images = answered([0, 9, 9, 1, 0], [0, 0, 1, 1, 1])
    assert accuracy(Unsure(), images, images.labels) == 0.4
    tested = GroupedImages(images, torch.tensor([0, 0, 1, 1, 1]), ("a", "b"))
    assert group_accuracies(Unsure(), tested) == {"a": 0.5, "b": pytest.approx(1 / 3)}
    found = measure({"unsure": Unsure(), "sure": Echo()}, images, teachers={"sure": "unsure", "unsure": "sure"})
    assert all(math.isnan(value) for value in found["unsure"])
    assert math.isnan(found["sure"].agreement)
    assert math.isfinite(found["sure"].accuracy)


def test_groups_of_no_images_raise():
    empty = GroupedImages(
        LabelledImages(torch.rand(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64)), torch.zeros(0).long(), ("a",)
    )
    with pytest.raises(ValueError, match="tested must hold images, got none"):
        group_accuracies(Echo(), empty)


def test_a_wrong_number_of_labels_raises():
    with pytest.raises(ValueError, match="got 3 and 2"):
        accuracy(Echo(), answered([0, 1, 2], [0, 0, 0]), torch.tensor([0, 1]))
