"""Data sets, read from their real formats on disk."""

from hardfast.data.celeba import load_celeba
from hardfast.data.coloured_digits import load_coloured_digits
from hardfast.data.digits import load_digits
from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.groups import GroupedImages
from hardfast.data.image_files import ChosenImages, ImageFiles, JoinedImages
from hardfast.data.image_set import ImageSet
from hardfast.data.mnist import load_mnist, load_mnist_c_translate
from hardfast.data.shifts import ShiftedSet, shift_images
from hardfast.data.splits import LabelledImages, Splits
from hardfast.data.spuco_birds import load_spuco_birds
from hardfast.data.spurious_imagenet import imagenet_classes, load_spurious_imagenet

__all__ = [
    "ChosenImages",
    "GroupedImages",
    "GroupedSplits",
    "ImageFiles",
    "ImageSet",
    "JoinedImages",
    "LabelledImages",
    "ShiftedSet",
    "Splits",
    "imagenet_classes",
    "load_celeba",
    "load_coloured_digits",
    "load_digits",
    "load_mnist",
    "load_mnist_c_translate",
    "load_spuco_birds",
    "load_spurious_imagenet",
    "shift_images",
]
