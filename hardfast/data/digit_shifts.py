"""Digits in colour under five kinds of shift: a student that has seen none of them learns them from its teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardfast.data.digits import CANVAS_PX, MAX_SHIFT_PX, load_digits
from hardfast.data.splits import LabelledImages, Splits
from hardfast.transforms import ElasticTransform, RandomAffine


class Recolour(nn.Module):
    """Gives background and strokes a colour of their own.

    Args:
        background: highest value of a channel of the background.
        strokes: lowest value of a channel of the strokes, above ``background``.
    """

    def __init__(self, background: float = 0.5, strokes: float = 0.7) -> None:
        super().__init__()
        if not 0 <= background < strokes <= 1:
            raise ValueError(
                f"background and strokes must be 0 <= background < strokes <= 1; got {background}, {strokes}"
            )
        self.background, self.strokes = background, strokes

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Maps white on black, ``[B, C, H, W]``, to the drawn colours, uniform for each image and channel."""
        drawn = torch.rand(2, *images.shape[:2], 1, 1, generator=generator, device=images.device, dtype=images.dtype)
        return torch.lerp(drawn[0] * self.background, 1 - drawn[1] * (1 - self.strokes), images)


class RandomShifts(nn.Module):
    """Every kind of shift, each by the toss of a coin for every image, one after the other: what a teacher is taught.

    Args:
        shifts: transforms of images and a generator, by name.
    """

    def __init__(self, shifts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.shifts = nn.ModuleDict(shifts)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images of the same shape."""
        for shift in self.shifts.values():
            tossed = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
            images = torch.where(tossed, shift(images, generator), images)
        return images


def digit_shifts() -> dict[str, nn.Module]:
    """The five kinds, by name: how far each goes is fixed, and the same for the teacher's training and the tests.

    Shifts by up to 6 pixels, which keep the digit whole; rotations by up to 45 degrees; scales of 0.5 to 1.6; colours;
    elastic warps by 1.3 pixels (standard deviation, along each axis), smooth over 5.
    """
    reach = MAX_SHIFT_PX / CANVAS_PX
    return {
        "shifted": RandomAffine(0, translate=(reach, reach), interpolation="bilinear"),
        "rotated": RandomAffine(45, interpolation="bilinear"),
        "scaled": RandomAffine(0, scale=(0.5, 1.6), interpolation="bilinear"),
        "recoloured": Recolour(),
        "warped": ElasticTransform(80.0, 5.0),
    }


def load_rgb_digits(split_seed: int = 0, *, validation_size: int = 200, test_size: int = 400) -> Splits:
    """The digits of :func:`~hardfast.data.load_digits` with three equal channels, ``[N, 3, 28, 28]``."""
    splits = load_digits(split_seed, validation_size=validation_size, test_size=test_size)
    return Splits(
        *(
            LabelledImages(part.images.expand(-1, 3, -1, -1).contiguous(), part.labels)
            for part in (splits.train, splits.validation, splits.test)
        )
    )


def shifted_sets(test: LabelledImages, draws: int, seed: int) -> dict[str, LabelledImages]:
    """Test sets by name: every image under ``draws`` >= 1 draws of each kind of shift, the same for a seed >= 0."""
    if draws < 1:
        raise ValueError(f"draws must be >= 1; got {draws}")
    sets = {}
    for name, shift in digit_shifts().items():
        generator = torch.Generator(test.images.device).manual_seed(seed)
        drawn = torch.cat([shift(test.images, generator) for _ in range(draws)])
        sets[name] = LabelledImages(drawn, test.labels.repeat(draws))
    return sets
