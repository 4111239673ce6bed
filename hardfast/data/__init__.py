"""Data sets, read from their real formats on disk."""

from hardfast.data.array_images import ArrayImages
from hardfast.data.celeba import load_celeba
from hardfast.data.cifar10 import load_cifar10
from hardfast.data.cifar10_shifts import cifar10_c_corruptions, load_cifar10_1, load_cifar10_2, load_cifar10_c
from hardfast.data.coloured_digits import load_coloured_digits
from hardfast.data.digits import load_digits
from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.groups import GroupedImages
from hardfast.data.image_files import ChosenImages, ImageFiles, JoinedImages
from hardfast.data.image_set import ImageSet
from hardfast.data.imagenet import ImageNetSplits, imagenet_classes, load_imagenet
from hardfast.data.imagenet_shifts import (
    imagenet_c_corruptions,
    load_imagenet_a,
    load_imagenet_c,
    load_imagenet_r,
    load_imagenet_sketch,
    load_imagenet_stylized,
    load_imagenet_v2,
)
from hardfast.data.mnist import load_mnist, load_mnist_c, mnist_c_corruptions
from hardfast.data.shards import ShardedImages
from hardfast.data.shifts import ShiftedSet, shift_images
from hardfast.data.splits import LabelledImages, Splits
from hardfast.data.spuco_birds import load_spuco_birds
from hardfast.data.spurious_imagenet import load_spurious_imagenet

__all__ = [
    "ArrayImages",
    "ChosenImages",
    "GroupedImages",
    "GroupedSplits",
    "ImageFiles",
    "ImageNetSplits",
    "ImageSet",
    "JoinedImages",
    "LabelledImages",
    "ShardedImages",
    "ShiftedSet",
    "Splits",
    "cifar10_c_corruptions",
    "imagenet_c_corruptions",
    "imagenet_classes",
    "load_celeba",
    "load_cifar10",
    "load_cifar10_1",
    "load_cifar10_2",
    "load_cifar10_c",
    "load_coloured_digits",
    "load_digits",
    "load_imagenet",
    "load_imagenet_a",
    "load_imagenet_c",
    "load_imagenet_r",
    "load_imagenet_sketch",
    "load_imagenet_stylized",
    "load_imagenet_v2",
    "load_mnist",
    "load_mnist_c",
    "load_spuco_birds",
    "load_spurious_imagenet",
    "mnist_c_corruptions",
    "shift_images",
]
