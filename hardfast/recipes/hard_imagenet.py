"""``hard-imagenet-resnet18`` and ``hard-imagenet-vit``: HARD on ImageNet, and every fixed augmentation beside it."""

# ruff: noqa: RUF009 - the defaults are immutable, and so may be shared
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from hardfast.data.image_set import ImageSet
from hardfast.data.imagenet import CLASSES, load_imagenet
from hardfast.ops import _checks
from hardfast.recipes.hard_photos import HardPhotos
from hardfast.recipes.hard_recipe import HardTeacherConfig
from hardfast.recipes.recipe import our_choice

if TYPE_CHECKING:
    from typing_extensions import Self

# The shorter side is resized to 256 px where 224 px are cut out.
_RESIZE_RATIO = 256 / 224


@dataclass(frozen=True)
class ImageNetConfig:
    """The data.

    Args:
        root: folder with ``train/<wnid>/`` and ``val/<wnid>/``; folders of some of the classes are enough. Either can
            hold shards of webdataset, ``*.tar``, in place of folders.
        split_seed: seed of the held-out part, the same for all seeds of the run.
        validation_per_class: training images of every class that are held out.
        threads: that decode images at a time.
    """

    root: Path = our_choice(Path("data", "imagenet"))
    split_seed: int = our_choice(0)
    validation_per_class: int = our_choice(10)
    threads: int = our_choice(16)


@dataclass(frozen=True)
class ImageNetTeacher(HardTeacherConfig):
    """The teacher with its published weights; the rest is for one that is trained here, with ``weights`` empty."""

    model: str = our_choice("resnet50.a1_in1k")
    weights: str = our_choice("hub")
    augmentation: str = our_choice("crop_flip")
    steps: int = our_choice(250_000)
    batch_size: int = our_choice(512)
    learning_rate: float = our_choice(1e-3)
    warmup_steps: int = our_choice(12_500)
    weight_decay: float = our_choice(0.05)


@dataclass(frozen=True)
class HardImageNetResNet18(HardPhotos):
    """HARD on ImageNet: a ResNet50 teaches a ResNet18. All names of networks are timm's.

    That the paper has results on ImageNet is known; its networks, schedules and tables are not, so that nothing but
    the form of the objective and the affine augmentor comes from the authors.

    Training images are cut out of the middle, as those of the tests: what is done to them beyond that is the method's.

    Args:
        image_size: side of the images in pixels.
    """

    name: ClassVar[str] = "hard-imagenet-resnet18"
    title: ClassVar[str] = "From a ResNet50 to a ResNet18 on ImageNet"
    classes: ClassVar[int] = CLASSES
    # They would take 5 GB.
    cache_teacher: ClassVar[bool] = False
    timm_only: ClassVar[bool] = True

    seeds: int = our_choice(1)
    student: str = our_choice("resnet18")
    image_size: int = our_choice(224)
    # 100 epochs of 1.27 million images.
    steps: int = our_choice(250_000)
    batch_size: int = our_choice(512)
    learning_rate: float = our_choice(1e-3)
    warmup_steps: int = our_choice(12_500)
    policy: Literal["cifar10", "imagenet"] = our_choice("imagenet")
    ema_decay: float = our_choice(0.9999)
    teacher: HardTeacherConfig = our_choice(ImageNetTeacher())
    data: ImageNetConfig = our_choice(ImageNetConfig())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    def load_splits(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        config = self.data
        splits = load_imagenet(
            config.root,
            self.image_size,
            resize=round(self.image_size * _RESIZE_RATIO),
            validation_per_class=1 if self.smoke else config.validation_per_class,
            split_seed=config.split_seed,
            threads=config.threads,
        )
        return splits.train, splits.validation, splits.test

    def resolved(self) -> Self:
        _checks.integer("image_size", self.image_size, 1)
        _checks.integer("data.threads", self.data.threads, 1)
        _checks.integer("data.validation_per_class", self.data.validation_per_class, 1)
        if self.augmentor.family in ("latent", "vdvae") and not self.augmentor.source:
            raise ValueError(
                f"augmentor.source must be given for the family {self.augmentor.family!r}: no autoencoder is trained "
                "here on images that do not fit into memory"
            )
        return super().resolved()

    def shrunk(self) -> Self:
        small = super().shrunk()
        # The released very deep VAEs are for images of one size.
        kept = self.augmentor.family == "vdvae"
        return dataclasses.replace(small, image_size=self.image_size if kept else min(self.image_size, 64))


@dataclass(frozen=True)
class HardImageNetVit(HardImageNetResNet18):
    """HARD on ImageNet: a ResNet50 teaches a ViT-S with patches of 16 px. All names of networks are timm's.

    What is known of it is as little as of ``hard-imagenet-resnet18``.
    """

    name: ClassVar[str] = "hard-imagenet-vit"
    title: ClassVar[str] = "From a ResNet50 to a ViT-S on ImageNet"

    student: str = our_choice("vit_small_patch16_224")
