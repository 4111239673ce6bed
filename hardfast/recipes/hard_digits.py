"""``hard-digits``: HARD's shift experiment on scikit-learn's digits, minutes on two cores and no download."""

# ruff: noqa: RUF009 - the defaults are immutable, and so may be shared
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hardfast.data.digits import MAX_SHIFT_PX, load_digits
from hardfast.data.shifts import ShiftedSet
from hardfast.recipes.hard_recipe import ExperimentData, HardAugmentorRecipe
from hardfast.recipes.recipe import our_choice


@dataclass(frozen=True)
class DigitsConfig:
    """The data.

    Args:
        split_seed: seed of the split, the same for all seeds of the run.
        validation_size: validation images.
        test_size: test images.
        max_shift_px: the shifted test set is the test images under all shifts up to this, at most 6.
    """

    split_seed: int = our_choice(0)
    validation_size: int = our_choice(200)
    test_size: int = our_choice(400)
    max_shift_px: int = our_choice(MAX_SHIFT_PX)


@dataclass(frozen=True)
class HardDigits(HardAugmentorRecipe):
    """HARD on 1,797 real digits: a shift-robust CNN teaches an MLP that sees centred digits only."""

    name: ClassVar[str] = "hard-digits"
    title: ClassVar[str] = "Shift equivariance from a CNN to an MLP on scikit-learn's digits"

    data: DigitsConfig = our_choice(DigitsConfig())
    # Batches this small are faster on two cores than on a GPU that waits for each of their kernels.
    device: Literal["auto", "cpu", "cuda"] = our_choice("cpu")
    # Two threads are hardly faster than one at this size, and several times slower where another process wants a core:
    # each of thousands of small parallel regions then waits for the thread that is not running. One thread also makes
    # the results the same on any number of cores.
    threads: int = our_choice(1)

    def load(self) -> ExperimentData:
        if not 0 <= self.data.max_shift_px <= MAX_SHIFT_PX:
            raise ValueError(
                f"max_shift_px must be in [0, {MAX_SHIFT_PX}] to keep the digits whole; got {self.data.max_shift_px}"
            )
        config = self.data
        splits = load_digits(config.split_seed, validation_size=config.validation_size, test_size=config.test_size)
        max_shift = 1 if self.smoke else config.max_shift_px
        shifts = ShiftedSet(splits.test.images, splits.test.labels, max_shift)
        return ExperimentData(splits.train, splits.validation, {"centred": splits.test}, shifts)
