"""Digits on coloured backgrounds, and images in groups."""

import pytest
import torch

from hardfast.data import GroupedImages, LabelledImages
from hardfast.data.coloured_digits import DIGIT_NAMES, GROUP_NAMES, group_of, load_coloured_digits
from hardfast.data.digits import load_native_digits


@pytest.fixture(scope="module")
def digits():
    return load_coloured_digits(3, validation_size=150, test_size=300, swapped=0.1)


def colours(part: LabelledImages) -> torch.Tensor:
    """0 where the corner is red and 1 where it is green; no digit covers it."""
    corner = part.images[:, :, 0, 0]
    green = (corner[:, 1] > 0.5).long()
    ink = corner[:, 2:]
    background = torch.stack([1 - green, green], 1)
    torch.testing.assert_close(corner[:, :2], background + ink * (1 - background))
    return green


def test_sizes_and_range(digits):
    sizes = [len(getattr(digits, name)) for name in ("biased", "unbiased", "mostly_biased", "validation", "test")]
    assert sizes == [1347, 2694, 1347, 150, 600]
    for part in (digits.biased, digits.unbiased, digits.mostly_biased, digits.validation, digits.test.images):
        assert part.images.shape[1:] == (3, 8, 8)
        assert part.images.dtype == torch.float32
        assert part.images.min() == 0
        assert part.images.max() == 1
        assert part.labels.dtype == torch.int64
        assert set(part.labels.tolist()) == set(range(10))


def test_the_colour_of_biased_images_is_tied_to_the_digit(digits):
    for part in (digits.biased, digits.validation):
        assert torch.equal(colours(part), (part.labels >= 5).long())
        assert set(group_of(part.images, part.labels).tolist()) == {0, 3}


def test_a_small_part_of_what_the_diffusion_model_sees_is_swapped(digits):
    part = digits.mostly_biased
    swapped = colours(part) != (part.labels >= 5).long()
    assert int(swapped.sum()) == 135
    assert torch.equal(part.labels, digits.biased.labels)
    assert torch.equal(part.images[~swapped], digits.biased.images[~swapped])
    assert len(part.labels[swapped].unique()) == 10


@pytest.mark.parametrize(("swapped", "count"), [(0.0, 0), (1.0, 1347)])
def test_the_extremes_of_swapping(swapped, count):
    data = load_coloured_digits(3, validation_size=150, test_size=300, swapped=swapped)
    part = data.mostly_biased
    assert int((colours(part) != (part.labels >= 5).long()).sum()) == count


def test_every_digit_is_on_both_colours_for_the_teacher_and_the_test(digits):
    for part, count in ((digits.unbiased, 1347), (digits.test.images, 300)):
        red, green = part[:count], part[count:]
        assert torch.equal(red.labels, green.labels)
        assert set(colours(red).tolist()) == {0}
        assert set(colours(green).tolist()) == {1}
        # Where nothing is painted the digit is white on both, and the blue channel is the digit itself.
        assert torch.equal(red.images[:, 2], green.images[:, 2])
        assert torch.equal(red.images[:, 1], green.images[:, 0])


def test_the_split_is_that_of_the_grey_digits_and_no_digit_is_in_two_parts(digits):
    grey = load_native_digits(3, validation_size=150, test_size=300)
    assert torch.equal(digits.biased.images[:, 2:], grey.train.images)
    assert torch.equal(digits.test.images.images[:300, 2:], grey.test.images)
    blue = [part.images[:, 2] for part in (digits.biased, digits.validation, digits.test.images[:300])]
    assert len(torch.cat(blue).flatten(1).unique(dim=0)) == 1797


def test_groups_are_those_of_digit_and_colour(digits):
    tested = digits.test
    expected = 2 * (tested.images.labels >= 5).long() + colours(tested.images)
    assert torch.equal(tested.groups, expected)
    assert tested.group_names == GROUP_NAMES == ("0-4 on red", "0-4 on green", "5-9 on red", "5-9 on green")
    counts = tested.groups.bincount().tolist()
    assert counts[0] == counts[1] > 100
    assert counts[2] == counts[3] > 100
    assert len(DIGIT_NAMES) == 10


def test_the_seed_alone_decides():
    torch.manual_seed(77)
    first, again, other = (load_coloured_digits(seed) for seed in (1, 1, 2))
    assert torch.equal(first.mostly_biased.images, again.mostly_biased.images)
    assert torch.equal(first.test.images.images, again.test.images.images)
    assert not torch.equal(first.test.images.images, other.test.images.images)


@pytest.mark.parametrize("swapped", [-0.1, 1.1, float("nan")])
def test_a_part_that_is_none_raises(swapped):
    with pytest.raises(ValueError, match=r"swapped must be in \[0, 1\], got"):
        load_coloured_digits(swapped=swapped)


def test_sizes_that_leave_nothing_raise():
    with pytest.raises(ValueError, match="leave some of the 1797"):
        load_coloured_digits(validation_size=1000, test_size=797)


IMAGES = LabelledImages(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (torch.tensor([0, 1]), ValueError, r"groups must have shape \[3\], got \[2\]"),
        (torch.tensor([[0], [1], [0]]), ValueError, r"groups must have shape \[3\]"),
        (torch.tensor([0, 2, 1]), ValueError, r"groups must be in \[0, 2\), the groups named, got 0 \.\. 2"),
        (torch.tensor([0, -1, 1]), ValueError, r"got -1 \.\. 1"),
        (torch.tensor([0.0, 0.5, 1.0]), TypeError, r"groups must be int64, got torch\.float32"),
    ],
)
def test_groups_that_do_not_fit_raise(groups, error, message):
    with pytest.raises(error, match=message):
        GroupedImages(IMAGES, groups, ("a", "b"))


def test_a_set_of_no_images_is_a_set():
    empty = GroupedImages(IMAGES[:0], torch.zeros(0, dtype=torch.int64), ("a", "b"))
    assert len(empty) == 0
    assert len(GroupedImages(IMAGES, torch.tensor([0, 0, 1]), ("a", "b", "c"))) == 3
