"""``hard-mnist-mlp`` and ``hard-mnist-vit``: HARD's shift experiment on MNIST and MNIST-C translate."""

# ruff: noqa: RUF009 - the defaults are immutable, and so may be shared
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hardfast.data.mnist import load_mnist, load_mnist_c
from hardfast.data.shifts import ShiftedSet
from hardfast.ops import _checks
from hardfast.recipes.hard_recipe import ExperimentData, HardAugmentorRecipe, HardTeacherConfig
from hardfast.recipes.recipe import Published, earlier_code, our_choice

if TYPE_CHECKING:
    from typing_extensions import Self

_SOURCE = "the authors' public code of earlier work, one seed"


def _table(
    teacher: tuple[float, float],
    student: tuple[float, float],
    distillation: tuple[float, float],
    orbit: tuple[float, float],
) -> tuple[Published, ...]:
    """Gives the rows of a published table of accuracies in percent, (centred, shifted) a method."""
    methods = {"teacher": teacher, "student": student, "distillation": distillation, "orbit": orbit}
    return tuple(
        Published(method, split, percent / 100, _SOURCE)
        for method, values in methods.items()
        for split, percent in zip(("centred", "shifted"), values, strict=True)
    )


@dataclass(frozen=True)
class MnistConfig:
    """The data.

    Args:
        root: folder of MNIST's IDX files.
        mnist_c_root: folder that holds ``mnist_c/translate``, or ``mnist_c`` itself.
        split_seed: seed of the held-out part, the same for all seeds of the run.
        validation_fraction: part of the training images that is held out.
        max_shift_px: the report shows the accuracy under all shifts up to this.
        shift_images: test images under these shifts.
    """

    root: Path = our_choice(Path("data"))
    mnist_c_root: Path = our_choice(Path("data"))
    split_seed: int = our_choice(0)
    validation_fraction: float = earlier_code(0.1)
    max_shift_px: int = our_choice(6)
    shift_images: int = our_choice(1000)


@dataclass(frozen=True)
class MnistMlpTeacher(HardTeacherConfig):
    """The CNN and its training on labels."""

    model: str = earlier_code("cnn")
    steps: int = our_choice(20_000)
    batch_size: int = earlier_code(64)
    learning_rate: float = earlier_code(3e-4)
    warmup_steps: int = our_choice(1000)
    weight_decay: float = earlier_code(2e-9)


@dataclass(frozen=True)
class MnistVitTeacher(MnistMlpTeacher):
    """The ResNet18 and its training on labels."""

    model: str = earlier_code("resnet18")
    steps: int = our_choice(10_000)
    batch_size: int = earlier_code(256)


@dataclass(frozen=True)
class HardMnistMlp(HardAugmentorRecipe):
    """HARD on MNIST: a CNN teaches an MLP; tested on MNIST and on MNIST-C translate."""

    name: ClassVar[str] = "hard-mnist-mlp"
    title: ClassVar[str] = "Shift equivariance from a CNN to an MLP on MNIST"
    published: ClassVar[tuple[Published, ...]] = _table(
        teacher=(98.93, 90.67), student=(98.31, 34.4), distillation=(98.66, 41.5), orbit=(99.02, 96.5)
    )

    steps: int = our_choice(40_000)
    batch_size: int = earlier_code(64)
    learning_rate: float = earlier_code(3e-4)
    warmup_steps: int = our_choice(2000)
    weight_decay: float = earlier_code(2e-9)
    temperature: float = earlier_code(5.0)
    teacher: MnistMlpTeacher = our_choice(MnistMlpTeacher())
    data: MnistConfig = our_choice(MnistConfig())

    def resolved(self) -> Self:
        _checks.integer("data.shift_images", self.data.shift_images, 1)
        return super().resolved()

    def load(self) -> ExperimentData:
        config = self.data
        splits = load_mnist(config.root, split_seed=config.split_seed, validation_fraction=config.validation_fraction)
        shown = splits.test[: config.shift_images]
        max_shift = 1 if self.smoke else config.max_shift_px
        shifts = ShiftedSet(shown.images, shown.labels, max_shift)
        tests = {"centred": splits.test, "shifted": load_mnist_c(config.mnist_c_root, "translate")}
        return ExperimentData(splits.train, splits.validation, tests, shifts)


@dataclass(frozen=True)
class HardMnistVit(HardMnistMlp):
    """HARD on MNIST: a ResNet18 teaches a small ViT; tested on MNIST and on MNIST-C translate."""

    name: ClassVar[str] = "hard-mnist-vit"
    title: ClassVar[str] = "Shift equivariance from a ResNet18 to a ViT on MNIST"
    published: ClassVar[tuple[Published, ...]] = _table(
        teacher=(99.58, 90.34), student=(98.55, 37.3), distillation=(98.75, 41.2), orbit=(98.41, 84.0)
    )

    student: str = earlier_code("vit_digits")
    batch_size: int = earlier_code(256)
    teacher: MnistVitTeacher = our_choice(MnistVitTeacher())
