"""What the recipes of HARD on photographs share: their methods, and how networks are run on a GPU."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from hardfast.data.image_files import ChosenImages
from hardfast.data.image_set import ImageSet
from hardfast.data.splits import LabelledImages
from hardfast.recipes.hard_augmentor import AugmentorConfig
from hardfast.recipes.hard_recipe import METHODS, ExperimentData, HardAugmentorRecipe
from hardfast.recipes.recipe import ExecutionConfig, our_choice

if TYPE_CHECKING:
    from typing_extensions import Self

#: Images of each part that ``smoke`` leaves.
_SMOKE_IMAGES = 16


@dataclass(frozen=True)
class GpuExecution(ExecutionConfig):
    """How networks are run in training; the defaults are for a GPU. On a CPU, take ``no-compile`` and ``float32``.

    Args:
        compile: whether student, teacher and augmentor are compiled, each as one graph; not with ``smoke``, which would
            wait minutes for it. Augmentations of torchvision never are.
        precision: of the networks' layers; ``float32`` with ``smoke``, which is also for CPUs.
        channels_last: whether images and convolutions have their channels innermost.
        fold_teacher: whether the teacher's batch norms are folded into its convolutions, which rounds otherwise.
        fully_shard: whether the processes of torchrun divide the weights of the network that learns among them, its
            gradients and its optimizer's state; it changes memory, speed and rounding.
    """

    compile: bool = our_choice(True)
    precision: Literal["float32", "bfloat16"] = our_choice("bfloat16")


@dataclass(frozen=True)
class PhotoAugmentor(AugmentorConfig):
    """The augmentor of a family, and what it minimises."""

    learning_rate: float = our_choice(0.01)


@dataclass(frozen=True)
class HardPhotos(HardAugmentorRecipe):
    """HARD on photographs: every method in the same loop."""

    methods: tuple[str, ...] = our_choice(METHODS)
    weight_decay: float = our_choice(0.05)
    flip: bool = our_choice(True)
    ema_decay: float = our_choice(0.999)
    augmentor: AugmentorConfig = our_choice(PhotoAugmentor())
    execution: ExecutionConfig = our_choice(GpuExecution())

    def load_splits(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Loads the parts for training, validation and test.

        Raises:
            FileNotFoundError: files are missing; the message says where to get them.
        """
        raise NotImplementedError

    def load(self) -> ExperimentData:
        train, validation, test = (_few(part) if self.smoke else part for part in self.load_splits())
        return ExperimentData(train, validation, {"test": test})

    def shrunk(self) -> Self:
        small = super().shrunk()
        return dataclasses.replace(
            small,
            seeds=1,
            steps=min(small.steps, 4),
            batch_size=min(small.batch_size, 4),
            teacher=dataclasses.replace(
                small.teacher, steps=min(small.teacher.steps, 2), batch_size=min(small.teacher.batch_size, 4)
            ),
            execution=dataclasses.replace(small.execution, compile=False, precision="float32"),
        )


def _few(images: ImageSet) -> ImageSet:
    """Some images of a set, from its beginning to its end."""
    index = torch.arange(0, len(images), max(1, len(images) // _SMOKE_IMAGES))[:_SMOKE_IMAGES]
    return images[index] if isinstance(images, LabelledImages) else ChosenImages(images, index)
