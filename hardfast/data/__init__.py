"""Data sets, read from their real formats on disk."""

from hardfast.data.digits import load_digits
from hardfast.data.groups import GroupedImages
from hardfast.data.image_set import ImageSet
from hardfast.data.mnist import load_mnist, load_mnist_c_translate
from hardfast.data.shifts import ShiftedSet, shift_images
from hardfast.data.splits import LabelledImages, Splits

__all__ = [
    "GroupedImages",
    "ImageSet",
    "LabelledImages",
    "ShiftedSet",
    "Splits",
    "load_digits",
    "load_mnist",
    "load_mnist_c_translate",
    "shift_images",
]
