"""The digits data set and its shifts."""

import pytest
import torch

from hardfast.data import LabelledImages, ShiftedSet, load_digits, shift_images
from hardfast.data.digits import CANVAS_PX, DIGIT_PX, MAX_SHIFT_PX


@pytest.fixture(scope="module")
def splits():
    return load_digits(0)


def everything(splits):
    return torch.cat([splits.train.images, splits.validation.images, splits.test.images])


def test_all_digits_are_used_once(splits):
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1197, 200, 400]
    # 1,797 scans, of which no two are alike: a digit in two parts would show as a duplicate.
    assert len(everything(splits).flatten(1).unique(dim=0)) == 1797


def test_images_are_centred_digits_in_the_unit_interval(splits):
    images = everything(splits)
    assert images.shape == (1797, 1, 28, 28)
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert 0.9 < images.max() <= 1
    inner = images[..., MAX_SHIFT_PX : MAX_SHIFT_PX + DIGIT_PX, MAX_SHIFT_PX : MAX_SHIFT_PX + DIGIT_PX]
    assert inner.sum() == pytest.approx(images.sum().item())
    assert (inner.flatten(1).sum(1) > 10).all()
    # The digit reaches the edge of its 16x16 square, so that a larger shift would indeed cut some.
    assert inner[..., 0, :].sum() > 0
    assert inner[..., -1, :].sum() > 0


def test_labels_match_the_source(splits):
    from sklearn.datasets import load_digits as load_source

    labels = torch.cat([splits.train.labels, splits.validation.labels, splits.test.labels])
    assert labels.bincount().tolist() == torch.tensor(load_source().target).bincount().tolist()


def test_a_digit_keeps_its_mean_brightness_and_label(splits):
    from sklearn.datasets import load_digits as load_source

    source = load_source()
    known = {(round(float(x.mean() / 16) * 1e4), int(y)) for x, y in zip(source.images, source.target, strict=True)}
    for image, label in zip(splits.test.images[:50], splits.test.labels[:50], strict=True):
        brightness = image.sum().item() / DIGIT_PX**2
        assert any(abs(brightness - m / 1e4) < 0.02 and label == y for m, y in known)


def test_the_split_depends_on_its_seed_only(splits):
    torch.manual_seed(123)
    again, other = load_digits(0), load_digits(1)
    assert torch.equal(again.train.images, splits.train.images)
    assert torch.equal(again.test.labels, splits.test.labels)
    assert not torch.equal(other.test.images, splits.test.images)


@pytest.mark.parametrize(("validation", "test"), [(0, 10), (10, 0), (1000, 797), (2000, 10)])
def test_impossible_split_sizes_raise(validation, test):
    with pytest.raises(ValueError, match="validation_size and test_size"):
        load_digits(0, validation_size=validation, test_size=test)


def test_shift_moves_right_and_down():
    image = torch.zeros(1, 1, 5, 6)
    image[0, 0, 2, 3] = 1
    for dx, dy in [(0, 0), (2, 1), (-3, -2), (1, -1)]:
        moved = shift_images(image, dx, dy)
        assert moved.shape == image.shape
        assert moved.nonzero().tolist() == [[0, 0, 2 + dy, 3 + dx]]


def test_no_shift_of_the_set_cuts_a_digit(splits):
    shifted = ShiftedSet(splits.test.images[:20], splits.test.labels[:20], MAX_SHIFT_PX)
    total = shifted.images.sum((1, 2, 3))
    seen = set()
    for dx, dy, images in shifted:
        seen.add((dx, dy))
        torch.testing.assert_close(images.sum((1, 2, 3)), total)
    assert len(shifted) == len(seen) == 169
    assert max(seen) == (6, 6)
    assert min(seen) == (-6, -6)
    assert MAX_SHIFT_PX * 2 + DIGIT_PX == CANVAS_PX
    assert (shift_images(splits.test.images, MAX_SHIFT_PX + 1, 0).sum() < splits.test.images.sum() - 1).item()


@pytest.mark.parametrize("max_shift", [-1, 28])
def test_bad_shift_raises(splits, max_shift):
    with pytest.raises(ValueError, match="max_shift_px"):
        ShiftedSet(splits.test.images, splits.test.labels, max_shift)


def test_mismatched_labels_raise(splits):
    with pytest.raises(ValueError, match="400 and 399"):
        ShiftedSet(splits.test.images, splits.test.labels[:-1], 1)
    with pytest.raises(ValueError, match=r"images must have shape \[N, C, H, W\]"):
        LabelledImages(splits.test.images[:, 0], splits.test.labels)
