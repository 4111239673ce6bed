"""``hard-cifar10-resnet18`` and ``hard-cifar10-vit``: HARD on CIFAR-10, and every fixed augmentation beside it."""

# ruff: noqa: RUF009 - the defaults are immutable, and so may be shared
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hardfast.data.cifar10 import load_cifar10
from hardfast.data.image_set import ImageSet
from hardfast.recipes.hard_photos import HardPhotos
from hardfast.recipes.hard_recipe import HardTeacherConfig
from hardfast.recipes.recipe import earlier_code, our_choice


@dataclass(frozen=True)
class Cifar10Config:
    """The data.

    Args:
        root: folder of CIFAR-10's files, of the binary or the Python version, or the folder that holds it.
        split_seed: seed of the held-out part, the same for all seeds of the run.
        validation_size: training images that are held out.
    """

    root: Path = our_choice(Path("data"))
    split_seed: int = our_choice(0)
    validation_size: int = our_choice(5000)


@dataclass(frozen=True)
class Cifar10Teacher(HardTeacherConfig):
    """The teacher, and its training on labels for 200 epochs where it has no weights yet.

    Labels are not smoothed: a teacher of smoothed labels says less about the classes that it decides against.
    """

    model: str = our_choice("resnet50_cifar")
    augmentation: str = our_choice("crop_flip")
    steps: int = our_choice(35_000)
    batch_size: int = our_choice(256)
    learning_rate: float = our_choice(1e-3)
    warmup_steps: int = our_choice(1000)
    weight_decay: float = our_choice(0.05)


@dataclass(frozen=True)
class HardCifar10ResNet18(HardPhotos):
    """HARD on CIFAR-10: a ResNet50 teaches a ResNet18.

    That the paper has results on CIFAR-10 is known; its networks, schedules and tables are not, so that nothing but
    the form of the objective, the affine augmentor and the temperature comes from the authors.
    """

    name: ClassVar[str] = "hard-cifar10-resnet18"
    title: ClassVar[str] = "From a ResNet50 to a ResNet18 on CIFAR-10"
    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    student: str = our_choice("resnet18_cifar")
    # 200 epochs of 45,000 images.
    steps: int = our_choice(35_000)
    batch_size: int = our_choice(256)
    learning_rate: float = our_choice(1e-3)
    warmup_steps: int = our_choice(1000)
    temperature: float = earlier_code(5.0)
    teacher: HardTeacherConfig = our_choice(Cifar10Teacher())
    data: Cifar10Config = our_choice(Cifar10Config())

    def load_splits(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        # A smoke run is also for files with fewer images than the whole data set has.
        held_out = 2 if self.smoke else self.data.validation_size
        splits = load_cifar10(self.data.root, split_seed=self.data.split_seed, validation_size=held_out)
        return splits.train, splits.validation, splits.test


@dataclass(frozen=True)
class HardCifar10Vit(HardCifar10ResNet18):
    """HARD on CIFAR-10: a ResNet50 teaches a vision transformer with patches of 4 px.

    What is known of it is as little as of ``hard-cifar10-resnet18``.
    """

    name: ClassVar[str] = "hard-cifar10-vit"
    title: ClassVar[str] = "From a ResNet50 to a vision transformer on CIFAR-10"

    student: str = our_choice("vit_cifar")
    # 400 epochs: without convolutions there is more to learn.
    steps: int = our_choice(70_000)
    learning_rate: float = our_choice(5e-4)
    warmup_steps: int = our_choice(3500)
