"""scikit-learn's digits on a coloured background: ConfiG's experiment without a download."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardfast.data.digits import load_native_digits
from hardfast.data.groups import GroupedImages
from hardfast.data.splits import LabelledImages

#: Background colours, RGB in [0, 1].
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0)}
IMAGE_PX = 8
DIGIT_NAMES = tuple(str(digit) for digit in range(10))
GROUP_NAMES = tuple(f"{digits} on {colour}" for digits in ("0-4", "5-9") for colour in COLOURS)

_FIRST_HIGH_DIGIT = 5


@dataclass(frozen=True)
class ColouredDigits:
    """The parts of the experiment; images are ``[N, 3, 8, 8]``.

    Args:
        biased: what the student sees: digits 0 to 4 on red, 5 to 9 on green, and nothing else.
        unbiased: what the teacher was trained on: every digit of ``biased`` on both colours.
        mostly_biased: what the diffusion model is trained on: a small part has the other colour.
        validation: biased too, since nobody knows the groups.
        test: every digit on both colours, in four groups.
    """

    biased: LabelledImages
    unbiased: LabelledImages
    mostly_biased: LabelledImages
    validation: LabelledImages
    test: GroupedImages


def load_coloured_digits(
    split_seed: int = 0, *, validation_size: int = 200, test_size: int = 400, swapped: float = 0.05
) -> ColouredDigits:
    """Loads the digits that come with scikit-learn and paints their background; needs no network.

    Args:
        split_seed: seed of the split, and of the choice of swapped colours.
        validation_size: number of validation images, >= 1.
        test_size: number of test digits, >= 1; each appears on both colours.
        swapped: part of ``mostly_biased`` whose colour is the other one, in [0, 1].
    """
    if not 0 <= swapped <= 1:
        raise ValueError(f"swapped must be in [0, 1], got {swapped}")
    splits = load_native_digits(split_seed, validation_size=validation_size, test_size=test_size)
    train = splits.train
    swap = torch.zeros(len(train), dtype=torch.bool)
    count = round(swapped * len(train))
    swap[torch.randperm(len(train), generator=torch.Generator().manual_seed(split_seed))[:count]] = True
    tested = _on_both_colours(splits.test)
    return ColouredDigits(
        _paint(train, _usual_colour(train.labels)),
        _on_both_colours(train),
        _paint(train, _usual_colour(train.labels) ^ swap.long()),
        _paint(splits.validation, _usual_colour(splits.validation.labels)),
        GroupedImages(tested, group_of(tested.images, tested.labels), GROUP_NAMES),
    )


def group_of(images: Tensor, labels: Tensor) -> Tensor:
    """The group ``[N]`` of coloured digits ``[N, 3, H, W]`` with labels ``[N]``, by the colour that prevails."""
    red, green = images[:, :2].mean((2, 3)).unbind(1)
    return 2 * _usual_colour(labels) + (green > red).long()


def _usual_colour(labels: Tensor) -> Tensor:
    return (labels >= _FIRST_HIGH_DIGIT).long()


def _on_both_colours(digits: LabelledImages) -> LabelledImages:
    parts = [_paint(digits, torch.full_like(digits.labels, colour)) for colour in range(len(COLOURS))]
    return LabelledImages(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def _paint(digits: LabelledImages, colours: Tensor) -> LabelledImages:
    background = torch.tensor(list(COLOURS.values()))[colours][:, :, None, None]
    return LabelledImages(background + digits.images * (1 - background), digits.labels)
