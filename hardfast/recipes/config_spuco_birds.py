"""``config-spuco-birds``: ConfiG where the student's training set shows every bird on its own background only."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.spuco_birds import load_spuco_birds
from hardfast.recipes.config_photos import ConfigPhotos, PhotosConfig
from hardfast.recipes.recipe import our_choice


@dataclass(frozen=True)
class SpuCoBirdsConfig(PhotosConfig):
    """The data.

    Args:
        absent: groups that the student's training set lacks.
    """

    absent: tuple[str, ...] = our_choice(("landbird on water", "waterbird on land"))


@dataclass(frozen=True)
class ConfigSpuCoBirds(ConfigPhotos):
    """ConfiG on SpuCo Birds: land and water birds, in training each on its own background only."""

    name: ClassVar[str] = "config-spuco-birds"
    title: ClassVar[str] = "Land and water birds that never left their background in training, on SpuCo Birds"

    data: SpuCoBirdsConfig = our_choice(SpuCoBirdsConfig())

    def load_splits(self) -> GroupedSplits:
        return load_spuco_birds(self.data.root, self.seen_size, absent=self.data.absent, threads=self.data.threads)
