"""The sets that ``hardfast eval`` knows, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hardfast.data import cifar10_shifts, imagenet_shifts, mnist
from hardfast.data.corruptions import CORRUPTIONS, MNIST_CORRUPTIONS, SEVERITIES
from hardfast.data.image_set import ImageSet

# Benchmarks resize ImageNet's shorter side to 256 px before they cut out 224 px.
_RESIZE_RATIO = 256 / 224


class EvaluationPart(NamedTuple):
    """Images that are measured together.

    Args:
        images: the images.
        classes: ``[S]``, int64: the answers to choose from; None for all.
        corruption: how they are corrupted, in sets that have corruptions.
        severity: how strongly, in sets that have severities.
    """

    images: ImageSet
    classes: Tensor | None = None
    corruption: str | None = None
    severity: int | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """What a set is, which networks it fits and how its parts are opened.

    Args:
        title: the set in a few words.
        classes: number of classes of its labels.
        channels: of its images.
        side_px: side of its images; None if they are files, of any size.
        parts: opens the parts below a root, for images of a side and a number of decoding threads; raises
            ``FileNotFoundError`` where they are not there.
        corruptions: those that the benchmark averages over; empty for a set without.
    """

    title: str
    classes: int
    channels: int
    side_px: int | None
    parts: Callable[[Path, int, int], Iterator[EvaluationPart]]
    corruptions: tuple[str, ...] = ()

    def fits(self, image_shape: tuple[int, int, int], classes: int) -> bool:
        """Whether it can be shown to networks for images ``[C, H, W]`` of so many classes."""
        channels, height, width = image_shape
        side_fits = height == width and self.side_px in (None, height)
        return side_fits and (self.channels, self.classes) == (channels, classes)

    def wants(self) -> str:
        """What it fits, in words."""
        side = "any side" if self.side_px is None else f"{self.side_px} px"
        return f"{self.classes} classes and images of {self.channels} channels and {side}"


def open_set(name: str, roots: Sequence[Path], size: int, threads: int = 4) -> Iterator[EvaluationPart]:
    """Opens a set of :data:`EVALUATION_SETS` at the first of the roots that has it.

    Args:
        name: of the set.
        roots: folders, at least one: of the set, or that hold it.
        size: side of the images in pixels, for sets of files.
        threads: that decode files at a time.

    Returns:
        Its parts, one after the other.

    Raises:
        FileNotFoundError: it is at none of the roots; the message says what was expected and where to get it. Files
            may also turn out to be missing when the parts are asked for.
        ValueError: a file is damaged, or there is no such set.
    """
    if name not in EVALUATION_SETS:
        raise ValueError(f"name must be one of {list(EVALUATION_SETS)}, got {name!r}")
    absent = []
    for root in roots:
        try:
            return EVALUATION_SETS[name].parts(root, size, threads)
        except FileNotFoundError as error:
            absent.append(str(error))
    raise FileNotFoundError("; ".join(dict.fromkeys(absent)))


def _cifar10_1(root: Path, size: int, threads: int) -> Iterator[EvaluationPart]:
    return iter([EvaluationPart(cifar10_shifts.load_cifar10_1(root))])


def _cifar10_2(root: Path, size: int, threads: int) -> Iterator[EvaluationPart]:
    return iter([EvaluationPart(cifar10_shifts.load_cifar10_2(root))])


def _cifar10_c(root: Path, size: int, threads: int) -> Iterator[EvaluationPart]:
    names = cifar10_shifts.cifar10_c_corruptions(root)
    return (
        EvaluationPart(cifar10_shifts.load_cifar10_c(root, name, severity), None, name, severity)
        for name in names
        for severity in SEVERITIES
    )


def _mnist_c(root: Path, size: int, threads: int) -> Iterator[EvaluationPart]:
    names = mnist.mnist_c_corruptions(root)
    return (EvaluationPart(mnist.load_mnist_c(root, name), None, name) for name in names)


def _imagenet_c(root: Path, size: int, threads: int) -> Iterator[EvaluationPart]:
    names = imagenet_shifts.imagenet_c_corruptions(root)
    return (
        _of_files(imagenet_shifts.load_imagenet_c(root, size, name, severity, threads=threads), name, severity)
        for name in names
        for severity in SEVERITIES
    )


def _imagenet_stylized(root: Path, size: int, threads: int) -> Iterator[EvaluationPart]:
    return iter([_of_files(imagenet_shifts.load_imagenet_stylized(root, size, threads=threads))])


def _photos(load: Callable[..., ImageSet]) -> Callable[[Path, int, int], Iterator[EvaluationPart]]:
    def parts(root: Path, size: int, threads: int) -> Iterator[EvaluationPart]:
        return iter([_of_files(load(root, size, resize=round(size * _RESIZE_RATIO), threads=threads))])

    return parts


def _of_files(images: ImageSet, corruption: str | None = None, severity: int | None = None) -> EvaluationPart:
    """With answers from the classes that occur, as the sets of some of ImageNet's classes are scored."""
    return EvaluationPart(images, torch.unique(images.labels), corruption, severity)


#: Name -> set; ``test``, the recipe's own test set, is none of them.
EVALUATION_SETS: dict[str, EvaluationSet] = {
    "cifar10.1": EvaluationSet("CIFAR-10.1, version 6", 10, 3, 32, _cifar10_1),
    "cifar10.2": EvaluationSet("the test part of CIFAR-10.2", 10, 3, 32, _cifar10_2),
    "cifar10-c": EvaluationSet("CIFAR-10-C", 10, 3, 32, _cifar10_c, CORRUPTIONS),
    "imagenet-v2": EvaluationSet(
        "ImageNet-V2, matched frequency", 1000, 3, None, _photos(imagenet_shifts.load_imagenet_v2)
    ),
    "imagenet-a": EvaluationSet(
        "ImageNet-A, among its classes", 1000, 3, None, _photos(imagenet_shifts.load_imagenet_a)
    ),
    "imagenet-r": EvaluationSet(
        "ImageNet-R, among its classes", 1000, 3, None, _photos(imagenet_shifts.load_imagenet_r)
    ),
    "imagenet-sketch": EvaluationSet("ImageNet-Sketch", 1000, 3, None, _photos(imagenet_shifts.load_imagenet_sketch)),
    "imagenet-c": EvaluationSet("ImageNet-C", 1000, 3, None, _imagenet_c, CORRUPTIONS),
    "imagenet-stylized": EvaluationSet("the validation part of Stylized-ImageNet", 1000, 3, None, _imagenet_stylized),
    "mnist-c": EvaluationSet("MNIST-C", 10, 1, 28, _mnist_c, MNIST_CORRUPTIONS),
}
