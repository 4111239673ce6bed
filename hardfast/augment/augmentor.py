"""What HARD and ConfiG have in common: something that makes hard inputs out of random variables."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class MeanStd(NamedTuple):
    """Mean and standard deviation of one quantity of a distribution."""

    mean: float
    std: float


class Augmentor(nn.Module):
    """Random variables for every image, and what the image becomes under them.

    A family says three things: what noise it takes (:meth:`noise`), what variables its parameters make of the noise
    (:meth:`variables`) and what an image becomes under these (:meth:`render`).

    HARD learns the distribution of the variables, by the gradient of :meth:`forward` to the parameters; ConfiG searches
    the variables of each image, by the gradient of :meth:`render` (:func:`hardfast.diffusion.guide_augmentor`). What
    has both methods works in both.
    """

    #: Names of variables that a search leaves on their sphere, as it should normal noise.
    norm_preserved: ClassVar[frozenset[str]] = frozenset()
    #: Whether :meth:`transform` can be one graph of ``torch.compile``.
    compilable: bool = True
    #: Whether an image is made of others of its batch too; the noise of all others is one entry an image.
    mixes: bool = False

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """All that is random of the variables, by name, ``[B, ...]`` each, for images ``[B, C, H, W]``."""
        raise NotImplementedError

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What becomes of the noise: variables by name, ``[B, ...]`` each; differentiable in the parameters."""
        raise NotImplementedError

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Images ``[B, C, H, W]`` under the variables; differentiable in these, each image by itself."""
        raise NotImplementedError

    def draw(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Variables of fresh noise."""
        return self.variables(images, self.noise(images, generator))

    def transform(self, images: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Images under given noise: all of :meth:`forward` but the random numbers, and so what can be compiled."""
        return self.render(images, self.variables(images, noise))

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws and renders: images of the shape of ``images``."""
        return self.transform(images, self.noise(images, generator))

    def frozen(self) -> Self:
        """Returns a copy that shares nothing with this one and whose parameters do not learn."""
        return copy.deepcopy(self).requires_grad_(False)

    def scalars(self) -> dict[str, float]:
        """What a training logs of the distribution."""
        return {}

    def arrays(self) -> dict[str, Tensor]:
        """What a training keeps of the distribution beside its images."""
        return {}

    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """The distribution in human units, of what happens to the content of images of ``size``, (height, width)."""
        raise NotImplementedError
