"""Experiments by name, each a frozen dataclass whose fields say where their values come from."""

from __future__ import annotations

from hardfast.recipes.config_celeba import ConfigCelebA
from hardfast.recipes.config_digits import ConfigDigits
from hardfast.recipes.config_spuco_birds import ConfigSpuCoBirds
from hardfast.recipes.config_spurious_imagenet import ConfigSpuriousImageNet
from hardfast.recipes.hard_cifar10 import HardCifar10ResNet18, HardCifar10Vit
from hardfast.recipes.hard_digits import HardDigits
from hardfast.recipes.hard_digits_shifts import ONE_FAMILY, HardDigitsFamilies
from hardfast.recipes.hard_imagenet import HardImageNetResNet18, HardImageNetVit
from hardfast.recipes.hard_mnist import HardMnistMlp, HardMnistVit
from hardfast.recipes.recipe import Published, Recipe

__all__ = ["RECIPES", "Published", "Recipe", "get_recipe"]

#: Name -> recipe with its own values.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        HardDigits(),
        HardDigitsFamilies(),
        *(recipe() for recipe in ONE_FAMILY),
        HardMnistMlp(),
        HardMnistVit(),
        HardCifar10ResNet18(),
        HardCifar10Vit(),
        HardImageNetResNet18(),
        HardImageNetVit(),
        ConfigDigits(),
        ConfigCelebA(),
        ConfigSpuCoBirds(),
        ConfigSpuriousImageNet(),
    )
}


def get_recipe(name: str) -> Recipe:
    """Returns a recipe with its own values.

    Raises:
        ValueError: the name is unknown; the message lists the valid ones.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {list(RECIPES)}; got {name!r}")
    return RECIPES[name]
