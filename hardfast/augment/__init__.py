"""Augmentors: learned distributions of hard inputs, for HARD's loop and ConfiG's search alike."""

from hardfast.augment.affine import AffineAugmentor, MeanStd
from hardfast.augment.augmentor import Augmentor

__all__ = ["AffineAugmentor", "Augmentor", "MeanStd"]
