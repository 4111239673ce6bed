"""``config-celeba``: ConfiG where blond hair goes with women, and the student's training set has no blond men."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hardfast.data.celeba import load_celeba
from hardfast.data.grouped_splits import GroupedSplits
from hardfast.recipes.config_photos import ConfigPhotos, PhotosConfig
from hardfast.recipes.recipe import Published, our_choice

_SOURCE = "quoted by a third party from the paper's Table 1"


@dataclass(frozen=True)
class CelebAConfig(PhotosConfig):
    """The data.

    Args:
        absent: groups that the student's training set lacks.
    """

    absent: tuple[str, ...] = our_choice(("blond man",))


@dataclass(frozen=True)
class ConfigCelebA(ConfigPhotos):
    """ConfiG on CelebA: hair colour, which the student must not tell from the sex; no blond men in training."""

    name: ClassVar[str] = "config-celeba"
    title: ClassVar[str] = "Blond hair without blond men in training, on CelebA"
    published: ClassVar[tuple[Published, ...]] = tuple(
        Published(method, "test", percent / 100, _SOURCE, "worst_group_accuracy")
        for method, percent in (("teacher", 66.7), ("distillation", 15.2), ("cutmix", 38.9), ("config", 66.1))
    )

    # A diffusion model cannot draw what a prompt only denies.
    class_words: tuple[str, ...] = our_choice(("person with dark hair", "person with blond hair"))
    data: CelebAConfig = our_choice(CelebAConfig())

    def load_splits(self) -> GroupedSplits:
        return load_celeba(self.data.root, self.seen_size, absent=self.data.absent, threads=self.data.threads)
