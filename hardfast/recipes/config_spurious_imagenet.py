"""``config-spurious-imagenet``: ConfiG against what ImageNet's classes are taken for without being there."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.spurious_imagenet import GROUP_NAMES, load_spurious_imagenet
from hardfast.distill.evaluate import answered, predict_logits
from hardfast.distill.spurious import spurious_scores
from hardfast.recipes.config_photos import ConfigPhotos, PhotosConfig, PhotosGeneratorConfig
from hardfast.recipes.config_recipe import ConfigData
from hardfast.recipes.recipe import our_choice

_SPURIOUS = GROUP_NAMES.index("spurious feature alone")


@dataclass(frozen=True)
class SpuriousImageNetConfig(PhotosConfig):
    """The data.

    Args:
        root: folder of Spurious ImageNet.
        imagenet_root: folder with ``train/<wnid>/`` and ``val/<wnid>/``.
        resize: what the shorter side of ImageNet's images is resized to before the middle is cut out, in pixels.
        validation_per_class: training images of every class that are held out.
        split_seed: seed of that choice, the same for all seeds of the run.
    """

    root: Path = our_choice(Path("data", "spurious_imagenet"))
    imagenet_root: Path = our_choice(Path("data", "imagenet"))
    resize: int = our_choice(256)
    validation_per_class: int = our_choice(10)
    split_seed: int = our_choice(0)


@dataclass(frozen=True)
class SpuriousImageNetGeneratorConfig(PhotosGeneratorConfig):
    """How images are generated, of the classes of Spurious ImageNet in turn."""

    count: int = our_choice(1000)


@dataclass(frozen=True)
class ConfigSpuriousImageNet(ConfigPhotos):
    """ConfiG on ImageNet: tested on images that show what goes with a class, such as a feeder, but not the class."""

    name: ClassVar[str] = "config-spurious-imagenet"
    title: ClassVar[str] = "What goes with a class but is not the class, on Spurious ImageNet"

    steps: int = our_choice(20_000)
    round_steps: int = our_choice(10_000)
    batch_size: int = our_choice(128)
    data: SpuriousImageNetConfig = our_choice(SpuriousImageNetConfig())
    generator: SpuriousImageNetGeneratorConfig = our_choice(SpuriousImageNetGeneratorConfig())

    def load_splits(self) -> GroupedSplits:
        config = self.data
        return load_spurious_imagenet(
            config.root,
            config.imagenet_root,
            self.seen_size,
            resize=config.resize,
            validation_per_class=config.validation_per_class,
            split_seed=config.split_seed,
            threads=config.threads,
        )

    def load(self) -> ConfigData:
        data = super().load()
        labels = data.test.images.labels[data.test.groups == _SPURIOUS].unique()
        return dataclasses.replace(data, labels=tuple(labels.tolist()))

    def evaluate(self, model: nn.Module, data: ConfigData) -> dict[str, float]:
        """Both spurious scores, and the accuracy on ImageNet's validation images of the same classes."""
        labels, spurious = data.test.images.labels, data.test.groups == _SPURIOUS
        logits = predict_logits(model, data.test.images).double().cpu()
        scores = spurious_scores(logits.softmax(1).gather(1, labels[:, None])[:, 0], labels, spurious)
        correct = answered(logits, labels)[~spurious]
        return {
            "spurious_mean_average_precision": scores.mean_average_precision,
            "spurious_mean_roc_auc": scores.mean_roc_auc,
            "accuracy": float(correct.double().mean()),
        }
