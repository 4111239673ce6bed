"""scikit-learn's 1,797 handwritten digits, centred on a larger canvas."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from hardfast.data.splits import LabelledImages, Splits

CANVAS_PX = 28
DIGIT_PX = 16

#: Largest shift along each axis that keeps the whole digit on the canvas.
MAX_SHIFT_PX = (CANVAS_PX - DIGIT_PX) // 2


def load_digits(split_seed: int = 0, *, validation_size: int = 200, test_size: int = 400) -> Splits:
    """Loads the digits that come with scikit-learn; needs no network.

    The 8x8 images are enlarged to 16x16 (bilinear) and put in the middle of a black 28x28 canvas.

    Args:
        split_seed: seed of the random split into training, validation and test images.
        validation_size: number of validation images, >= 1.
        test_size: number of test images, >= 1.

    Returns:
        Images ``[N, 1, 28, 28]``, float32 in [0, 1]; what the other two sets leave of the 1,797 is for
        training.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    1998.
    """
    splits = load_native_digits(split_seed, validation_size=validation_size, test_size=test_size)
    return Splits(*(_on_canvas(part) for part in (splits.train, splits.validation, splits.test)))


def load_native_digits(split_seed: int = 0, *, validation_size: int = 200, test_size: int = 400) -> Splits:
    """The same digits and the same split as :func:`load_digits`, ``[N, 1, 8, 8]`` as they were recorded."""
    # scikit-learn takes a second to import, and only this function needs it.
    from sklearn.datasets import load_digits as load_sklearn_digits

    data = load_sklearn_digits()
    count = len(data.target)
    if validation_size < 1 or test_size < 1 or validation_size + test_size >= count:
        raise ValueError(
            f"validation_size and test_size must be >= 1 and leave some of the {count} images for training; "
            f"got {validation_size} and {test_size}"
        )
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    everything = LabelledImages(images, torch.from_numpy(data.target).long())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(split_seed))
    test, validation, train = order.split([test_size, validation_size, count - test_size - validation_size])
    return Splits(everything[train], everything[validation], everything[test])


def _on_canvas(digits: LabelledImages) -> LabelledImages:
    enlarged = F.interpolate(digits.images, size=(DIGIT_PX, DIGIT_PX), mode="bilinear", align_corners=False)
    return LabelledImages(F.pad(enlarged, [MAX_SHIFT_PX] * 4), digits.labels)
