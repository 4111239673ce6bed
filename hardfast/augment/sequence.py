"""Augmentors one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from hardfast.augment.augmentor import Augmentor, MeanStd

Value = TypeVar("Value")


class SequentialAugmentor(Augmentor):
    """Applies augmentors in turn, each to the images of the one before.

    Each part has the name of its class, such as ``affine`` or ``thin_plate``, with a number if there are several
    (``affine``, ``affine_2``); noise, variables, scalars, arrays and descriptions carry it as a prefix, as in
    ``affine.theta``.

    Args:
        *augmentors: one or more, first to last.

    Example::

        augmentor = SequentialAugmentor(AffineAugmentor(), ColorAugmentor(in_channels=3))
        images = augmentor(images)            # learned: gradients reach the parameters of all parts
        baseline = augmentor.frozen()         # same distribution, never learned
    """

    def __init__(self, *augmentors: Augmentor) -> None:
        super().__init__()
        if not augmentors:
            raise ValueError("augmentors must be one or more, got none")
        for augmentor in augmentors:
            if not isinstance(augmentor, Augmentor):
                raise TypeError(f"augmentors must be of class Augmentor, got {type(augmentor).__name__}")
        self.parts = nn.ModuleList(augmentors)
        self.compilable = all(part.compilable for part in augmentors)
        self.mixes = any(part.mixes for part in augmentors)
        families: list[str] = []
        self.names: list[str] = []
        for augmentor in augmentors:
            family = re.sub(r"(?<!^)(?=[A-Z])", "_", type(augmentor).__name__.removesuffix("Augmentor")).lower()
            families.append(family)
            number = families.count(family)
            self.names.append(family if number == 1 else f"{family}_{number}")

    @property
    def norm_preserved(self) -> frozenset[str]:  # type: ignore[override]
        """Those of the parts."""
        return frozenset(f"{name}.{key}" for name, part in self._named_parts() for key in part.norm_preserved)

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The noise of all parts."""
        return _joined({name: part.noise(images, generator) for name, part in self._named_parts()})

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The variables of all parts; a part that looks at images sees those of the part before it."""
        drawn: dict[str, dict[str, Tensor]] = {}
        for name, part in self._named_parts():
            drawn[name] = part.variables(images, _of(name, noise))
            if name != self.names[-1]:
                images = part.render(images, drawn[name])
        return _joined(drawn)

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Renders the parts in turn."""
        for name, part in self._named_parts():
            images = part.render(images, _of(name, variables))
        return images

    def transform(self, images: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """As :meth:`render` of :meth:`variables`, without rendering twice what a later part looks at."""
        for name, part in self._named_parts():
            images = part.transform(images, _of(name, noise))
        return images

    def scalars(self) -> dict[str, float]:
        return _joined({name: part.scalars() for name, part in self._named_parts()})

    def arrays(self) -> dict[str, Tensor]:
        return _joined({name: part.arrays() for name, part in self._named_parts()})

    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """The descriptions of all parts, each as if it stood alone."""
        return _joined({name: part.describe(size) for name, part in self._named_parts()})

    def _named_parts(self) -> Iterator[tuple[str, Augmentor]]:
        for name, part in zip(self.names, self.parts, strict=True):
            assert isinstance(part, Augmentor)
            yield name, part


def _joined(parts: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}


def _of(name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
